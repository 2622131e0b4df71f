//! Writes a model as a GGUF file in another format, one tensor after the other.
//!
//! The file has llama.cpp's names and metadata (`chatglm` or `glm4`), so llama.cpp reads it where it supports the model. Memory
//! stays near one piece of one tensor: sources are mapped or drawn, results go straight to the file.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use glm_core::gguf::{self, Value, Writer};
use glm_core::{Checkpoint, LoadError, Progress, TensorType};
use glm_kernels::{CpuOptions, Device, KernelError, ThreadPool, WeightFormat, quant};
use serde::Serialize;

use crate::error::BuildError;
use crate::load::{ModelSource, Quantization, RandomWeights, TensorSpec, fill_pieces, format_for};

/// How [`quantize_to_gguf`] works.
#[derive(Clone)]
pub struct QuantizeOptions {
    /// Format of the matrices. Vectors stay f32; rows that do not divide into its blocks take the next better
    /// format with blocks of 32, or f16.
    pub format: Quantization,
    /// Replace the output if it exists.
    pub overwrite: bool,
    /// Threads; default: the physical cores this process may use.
    pub threads: Option<usize>,
    /// Told about the bytes written.
    pub progress: Option<Arc<dyn Progress>>,
    /// Set it to `true` from another thread and the work ends soon with [`QuantizeError::Stopped`].
    pub stop: Option<Arc<AtomicBool>>,
}

impl QuantizeOptions {
    /// The plain case: this format, all threads, an existing file is kept.
    pub fn new(format: impl Into<Quantization>) -> Self {
        Self {
            format: format.into(),
            overwrite: false,
            threads: None,
            progress: None,
            stop: None,
        }
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QuantizeReport {
    /// The model's name.
    pub model: String,
    /// The file written.
    pub output: PathBuf,
    /// Format asked for.
    pub format: Quantization,
    /// Number of tensors.
    pub tensors: usize,
    /// Number of weights.
    pub parameters: u64,
    /// Bytes of all tensors in the source.
    pub source_bytes: u64,
    /// Bytes of all tensors written.
    pub bytes: u64,
    /// `8 * bytes / parameters`.
    pub bits_per_weight: f64,
    /// Bytes written in each format.
    pub formats: BTreeMap<String, u64>,
}

/// Why no file was written. Nothing is left behind in any of these cases.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuantizeError {
    /// The model could not be opened or read, or the format can be read but not produced.
    #[error(transparent)]
    Model(#[from] BuildError),
    /// A file of that name exists and may not be replaced.
    #[error("{} exists already: choose another name or ask to replace it (--force)", .0.display())]
    Exists(PathBuf),
    /// The output cannot be a file there.
    #[error("cannot write {path}: {reason}", path = path.display())]
    Output {
        /// The path asked for.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Quantising twice only adds error.
    #[error(
        "{model} is quantised already (`{tensor}` is {found}): start from the original weights, or ask for {found}, f32, f16 or bf16"
    )]
    Already {
        /// The model.
        model: String,
        /// A tensor that is quantised.
        tensor: String,
        /// Its format.
        found: WeightFormat,
    },
    /// GGUF has no name for a tensor of this model.
    #[error("{model}: GGUF has no name for tensor `{tensor}`")]
    Name {
        /// The model.
        model: String,
        /// Canonical tensor name.
        tensor: String,
    },
    /// Writing failed.
    #[error("cannot write the GGUF file")]
    Write {
        /// What the writer reports.
        #[source]
        source: LoadError,
    },
    /// The number of threads cannot be, or a tensor's bytes are not what its shape says.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The caller asked to stop.
    #[error("stopped before the file was complete; nothing was written")]
    Stopped,
}

/// Writes `source` to `output` with its matrices in `options.format`.
///
/// The file appears under its name only when it is complete.
///
/// # Errors
/// [`QuantizeError`]; in every case `output` is as it was before.
pub fn quantize_to_gguf(
    source: &ModelSource,
    output: &Path,
    options: &QuantizeOptions,
) -> Result<QuantizeReport, QuantizeError> {
    check_output(output, options.overwrite)?;
    let device = Device::cpu(CpuOptions {
        threads: options.threads,
        ..CpuOptions::default()
    })?;
    let plan = plan(source, options.format)?;
    let specs: Vec<_> = plan.iter().map(|tensor| tensor.target.clone()).collect();
    let metadata = metadata(source, options.format)?;
    let mut job = Job {
        source,
        pool: device.pool(),
        progress: options.progress.as_deref(),
        stop: options.stop.as_deref(),
        writer: Writer::create(output, &metadata, &specs).map_err(write_error)?,
    };
    if let Some(progress) = job.progress {
        progress.begin("quantising", plan.iter().map(|tensor| tensor.bytes).sum());
    }
    let done = plan.iter().try_for_each(|tensor| job.tensor(tensor));
    if let Some(progress) = job.progress {
        progress.end();
    }
    done?;
    job.check_stop()?;
    job.writer.finish().map_err(write_error)?;
    Ok(report(source, output, options.format, &plan))
}

/// One tensor: what it is in the source, and what it becomes.
struct Planned {
    stored: TensorSpec,
    format: WeightFormat,
    target: gguf::TensorSpec,
    bytes: u64,
}

fn check_output(output: &Path, overwrite: bool) -> Result<(), QuantizeError> {
    let wrong = |reason| {
        Err(QuantizeError::Output {
            path: output.to_path_buf(),
            reason,
        })
    };
    let folder = output
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    match () {
        () if output.file_name().is_none() || output.is_dir() => wrong("it is a directory"),
        () if !folder.is_dir() => wrong("its directory does not exist"),
        // A device or a pipe: renaming the finished file to it would put a file in its place.
        () if output.exists() && !output.is_file() => wrong("it is not a regular file"),
        () if output.exists() && !overwrite => Err(QuantizeError::Exists(output.to_path_buf())),
        () => Ok(()),
    }
}

fn plan(source: &ModelSource, requested: Quantization) -> Result<Vec<Planned>, QuantizeError> {
    let requested = requested.checked()?;
    source
        .tensors()
        .iter()
        .map(|stored| planned(source, stored.clone(), requested))
        .collect()
}

fn planned(
    source: &ModelSource,
    stored: TensorSpec,
    requested: Quantization,
) -> Result<Planned, QuantizeError> {
    let model = || source.name().to_owned();
    let wanted = format_for(&stored, Some(requested), source.config().dense());
    let format =
        target_format(&stored, wanted, requested.base()).ok_or_else(|| QuantizeError::Already {
            model: model(),
            tensor: stored.name.clone(),
            found: stored.format,
        })?;
    let name = gguf::tensor_name(&stored.name).ok_or_else(|| QuantizeError::Name {
        model: model(),
        tensor: stored.name.clone(),
    })?;
    let ty = tensor_type(format);
    let bytes = ty.byte_len(&stored.shape).unwrap_or(0); // `target_format` divides rows into whole blocks
    let target = gguf::TensorSpec {
        name,
        shape: stored.shape.clone(),
        ty,
    };
    Ok(Planned {
        stored,
        format,
        target,
        bytes,
    })
}

/// The format a tensor is written in; `None` if it would be quantised a second time. `wanted` keeps what is in blocks already,
/// so only a file of floats, `base`, undoes them.
fn target_format(
    stored: &TensorSpec,
    wanted: WeightFormat,
    base: WeightFormat,
) -> Option<WeightFormat> {
    let is_matrix = stored.shape.len() > 1;
    match (stored.format.is_quantized(), base.is_quantized()) {
        (true, false) if is_matrix => Some(base),
        (true, true) if is_matrix && stored.format != base => None,
        _ => Some(wanted),
    }
}

/// glm-core's name for a format; both crates list the same ones and do not know each other.
fn tensor_type(format: WeightFormat) -> TensorType {
    let same = |ty: &TensorType| ty.name().parse() == Ok(format);
    TensorType::ALL
        .into_iter()
        .find(same)
        .expect("both crates list GGML's types, as a test checks")
}

fn metadata(
    source: &ModelSource,
    format: Quantization,
) -> Result<Vec<(String, Value)>, QuantizeError> {
    let mut metadata = gguf::gguf_metadata(source.config());
    metadata.extend([
        ("general.name".to_owned(), Value::from(source.name())),
        (
            "general.file_type".to_owned(),
            Value::from(format.file_type()),
        ),
        ("general.quantization_version".to_owned(), Value::from(2u32)), // GGML_QNT_VERSION
    ]);
    let model = |error| QuantizeError::Model(BuildError::Load(error));
    let tokenizer = match source.checkpoint().map(Checkpoint::tokenizer) {
        // Weights alone can be measured and fed with token ids.
        None | Some(Err(LoadError::NoTokenizer { .. })) => None,
        Some(tokenizer) => Some(tokenizer.map_err(model)?),
    };
    metadata.extend(gguf::tokenizer_metadata(
        tokenizer.as_ref(),
        source.config().dense().vocab_size,
    ));
    if tokenizer.is_some()
        && let Some(checkpoint) = source.checkpoint()
        && let Some(template) = checkpoint.chat_format().map_err(model)?.template_source()
    {
        metadata.push(("tokenizer.chat_template".to_owned(), Value::from(template)));
    }
    Ok(metadata)
}

fn report(
    source: &ModelSource,
    output: &Path,
    format: Quantization,
    plan: &[Planned],
) -> QuantizeReport {
    let mut formats = BTreeMap::new();
    for tensor in plan {
        *formats.entry(tensor.format.to_string()).or_default() += tensor.bytes;
    }
    let stored_bytes =
        |spec: &TensorSpec| tensor_type(spec.format).byte_len(&spec.shape).unwrap_or(0);
    let parameters = plan
        .iter()
        .map(|tensor| tensor.stored.elements())
        .sum::<u64>();
    let bytes = plan.iter().map(|tensor| tensor.bytes).sum::<u64>();
    QuantizeReport {
        model: source.name().to_owned(),
        output: output.to_path_buf(),
        format,
        tensors: plan.len(),
        parameters,
        source_bytes: plan.iter().map(|tensor| stored_bytes(&tensor.stored)).sum(),
        bytes,
        bits_per_weight: 8.0 * bytes as f64 / parameters.max(1) as f64,
        formats,
    }
}

fn write_error(source: LoadError) -> QuantizeError {
    QuantizeError::Write { source }
}

/// Weights that one thread converts at a time: 4 MiB as f32, so that a piece per thread is little memory and stopping is quick.
const PIECE: usize = 1 << 20;

struct Job<'a> {
    source: &'a ModelSource,
    pool: &'a ThreadPool,
    progress: Option<&'a dyn Progress>,
    stop: Option<&'a AtomicBool>,
    writer: Writer,
}

impl Job<'_> {
    fn tensor(&mut self, planned: &Planned) -> Result<(), QuantizeError> {
        let stored = &planned.stored;
        let data;
        let rows = match self.source {
            ModelSource::Random(random) => Rows::Drawn(random, stored),
            _ => {
                data = self.source.read(&stored.name)?;
                Rows::Stored {
                    format: stored.format,
                    bytes: &data.bytes,
                }
            }
        };
        let (count, columns) = (stored.rows(), stored.columns());
        let row_bytes = planned.bytes as usize / count.max(1);
        let per_piece = (PIECE / columns.max(1)).max(1);
        let step = per_piece * self.pool.num_threads();
        let mut out = vec![0; row_bytes * count.min(step)];
        for first in (0..count).step_by(step) {
            self.check_stop()?;
            let out = &mut out[..(count - first).min(step) * row_bytes];
            fill_pieces(self.pool, out, per_piece * row_bytes, |piece, out| {
                let first = first + piece * per_piece;
                let last = first + out.len() / row_bytes;
                let mut values = vec![0.0; (last - first) * columns];
                rows.read(first..last, columns, &mut values)?;
                quant::quantize(planned.format, &values, out)
            })?;
            self.writer.write(out).map_err(write_error)?;
            rows.release(
                self.source,
                first..first + out.len() / row_bytes.max(1),
                columns,
            );
            if let Some(progress) = self.progress {
                progress.advance(out.len() as u64);
            }
        }
        Ok(())
    }

    fn check_stop(&self) -> Result<(), QuantizeError> {
        match self.stop {
            Some(stop) if stop.load(Ordering::SeqCst) => Err(QuantizeError::Stopped),
            _ => Ok(()),
        }
    }
}

/// The values of a tensor, row by row.
enum Rows<'a> {
    /// In the source's own format, one row after the other.
    Stored {
        format: WeightFormat,
        bytes: &'a [u8],
    },
    /// Drawn from a seed.
    Drawn(&'a RandomWeights, &'a TensorSpec),
}

impl Rows<'_> {
    fn read(&self, rows: Range<usize>, columns: usize, out: &mut [f32]) -> Result<(), KernelError> {
        match self {
            Self::Drawn(random, spec) => {
                random.draw_rows(spec, rows, out);
                Ok(())
            }
            Self::Stored { format, bytes } => {
                quant::dequantize(*format, part(*format, bytes, rows, columns), out)
            }
        }
    }

    /// Lets go of the memory that the rows of a file are mapped to: the whole of it would be in memory at the end.
    fn release(&self, source: &ModelSource, rows: Range<usize>, columns: usize) {
        if let Self::Stored { format, bytes } = self {
            source.release(part(*format, bytes, rows, columns));
        }
    }
}

/// Some rows of a tensor's bytes; none of them, whose length `dequantize` refuses, if they are beyond its end.
fn part(format: WeightFormat, bytes: &[u8], rows: Range<usize>, columns: usize) -> &[u8] {
    let row_bytes = columns / format.block_len() * format.block_bytes();
    let range = rows.start * row_bytes..rows.end * row_bytes;
    bytes.get(range).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use glm_core::ModelConfig;
    use glm_core::gguf::Reader;

    const CONFIG: &str = r#"{
        "model_type": "glm4", "hidden_size": 256, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 24, "vocab_size": 300, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "attention_bias": true, "tie_word_embeddings": false, "partial_rotary_factor": 0.5, "eos_token_id": [1]
    }"#;

    fn random() -> RandomWeights {
        let config = ModelConfig::from_json(CONFIG, Path::new("config.json")).unwrap();
        RandomWeights::new("random:test".to_owned(), config, 7)
    }

    /// The values of a tensor in a file, as f32.
    fn values(reader: &Reader, name: &str) -> Vec<f32> {
        let entry = reader
            .tensors()
            .iter()
            .find(|entry| entry.name == name)
            .unwrap();
        let mut values = vec![f32::NAN; entry.shape.iter().product()];
        quant::dequantize(
            entry.ty.name().parse().unwrap(),
            reader.data(entry),
            &mut values,
        )
        .unwrap();
        values
    }

    #[test]
    fn both_crates_list_the_same_formats() {
        for format in WeightFormat::ALL {
            let ty = tensor_type(format);
            assert_eq!(
                (ty.block_len(), ty.block_bytes()),
                (format.block_len(), format.block_bytes()),
                "{format}"
            );
        }
    }

    #[test]
    fn what_is_written_is_what_quantising_in_one_piece_gives() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.gguf");
        let random = random();
        let source = ModelSource::Random(random.clone());
        let options = QuantizeOptions {
            threads: Some(3),
            ..QuantizeOptions::new(WeightFormat::Q4K)
        };
        let report = quantize_to_gguf(&source, &output, &options).unwrap();
        let reader = Reader::open(&output).unwrap();
        assert_eq!(reader.tensors().len(), report.tensors);
        for (spec, entry) in random.tensors().iter().zip(reader.tensors()) {
            let (rows, columns) = (spec.rows(), spec.columns());
            let mut drawn = vec![0.0; rows * columns];
            random.draw_rows(spec, 0..rows, &mut drawn);
            let format = format_for(
                spec,
                Some(WeightFormat::Q4K.into()),
                source.config().dense(),
            );
            let mut bytes = vec![0; format.row_bytes(columns).unwrap() * rows];
            quant::quantize(format, &drawn, &mut bytes).unwrap();
            let mut expected = vec![0.0; rows * columns];
            quant::dequantize(format, &bytes, &mut expected).unwrap();
            assert_eq!(values(&reader, &entry.name), expected, "{}", spec.name);
        }
        assert!(
            report.formats.contains_key("q4_k") && report.formats.contains_key("f32"),
            "{report:?}"
        );
        assert!(
            report.formats.contains_key("q5_0"),
            "rows of 96 do not divide into blocks of 256"
        );
    }

    #[test]
    fn a_stopped_job_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let stop = Arc::new(AtomicBool::new(true));
        let options = QuantizeOptions {
            stop: Some(stop),
            ..QuantizeOptions::new(WeightFormat::Q8_0)
        };
        let source = ModelSource::Random(random());
        let stopped = quantize_to_gguf(&source, &folder.path().join("out.gguf"), &options);
        assert!(matches!(stopped, Err(QuantizeError::Stopped)));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_thread_count_that_cannot_be_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let source = ModelSource::Random(random());
        for threads in [0, usize::MAX] {
            let options = QuantizeOptions {
                threads: Some(threads),
                ..QuantizeOptions::new(WeightFormat::Q8_0)
            };
            let refused = quantize_to_gguf(&source, &folder.path().join("out.gguf"), &options);
            assert!(
                matches!(refused, Err(QuantizeError::Kernel(KernelError::Threads(found))) if found == threads)
            );
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_output_that_cannot_be_is_refused_first() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("there");
        std::fs::write(&file, "kept").unwrap();
        let source = ModelSource::Random(random());
        let run = |output: &Path| {
            quantize_to_gguf(&source, output, &QuantizeOptions::new(WeightFormat::Q8_0))
        };
        assert!(matches!(run(&file), Err(QuantizeError::Exists(_))));
        assert!(matches!(
            run(folder.path()),
            Err(QuantizeError::Output { .. })
        ));
        assert!(matches!(
            run(&folder.path().join("no/such")),
            Err(QuantizeError::Output { .. })
        ));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
    }

    #[test]
    fn blocks_are_not_rounded_twice_but_can_become_floats() {
        use WeightFormat as W;
        let target = |format, asked: WeightFormat| {
            let stored = TensorSpec {
                name: "w".to_owned(),
                shape: vec![4, 256],
                format,
            };
            let wanted = format_for(&stored, Some(asked.into()), random().config().dense());
            target_format(&stored, wanted, asked)
        };
        assert_eq!(target(W::Q6K, W::Q4K), None);
        assert_eq!(target(W::Q6K, W::Q6K), Some(W::Q6K));
        assert_eq!(target(W::Q6K, W::F16), Some(W::F16));
        assert_eq!(target(W::BF16, W::Q4K), Some(W::Q4K));
    }
}
