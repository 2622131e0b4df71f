//! Threads, locks and channels between an engine and its handles.
//!
//! With the feature `shuttle` they are ones whose interleaving [`shuttle`](https://docs.rs/shuttle) decides, for the tests in
//! `engine/interleaving.rs`: `cargo test --workspace --lib --features glm-runtime/shuttle interleaving`.

#[cfg(feature = "shuttle")]
pub mod channel;

#[cfg(not(feature = "shuttle"))]
pub use {
    async_channel as channel,
    std::sync::atomic::{AtomicBool, AtomicU64, Ordering},
    std::sync::{Mutex, MutexGuard},
    std::thread,
};

#[cfg(feature = "shuttle")]
pub use shuttle::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    sync::{Mutex, MutexGuard},
    thread,
};
