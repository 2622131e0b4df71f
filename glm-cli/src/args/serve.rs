//! Options of `serve`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, ArgGroup, Args, ValueEnum, ValueHint};

use glm_server::http::HealthWeights;
use glm_server::telemetry::OtlpEndpoint;

use super::tasks::TaskArgs;
use super::{EngineArgs, MemoryArgs};
use crate::values::{self, AdapterChoice};

/// `serve`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  glm-cli serve
  glm-cli serve --model ./GLM-4-9B-0414 --quantize q4_k --port 8080
  curl http://127.0.0.1:8000/v1/chat/completions -H 'content-type: application/json' \\
    -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'

Every option can also be set in the environment, in a file .env in the working directory, or in the file of
--config: --max-body-size is GLM_MAX_BODY_SIZE there, or max_body_size. Options come before the environment, that
before .env, and that before the file. SIGHUP reads them, keys and certificates again.

The address is printed when requests are answered. Ctrl-C or SIGTERM ends the service when the answers
that run are complete, with exit code 0; a second Ctrl-C ends it at once.")]
pub struct ServeArgs {
    /// Read settings from this TOML file: the options here, such as max_body_size = "16MiB"
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,

    /// Print every setting and where it comes from, in the form of a --config file, and end
    #[arg(long)]
    pub print_config: bool,

    /// Address to listen on; one that other machines can reach needs API keys or --insecure
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1", value_hint = ValueHint::Hostname)]
    pub host: String,

    /// Port to listen on; 0 takes one that is free
    #[arg(
        long,
        value_name = "PORT",
        default_value = "8000",
        allow_negative_numbers = true
    )]
    pub port: u16,

    /// Another service answers on the socket that this one was started with: leave it its connections until the model is loaded
    #[arg(long)]
    pub take_over: bool,

    /// Port for gRPC on the same address; 0 takes one that is free [default: none]
    #[cfg(feature = "grpc")]
    #[arg(long, value_name = "PORT", allow_negative_numbers = true)]
    pub grpc_port: Option<u16>,

    #[command(flatten)]
    pub access: AccessArgs,
    #[command(flatten)]
    pub log: LogArgs,

    /// Seconds that answers get to finish when the service stops
    #[arg(long, value_name = "SECONDS", default_value = "30", allow_negative_numbers = true, value_parser = values::seconds)]
    pub drain_timeout: Duration,

    /// Longest time for an answer in seconds, waiting included [default: no limit]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = values::seconds_above_zero)]
    pub request_timeout: Option<Duration>,

    /// Largest body of a request
    #[arg(long, value_name = "SIZE", default_value = "16MiB", value_parser = values::bytes)]
    pub max_body_size: u64,

    /// A LoRA adapter for the requests whose `model` is NAME, a directory that PEFT wrote; may be given several times
    #[arg(long, value_name = "NAME=DIR", value_hint = ValueHint::DirPath)]
    pub adapter: Vec<AdapterChoice>,

    /// Most requests computed together [default: 64]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = values::positive)]
    pub max_num_seqs: Option<usize>,

    /// Seconds that may pass from one token of an answer to the next while a long prompt is read beside it; more lets prompts be
    /// read faster [default: three times as long as without it, at least 0.1]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = values::seconds_above_zero)]
    pub max_step_time: Option<Duration>,

    /// Most requests that wait for a place; further ones are refused
    #[arg(long, value_name = "N", default_value = "1024", allow_negative_numbers = true, value_parser = values::whole)]
    pub max_waiting: usize,

    /// Most tokens that the prompts of waiting requests have, roughly; further ones are refused [default: no limit]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = values::whole)]
    pub max_waiting_tokens: Option<usize>,

    #[command(flatten)]
    pub memory: MemoryArgs,

    /// What counts how much in the health score of /healthz
    #[arg(long, value_name = "NAME=N,…", default_value = "engine=40,queue=20,memory=20,errors=20", value_parser = health_weights)]
    pub health_weights: HealthWeights,

    #[command(flatten)]
    pub tasks: TaskArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// Who may use the service, and how much.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Access", group = ArgGroup::new("jwt").multiple(true))]
pub struct AccessArgs {
    /// Let everybody use the model who can reach the address
    #[arg(long)]
    pub insecure: bool,

    /// A key that every request must bring; only from GLM_API_KEY or a file, because command lines can be read by others
    #[arg(long, value_name = "KEY", hide = true)]
    pub api_key: Option<String>,

    /// Keys that requests must bring one of: a file with a line for each, or FILE.toml with names, scopes and limits
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub api_key_file: Option<PathBuf>,

    /// Certificates in PEM, one's own first: speak TLS
    #[arg(long, value_name = "FILE", requires = "tls_key", value_hint = ValueHint::FilePath)]
    pub tls_cert: Option<PathBuf>,

    /// The private key of --tls-cert in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert", value_hint = ValueHint::FilePath)]
    pub tls_key: Option<PathBuf>,

    /// Accept JSON Web Tokens signed with the secret in this file (HS256, 32 bytes or more)
    #[arg(long, value_name = "FILE", group = "jwt", value_hint = ValueHint::FilePath)]
    pub jwt_secret_file: Option<PathBuf>,

    /// Accept JSON Web Tokens signed with a key of this JWKS file (RS256, EdDSA)
    #[arg(long, value_name = "FILE", group = "jwt", value_hint = ValueHint::FilePath)]
    pub jwt_jwks_file: Option<PathBuf>,

    /// Tokens must be of this issuer
    #[arg(long, value_name = "TEXT", requires = "jwt")]
    pub jwt_issuer: Option<String>,

    /// Tokens must be for this audience
    #[arg(long, value_name = "TEXT", requires = "jwt")]
    pub jwt_audience: Option<String>,

    /// Seconds that the clocks of issuer and service may be apart
    #[arg(long, value_name = "SECONDS", requires = "jwt", default_value = "30", allow_negative_numbers = true, value_parser = values::seconds)]
    pub jwt_leeway: Duration,

    /// The claim that names the tenant; without it, the subject is one
    #[arg(long, value_name = "NAME", requires = "jwt", default_value = "tenant")]
    pub jwt_tenant_claim: String,

    /// The claim that lists the scopes: inference, tasks, metrics, admin
    #[arg(long, value_name = "NAME", requires = "jwt", default_value = "scope")]
    pub jwt_scope_claim: String,

    /// Make a key: print it, and what to write into the file of keys, and end
    #[arg(long)]
    pub new_key: bool,

    /// Print what to write into the file of keys for the key on stdin, and end
    #[arg(long, conflicts_with = "new_key")]
    pub hash_key: bool,

    /// Requests that each key may make in a minute [default: no limit]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub requests_per_minute: Option<u32>,

    /// Tokens that each key may use in a minute, of prompts and answers together [default: no limit]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub tokens_per_minute: Option<u32>,
}

/// What the service writes down.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Log")]
pub struct LogArgs {
    /// How lines of the log look: json, text, or auto, which is text on a terminal
    #[arg(long, value_name = "FORMAT", default_value = "auto", value_enum)]
    pub log_format: LogChoice,

    /// The least important lines that are logged
    #[arg(long, value_name = "LEVEL", default_value = "info", value_enum)]
    pub log_level: LevelChoice,

    /// Write the log to this file instead of stderr; it begins anew every day (UTC) and at --log-max-size
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub log_file: Option<PathBuf>,

    /// Largest file of the log
    #[arg(long, value_name = "SIZE", requires = "log_file", default_value = "64MiB", value_parser = values::bytes)]
    pub log_max_size: u64,

    /// Earlier files of the log that are kept
    #[arg(long, value_name = "N", requires = "log_file", default_value = "14", allow_negative_numbers = true, value_parser = values::whole)]
    pub log_keep: usize,

    /// Log the bodies of requests too, prompts and all
    #[arg(long)]
    pub log_bodies: bool,

    /// Whether GET /metrics is answered
    #[arg(long, value_name = "BOOL", default_value = "true", action = ArgAction::Set)]
    pub metrics: bool,

    /// Send traces to the collector of OpenTelemetry at this URL, such as http://127.0.0.1:4318 (OTLP over HTTP)
    #[arg(long, value_name = "URL")]
    pub otlp_endpoint: Option<OtlpEndpoint>,

    /// Certificates in PEM that a collector behind https must have, or be signed by [default: those that the system trusts]
    #[arg(long, value_name = "FILE", requires = "otlp_endpoint", value_hint = ValueHint::FilePath)]
    pub otlp_certificate: Option<PathBuf>,

    /// What the service is called in logs and traces
    #[arg(long, value_name = "NAME", default_value = "glm")]
    pub service_name: String,
}

/// How lines of the log look, as written after `--log-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogChoice {
    /// Text on a terminal, else JSON
    Auto,
    /// One JSON object a line
    Json,
    /// For people
    Text,
}

/// How important a line is, as written after `--log-level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LevelChoice {
    /// What failed
    Error,
    /// What may fail soon, and requests that failed here
    Warn,
    /// Requests
    Info,
    /// Probes too
    Debug,
    /// Everything
    Trace,
}

/// `NAME=N,…`; what is not named keeps its weight.
fn health_weights(text: &str) -> Result<HealthWeights, String> {
    let mut weights = HealthWeights::default();
    for part in text.split(',') {
        let wrong = || {
            format!("expected NAME=N, NAME being engine, queue, memory or errors, found `{part}`")
        };
        let (name, weight) = part.split_once('=').ok_or_else(wrong)?;
        let weight = weight.trim().parse().map_err(|_| wrong())?;
        match name.trim() {
            "engine" => weights.engine = weight,
            "queue" => weights.queue = weight,
            "memory" => weights.memory = weight,
            "errors" => weights.errors = weight,
            _ => return Err(wrong()),
        }
    }
    Ok(weights)
}
