//! `serve`: the HTTP service.

mod options;

use std::error::Error;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use glm_server::http::{LiveOptions, ServeError, ServeOptions, Server, Stopper, hash_key, new_key};
use glm_server::telemetry::{self, Log, OtlpExporter, SpanSink};

use super::{answering_builder, keep_prefix_cache, print_remarks, read_text};
use crate::args::layers::{CommandLine, ParseError, Settings, Source};
use crate::args::{Command, ServeArgs};
use crate::error::CliError;
use crate::terminal::{interrupt, output};

pub fn run(args: &ServeArgs, line: CommandLine, settings: &Settings) -> Result<(), CliError> {
    if args.print_config {
        return output::print(&settings.to_string());
    }
    if args.access.new_key || args.access.hash_key {
        return print_key(args.access.new_key);
    }
    if settings.source("api-key") == Some(&Source::CommandLine) {
        let message =
            "others can read command lines: put the key into GLM_API_KEY, or use --api-key-file";
        return Err(CliError::Usage(message.to_owned()));
    }
    serve(args, line)
}

/// A new key and its hash, or the hash of the key on stdin.
fn print_key(is_new: bool) -> Result<(), CliError> {
    if is_new {
        let (key, hash) = new_key().map_err(CliError::failed)?;
        output::print_line(&key)?;
        return output::print_line(&hash);
    }
    let key = read_text(std::io::stdin()).map_err(CliError::failed)?;
    match key.trim() {
        "" => Err(CliError::Usage("expected a key on stdin".to_owned())),
        key => output::print_line(&hash_key(key)),
    }
}

fn serve(args: &ServeArgs, line: CommandLine) -> Result<(), CliError> {
    let builder = answering_builder(&args.engine, &args.adapter)?
        .max_num_seqs(args.max_num_seqs)
        .max_step_time(args.max_step_time)
        // The service has a queue of its own, with these limits. What it lets through has been told so, and must not be refused.
        .max_waiting(usize::MAX)
        .max_num_batched_tokens(args.memory.max_num_batched_tokens)
        .kv_cache_tokens(args.memory.kv_cache_tokens)
        .swap_space(args.memory.swap_space);
    let log = telemetry::init(options::log(&args.log)).map_err(CliError::usage)?;
    let log = Arc::new(log);
    // The port first: loading may take minutes, for nothing if the port is taken, and probes are answered meanwhile.
    let (jobs, remark) = args.tasks.options();
    remark.iter().for_each(|remark| output::note(remark));
    let spans = args.log.otlp_endpoint.clone();
    let spans = spans.map(|endpoint| {
        let certificates = args.log.otlp_certificate.clone();
        OtlpExporter::start(endpoint, &args.log.service_name, certificates)
    });
    let spans = spans.transpose().map_err(CliError::usage)?.map(Arc::new);
    let options = ServeOptions {
        jobs,
        spans: spans.clone().map(|spans| spans as Arc<dyn SpanSink>),
        ..options::serve(args)
    };
    let server = Server::bind(&args.host, args.port, options).map_err(serve_error)?;
    let engine = builder.build().map_err(CliError::usage)?;
    print_remarks(&engine);
    output::note(&engine.model_info().kv_budget.to_string());
    server.start(engine.clone()).map_err(serve_error)?;
    let read_again = {
        let log = Arc::clone(&log);
        move || live_again(&line, &log)
    };
    server.reload_on_sighup(read_again).map_err(serve_error)?;
    let _instead = interrupt::instead(drain_then_end(server.stopper()));
    // That nobody reads the address stops nothing.
    let scheme = if args.access.tls_cert.is_some() {
        "https"
    } else {
        "http"
    };
    let _ = output::print_line(&format!("listening on {scheme}://{}", server.address()));
    #[cfg(feature = "grpc")]
    if let Some(address) = server.grpc_address() {
        let _ = output::print_line(&format!("gRPC on {scheme}://{address}"));
    }
    let cut_off = server.join();
    if cut_off > 0 {
        let seconds = args.drain_timeout.as_secs_f64();
        output::note(&format!("requests cut off after {seconds} s: {cut_off}"));
    }
    keep_prefix_cache(&engine, &args.engine.cache);
    spans.iter().for_each(|spans| spans.flush());
    log.flush();
    Ok(())
}

/// What the sources of settings say now about those that can be changed while the service runs.
fn live_again(line: &CommandLine, log: &Log) -> Result<LiveOptions, Box<dyn Error + Send + Sync>> {
    match line.parse() {
        Ok((cli, _)) => match cli.command {
            Command::Serve(args) => {
                log.set_level(options::level(args.log.log_level));
                Ok(options::live(&args))
            }
            // The same line said so at the start.
            _ => Err("the command line is not that of serve".into()),
        },
        Err(ParseError::Clap(error)) => Err(error),
        Err(ParseError::Source(error)) => Err(error.message().unwrap_or_default().into()),
    }
}

/// What Ctrl-C does: the first time nothing new is taken, the second time the program ends.
fn drain_then_end(stopper: Stopper) -> impl Fn() + Send + 'static {
    let drains = AtomicBool::new(false);
    move || {
        if drains.swap(true, Ordering::SeqCst) {
            process::exit(130);
        }
        output::note("answers that run may finish; Ctrl-C again ends at once");
        stopper.drain();
    }
}

/// An address that cannot or must not be used is a wrong argument; one that is taken is work that failed.
fn serve_error(error: ServeError) -> CliError {
    match error {
        ServeError::Unprotected(_)
        | ServeError::Host { .. }
        | ServeError::Keys(_)
        | ServeError::Tls(_)
        | ServeError::Jwt(_) => CliError::usage(error),
        _ => CliError::failed(error),
    }
}
