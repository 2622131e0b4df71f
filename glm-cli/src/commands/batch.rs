//! `batch`: a file of OpenAI requests to a file of results.

use glm_runtime::EngineHandle;
use glm_server::batch::{Batch, BatchError, BatchOptions, Progress};
use serde_json::json;
use std::time::{Duration, Instant};

use super::{answering_builder, keep_prefix_cache, print_remarks};
use crate::args::BatchArgs;
use crate::error::CliError;
use crate::terminal::{interrupt, output, progress};

/// What was done, and how long it took without loading the model.
struct Outcome {
    progress: Progress,
    seconds: f64,
}

pub fn run(args: &BatchArgs) -> Result<(), CliError> {
    let batch = Batch::open(&args.input, &args.output).map_err(|error| match error {
        BatchError::Io {
            action: "write" | "shorten",
            ..
        } => CliError::failed(error),
        wrong => CliError::usage(wrong),
    })?;
    let before = *batch.progress();
    let after = if before.done == before.lines {
        Outcome {
            progress: before,
            seconds: 0.0,
        }
    } else {
        finish(args, batch)?
    };
    if after.progress.stopped {
        output::note(&format!(
            "stopped: {} of {} lines have a result; the same command goes on from here",
            after.progress.done, after.progress.lines
        ));
        return Err(CliError::Interrupted);
    }
    if args.json {
        let mut summary = json!(after.progress);
        summary["seconds"] = json!(after.seconds);
        return output::print_json(&summary);
    }
    output::print(&describe(args, &after))
}

/// Loads the model and runs what is missing.
fn finish(args: &BatchArgs, batch: Batch) -> Result<Outcome, CliError> {
    let engine = answering_builder(&args.engine, &args.adapter)?
        .max_num_seqs(args.max_num_seqs)
        .max_num_batched_tokens(args.memory.max_num_batched_tokens)
        .kv_cache_tokens(args.memory.kv_cache_tokens)
        .swap_space(args.memory.swap_space)
        // Nobody reads along: a step is filled with prompts, whatever that does to the pace of the answers beside them.
        .max_step_time(Duration::MAX)
        .build()
        .map_err(CliError::usage)?;
    print_remarks(&engine);
    output::note(&engine.model_info().kv_budget.to_string());
    let before = *batch.progress();
    let options = BatchOptions {
        seed: args.engine.model.seed,
        ..BatchOptions::default()
    };
    let started = Instant::now();
    let run = batch.start(&engine, options);
    let stopper = run.stopper();
    let _instead = interrupt::instead(move || stopper.stop());
    let bar = progress::batch(before.lines, before.done, generated_tokens(&engine));
    let after = run.finish(|progress| {
        // An input that grows meanwhile is read to its new end.
        bar.set_length(progress.lines.max(progress.done));
        bar.set_position(progress.done);
    });
    bar.finish_and_clear();
    let seconds = started.elapsed().as_secs_f64();
    keep_prefix_cache(&engine, &args.engine.cache);
    let progress = after.map_err(CliError::failed)?;
    Ok(Outcome { progress, seconds })
}

fn generated_tokens(engine: &EngineHandle) -> impl Fn() -> u64 + Clone + Send + Sync + 'static {
    let engine = engine.clone();
    move || engine.stats().generated_tokens
}

fn describe(args: &BatchArgs, outcome: &Outcome) -> String {
    let Outcome {
        progress:
            Progress {
                done,
                errors,
                earlier,
                prompt_tokens,
                completion_tokens,
                ..
            },
        seconds,
    } = outcome;
    let output = args.output.display();
    format!(
        "{output}: {done} results, {errors} of them errors; {earlier} were there before\n\
         this run: {prompt_tokens} prompt tokens, {completion_tokens} generated, in {seconds:.1} s\n"
    )
}
