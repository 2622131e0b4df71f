#![no_main]

use std::path::Path;

use glm_core::{GenerationConfig, ModelConfig};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let file = Path::new("config.json");
    let _ = GenerationConfig::from_json(text, file);
    if let Ok(config) = ModelConfig::from_json(text, file) {
        // What was accepted can be written and read again.
        assert_eq!(ModelConfig::from_json(&config.to_json().to_string(), file).unwrap(), config);
        let _ = config.to_gguf();
    }
});
