//! `random:PRESET`: weights drawn from a seed at the true sizes of a known model, for benchmarks without a download.
//!
//! Every row of every tensor is its own stream of random numbers, so rows can be drawn in any order on any number of
//! threads and come out the same. Values are normal with standard deviation `1 / sqrt(columns)`, which keeps activations
//! and logits in the range of a trained model; norm gains are close to 1, biases small.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use glm_core::ModelConfig;
use glm_kernels::WeightFormat;
use half::bf16;

use super::expected::expected_tensors;
use super::source::{SourceTensor, TensorSpec};
use crate::error::BuildError;

/// Quantiles of the standard normal distribution that values are picked from: 16 KiB stay in the first-level cache.
const QUANTILES: usize = 4096;
const INDEX_BITS: u32 = 12;

/// Weights that exist only as a seed.
#[derive(Debug, Clone)]
pub struct RandomWeights(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    config: ModelConfig,
    tensors: Vec<TensorSpec>,
    seed: u64,
    quantiles: Vec<f32>,
}

impl RandomWeights {
    /// The preset called `name`, drawn from `seed`.
    ///
    /// # Errors
    /// [`BuildError::UnknownPreset`] lists the presets there are.
    pub fn preset(name: &str, seed: u64) -> Result<Self, BuildError> {
        let preset = glm_models::preset(name).ok_or_else(|| BuildError::UnknownPreset {
            name: name.to_owned(),
            known: glm_models::PRESETS
                .iter()
                .map(|preset| preset.name)
                .collect::<Vec<_>>()
                .join(", "),
        })?;
        let name = format!("random:{name}");
        let config = ModelConfig::from_json(preset.config_json, Path::new(&name))?;
        Ok(Self::new(name, config, seed))
    }

    /// Weights for any configuration.
    pub fn new(name: String, config: ModelConfig, seed: u64) -> Self {
        let tensors = expected_tensors(&config);
        Self(Arc::new(Inner {
            name,
            config,
            tensors,
            seed,
            quantiles: normal_quantiles(),
        }))
    }

    /// `random:PRESET`.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// What the weights are drawn from.
    pub(crate) fn seed(&self) -> u64 {
        self.0.seed
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.0.config
    }

    /// All tensors, matrices as bf16, vectors as f32.
    pub fn tensors(&self) -> &[TensorSpec] {
        &self.0.tensors
    }

    /// One tensor by name.
    pub(super) fn spec(&self, name: &str) -> Result<&TensorSpec, BuildError> {
        self.0
            .tensors
            .iter()
            .find(|spec| spec.name == name)
            .ok_or_else(|| BuildError::MissingTensor {
                model: self.0.name.clone(),
                tensor: name.to_owned(),
            })
    }

    /// Draws `rows` of the tensor into `out`, `[rows, columns]` row-major.
    ///
    /// # Panics
    /// If `out` is not `rows.len() * columns` long; callers size it from the same spec.
    pub fn draw_rows(&self, spec: &TensorSpec, rows: Range<usize>, out: &mut [f32]) {
        let columns = spec.columns();
        assert_eq!(
            out.len(),
            rows.len() * columns,
            "one slot per value of {}",
            spec.name
        );
        let (mean, scale) = distribution(spec, columns);
        let tensor_key = mix(self.0.seed ^ hash_name(&spec.name));
        for (row, out) in rows.zip(out.chunks_exact_mut(columns.max(1))) {
            let mut state = mix(tensor_key.wrapping_add(row as u64));
            for out in out.chunks_mut((u64::BITS / INDEX_BITS) as usize) {
                state = state.wrapping_add(GOLDEN_GAMMA);
                let mut bits = mix(state);
                for value in out {
                    *value = mean + scale * self.0.quantiles[bits as usize % QUANTILES];
                    bits >>= INDEX_BITS;
                }
            }
        }
    }

    /// Draws a whole tensor in its stored format.
    pub(super) fn read(&self, name: &str) -> Result<SourceTensor<'_>, BuildError> {
        let spec = self.spec(name)?;
        let columns = spec.columns();
        let mut bytes = Vec::new();
        let mut row = vec![0.0; columns];
        for r in 0..spec.rows() {
            self.draw_rows(spec, r..r + 1, &mut row);
            match spec.format {
                WeightFormat::F32 => bytes.extend(row.iter().flat_map(|v| v.to_le_bytes())),
                _ => bytes.extend(row.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes())),
            }
        }
        Ok(SourceTensor {
            spec: spec.clone(),
            bytes: Cow::Owned(bytes),
        })
    }
}

/// Mean and standard deviation of a tensor's values.
fn distribution(spec: &TensorSpec, columns: usize) -> (f32, f32) {
    match spec.shape.len() {
        1 if spec.name.ends_with(".bias") => (0.0, 0.02),
        1 => (1.0, 0.02),
        _ => (0.0, 1.0 / (columns as f32).sqrt()),
    }
}

/// Increment of SplitMix64 (Steele, Lea & Flood 2014): 2^64 divided by the golden ratio, made odd.
const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The output function of SplitMix64: every input bit changes every output bit with probability near one half.
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// FNV-1a: any stable hash that tells tensor names apart will do.
fn hash_name(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Midpoint quantiles of the standard normal distribution, ascending.
fn normal_quantiles() -> Vec<f32> {
    let mut table = vec![0.0; QUANTILES];
    for i in 0..QUANTILES / 2 {
        let p = (i as f64 + 0.5) / QUANTILES as f64;
        let z = normal_quantile(p) as f32;
        (table[i], table[QUANTILES - 1 - i]) = (z, -z);
    }
    table
}

/// Lower-tail quantile for `p < 1/2`: Abramowitz & Stegun 26.2.23, absolute error below 4.5e-4, ample for weights.
fn normal_quantile(p: f64) -> f64 {
    let t = (-2.0 * p.ln()).sqrt();
    let upper = t
        - (2.515_517 + t * (0.802_853 + t * 0.010_328))
            / (1.0 + t * (1.432_788 + t * (0.189_269 + t * 0.001_308)));
    -upper
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> RandomWeights {
        let json = r#"{"model_type":"glm4","vocab_size":96,"hidden_size":64,"intermediate_size":96,"num_hidden_layers":2,
            "num_attention_heads":4,"num_key_value_heads":2,"head_dim":16,"attention_bias":true,"partial_rotary_factor":0.5,
            "rope_theta":10000.0,"rms_norm_eps":1e-5,"max_position_embeddings":128,"eos_token_id":[1]}"#;
        let config = ModelConfig::from_json(json, Path::new("config.json")).unwrap();
        RandomWeights::new("tiny".to_owned(), config, 5)
    }

    #[test]
    fn values_are_normal_with_the_scale_of_their_rows() {
        let random = tiny();
        let spec = random.spec("model.embed_tokens.weight").unwrap();
        let mut values = vec![0.0; 96 * 64];
        random.draw_rows(spec, 0..96, &mut values);
        let n = values.len() as f32;
        let mean = values.iter().sum::<f32>() / n;
        let deviation = (values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / n).sqrt();
        assert!(
            mean.abs() < 0.005 && (deviation - 0.125).abs() < 0.005,
            "{mean} {deviation}"
        );
        let within = values.iter().filter(|v| v.abs() < 0.125).count() as f32 / n;
        assert!(
            (within - 0.683).abs() < 0.02,
            "a normal value is within one deviation in 68 % of cases, not {within}"
        );
    }

    #[test]
    fn rows_and_tensors_differ_and_do_not_depend_on_how_they_are_drawn() {
        let random = tiny();
        let spec = random.spec("model.layers.0.mlp.down_proj.weight").unwrap();
        let other = random.spec("model.layers.1.mlp.down_proj.weight").unwrap();
        let draw = |spec, rows: Range<usize>| {
            let mut values = vec![f32::NAN; rows.len() * 96];
            random.draw_rows(spec, rows, &mut values);
            values
        };
        let all = draw(spec, 0..64);
        assert_eq!(draw(spec, 7..9), all[7 * 96..9 * 96]);
        assert_ne!(all[..96], all[96..192]);
        assert_ne!(draw(other, 0..64), all);
    }

    #[test]
    fn an_unknown_preset_lists_the_known_ones() {
        let error = RandomWeights::preset("glm-9000", 0)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("glm-9000") && error.contains("glm-edge-1.5b"),
            "{error}"
        );
    }
}
