//! `batch`: a file of OpenAI requests to a file of results.

use glm_runtime::EngineHandle;
use glm_server::batch::{Batch, BatchError, BatchOptions, Progress};
use serde_json::json;

use super::{answering_builder, keep_prefix_cache, print_remarks};
use crate::args::BatchArgs;
use crate::error::CliError;
use crate::terminal::{interrupt, output, progress};

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
        before
    } else {
        finish(args, batch)?
    };
    if after.stopped {
        output::note(&format!(
            "stopped: {} of {} lines have a result; the same command goes on from here",
            after.done, after.lines
        ));
        return Err(CliError::Interrupted);
    }
    if args.json {
        return output::print_json(&json!(after));
    }
    output::print(&describe(args, &after))
}

/// Loads the model and runs what is missing.
fn finish(args: &BatchArgs, batch: Batch) -> Result<Progress, CliError> {
    let engine = answering_builder(&args.model, &args.adapter, &args.cache, &args.speculation)?
        .max_num_seqs(args.max_num_seqs)
        .kv_cache_tokens(args.kv_cache_tokens)
        .swap_space(args.swap_space)
        // Nobody reads along: a step is filled with prompts, whatever that does to the pace of the answers beside them.
        .max_num_prefill_tokens(usize::MAX)
        .build()
        .map_err(CliError::usage)?;
    print_remarks(&engine);
    output::note(&engine.model_info().kv_budget.to_string());
    let before = *batch.progress();
    let options = BatchOptions {
        seed: args.model.seed,
        ..BatchOptions::default()
    };
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
    keep_prefix_cache(&engine, &args.cache);
    after.map_err(CliError::failed)
}

fn generated_tokens(engine: &EngineHandle) -> impl Fn() -> u64 + Clone + Send + Sync + 'static {
    let engine = engine.clone();
    move || engine.stats().generated_tokens
}

fn describe(args: &BatchArgs, progress: &Progress) -> String {
    let Progress {
        done,
        errors,
        earlier,
        prompt_tokens,
        completion_tokens,
        ..
    } = progress;
    let output = args.output.display();
    format!(
        "{output}: {done} results, {errors} of them errors; {earlier} were there before\n\
         this run: {prompt_tokens} prompt tokens, {completion_tokens} generated\n"
    )
}
