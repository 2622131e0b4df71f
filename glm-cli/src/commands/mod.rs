//! One file per command: call the libraries, print what they say.

pub mod batch;
pub mod bench;
pub mod chat;
pub mod completions;
pub mod doctor;
pub mod generate;
pub mod inspect;
pub mod man;
pub mod perplexity;
pub mod quantize;
pub mod serve;
pub mod tokenize;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use glm_core::OpenOptions;
use glm_runtime::{
    Engine, EngineBuilder, EngineError, EngineHandle, ErrorKind, ModelSource, SamplingParams,
};

use crate::args::{CacheFileArgs, EngineArgs, ModelArgs, SamplingArgs};
use crate::error::CliError;
use crate::terminal::{output, progress};
use crate::values::{AdapterChoice, DeviceChoice};

/// For commands that look at a model without computing with it.
fn refuse_cuda(device: DeviceChoice) -> Result<(), CliError> {
    match device {
        DeviceChoice::Auto | DeviceChoice::Cpu => Ok(()),
        DeviceChoice::Cuda(_) => Err(CliError::Usage(
            "this command uses no graphics processor: leave --device out".to_owned(),
        )),
    }
}

/// An engine for the model and machine options, not built yet.
fn builder(args: &ModelArgs) -> Result<EngineBuilder, CliError> {
    Ok(Engine::builder(&args.model)
        .threads(args.threads)
        .device(args.device.to_string())
        .quantize(args.quantize)
        .kv_dtype(args.kv_dtype.dtype())
        .max_model_len(args.max_model_len)
        .prefix_cache(!args.no_prefix_cache)
        .seed(args.seed)
        .offline(args.offline)
        .progress(progress::for_terminal()))
}

/// An engine that answers, not built yet: with LoRA adapters, and the prefix cache of the last run.
fn answering_builder<'a>(
    args: &EngineArgs,
    adapters: impl IntoIterator<Item = &'a AdapterChoice>,
) -> Result<EngineBuilder, CliError> {
    let builder = builder(&args.model)?
        .prefix_cache_file(args.cache.prefix_cache_file.clone())
        .speculation(args.speculation.speculation()?);
    Ok(with_adapters(builder, adapters))
}

fn with_adapters<'a>(
    builder: EngineBuilder,
    adapters: impl IntoIterator<Item = &'a AdapterChoice>,
) -> EngineBuilder {
    adapters.into_iter().fold(builder, |builder, adapter| {
        builder.adapter(&adapter.name, &adapter.path)
    })
}

/// Writes the prefix cache if there is a file for it. What was asked for is done by now, so that this fails is a remark.
fn keep_prefix_cache(engine: &EngineHandle, cache: &CacheFileArgs) {
    if cache.prefix_cache_file.is_some() {
        engine.drain();
        if let Some(error) = engine.stats().prefix_cache_error {
            output::note(&error);
        }
    }
}

/// Loads a model that text goes into; one without a tokenizer is refused before its weights are read. Whatever is wrong with it or
/// does not fit is a wrong argument.
fn build_for_text(builder: EngineBuilder) -> Result<EngineHandle, CliError> {
    builder
        .require_tokenizer(true)
        .build()
        .map_err(CliError::usage)
}

/// Says what a reader of the model's answers should know: that the demo's weights are random, or what loading did.
fn print_remarks(engine: &EngineHandle) {
    let info = engine.model_info();
    info.note
        .iter()
        .chain(&info.load_notes)
        .for_each(|remark| output::note(remark));
}

/// Opens the model without loading it.
fn open_source(args: &ModelArgs) -> Result<ModelSource, CliError> {
    ModelSource::open(&args.model, &open_options(args), args.seed.unwrap_or(0))
        .map_err(CliError::usage)
}

fn open_options(args: &ModelArgs) -> OpenOptions {
    let mut options = OpenOptions::default();
    options.offline = args.offline;
    options.progress = progress::for_terminal();
    options
}

/// A request that can never be served is a wrong argument; anything else is work that failed.
fn engine_error(error: EngineError) -> CliError {
    match error.kind() {
        ErrorKind::InvalidRequest | ErrorKind::ContextLength => CliError::usage(error),
        _ => CliError::failed(error),
    }
}

/// The checkpoint's own sampling with what the command line says instead.
fn sampling(args: &SamplingArgs, seed: Option<u64>, engine: &EngineHandle) -> SamplingParams {
    let default = engine.default_sampling().clone();
    SamplingParams {
        temperature: args.temperature.unwrap_or(default.temperature),
        top_k: args.top_k.unwrap_or(default.top_k),
        top_p: args.top_p.unwrap_or(default.top_p),
        min_p: args.min_p.unwrap_or(default.min_p),
        repetition_penalty: args
            .repetition_penalty
            .unwrap_or(default.repetition_penalty),
        seed: seed.or(default.seed),
        ..default
    }
}

/// A text file named on the command line.
fn read_text_file(path: &Path) -> Result<String, CliError> {
    File::open(path)
        .and_then(read_text)
        .map_err(|error| CliError::Usage(format!("cannot read {}: {error}", path.display())))
}

/// Longest text that is read: far more than any context, far less than memory holds.
const MAX_TEXT_BYTES: u64 = 256 << 20;

/// All of a source of text that may not end, such as a device or a pipe.
fn read_text(source: impl Read) -> io::Result<String> {
    let mut text = String::new();
    source.take(MAX_TEXT_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_TEXT_BYTES {
        let reason = format!("more than {MAX_TEXT_BYTES} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
    }
    Ok(text)
}
