//! The allocator of the program: the system's, which can keep a record of who has what.
//!
//! It keeps none unless the environment says so before the program begins: every release of memory would have to be looked up.

use std::env;

use glm_server::http::HeapProfile;
use pprof_alloc::{PPROF_SAMPLE_RATE_ENV, PprofAlloc};

#[global_allocator]
static ALLOCATOR: PprofAlloc = PprofAlloc::new().with_pprof_sample_rate_from_env(0);

/// How to take one, if a record is kept.
pub fn profile() -> Option<HeapProfile> {
    let rate = env::var(PPROF_SAMPLE_RATE_ENV).ok()?;
    let keeps_record = rate.parse::<usize>().is_ok_and(|rate| rate > 0);
    let take: HeapProfile = || Ok(pprof_alloc::generate_pprof()?);
    keeps_record.then_some(take)
}
