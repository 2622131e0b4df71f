//! gRPC: the service in other clothes.
//!
//! A call becomes a request of the HTTP interface, goes through the same router (without a socket), and its response becomes the answer:
//! `convert` has both directions, `bridge` what lies between them. So keys, limits, fair shares, admission, drain, metrics and traces are those of
//! HTTP, and what a field means is written once. `proto/glm/v1/inference.proto` is the interface; `health` follows the readiness probe.
//!
//! The port speaks HTTP/2 and nothing else, over the same connections as the other one (`http::server`).

mod bridge;
mod convert;
mod health;
mod inference;
mod outgoing;
#[cfg(test)]
mod tests;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use tonic::Status;
use tonic::service::Routes;

use self::bridge::Bridge;
pub(crate) use self::health::Readiness;
use self::inference::Inference;
use self::proto::inference_server::InferenceServer;

/// What is generated from the file in `proto/`.
#[allow(
    clippy::all,
    dead_code,
    unused_qualifications,
    reason = "generated; the client is there for the tests"
)]
pub(crate) mod proto {
    tonic::include_proto!("glm.v1");
    /// The file itself, for reflection.
    pub(crate) const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("glm");
}

/// What the port answers, given what the HTTP port does, and the largest message.
pub(crate) fn router(http: Router, max_message_bytes: usize) -> (Router, Readiness) {
    let inference = InferenceServer::new(Inference::new(Bridge::new(http)))
        .max_decoding_message_size(max_message_bytes);
    let (readiness, health) = Readiness::new();
    let mut routes = Routes::new(inference).add_service(health);
    if let Some(reflection) = reflection() {
        routes = routes.add_service(reflection);
    }
    let router = routes.prepare().into_axum_router();
    let router = router
        .layer(from_fn(outgoing::stay))
        .layer(from_fn(deadline));
    (router, readiness)
}

/// What there is, for clients that ask. `None` if the file could not be read, which a test excludes.
fn reflection() -> Option<
    tonic_reflection::server::v1::ServerReflectionServer<
        impl tonic_reflection::server::v1::ServerReflection,
    >,
> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .ok()
}

/// Ends calls of one answer when the client's own deadline is over; what streams has its own look at the time.
async fn deadline(request: Request<Body>, next: Next) -> Response {
    let Some(time) = bridge::deadline(request.headers()) else {
        return next.run(request).await;
    };
    match tokio::time::timeout(time, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Status::deadline_exceeded("the deadline of the call is over")
            .into_http::<Body>()
            .into_response(),
    }
}
