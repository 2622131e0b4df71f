#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(shards) = glm_core::fuzzing::index(text)
    {
        assert!(shards.keys().all(|shard| !shard.contains('/') && shard != ".."));
    }
    let _ = glm_core::fuzzing::safetensors_header(bytes.to_vec());
});
