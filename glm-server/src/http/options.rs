//! [`ServeOptions`], and those of them that can be changed while it runs: [`LiveOptions`].

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use super::auth::AuthOptions;
use super::limits::RateLimits;
use super::score::HealthWeights;
use super::tls::TlsOptions;
use crate::jobs::JobsOptions;
use crate::telemetry::SpanSink;

/// Takes a profile of the heap, as gzipped protobuf of pprof.
pub type HeapProfile = fn() -> Result<Vec<u8>, Box<dyn Error + Send + Sync>>;

/// How the service treats its clients.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Listen on other addresses than loopback although nobody has to say who they are. Default: no.
    pub insecure: bool,
    /// Who may use it. Default: everybody.
    pub auth: AuthOptions,
    /// Speak TLS. Default: no.
    pub tls: Option<TlsOptions>,
    /// Listen on the socket that the process was started with, if it was: by systemd, or by a service that it takes over from. Until the
    /// engine is there, probes are answered and other requests wait. When it stops, it takes no new connections at once, and answers what comes over those that it has. Default: no.
    pub inherit_port: bool,
    /// Another service answers on that socket, until this one has its engine: take no connections from it before. Default: no.
    pub takes_over: bool,
    /// A port for gRPC on the same host, 0 being any that is free. Default: none.
    #[cfg(feature = "grpc")]
    pub grpc_port: Option<u16>,
    /// What can be changed while it runs.
    pub live: LiveOptions,
    /// What is answered later. Default: kept in memory.
    pub jobs: JobsOptions,
    /// Drain when the process gets SIGTERM. Default: no.
    pub stop_on_sigterm: bool,
    /// Most requests that wait for the engine; further ones are refused with 429. Default: 1024.
    pub max_waiting: usize,
    /// Most tokens that the prompts of waiting requests have, roughly: four bytes of a body count as one. Default: no limit.
    pub max_waiting_tokens: u64,
    /// Answer `GET /metrics`. Default: yes.
    pub metrics: bool,
    /// What takes a profile of the heap for `/debug/pprof/heap`; it may take its time. Default: nothing does.
    pub heap_profile: Option<HeapProfile>,
    /// Where the spans of requests go. Default: nowhere.
    pub spans: Option<Arc<dyn SpanSink>>,
    /// Write the bodies of requests into the log, prompts and all. Default: no.
    pub log_bodies: bool,
    /// Longest time that streams get to finish when the service stops. Default: 30 s.
    pub drain_timeout: Duration,
    /// Largest body of a request. Default: 16 MiB.
    pub max_body_bytes: usize,
    /// Longest time for a client to send a body. Default: 30 s.
    pub body_timeout: Duration,
    /// Longest time for a client to send the head of a request, and to leave a connection without one. Default: 30 s.
    pub header_timeout: Duration,
    /// Longest time for an answer once its request is there, waiting included. Default: no limit.
    pub request_timeout: Option<Duration>,
    /// How often a stream says that it is alive while nothing else comes. Default: every 10 s.
    pub keep_alive: Duration,
    /// The engine counts as hanging when it has work and does no step in this time. Default: 120 s, more than the longest step
    /// of a large model on a small machine.
    pub stall_timeout: Duration,
}

/// What [`Reloader::reload`](crate::http::Reloader::reload) changes, besides reading files again.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct LiveOptions {
    /// Limits of every key that has none of its own. Default: none.
    pub limits: RateLimits,
    /// What counts how much in the health score.
    pub health_weights: HealthWeights,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            insecure: false,
            auth: AuthOptions::default(),
            tls: None,
            inherit_port: false,
            takes_over: false,
            #[cfg(feature = "grpc")]
            grpc_port: None,
            live: LiveOptions::default(),
            jobs: JobsOptions::default(),
            stop_on_sigterm: false,
            metrics: true,
            heap_profile: None,
            spans: None,
            log_bodies: false,
            max_waiting: 1024,
            max_waiting_tokens: u64::MAX,
            drain_timeout: Duration::from_secs(30),
            max_body_bytes: 16 << 20,
            body_timeout: Duration::from_secs(30),
            header_timeout: Duration::from_secs(30),
            request_timeout: None,
            keep_alive: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(120),
        }
    }
}
