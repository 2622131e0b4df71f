//! How much memory a model needs, how much this process may still take, and the arithmetic between the two.

use std::fmt;
use std::path::{Path, PathBuf};

use glm_core::{DenseConfig, ModelConfig};
use glm_kernels::{Device, KvDType};
use serde::Serialize;

/// Bytes that this process can still allocate: what the machine has available, and what its cgroup (container) leaves
/// if that is less. `None` where the operating system does not say.
pub fn available_memory() -> Option<u64> {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    let machine = Some(system.available_memory()).filter(|&bytes| bytes > 0);
    let group = cgroup_dirs()
        .iter()
        .filter_map(|dir| cgroup_available(dir))
        .min();
    machine.into_iter().chain(group).min()
}

/// Bytes that can still be allocated where a device computes: of a graphics processor's memory, or as [`available_memory`] says. `None`
/// where neither says.
pub(crate) fn available_on(device: &Device) -> Option<u64> {
    match device.cuda_available_memory() {
        Ok(None) => available_memory(),
        Ok(available) => available,
        Err(_) => None, // it fails at the next thing that is asked of it, with a better message
    }
}

/// This process's cgroup v2 directory and its ancestors: a limit anywhere above binds too.
fn cgroup_dirs() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some(own) = own.lines().find_map(|line| line.strip_prefix("0::/")) else {
        return Vec::new();
    };
    let own = root.join(own);
    own.ancestors()
        .take_while(|dir| dir.starts_with(root))
        .map(Path::to_path_buf)
        .collect()
}

/// `memory.max` less what the group holds. File cache counts as free: the kernel drops it under pressure, and without
/// this a checkpoint that was just read would seem to leave no room for itself.
fn cgroup_available(dir: &Path) -> Option<u64> {
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).ok();
    let limit: u64 = read("memory.max")?.trim().parse().ok()?;
    let used: u64 = read("memory.current")?.trim().parse().ok()?;
    let stat = read("memory.stat").unwrap_or_default();
    let field = |key: &str| -> u64 {
        stat.lines()
            .find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
            .unwrap_or(0)
    };
    let cache = field("active_file ") + field("inactive_file ");
    Some(limit.saturating_sub(used.saturating_sub(cache)))
}

/// The memory a loaded model takes, item by item, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemoryEstimate {
    /// All weights in the formats they will be held in.
    pub weights: u64,
    /// The KV cache.
    pub kv_cache: u64,
    /// Tokens the KV cache holds.
    pub kv_tokens: u64,
    /// KV bytes of one token over all layers.
    pub kv_bytes_per_token: u64,
    /// Activations of the largest step, logits included.
    pub activations: u64,
    /// What can be allocated now; `None` where the operating system does not say.
    pub available: Option<u64>,
}

/// Sizes a KV cache and a step are estimated for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EstimateOptions {
    /// Storage of keys and values.
    pub kv_dtype: KvDType,
    /// Tokens the KV cache holds.
    pub kv_tokens: usize,
    /// Most tokens in one step.
    pub max_num_batched_tokens: usize,
}

impl MemoryEstimate {
    /// The estimate for weights of `weights` bytes under `config`.
    pub fn new(config: &ModelConfig, weights: u64, options: EstimateOptions) -> Self {
        let dense = config.dense();
        let kv_bytes_per_token = kv_bytes_per_token(dense, options.kv_dtype);
        Self {
            weights,
            kv_cache: kv_bytes_per_token.saturating_mul(options.kv_tokens as u64),
            kv_tokens: options.kv_tokens as u64,
            kv_bytes_per_token,
            activations: activation_bytes(dense, options.max_num_batched_tokens),
            available: available_memory(),
        }
    }

    /// Everything together.
    pub fn total(&self) -> u64 {
        self.weights
            .saturating_add(self.kv_cache)
            .saturating_add(self.activations)
    }

    /// Whether it fits, as far as is known.
    pub fn fits(&self) -> bool {
        self.available
            .is_none_or(|available| self.total() <= available)
    }

    /// Refuses what does not fit, with the ways out.
    ///
    /// # Errors
    /// [`MemoryShortage`] unless [`Self::fits`].
    pub fn check(&self, quantized: bool) -> Result<(), MemoryShortage> {
        match self.available {
            Some(available) if self.total() > available => Err(MemoryShortage {
                needed: self.total(),
                available,
                advice: self.advice(available, quantized),
            }),
            _ => Ok(()),
        }
    }

    /// What would make it fit: smaller weights if they are the problem, a shorter context if that is enough.
    fn advice(&self, available: u64, quantized: bool) -> String {
        let left = available.saturating_sub(self.weights.saturating_add(self.activations));
        let len = left / self.kv_bytes_per_token.max(1) / 1024 * 1024;
        match (quantized, len >= 1024) {
            (false, true) => format!("try --quantize q4_k or --max-model-len {len}"),
            (true, true) => format!("try --max-model-len {len}"),
            (false, false) => "try --quantize q4_k".to_owned(),
            (true, false) => {
                "try a smaller format, a smaller model or a machine with more memory".to_owned()
            }
        }
    }
}

impl fmt::Display for MemoryEstimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tokens = self.kv_tokens;
        writeln!(f, "weights      {:>10}", Bytes(self.weights))?;
        writeln!(
            f,
            "KV cache     {:>10}  = {tokens} tokens x {} bytes",
            Bytes(self.kv_cache),
            self.kv_bytes_per_token
        )?;
        writeln!(f, "activations  {:>10}", Bytes(self.activations))?;
        write!(f, "total        {:>10}", Bytes(self.total()))?;
        match self.available {
            Some(available) => write!(f, "  of {} available", Bytes(available)),
            None => Ok(()),
        }
    }
}

/// A model that does not fit: one line with the numbers and the way out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("needs {}, {} free: {advice}", Bytes(*needed), Bytes(*available))]
pub struct MemoryShortage {
    /// Bytes needed.
    pub needed: u64,
    /// Bytes available.
    pub available: u64,
    /// What would help.
    pub advice: String,
}

/// KV bytes of one token over all layers.
pub(crate) fn kv_bytes_per_token(config: &DenseConfig, dtype: KvDType) -> u64 {
    let layer = dtype.bytes_per_token(config.num_key_value_heads, config.head_dim) as u64;
    layer * config.num_hidden_layers as u64
}

/// The widest moment of a step in f32: the MLP's `[T, 2F]` and `[T, F]` beside residual and norm `[T, C]`, or q, k and v;
/// and one row of logits for each of as many sequences as a step has at most in practice.
pub(crate) fn activation_bytes(config: &DenseConfig, tokens: usize) -> u64 {
    const LOGIT_ROWS: u64 = 64;
    let heads = config.num_attention_heads + 2 * config.num_key_value_heads;
    let mlp = 3 * config.intermediate_size as u64;
    let attention = ((heads + config.num_attention_heads) * config.head_dim) as u64;
    let row = 3 * config.hidden_size as u64 + mlp.max(attention);
    // The number of tokens is the caller's; everything else is bounded by the config's checks.
    row.saturating_mul(tokens as u64)
        .saturating_add(config.vocab_size as u64 * LOGIT_ROWS)
        .saturating_mul(4)
}

/// Prints a number of bytes in the unit a person would choose.
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut value, mut unit) = (self.0 as f64, "B");
        for larger in ["KiB", "MiB", "GiB", "TiB"] {
            if value < 1024.0 {
                break;
            }
            (value, unit) = (value / 1024.0, larger);
        }
        let text = if unit == "B" {
            format!("{value} B")
        } else {
            format!("{value:.1} {unit}")
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn estimate(weights: u64, kv_cache: u64, available: u64) -> MemoryEstimate {
        MemoryEstimate {
            weights,
            kv_cache,
            kv_tokens: 8192,
            kv_bytes_per_token: kv_cache / 8192,
            activations: 0,
            available: Some(available),
        }
    }

    #[test]
    fn what_fits_passes_and_an_unknown_machine_is_given_the_benefit_of_the_doubt() {
        assert_eq!(estimate(GIB, GIB, 2 * GIB).check(false), Ok(()));
        let unknown = MemoryEstimate {
            available: None,
            ..estimate(GIB, GIB, 0)
        };
        assert_eq!(unknown.check(false), Ok(()));
    }

    #[test]
    fn a_shortage_names_the_numbers_and_the_way_out() {
        let context = estimate(3 * GIB, 3 * GIB, 5 * GIB).check(false);
        assert_eq!(
            context.unwrap_err().to_string(),
            "needs 6.0 GiB, 5.0 GiB free: try --quantize q4_k or --max-model-len 5120"
        );
        let weights = estimate(9 * GIB, GIB, 4 * GIB);
        assert!(
            weights
                .check(false)
                .unwrap_err()
                .advice
                .contains("--quantize q4_k")
        );
        assert!(
            !weights
                .check(true)
                .unwrap_err()
                .advice
                .contains("--quantize")
        );
    }

    #[test]
    fn sizes_near_the_limit_of_u64_do_not_overflow() {
        let huge = estimate(u64::MAX, u64::MAX, 1);
        assert_eq!(huge.total(), u64::MAX);
        assert!(huge.check(true).is_err());
        let json = r#"{"model_type":"glm4","vocab_size":64,"hidden_size":32,"intermediate_size":32,
            "num_hidden_layers":1,"num_attention_heads":2,"num_key_value_heads":1}"#;
        let config = ModelConfig::from_json(json, Path::new("config.json")).unwrap();
        let options = EstimateOptions {
            kv_dtype: KvDType::F32,
            kv_tokens: usize::MAX,
            max_num_batched_tokens: usize::MAX,
        };
        let estimate = MemoryEstimate::new(&config, 0, options);
        assert_eq!(
            (estimate.activations, estimate.kv_cache),
            (u64::MAX, u64::MAX)
        );
    }

    #[test]
    fn bytes_read_as_a_person_would_say_them() {
        let texts = [0, 1023, 1024, 6_334_000_000].map(|bytes| Bytes(bytes).to_string());
        assert_eq!(texts, ["0 B", "1023 B", "1.0 KiB", "5.9 GiB"]);
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(available_memory().is_some_and(|bytes| bytes > 1 << 20));
    }
}
