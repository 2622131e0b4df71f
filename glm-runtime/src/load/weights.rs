//! [`WeightLoader`]: builds a model's layers from a [`ModelSource`], one tensor at a time, so that at most one tensor is in
//! memory twice.

use std::collections::BTreeMap;
use std::sync::Arc;

use glm_core::{DenseConfig, Progress, Projection};
use glm_kernels::{
    AttnDims, Device, KernelError, Tensor, Weight, WeightBuilder, WeightFormat, quant,
};

use super::format::format_for;
use super::pieces::fill_pieces;
use super::quantization::Quantization;
use super::random::RandomWeights;
use super::source::{ModelSource, TensorSpec};
use crate::error::BuildError;
use crate::layers::{AdaptedLinear, Attention, Embedding, Linear, Mlp, RmsNorm, RotaryEmbedding};
use crate::lora::Site;

/// Rows of a random tensor that one task draws: enough work to be worth handing out, little enough to balance.
const ROWS_PER_TASK: usize = 256;

/// Reads tensors by name and turns them into layers on a device.
pub(crate) struct WeightLoader<'a> {
    source: &'a ModelSource,
    device: &'a Device,
    quantize: Option<Quantization>,
    progress: Option<&'a dyn Progress>,
    loaded: Loaded,
}

/// What was loaded so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Loaded {
    /// Weights in all tensors.
    pub(crate) parameters: u64,
    /// Bytes held.
    pub(crate) bytes: u64,
    /// Bytes of an embedding table that only looks rows up.
    pub(crate) untied_embedding_bytes: u64,
    /// Bytes of matrices per format.
    pub(crate) formats: BTreeMap<WeightFormat, u64>,
    /// Matrices that did not take the requested format, with the one they took.
    pub(crate) fallbacks: BTreeMap<WeightFormat, usize>,
}

/// Bytes of memory that the weights of `source` take when held as [`format_for`] says, on `device` or else on the CPU. Packed, some
/// formats are a little larger than in a file.
pub(crate) fn weight_bytes(
    source: &ModelSource,
    quantize: Option<Quantization>,
    device: Option<&Device>,
) -> u64 {
    source
        .tensors()
        .iter()
        .map(|spec| {
            let format = format_for(spec, quantize, source.config().dense());
            let packed = match spec.shape.len() {
                0 | 1 => format.row_bytes(spec.columns()),
                _ => match device {
                    Some(device) => {
                        Weight::packed_bytes_on(device, format, spec.rows(), spec.columns())
                    }
                    None => Weight::packed_bytes(format, spec.rows(), spec.columns()),
                },
            };
            packed.unwrap_or(usize::MAX) as u64
        })
        .fold(0, u64::saturating_add)
}

/// Bytes that a tensor takes in a file.
fn tensor_bytes(spec: &TensorSpec, format: WeightFormat) -> u64 {
    (format.row_bytes(spec.columns()).unwrap_or(usize::MAX) as u64)
        .saturating_mul(spec.rows() as u64)
}

impl<'a> WeightLoader<'a> {
    pub(crate) fn new(
        source: &'a ModelSource,
        device: &'a Device,
        quantize: Option<Quantization>,
        progress: Option<&'a dyn Progress>,
    ) -> Self {
        if let Some(progress) = progress {
            let total = source
                .tensors()
                .iter()
                .map(|spec| tensor_bytes(spec, spec.format))
                .sum();
            progress.begin(&format!("loading {}", source.name()), total);
        }
        Self {
            source,
            device,
            quantize,
            progress,
            loaded: Loaded::default(),
        }
    }

    pub(crate) fn config(&self) -> &'a DenseConfig {
        self.source.config().dense()
    }

    /// What was loaded.
    pub(crate) fn finish(self) -> Loaded {
        if let Some(progress) = self.progress {
            progress.end();
        }
        self.loaded
    }

    pub(crate) fn rotary_embedding(&self) -> Result<RotaryEmbedding, BuildError> {
        RotaryEmbedding::new(self.device, self.config())
    }

    pub(crate) fn embedding(&mut self) -> Result<Embedding, BuildError> {
        let config = self.config();
        let before = self.loaded.bytes;
        let weight = Arc::new(self.weight(
            config.hidden_size,
            &[("model.embed_tokens.weight", config.vocab_size)],
        )?);
        if !config.tie_word_embeddings {
            self.loaded.untied_embedding_bytes = self.loaded.bytes - before;
        }
        Ok(Embedding { weight })
    }

    /// The output head, which is the embedding table itself where the two are tied.
    pub(crate) fn lm_head(&mut self, embed_tokens: &Embedding) -> Result<Linear, BuildError> {
        let config = self.config();
        let weight = match config.tie_word_embeddings {
            true => embed_tokens.weight.clone(),
            false => {
                Arc::new(self.weight(config.hidden_size, &[("lm_head.weight", config.vocab_size)])?)
            }
        };
        Ok(Linear { weight, bias: None })
    }

    pub(crate) fn rms_norm(&mut self, prefix: &str) -> Result<RmsNorm, BuildError> {
        let config = self.config();
        let weight = self.vector(&[(&format!("{prefix}.weight"), config.hidden_size)])?;
        Ok(RmsNorm {
            weight,
            eps: config.rms_norm_eps as f32,
        })
    }

    /// The MLP of a layer.
    pub(crate) fn mlp(&mut self, layer: usize) -> Result<Mlp, BuildError> {
        let (c, f) = (self.config().hidden_size, self.config().intermediate_size);
        let name = |part: &str| format!("model.layers.{layer}.mlp.{part}.weight");
        let gate_up = self.weight(c, &[(&name("gate_up_proj"), 2 * f)])?;
        let down = self.weight(f, &[(&name("down_proj"), c)])?;
        Ok(Mlp {
            gate_up_proj: adapted(gate_up, None, layer, Projection::GateUp),
            down_proj: adapted(down, None, layer, Projection::Down),
        })
    }

    /// The attention of a layer. Query, key and value become one matrix, whether the checkpoint holds them apart or fused; each
    /// keeps its format.
    pub(crate) fn attention(&mut self, layer: usize) -> Result<Attention, BuildError> {
        let config = self.config();
        let prefix = format!("model.layers.{layer}.self_attn");
        let dims = AttnDims {
            num_heads: config.num_attention_heads,
            num_kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
        };
        let (q, kv) = (
            dims.num_heads * dims.head_dim,
            dims.num_kv_heads * dims.head_dim,
        );
        let fused = self
            .source
            .tensor_spec(&format!("{prefix}.qkv_proj.weight"))
            .is_some();
        let parts: &[(&str, usize)] = match fused {
            true => &[("qkv_proj", q + 2 * kv)],
            false => &[("q_proj", q), ("k_proj", kv), ("v_proj", kv)],
        };
        let named = |kind: &str| -> Vec<(String, usize)> {
            parts
                .iter()
                .map(|(name, rows)| (format!("{prefix}.{name}.{kind}"), *rows))
                .collect()
        };
        let weight = self.weight(config.hidden_size, &as_parts(&named("weight")))?;
        let bias = match config.attention_bias {
            true => Some(self.vector(&as_parts(&named("bias")))?),
            false => None,
        };
        let o_proj = self.weight(
            q,
            &[(&format!("{prefix}.o_proj.weight"), config.hidden_size)],
        )?;
        Ok(Attention {
            qkv_proj: adapted(weight, bias, layer, Projection::Qkv),
            o_proj: adapted(o_proj, None, layer, Projection::Output),
            dims,
        })
    }

    /// One matrix of `columns` columns from the rows of several tensors.
    fn weight(&mut self, columns: usize, parts: &[(&str, usize)]) -> Result<Weight, BuildError> {
        let mut builder = WeightBuilder::new(self.device, columns);
        for &(name, rows) in parts {
            let (spec, format) = match self.source {
                ModelSource::Random(random) => {
                    let spec = random.spec(name)?.clone();
                    let format = format_for(&spec, self.quantize, self.config());
                    builder.push_rows(format, rows, &draw(random, &spec, format, self.device)?)?;
                    (spec, format)
                }
                ModelSource::Checkpoint { .. } => {
                    let tensor = self.source.read_checked(name, &[rows, columns])?;
                    let format = format_for(&tensor.spec, self.quantize, self.config());
                    let (stored, bytes) = (tensor.spec.format, &tensor.bytes);
                    builder.push_rows_once(format, rows, stored, bytes, |used| {
                        self.source.release(used)
                    })?;
                    (tensor.spec, format)
                }
            };
            self.note_matrix(&spec, format);
        }
        Ok(builder.finish()?)
    }

    /// One f32 vector from several tensors.
    fn vector(&mut self, parts: &[(&str, usize)]) -> Result<Tensor, BuildError> {
        let mut values = Vec::new();
        for &(name, len) in parts {
            let tensor = self.source.read_checked(name, &[len])?;
            let start = values.len();
            values.resize(start + len, 0.0);
            quant::dequantize(tensor.spec.format, &tensor.bytes, &mut values[start..])?;
            self.note(&tensor.spec, 4 * len as u64);
        }
        Ok(Tensor::from_f32(self.device, &values, &[values.len()])?)
    }

    fn note_matrix(&mut self, spec: &TensorSpec, format: WeightFormat) {
        let bytes = tensor_bytes(spec, format);
        *self.loaded.formats.entry(format).or_default() += bytes;
        let wanted = (self.quantize)
            .filter(|quantize| !quantize.leaves(&spec.name))
            .map(|quantize| quantize.format_of(&spec.name, self.config()));
        if wanted.is_some_and(|wanted| wanted != format) {
            *self.loaded.fallbacks.entry(format).or_default() += 1;
        }
        self.note(spec, bytes);
    }

    fn note(&mut self, spec: &TensorSpec, bytes: u64) {
        self.loaded.parameters += spec.elements();
        self.loaded.bytes += bytes;
        if let Some(progress) = self.progress {
            progress.advance(tensor_bytes(spec, spec.format));
        }
    }
}

fn adapted(
    weight: Weight,
    bias: Option<Tensor>,
    layer: usize,
    projection: Projection,
) -> AdaptedLinear {
    AdaptedLinear {
        base: Linear {
            weight: Arc::new(weight),
            bias,
        },
        site: Site { layer, projection },
    }
}

fn as_parts(named: &[(String, usize)]) -> Vec<(&str, usize)> {
    named
        .iter()
        .map(|(name, rows)| (name.as_str(), *rows))
        .collect()
}

/// Draws a random matrix straight into its format, rows in parallel.
fn draw(
    random: &RandomWeights,
    spec: &TensorSpec,
    format: WeightFormat,
    device: &Device,
) -> Result<Vec<u8>, BuildError> {
    let (rows, columns) = (spec.rows(), spec.columns());
    let row_bytes = format.row_bytes(columns).ok_or(KernelError::PartialBlock {
        format,
        columns,
        block_len: format.block_len(),
    })?;
    let mut bytes = vec![0; rows * row_bytes];
    let piece_len = ROWS_PER_TASK * row_bytes;
    fill_pieces(device.pool(), &mut bytes, piece_len, |piece, out| {
        let mut values = vec![0.0; columns];
        for (i, out) in out.chunks_exact_mut(row_bytes).enumerate() {
            let row = piece * ROWS_PER_TASK + i;
            random.draw_rows(spec, row..row + 1, &mut values);
            quant::quantize(format, &values, out)?;
        }
        Ok(())
    })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::ForwardBatch;
    use crate::kv::{BlockId, KvPool};
    use crate::models::{CausalLm, Glm4};
    use crate::scheduler::ChunkTokens;
    use glm_core::ModelConfig;
    use glm_kernels::{CpuOptions, KvDType};
    use std::path::Path;

    /// Logits of a few tokens under a model of random weights.
    fn logits(seed: u64, quantize: Option<Quantization>) -> (Vec<f32>, Loaded) {
        let source =
            ModelSource::Random(RandomWeights::new("tiny".to_owned(), tiny_config(), seed));
        let device = Device::cpu(CpuOptions::default()).unwrap();
        let mut loader = WeightLoader::new(&source, &device, quantize, None);
        let model = Glm4::load(&mut loader).unwrap();
        let tokens: Vec<u32> = (0..16).collect();
        let chunk = ChunkTokens {
            start: 0,
            tokens: &tokens,
            draft: &[],
            prompt_len: tokens.len(),
            block_table: &[BlockId(0)],
            samples: true,
        };
        let mut kv = KvPool::new(&device, model.config(), KvDType::F32, 1).unwrap();
        let batch = ForwardBatch::new([chunk].into_iter());
        let x = model.hidden_states(&batch, &mut kv, &mut |_| {}).unwrap();
        (
            model.logits(&x, &[]).unwrap().to_f32_vec().unwrap(),
            loader.finish(),
        )
    }

    #[test]
    fn random_weights_make_logits_like_a_models_and_depend_on_the_seed() {
        let (first, loaded) = logits(1, None);
        let deviation = (first.iter().map(|v| v * v).sum::<f32>() / first.len() as f32).sqrt();
        assert!((0.5..2.0).contains(&deviation), "{deviation}");
        assert_eq!(first, logits(1, None).0);
        assert_ne!(first, logits(2, None).0);
        assert_eq!(
            loaded.formats.keys().collect::<Vec<_>>(),
            [&WeightFormat::BF16]
        );
    }

    fn tiny_config() -> ModelConfig {
        let json = r#"{"model_type":"glm4","vocab_size":512,"hidden_size":256,"intermediate_size":320,"num_hidden_layers":2,
            "num_attention_heads":4,"num_key_value_heads":2,"head_dim":64,"attention_bias":true,"partial_rotary_factor":0.5,
            "rope_theta":10000.0,"rms_norm_eps":1e-5,"max_position_embeddings":128,"eos_token_id":[1]}"#;
        ModelConfig::from_json(json, Path::new("config.json")).unwrap()
    }

    #[test]
    fn the_estimate_is_what_the_device_gives_out() {
        let source = ModelSource::Random(RandomWeights::new("tiny".to_owned(), tiny_config(), 1));
        for quantize in [
            None,
            Some(WeightFormat::Q6K.into()),
            Some(Quantization::Q4KM),
        ] {
            let device = Device::cpu(CpuOptions::default()).unwrap();
            let mut loader = WeightLoader::new(&source, &device, quantize, None);
            let model = Glm4::load(&mut loader).unwrap();
            let held = device.allocator_stats().live_bytes as u64;
            let estimate = weight_bytes(&source, quantize, None);
            // Buffers are whole cache lines, and the sizes of vectors are rounded up.
            assert!(
                (estimate..=estimate + 8192).contains(&held),
                "{quantize:?}: {held} for {estimate}"
            );
            drop(model);
        }
    }

    /// KiB that the mapping of `path` takes in this process, if it is mapped. (/proc/self/smaps, see proc(5).)
    #[cfg(target_os = "linux")]
    fn resident_kib(path: &Path) -> Option<usize> {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mapping = maps
            .lines()
            .skip_while(|line| !line.ends_with(path.to_str().unwrap()))
            .find_map(|line| line.strip_prefix("Rss:"))?;
        mapping.trim().strip_suffix("kB")?.trim().parse().ok()
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_that_was_loaded_or_converted_is_not_in_memory_any_more() {
        let mut config = tiny_config();
        if let ModelConfig::Glm4(dense) = &mut config {
            dense.vocab_size = 24_576; // tables of twelve megabytes
        }
        let random = ModelSource::Random(RandomWeights::new("tiny".to_owned(), config, 1));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tiny.gguf");
        let options = crate::quantize::QuantizeOptions::new(WeightFormat::BF16);
        crate::quantize::quantize_to_gguf(&random, &path, &options).unwrap();

        let name = path.to_str().unwrap();
        let source = ModelSource::open(name, &Default::default(), 0).unwrap();
        let device = Device::cpu(CpuOptions::default()).unwrap();
        let table = source.read("model.embed_tokens.weight").unwrap();
        assert!(table.bytes.iter().map(|&byte| u64::from(byte)).sum::<u64>() > 0);
        let read = resident_kib(&path).unwrap();
        assert!(read * 1024 >= table.bytes.len(), "{read} KiB");
        let mut loader = WeightLoader::new(&source, &device, None, None);
        let model = Glm4::load(&mut loader).unwrap();
        // What is left is what lies around the small vectors.
        let left = resident_kib(&path).unwrap();
        assert!(left * 4 <= read, "{left} of {read} KiB");
        drop(model);

        let copy = dir.path().join("copy.gguf");
        crate::quantize::quantize_to_gguf(&source, &copy, &options).unwrap();
        let left = resident_kib(&path).unwrap();
        assert!(left * 4 <= read, "{left} of {read} KiB");
    }

    #[test]
    fn quantising_falls_back_where_rows_do_not_divide_and_counts_it() {
        let (_, loaded) = logits(1, Some(WeightFormat::Q4K.into()));
        // Only the two down projections have rows of 320.
        assert_eq!(loaded.fallbacks, BTreeMap::from([(WeightFormat::Q5_0, 2)]));
        assert_eq!(
            loaded.formats.keys().collect::<Vec<_>>(),
            [&WeightFormat::Q5_0, &WeightFormat::Q4K]
        );
        let matrices: u64 = loaded.formats.values().sum();
        assert!(matrices < loaded.bytes, "vectors count too");
        let embedding = WeightFormat::Q4K.row_bytes(256).unwrap() * 512;
        assert_eq!(
            loaded.untied_embedding_bytes, embedding as u64,
            "counted as all other bytes are, not as packed"
        );
    }
}
