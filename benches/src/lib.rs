//! Nothing to import: the benchmarks are in `benches/`, the checks over the whole workspace in `tests/`.
#![forbid(unsafe_code)]
