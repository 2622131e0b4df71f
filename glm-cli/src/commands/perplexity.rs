//! `perplexity`: how well a model predicts a text.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use glm_runtime::perplexity::{Perplexity, PerplexityError, perplexity};
use glm_runtime::{EngineBuilder, EngineHandle};
use serde_json::json;

use super::{build_for_text, builder, engine_error, read_text_file, with_adapters};
use crate::args::PerplexityArgs;
use crate::error::CliError;
use crate::terminal::{output, progress};
use crate::values::TokenIds;

const DEFAULT_WINDOW: usize = 2048;

pub fn run(args: &PerplexityArgs) -> Result<(), CliError> {
    let ids = args.ids.as_deref().map(read_ids).transpose()?;
    let text = args.file.as_deref().map(read_text_file).transpose()?;
    let engine = match (&ids, &args.logits) {
        (Some(ids), Some(path)) => write_logits(args, ids, path)?,
        (Some(_), None) => adapted(args)?.build().map_err(CliError::usage)?,
        (None, _) => build_for_text(adapted(args)?)?,
    };
    let (prefix, ids) = match (ids, text) {
        (Some(ids), _) => (Vec::new(), ids),
        (None, text) => encode(&engine, &text.unwrap_or_default())?,
    };
    let window = args
        .window
        .unwrap_or(DEFAULT_WINDOW.min(engine.model_info().max_model_len));
    let bar = progress::counter("scoring", ids.len());
    let result = perplexity(&engine, &prefix, &ids, window, adapter_name(args), |done| {
        bar.inc(done as u64);
    })
    .map_err(|error| match error {
        PerplexityError::Engine(error) => engine_error(error),
        wrong => CliError::usage(wrong),
    });
    bar.finish_and_clear();
    let result = result?;
    if args.json {
        output::print_json(&json!(result))
    } else {
        output::print(&describe(&result))
    }
}

/// An engine with the adapter that is asked for, not built yet.
fn adapted(args: &PerplexityArgs) -> Result<EngineBuilder, CliError> {
    Ok(with_adapters(builder(&args.model)?, &args.adapter))
}

fn adapter_name(args: &PerplexityArgs) -> Option<&str> {
    args.adapter.as_ref().map(|adapter| adapter.name.as_str())
}

fn describe(result: &Perplexity) -> String {
    let Perplexity {
        tokens,
        scored,
        window,
        mean_nll,
        standard_error,
        perplexity,
        ..
    } = result;
    format!(
        "tokens      {tokens} ({scored} predicted, windows of {window})\n\
         mean nll    {mean_nll:.5} ± {standard_error:.5}\n\
         perplexity  {perplexity:.4}\n"
    )
}

/// Writes `[tokens, vocab_size]` logits, and gives the engine back that computed them.
fn write_logits(args: &PerplexityArgs, ids: &[u32], path: &Path) -> Result<EngineHandle, CliError> {
    let mut engine = adapted(args)?.build_engine().map_err(CliError::usage)?;
    let trace = match adapter_name(args) {
        Some(name) => engine.trace_with_adapter(ids, name),
        None => engine.trace(ids),
    };
    let trace = trace.map_err(engine_error)?;
    let write = || {
        let mut file = BufWriter::new(File::create(path)?);
        for value in &trace.logits {
            file.write_all(&value.to_le_bytes())?;
        }
        file.flush()
    };
    write()
        .map_err(|error| CliError::failed(format!("cannot write {}: {error}", path.display())))?;
    engine.spawn().map_err(CliError::failed)
}

/// The tokenizer's prefix and the text's token ids, in which special tokens are recognised.
fn encode(engine: &EngineHandle, text: &str) -> Result<(Vec<u32>, Vec<u32>), CliError> {
    let ids = engine.encode(text).map_err(engine_error)?;
    let prefix = engine.tokenizer().map_err(engine_error)?.prefix().to_vec();
    let rest = ids.strip_prefix(prefix.as_slice()).unwrap_or(&ids).to_vec();
    Ok((prefix, rest))
}

fn read_ids(path: &Path) -> Result<Vec<u32>, CliError> {
    let TokenIds(ids) = read_text_file(path)?
        .parse()
        .map_err(|error: String| CliError::Usage(format!("{}: {error}", path.display())))?;
    Ok(ids)
}
