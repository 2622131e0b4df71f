//! [`RpcPort`]: the port for gRPC, which asks what the other port asks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::admission::OwnPort;
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
        let http = routes::router(Arc::clone(service)).layer(Extension(OwnPort));
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

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use glm_runtime::testing::FakeModel;
    use http_body_util::BodyExt;
    use prost::Message;
    use tonic::Code;
    use tonic::transport::Endpoint;
    use tower::ServiceExt;

    use super::*;
    use crate::grpc::proto::generate_request::Input;
    use crate::grpc::proto::inference_client::InferenceClient;
    use crate::grpc::proto::{DetokenizeRequest, GenerateRequest};
    use crate::http::limits::Wish;
    use crate::http::options::ServeOptions;
    use crate::http::tests::{engine, polite, service};

    /// A call as it is sent.
    fn call(name: &str, message: &impl Message) -> Request<Body> {
        let message = message.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let body = [&[0], &length[..], &message].concat();
        let request = Request::post(format!("/glm.v1.Inference/{name}"))
            .header("content-type", "application/grpc");
        request.body(body.into()).unwrap()
    }

    #[tokio::test]
    async fn a_request_is_inside_until_its_client_has_taken_the_answer() {
        let asked = GenerateRequest {
            input: Some(Input::Prompt("Hi".to_owned())),
            max_tokens: Some(20),
            ..GenerateRequest::default()
        };
        for name in ["Generate", "GenerateStream"] {
            let (service, http) = service(ServeOptions {
                drain_timeout: Duration::ZERO,
                ..ServeOptions::default()
            });
            service.start(engine(FakeModel::next_token(|_, _| 65)));
            let (router, _) = grpc::router(http, 1 << 20);
            let answer = router.oneshot(call(name, &asked)).await.unwrap();
            // The engine has said everything, and that has been read ahead.
            let tenant = Default::default();
            let turn = service.fair.turn(&tenant, Wish::default());
            let turn = tokio::time::timeout(Duration::from_secs(120), turn).await;
            drop(turn.expect("the answer never ends").unwrap());
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            service.drain();
            assert_eq!(service.drained().await, 1, "{name}");
            let (mut body, mut parts) = (answer.into_body(), Vec::new());
            let trailers = loop {
                match body.frame().await.unwrap().unwrap().into_data() {
                    Ok(part) => parts.push(part.len()),
                    Err(trailers) => break trailers.into_trailers().unwrap(),
                }
                assert_eq!(service.drained().await, 1, "{name}");
            };
            assert_eq!(trailers["grpc-status"], "0");
            // Whoever has room for the last part has it for all of it.
            assert_eq!(parts.last(), Some(&1), "{name}: {parts:?}");
            drop(body);
            assert_eq!(service.drained().await, 0, "{name}");
        }
    }

    #[test]
    fn a_port_that_nobody_takes_over_says_that_the_service_stops() {
        let runtime = Runtime::new().unwrap();
        let options = ServeOptions::default();
        let port = runtime.block_on(async { Port::open("127.0.0.1", 0, &options) });
        let (service, _) = service(options);
        service.share_port();
        service.start(engine(polite()));
        let rpc = RpcPort::serve(&runtime, port.unwrap(), &service).unwrap();
        let address = format!("http://{}", rpc.address);
        let call = || DetokenizeRequest {
            ids: vec![1],
            ..DetokenizeRequest::default()
        };
        runtime.block_on(async {
            let endpoint = Endpoint::from_shared(address).unwrap();
            let mut client = InferenceClient::new(endpoint.connect().await.unwrap());
            client.detokenize(call()).await.unwrap();
            // A request is answered still, so the port stays open.
            service.entered();
            service.drain();
            let refused = client.detokenize(call()).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unavailable, "{refused}");
            assert_eq!(refused.metadata().get("error-code").unwrap(), "draining");
            service.left();
            assert_eq!(rpc.serving.await.unwrap(), 0);
        });
    }
}
