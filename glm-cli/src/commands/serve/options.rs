//! Options of the command to options of the libraries.

use std::io::{self, IsTerminal};

use glm_server::http::{
    AuthOptions, JwtOptions, LiveOptions, RateLimits, ServeOptions, TlsOptions,
};
use glm_server::telemetry::{LogFile, LogFormat, LogLevel, LogOptions};

use crate::args::{AccessArgs, LevelChoice, LogArgs, LogChoice, ServeArgs};

/// Those of the service, but for its tasks.
pub fn serve(args: &ServeArgs) -> ServeOptions {
    ServeOptions {
        insecure: args.access.insecure,
        auth: auth(&args.access),
        tls: tls(&args.access),
        inherit_port: true,
        takes_over: args.take_over,
        #[cfg(feature = "grpc")]
        grpc_port: args.grpc_port,
        live: live(args),
        max_waiting: args.max_waiting,
        max_waiting_tokens: args
            .max_waiting_tokens
            .map_or(u64::MAX, |tokens| tokens as u64),
        metrics: args.log.metrics,
        #[cfg(feature = "profile")]
        heap_profile: crate::heap::profile(),
        log_bodies: args.log.log_bodies,
        stop_on_sigterm: true,
        drain_timeout: args.drain_timeout,
        max_body_bytes: usize::try_from(args.max_body_size).unwrap_or(usize::MAX),
        request_timeout: args.request_timeout,
        ..ServeOptions::default()
    }
}

fn auth(args: &AccessArgs) -> AuthOptions {
    let mut auth = AuthOptions::default();
    auth.api_key.clone_from(&args.api_key);
    auth.api_key_file.clone_from(&args.api_key_file);
    if args.jwt_secret_file.is_some() || args.jwt_jwks_file.is_some() {
        let mut jwt = JwtOptions::default();
        jwt.secret_file.clone_from(&args.jwt_secret_file);
        jwt.jwks_file.clone_from(&args.jwt_jwks_file);
        jwt.issuer.clone_from(&args.jwt_issuer);
        jwt.audience.clone_from(&args.jwt_audience);
        jwt.leeway = args.jwt_leeway;
        jwt.tenant_claim.clone_from(&args.jwt_tenant_claim);
        jwt.scope_claim.clone_from(&args.jwt_scope_claim);
        auth.jwt = Some(jwt);
    }
    auth
}

fn tls(args: &AccessArgs) -> Option<TlsOptions> {
    Some(TlsOptions {
        certificate: args.tls_cert.clone()?,
        key: args.tls_key.clone()?,
    })
}

/// Those that can be changed while the service runs.
pub fn live(args: &ServeArgs) -> LiveOptions {
    let mut live = LiveOptions::default();
    live.limits = RateLimits {
        requests_per_minute: args.access.requests_per_minute,
        tokens_per_minute: args.access.tokens_per_minute,
    };
    live.health_weights = args.health_weights;
    live
}

/// Those of the log.
pub fn log(args: &LogArgs) -> LogOptions {
    let is_text = match args.log_format {
        LogChoice::Auto => args.log_file.is_none() && io::stderr().is_terminal(),
        LogChoice::Json => false,
        LogChoice::Text => true,
    };
    let file = args.log_file.as_ref().map(|path| LogFile {
        path: path.clone(),
        max_bytes: args.log_max_size,
        keep: args.log_keep,
    });
    LogOptions {
        format: if is_text {
            LogFormat::Text
        } else {
            LogFormat::Json
        },
        level: level(args.log_level),
        service_name: args.service_name.clone(),
        file,
    }
}

/// The least important lines that are logged.
pub fn level(level: LevelChoice) -> LogLevel {
    match level {
        LevelChoice::Error => LogLevel::ERROR,
        LevelChoice::Warn => LogLevel::WARN,
        LevelChoice::Info => LogLevel::INFO,
        LevelChoice::Debug => LogLevel::DEBUG,
        LevelChoice::Trace => LogLevel::TRACE,
    }
}
