//! `bench`: speed and memory of a model on this machine.

mod text;

use std::io::{self, BufRead};
use std::time::Duration;

use glm_runtime::EngineHandle;
use glm_runtime::bench::{self, BenchError, BenchOptions, Machine, Query, Session};
use serde_json::json;

use super::{builder, engine_error, open_source};
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
        max_num_batched_tokens: args.max_num_batched_tokens,
        seed: args.model.seed.unwrap_or(0),
        profile: args.profile,
    };
    let machine = Machine::measure(args.model.threads).map_err(CliError::usage)?;
    let engine = start(args, &options)?;
    let machine = machine.of_model(engine.model_info());
    if args.stdin {
        return answer_lines(&engine, machine, options.seed);
    }
    let mut heading = Some(text::heading(&machine, engine.model_info()));
    let mut printed = Ok(());
    let report = bench::run(&engine, machine, &options, |measurement| {
        if !args.json && printed.is_ok() {
            let heading = heading.take().unwrap_or_default(); // before the first line only
            printed = output::print(&format!("{heading}{}\n", text::measurement(measurement)));
        }
    });
    printed?;
    let report = report.map_err(bench_error)?;
    if args.json {
        output::print_json(&json!(report))
    } else {
        output::print(&text::footer(&report))
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
        .max_num_seqs(options.max_num_seqs())
        .max_num_batched_tokens(options.max_num_batched_tokens)
        // A batch is measured when the last of it decodes: nobody reads what the first one says until then.
        .max_step_time(Duration::MAX)
        .build()
        .map_err(CliError::usage)
}

/// Measures what each line of stdin asks for and answers with a line: first the model and the machine, then a result or an
/// error for each query. The engine sleeps in between, so that another program can be measured.
fn answer_lines(engine: &EngineHandle, machine: Machine, seed: u64) -> Result<(), CliError> {
    let mut session = Session::new(engine, machine, seed).map_err(bench_error)?;
    let model = engine.model_info();
    output::print_json(&json!({"model": model, "machine": session.machine()}))?;
    for line in io::stdin().lock().lines() {
        let line = line.map_err(|error| CliError::failed(format!("cannot read stdin: {error}")))?;
        let answer = match serde_json::from_str::<Query>(&line) {
            Ok(query) => match session.answer(query) {
                Ok(measurement) => json!(measurement),
                Err(BenchError::Engine(error)) => return Err(engine_error(error)),
                Err(error) => json!({"error": error.to_string()}),
            },
            Err(error) => json!({"error": format!("not a query: {error}")}),
        };
        output::print_json(&answer)?;
    }
    Ok(())
}

fn bench_error(error: BenchError) -> CliError {
    match error {
        BenchError::Engine(error) => engine_error(error),
        wrong => CliError::usage(wrong),
    }
}
