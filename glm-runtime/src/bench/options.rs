//! What to measure, and the sizes of an engine that can.

/// What to measure.
#[derive(Debug, Clone)]
pub struct BenchOptions {
    /// Prompt lengths for prefill, in tokens.
    pub prompt_tokens: Vec<usize>,
    /// Tokens generated per sequence in each decode measurement.
    pub gen_tokens: usize,
    /// Numbers of sequences decoded together.
    pub batch: Vec<usize>,
    /// Tokens of context already there when prefill or decoding starts.
    pub depth: Vec<usize>,
    /// Measurements of each kind.
    pub repeat: usize,
    /// Seed of the random prompts.
    pub seed: u64,
    /// Also find out where the time goes: one more run of each measurement.
    pub profile: bool,
}

/// Prompt tokens that the engine is expected to compute per step, for guessing how far the first sequence of a batch gets
/// ahead of the last. An engine that computes fewer beside running answers
/// ([`EngineOptions::max_step_time`](crate::EngineOptions::max_step_time)) lets it get further.
pub const PREFILL_CHUNK: usize = 512;

/// Sequences take whole blocks of the KV cache; no block is larger than this.
pub(super) const BLOCK_MARGIN: usize = 64;

/// Tokens of one sequence in a decode measurement: a prompt of at least one token, the token that marks the start, the
/// measured ones, and those that a sequence admitted first makes while the others are prefilled. Without the last, it would
/// end early and the batch would shrink while it is measured.
pub(super) fn sequence_tokens(batch: usize, depth: usize, gen_tokens: usize) -> usize {
    let prompt = depth.max(1);
    let lead = batch
        .saturating_sub(1)
        .saturating_mul(prompt.div_ceil(PREFILL_CHUNK));
    prompt
        .saturating_add(1)
        .saturating_add(gen_tokens)
        .saturating_add(lead)
}

impl BenchOptions {
    /// The context length (`max_model_len`) to build the engine with, for a model whose own is `limit`: every measurement fits
    /// if the model allows it, and so do the repeats of a decode measurement one after the other.
    pub fn max_model_len(&self, limit: usize) -> usize {
        let prefill = self
            .prefills()
            .map(|(tokens, depth)| tokens.saturating_add(depth).saturating_add(1));
        let decode = self
            .decodes()
            .map(|(batch, depth)| sequence_tokens(batch, depth, self.all_gen_tokens()));
        prefill.chain(decode).max().unwrap_or(1).min(limit)
    }

    /// The KV cache, in tokens, to build the engine with: no measurement makes it preempt.
    pub fn kv_cache_tokens(&self, max_model_len: usize) -> usize {
        let decode = self.decodes().map(|(batch, depth)| {
            let all = sequence_tokens(batch, depth, self.all_gen_tokens());
            batch.saturating_mul(all.min(max_model_len).saturating_add(BLOCK_MARGIN))
        });
        decode.max().unwrap_or(1).max(max_model_len)
    }

    /// Of all measurements of one kind and the run that is profiled.
    fn all_gen_tokens(&self) -> usize {
        self.gen_tokens
            .saturating_mul(self.repeat.saturating_add(usize::from(self.profile)))
    }

    /// The first option that must not be 0 and is.
    pub(super) fn zero(&self) -> Option<&'static str> {
        [
            ("prompt_tokens", self.prompt_tokens.contains(&0)),
            ("gen_tokens", self.gen_tokens == 0),
            ("batch", self.batch.contains(&0)),
            ("repeat", self.repeat == 0),
        ]
        .into_iter()
        .find_map(|(option, zero)| zero.then_some(option))
    }

    /// Prompt lengths and depths.
    pub(super) fn prefills(&self) -> impl Iterator<Item = (usize, usize)> {
        self.depth.iter().flat_map(|&depth| {
            let tokens = self.prompt_tokens.iter();
            tokens.map(move |&tokens| (tokens, depth))
        })
    }

    /// Batches and depths.
    pub(super) fn decodes(&self) -> impl Iterator<Item = (usize, usize)> {
        self.depth
            .iter()
            .flat_map(|&depth| self.batch.iter().map(move |&batch| (batch, depth)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_context_and_the_cache_hold_every_measurement() {
        let options = BenchOptions {
            prompt_tokens: vec![512, 2048],
            gen_tokens: 128,
            batch: vec![1, 8],
            depth: vec![0, 4096],
            repeat: 20,
            seed: 0,
            profile: false,
        };
        // 4096 of prompt, 1 to start, 20 times 128 measured, 7 sequences of 8 chunks ahead.
        assert_eq!(options.max_model_len(100_000), 4096 + 1 + 20 * 128 + 56);
        let prompts = BenchOptions {
            repeat: 1,
            ..options.clone()
        };
        assert_eq!(prompts.max_model_len(100_000), 4096 + 2048 + 1);
        assert_eq!(options.max_model_len(4500), 4500);
        assert!(options.kv_cache_tokens(100_000) >= 8 * (4096 + 1 + 20 * 128 + 56));
        assert!(options.kv_cache_tokens(4500) >= 8 * 4500);
    }

    #[test]
    fn absurd_numbers_are_sized_without_overflow() {
        let options = BenchOptions {
            prompt_tokens: vec![usize::MAX],
            gen_tokens: usize::MAX,
            batch: vec![0, usize::MAX],
            depth: vec![usize::MAX],
            repeat: 2,
            seed: 0,
            profile: false,
        };
        assert_eq!(options.max_model_len(4096), 4096);
        assert_eq!(options.kv_cache_tokens(4096), usize::MAX);
        assert_eq!(options.zero(), Some("batch"));
    }
}
