//! No profiler of the processor: the crate for it needs Linux or macOS, x86-64 or 64-bit Arm, and the feature `profile`.

use std::time::Duration;

use super::{OneTurn, Profile, ProfileError};

pub(in crate::http) const IS_THERE: bool = false;

/// # Errors
/// Always.
pub(in crate::http) async fn cpu(_: Duration, _: OneTurn) -> Result<Profile, ProfileError> {
    Err(ProfileError("there is no profiler".to_owned()))
}
