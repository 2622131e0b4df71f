//! `perplexity`: how well a model predicts a text.

use std::path::Path;

use glm_runtime::EngineHandle;
use glm_runtime::perplexity::{Perplexity, PerplexityError, perplexity};
use serde_json::json;

use super::{build_engine, build_text_engine, engine_error, read_text_file};
use crate::args::PerplexityArgs;
use crate::error::CliError;
use crate::terminal::{output, progress};
use crate::values::TokenIds;

const DEFAULT_WINDOW: usize = 2048;

pub fn run(args: &PerplexityArgs) -> Result<(), CliError> {
    let ids = args.ids.as_deref().map(read_ids).transpose()?;
    let text = args.file.as_deref().map(read_text_file).transpose()?;
    let engine = match ids {
        Some(_) => build_engine(&args.model)?,
        None => build_text_engine(&args.model)?,
    };
    let (prefix, ids) = match (ids, text) {
        (Some(ids), _) => (Vec::new(), ids),
        (None, text) => encode(&engine, &text.unwrap_or_default())?,
    };
    let window = args
        .window
        .unwrap_or(DEFAULT_WINDOW.min(engine.model_info().max_model_len));
    let bar = progress::counter("scoring", ids.len());
    let result =
        perplexity(&engine, &prefix, &ids, window, |done| bar.inc(done as u64)).map_err(|error| {
            match error {
                PerplexityError::Engine(error) => engine_error(error),
                wrong => CliError::usage(wrong),
            }
        });
    bar.finish_and_clear();
    let result = result?;
    if args.json {
        output::print_json(&json!(result))
    } else {
        output::print(&describe(&result))
    }
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
