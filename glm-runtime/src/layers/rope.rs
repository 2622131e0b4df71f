//! Frequencies of the rotary position embedding (Su et al. 2021, arXiv:2104.09864) and its context extensions, as
//! transformers' `modeling_rope_utils.py` computes them.

use std::f64::consts::PI;

use glm_core::{DenseConfig, RopeScaling};
use glm_kernels::{Device, Indices, KernelError, Pairing, RopeAngles, Tensor};

use crate::error::BuildError;

/// One inverse frequency per rotated pair, and the factor on cosines and sines.
#[derive(Debug, Clone)]
pub struct RotaryEmbedding {
    /// `[rotary_dim / 2]`.
    inv_freq: Tensor,
    attention_scaling: f32,
}

impl RotaryEmbedding {
    /// The embedding that `config` describes.
    ///
    /// # Errors
    /// [`BuildError::NotSupported`] for a context extension that is not one of plain, linear and YaRN, [`BuildError::Kernel`] if
    /// there is no memory.
    pub fn new(device: &Device, config: &DenseConfig) -> Result<Self, BuildError> {
        let (inv_freq, attention_scaling) = frequencies(config)?;
        let inv_freq: Vec<f32> = inv_freq.into_iter().map(|f| f as f32).collect();
        Ok(Self {
            inv_freq: Tensor::from_f32(device, &inv_freq, &[inv_freq.len()])?,
            attention_scaling: attention_scaling as f32,
        })
    }

    /// Cosines and sines of this step's positions, `[T, rotary_dim / 2]`, used by every layer. All dense GLM models rotate
    /// interleaved pairs.
    pub fn angles(&self, positions: &Indices) -> Result<RopeAngles, KernelError> {
        RopeAngles::new(
            &self.inv_freq,
            positions,
            self.attention_scaling,
            Pairing::Interleaved,
        )
    }
}

/// Inverse frequencies, `[rotary_dim / 2]`, and the attention scaling.
fn frequencies(config: &DenseConfig) -> Result<(Vec<f64>, f64), BuildError> {
    let dim = config.rotary_dim as f64;
    let base: Vec<f64> = (0..config.rotary_dim / 2)
        .map(|i| config.rope_theta.powf(-2.0 * i as f64 / dim))
        .collect();
    Ok(match config.rope_scaling {
        RopeScaling::None => (base, 1.0),
        RopeScaling::Linear { factor } => (base.into_iter().map(|f| f / factor).collect(), 1.0),
        RopeScaling::Yarn {
            factor,
            original_max_position_embeddings,
            beta_fast,
            beta_slow,
            attention_factor,
        } => {
            let len = original_max_position_embeddings as f64;
            // The pair that makes `rotations` turns over the original context.
            let pair = |rotations: f64| {
                dim * (len / (rotations * 2.0 * PI)).ln() / (2.0 * config.rope_theta.ln())
            };
            let low = pair(beta_fast).floor().max(0.0);
            let high = pair(beta_slow).ceil().min(dim - 1.0);
            let high = if low == high { high + 0.001 } else { high };
            let blend = |(i, freq): (usize, f64)| {
                let interpolated = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                freq / factor * interpolated + freq * (1.0 - interpolated)
            };
            let scaling = attention_factor.unwrap_or(if factor <= 1.0 {
                1.0
            } else {
                0.1 * factor.ln() + 1.0
            });
            (base.into_iter().enumerate().map(blend).collect(), scaling)
        }
        ref other => {
            return Err(BuildError::NotSupported {
                what: "rope scaling",
                found: format!("{other:?}"),
            });
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(rope_scaling: RopeScaling) -> DenseConfig {
        let json = r#"{"model_type":"glm4","vocab_size":32,"hidden_size":32,"intermediate_size":32,"num_hidden_layers":1,
            "num_attention_heads":2,"num_key_value_heads":1,"head_dim":16,"partial_rotary_factor":0.5,"rope_theta":10000.0,
            "rms_norm_eps":1e-5,"max_position_embeddings":128,"eos_token_id":[1]}"#;
        let config =
            glm_core::ModelConfig::from_json(json, std::path::Path::new("config.json")).unwrap();
        DenseConfig {
            rope_scaling,
            ..config.dense().clone()
        }
    }

    fn assert_close(got: &[f64], want: &[f64]) {
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() <= 1e-6 * want.abs(), "{got} for {want}");
        }
    }

    #[test]
    fn the_plain_and_the_linear_form_follow_their_formulas() {
        assert_close(
            &frequencies(&config(RopeScaling::None)).unwrap().0,
            &[1.0, 0.1, 0.01, 0.001],
        );
        let (linear, scaling) = frequencies(&config(RopeScaling::Linear { factor: 4.0 })).unwrap();
        assert_close(&linear, &[0.25, 0.025, 0.0025, 0.00025]);
        assert_eq!(scaling, 1.0);
    }

    #[test]
    fn yarn_equals_what_transformers_computes() {
        // `_compute_yarn_parameters` of transformers for rotary dimension 8, theta 1e4, factor 4, original context 64.
        let yarn = RopeScaling::Yarn {
            factor: 4.0,
            original_max_position_embeddings: 64,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: None,
        };
        let (inv_freq, scaling) = frequencies(&config(yarn)).unwrap();
        assert_close(&inv_freq, YARN_TRANSFORMERS);
        assert!((scaling - 1.138_629_436).abs() < 1e-8);
    }

    const YARN_TRANSFORMERS: &[f64] = &[1.0, 0.0625, 0.0025, 0.00025];
}
