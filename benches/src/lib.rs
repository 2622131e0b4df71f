//! What the benchmarks share: data, and the shapes of real layers. The checks over the whole workspace are in `tests/`.
#![forbid(unsafe_code)]

/// Compiles the programs in the README of the project.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;

/// Uniform numbers in [-1, 1), the same for the same seed. Random, because zeros flatter some hardware.
#[must_use]
pub fn random(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = move || {
        // xorshift64 (Marsaglia 2003): no need for more than values that differ.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// The dimensions of one published model's layers.
#[derive(Debug, Clone, Copy)]
pub struct LayerShape {
    /// Name of the model.
    pub name: &'static str,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads.
    pub num_kv_heads: usize,
    /// Values per head.
    pub head_dim: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
}

impl LayerShape {
    /// `[out_features, in_features]` of qkv, o, gate and up, down.
    #[must_use]
    pub const fn linear_layers(&self) -> [[usize; 2]; 4] {
        let (c, f) = (self.hidden_size, self.intermediate_size);
        let q = self.num_heads * self.head_dim;
        let kv = self.num_kv_heads * self.head_dim;
        [[q + 2 * kv, c], [c, q], [2 * f, c], [c, f]]
    }
}

/// GLM-4-9B-0414.
pub const GLM_4_9B: LayerShape = LayerShape {
    name: "glm-4-9b",
    hidden_size: 4096,
    num_heads: 32,
    num_kv_heads: 2,
    head_dim: 128,
    intermediate_size: 13696,
};

/// GLM-Edge-1.5B.
pub const GLM_EDGE_1_5B: LayerShape = LayerShape {
    name: "glm-edge-1.5b",
    hidden_size: 2048,
    num_heads: 16,
    num_kv_heads: 4,
    head_dim: 128,
    intermediate_size: 6144,
};

#[cfg(test)]
mod tests {
    use super::random;

    #[test]
    fn random_numbers_fill_the_interval_and_repeat() {
        let values = random(10_000, 1);
        assert!(values.iter().all(|v| (-1.0..1.0).contains(v)));
        let mean = values.iter().sum::<f32>() / 10_000.0;
        assert!(mean.abs() < 0.03, "{mean}");
        assert_eq!(values, random(10_000, 1));
        assert_ne!(values, random(10_000, 2));
    }
}
