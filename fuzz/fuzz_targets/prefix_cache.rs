#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let _ = glm_runtime::fuzzing::check_prefix_cache(input);
});
