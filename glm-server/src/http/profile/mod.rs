//! Profiles of the process while it works, in the format of pprof: who has it computed, and who has it remember.
//!
//! The processor's is taken by a timer that interrupts the thread that runs (`sampled`); where the crate for that does not run, the
//! answer says so. The heap's is the allocator's affair, and that is the program's: see
//! [`ServeOptions::heap_profile`](super::ServeOptions::heap_profile).

#[cfg(all(
    feature = "profile",
    any(target_os = "linux", target_os = "macos"),
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
mod sampled;
#[cfg(not(all(
    feature = "profile",
    any(target_os = "linux", target_os = "macos"),
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
#[path = "none.rs"]
mod sampled;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub(super) use self::sampled::{IS_THERE, cpu};

/// A profile as it goes out: gzipped protobuf.
pub(super) type Profile = Vec<u8>;

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
#[error("the profile could not be taken: {0}")]
pub(super) struct ProfileError(pub(super) String);

/// Lets one profile be taken at a time: the timer is the process's.
#[derive(Debug, Default)]
pub(super) struct Turns(Arc<Until>);

/// When the one that is being taken ends.
#[derive(Debug, Default)]
struct Until(Mutex<Option<Instant>>);

/// The right to take one, until it is dropped. It goes wherever the profiler goes: a client that leaves must not give it back while the
/// profiler still begins or ends on a thread of its own.
#[derive(Debug)]
pub(super) struct OneTurn(Arc<Until>);

impl Turns {
    /// # Errors
    /// How long the one that is being taken will take.
    pub(super) fn begin(&self, time: Duration) -> Result<OneTurn, Duration> {
        let now = Instant::now();
        let mut until = self.0.lock();
        if let Some(until) = *until {
            return Err(until.saturating_duration_since(now));
        }
        *until = Some(now + time);
        Ok(OneTurn(self.0.clone()))
    }
}

impl Until {
    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OneTurn {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}
