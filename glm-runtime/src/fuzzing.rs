//! A door to the reader of prefix caches for its fuzz target and replayed cases; no part of the public interface.

use std::path::Path;
use std::sync::LazyLock;

use glm_core::ModelConfig;
use glm_kernels::{CpuOptions, Device, KvDType};

use crate::kv::file::{self, Identity};
use crate::kv::{BlockAllocator, KvPool};

/// Stands where a sum of all bytes before it belongs: nobody finds one by trying.
const SUM: &[u8] = b"CRC!";

const CONFIG: &str = r#"{"model_type": "glm4", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "max_position_embeddings": 64}"#;

static DEVICE: LazyLock<Device> = LazyLock::new(|| {
    let threads = Some(1);
    let options = CpuOptions {
        threads,
        ..CpuOptions::default()
    };
    Device::cpu(options).expect("one thread can be had")
});

/// Reads a prefix cache into a KV cache of eight blocks; says how many were restored, `None` if it is refused. Every `CRC!` in `input` becomes
/// the right sum.
///
/// # Panics
/// If a block is lost, or one is known that was not restored.
pub fn check_prefix_cache(input: &[u8]) -> Option<usize> {
    const NUM_BLOCKS: usize = 8;
    let config = ModelConfig::from_json(CONFIG, Path::new("config.json")).expect("it is right");
    let mut pool = KvPool::new(&DEVICE, config.dense(), KvDType::F16, NUM_BLOCKS)
        .expect("there is room for eight blocks");
    let mut blocks = BlockAllocator::new(NUM_BLOCKS as u32);
    let identity = Identity::from([("model".to_owned(), "a".to_owned())]);
    let file = with_sums(input);
    let path = Path::new("cache");
    let restored = file::read(&file[..], path, &identity, &mut blocks, &mut pool);
    let restored = restored.ok().map(|restored| restored.blocks);
    assert!(blocks.is_consistent());
    assert_eq!(blocks.num_free(), blocks.num_blocks());
    assert_eq!(blocks.num_cached(), restored.unwrap_or(0));
    restored
}

fn with_sums(mut input: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    while let Some(at) = input.windows(SUM.len()).position(|bytes| bytes == SUM) {
        file.extend(&input[..at]);
        file.extend(crc32fast::hash(&file).to_le_bytes());
        input = &input[at + SUM.len()..];
    }
    file.extend(input);
    file
}
