//! `serve`: the HTTP service.

use std::process;
use std::sync::atomic::{AtomicBool, Ordering};

use glm_server::http::{ServeError, ServeOptions, Server, Stopper};

use super::{answering_builder, keep_prefix_cache, print_remarks};
use crate::args::ServeArgs;
use crate::error::CliError;
use crate::terminal::{interrupt, output};

pub fn run(args: &ServeArgs) -> Result<(), CliError> {
    let builder = answering_builder(&args.model, &args.adapter, &args.cache, &args.speculation)?
        .max_num_seqs(args.max_num_seqs)
        .max_step_time(args.max_step_time)
        .max_waiting(args.max_waiting)
        .kv_cache_tokens(args.kv_cache_tokens)
        .swap_space(args.swap_space);
    // The port first: loading may take minutes, for nothing if the port is taken, and probes are answered meanwhile.
    let server = Server::bind(&args.host, args.port, options(args)).map_err(serve_error)?;
    let engine = builder.build().map_err(CliError::usage)?;
    print_remarks(&engine);
    output::note(&engine.model_info().kv_budget.to_string());
    server.start(engine.clone()).map_err(serve_error)?;
    let _instead = interrupt::instead(drain_then_end(server.stopper()));
    // That nobody reads the address stops nothing.
    let _ = output::print_line(&format!("listening on http://{}", server.address()));
    let cut_off = server.join();
    if cut_off > 0 {
        let seconds = args.drain_timeout.as_secs_f64();
        output::note(&format!("requests cut off after {seconds} s: {cut_off}"));
    }
    keep_prefix_cache(&engine, &args.cache);
    Ok(())
}

fn options(args: &ServeArgs) -> ServeOptions {
    ServeOptions {
        insecure: args.insecure,
        stop_on_sigterm: true,
        model_aliases: vec![args.model.model.clone()],
        drain_timeout: args.drain_timeout,
        max_body_bytes: usize::try_from(args.max_body_size).unwrap_or(usize::MAX),
        request_timeout: args.request_timeout,
        ..ServeOptions::default()
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
        ServeError::Unprotected(_) | ServeError::Host { .. } => CliError::usage(error),
        _ => CliError::failed(error),
    }
}
