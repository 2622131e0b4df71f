#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = glm_core::fuzzing::pytorch_header(bytes.to_vec());
    let _ = glm_core::fuzzing::pickle(bytes);
});
