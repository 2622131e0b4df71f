//! [`Readiness`]: what `grpc.health.v1.Health` says.

use tonic::server::NamedService;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::HealthReporter;

use super::inference::Inference;
use super::proto::inference_server::InferenceServer;

/// Says whether requests are taken, for the whole (the empty name) and for the one service of it.
pub(crate) struct Readiness(HealthReporter);

impl Readiness {
    /// Nothing is served yet.
    pub(super) fn new() -> (Self, HealthServer<impl Health>) {
        let (reporter, server) = tonic_health::server::health_reporter();
        (Self(reporter), server)
    }

    pub(crate) async fn set(&self, is_ready: bool) {
        let status = match is_ready {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        for name in [InferenceServer::<Inference>::NAME, ""] {
            self.0.set_service_status(name, status).await;
        }
    }
}
