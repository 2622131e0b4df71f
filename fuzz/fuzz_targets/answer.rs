#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| glm_core::fuzzing::check_answer(input));
