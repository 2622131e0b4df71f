//! What runs when a timer goes off: a hundred times in a second of the processor's time, whichever thread it is.

use std::io::Write;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use pprof::protos::Message;
use pprof::{ProfilerGuard, ProfilerGuardBuilder};

use super::{OneTurn, Profile, ProfileError};

/// Samples in a second. Not a hundred: what happens a hundred times in a second would be seen always, or never.
const FREQUENCY: i32 = 99;
/// What must not be interrupted to have its stack walked: the walker may need what these have locked.
const BLOCKED: [&str; 5] = ["libc.", "ld-linux", "libgcc", "pthread", "vdso"];

pub(in crate::http) const IS_THERE: bool = true;

/// The profiler while it watches, ended before its turn is.
struct Begun {
    profiler: ProfilerGuard<'static>,
    _turn: OneTurn,
}

/// Watches the process for a time.
///
/// # Errors
/// Among others, while somebody else in the process takes one.
pub(in crate::http) async fn cpu(time: Duration, turn: OneTurn) -> Result<Profile, ProfileError> {
    // Names are looked up when it begins and when it ends, and that takes time.
    let begun = blocking(move || begin(turn)).await?;
    tokio::time::sleep(time).await;
    blocking(move || end(&begun)).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ProfileError> + Send + 'static,
) -> Result<T, ProfileError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| Err(failed(panic)))
}

fn begin(turn: OneTurn) -> Result<Begun, ProfileError> {
    let builder = ProfilerGuardBuilder::default().frequency(FREQUENCY);
    Ok(Begun {
        profiler: builder.blocklist(&BLOCKED).build().map_err(failed)?,
        _turn: turn,
    })
}

fn end(begun: &Begun) -> Result<Profile, ProfileError> {
    let profile = begun
        .profiler
        .report()
        .build()
        .and_then(|report| report.pprof());
    let bytes = profile.map_err(failed)?.write_to_bytes();
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed
        .write_all(&bytes.map_err(failed)?)
        .and_then(|()| packed.finish())
        .map_err(failed)
}

fn failed(error: impl std::fmt::Display) -> ProfileError {
    ProfileError(error.to_string())
}
