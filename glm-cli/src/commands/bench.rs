//! `bench`: speed and memory of a model on this machine.

use glm_runtime::EngineHandle;
use glm_runtime::bench::{
    self, BenchError, BenchOptions, BenchReport, Decode, Machine, Measurement, Prefill,
};
use indicatif::BinaryBytes;
use serde_json::json;

use super::{builder, check_device, engine_error, open_source};
use crate::args::BenchArgs;
use crate::error::CliError;
use crate::terminal::output;

pub fn run(args: &BenchArgs) -> Result<(), CliError> {
    let options = BenchOptions {
        prompt_tokens: args.prompt_tokens.clone(),
        gen_tokens: args.gen_tokens,
        batch: args.batch.clone(),
        depth: args.depth.clone(),
        repeat: args.repeat,
        seed: args.model.seed.unwrap_or(0),
    };
    check_device(args.model.device)?;
    let machine = Machine::measure(args.model.threads).map_err(CliError::usage)?;
    let engine = start(args, &options)?;
    let mut heading = Some(heading(&machine, engine.model_info()));
    let mut printed = Ok(());
    let report = bench::run(&engine, machine, &options, |measurement| {
        if !args.json && printed.is_ok() {
            let heading = heading.take().unwrap_or_default(); // before the first line only
            printed = output::print(&format!("{heading}{}\n", line(measurement)));
        }
    });
    printed?;
    let report = report.map_err(|error| match error {
        BenchError::Engine(error) => engine_error(error),
        wrong => CliError::usage(wrong),
    })?;
    if args.json {
        output::print_json(&json!(report))
    } else {
        output::print(&footer(&report))
    }
}

/// An engine whose context and KV cache hold what is to be measured, unless the caller has fixed the context.
fn start(args: &BenchArgs, options: &BenchOptions) -> Result<EngineHandle, CliError> {
    let limit = open_source(&args.model)?.config().dense().max_context();
    let max_model_len = args
        .model
        .max_model_len
        .unwrap_or_else(|| options.max_model_len(limit));
    builder(&args.model)?
        .max_model_len(max_model_len)
        .kv_cache_tokens(options.kv_cache_tokens(max_model_len))
        .max_num_seqs(options.batch.iter().copied().max())
        .build()
        .map_err(CliError::usage)
}

fn heading(machine: &Machine, model: &glm_runtime::ModelInfo) -> String {
    format!(
        "model     {}, {} of weights, {} of KV per token\n\
         machine   {}, {}, {} threads, reads {:.1} GB/s\n",
        model.name,
        BinaryBytes(model.weight_bytes),
        BinaryBytes(model.kv_bytes_per_token),
        machine.cpu,
        machine.isa,
        machine.threads,
        machine.bandwidth_gb_s,
    )
}

fn line(measurement: &Measurement) -> String {
    match measurement {
        Measurement::Prefill(Prefill {
            tokens,
            tok_s,
            tok_s_min,
            tok_s_max,
            ttft_ms,
            ..
        }) => format!(
            "prefill   {tokens:>5} tokens             {tok_s:>9.1} tok/s  ({tok_s_min:.1} to {tok_s_max:.1})  TTFT {ttft_ms:.0} ms"
        ),
        Measurement::Decode(decode) => {
            let Decode {
                batch,
                depth,
                tok_s,
                tok_s_min,
                tok_s_max,
                itl_ms,
                itl_p95_ms,
                gb_s,
                bandwidth_share,
                ..
            } = decode;
            format!(
                "decode    batch {batch:>3}, depth {depth:>6}  {tok_s:>9.1} tok/s  ({tok_s_min:.1} to {tok_s_max:.1})  \
                 ITL {itl_ms:.1} ms (p95 {itl_p95_ms:.1})  {gb_s:.1} GB/s, {:.0} % of this machine's",
                100.0 * bandwidth_share
            )
        }
    }
}

fn footer(report: &BenchReport) -> String {
    match report.machine.peak_memory_bytes {
        Some(bytes) => format!("memory    {} at most\n", BinaryBytes(bytes)),
        None => String::new(),
    }
}
