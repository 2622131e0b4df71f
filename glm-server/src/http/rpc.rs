//! [`RpcPort`]: the port for gRPC, which asks what the other port asks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::connections::{self, Port, Speech};
use super::error::ServeError;
use super::health::Health;
use super::routes;
use super::state::{Phase, Service};
use crate::grpc::{self, Readiness};

/// How often the health service looks how the service is.
const PERIOD: Duration = Duration::from_secs(1);

/// A port that is served.
#[derive(Debug)]
pub(super) struct RpcPort {
    pub(super) address: SocketAddr,
    /// Until the service has drained.
    pub(super) serving: JoinHandle<usize>,
}

impl RpcPort {
    pub(super) fn serve(
        runtime: &Runtime,
        port: Port,
        service: &Arc<Service>,
    ) -> Result<Self, ServeError> {
        let address = port.address().map_err(ServeError::Runtime)?;
        let http = routes::router(Arc::clone(service));
        let (router, readiness) = grpc::router(http, service.options.max_body_bytes);
        runtime.spawn(follow(readiness, Arc::clone(service)));
        let speech = Speech::grpc(service, router);
        let serving = runtime.spawn(connections::serve(port, speech, Arc::clone(service)));
        Ok(Self { address, serving })
    }
}

/// Says what the readiness probe says: at once when the service drains, and otherwise within a second.
async fn follow(readiness: Readiness, service: Arc<Service>) {
    let mut times = tokio::time::interval(PERIOD);
    while !matches!(service.phase(), Phase::Draining { .. }) {
        let is_ready = service.phase() == Phase::Ready && service.health() == Health::Well;
        readiness.set(is_ready).await;
        tokio::select! {
            _ = times.tick() => {}
            () = service.drains() => {}
        }
    }
    readiness.set(false).await;
}
