//! Tokens that are being chosen.

use super::cuda::Launched;
use super::{SampledIds, SampledToken};
use crate::KernelError;

/// The tokens of [`sample_later`](super::sample_later), one for each row of logits. Dropped, they are
/// forgotten.
pub struct PendingSample(State);

enum State {
    Known(Vec<SampledToken>),
    OnDevice(Launched),
}

/// What is known of the ids.
pub(crate) enum Ids<'a> {
    /// All.
    Known(&'a [SampledToken]),
    /// Where a device leaves them.
    OnDevice(&'a SampledIds),
}

impl Ids<'_> {
    /// How many there are, one for each row of logits.
    pub(crate) fn rows(&self) -> usize {
        match self {
            Self::Known(tokens) => tokens.len(),
            Self::OnDevice(ids) => ids.rows,
        }
    }
}

impl PendingSample {
    pub(super) fn known(tokens: Vec<SampledToken>) -> Self {
        Self(State::Known(tokens))
    }

    pub(super) fn on_device(launched: Launched) -> Self {
        Self(State::OnDevice(launched))
    }

    /// The tokens, once they are chosen. What the device was asked for since then is not waited for.
    ///
    /// # Errors
    /// The device's.
    pub fn wait(self) -> Result<Vec<SampledToken>, KernelError> {
        match self.0 {
            State::Known(tokens) => Ok(tokens),
            State::OnDevice(launched) => launched.wait(),
        }
    }

    pub(crate) fn ids(&self) -> Ids<'_> {
        match &self.0 {
            State::Known(tokens) => Ids::Known(tokens),
            State::OnDevice(launched) => Ids::OnDevice(launched.ids()),
        }
    }
}

impl std::fmt::Debug for PendingSample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            State::Known(tokens) => f.debug_tuple("Known").field(tokens).finish(),
            State::OnDevice(_) => f.write_str("OnDevice"),
        }
    }
}
