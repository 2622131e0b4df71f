#![no_main]

use glm_core::ModelConfig;
use glm_core::gguf::{Reader, vocabulary};
use glm_core::tokenizer::Tokenizer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(reader) = Reader::from_bytes("fuzz.gguf", bytes.to_vec()) else { return };
    for tensor in reader.tensors() {
        assert_eq!(reader.data(tensor).len() as u64, tensor.bytes);
    }
    let _ = ModelConfig::from_gguf(&reader);
    if let Ok(Some(vocabulary)) = vocabulary(&reader) {
        let _ = Tokenizer::from_gguf(vocabulary, reader.path());
    }
});
