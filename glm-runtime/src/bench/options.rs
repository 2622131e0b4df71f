//! What to measure, and the sizes of an engine that can.

use crate::engine::EngineOptions;

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
    /// Most tokens in one step of the engine; `None`: as many as it takes by itself.
    pub max_num_batched_tokens: Option<usize>,
    /// Seed of the random prompts.
    pub seed: u64,
    /// Also find out where the time goes: one more run of each measurement.
    pub profile: bool,
}

/// Sequences take whole blocks of the KV cache; no block is larger than this.
pub(super) const BLOCK_MARGIN: usize = 64;

/// Tokens of one sequence in a decode measurement: a prompt of at least one token, the token that marks the start, the
/// measured ones, and those that a sequence admitted first makes while the others are prefilled, in steps of `step_tokens`. Without
/// the last, it would end early and the batch would shrink while it is measured.
pub(super) fn sequence_tokens(
    batch: usize,
    depth: usize,
    gen_tokens: usize,
    step_tokens: usize,
) -> usize {
    let prompt = depth.max(1);
    let others = batch.saturating_sub(1);
    // At worst all others decode already in every step in which a prompt is read.
    let room = step_tokens.saturating_sub(others).max(1);
    let lead = others.saturating_mul(prompt.div_ceil(room));
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
            .map(|(batch, depth)| self.sequence_tokens(batch, depth));
        prefill.chain(decode).max().unwrap_or(1).min(limit)
    }

    /// The KV cache, in tokens, to build the engine with: no measurement makes it preempt.
    pub fn kv_cache_tokens(&self, max_model_len: usize) -> usize {
        let decode = self.decodes().map(|(batch, depth)| {
            let all = self.sequence_tokens(batch, depth);
            batch.saturating_mul(all.min(max_model_len).saturating_add(BLOCK_MARGIN))
        });
        decode.max().unwrap_or(1).max(max_model_len)
    }

    /// Most sequences in one step.
    pub fn max_num_seqs(&self) -> usize {
        self.batch.iter().copied().max().unwrap_or(1)
    }

    fn sequence_tokens(&self, batch: usize, depth: usize) -> usize {
        // On a graphics processor there are more, and so this is enough.
        let default = || EngineOptions::default_batched_tokens(false, self.max_num_seqs());
        let step_tokens = self.max_num_batched_tokens.unwrap_or_else(default);
        sequence_tokens(batch, depth, self.all_gen_tokens(), step_tokens)
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
            max_num_batched_tokens: None,
            seed: 0,
            profile: false,
        };
        // 4096 of prompt, 1 to start, 20 times 128 measured, 7 sequences ahead that read 9 chunks of 505 tokens: 7 of 512 decode.
        assert_eq!(options.max_model_len(100_000), 4096 + 1 + 20 * 128 + 63);
        let prompts = BenchOptions {
            repeat: 1,
            ..options.clone()
        };
        assert_eq!(prompts.max_model_len(100_000), 4096 + 2048 + 1);
        assert_eq!(options.max_model_len(4500), 4500);
        assert!(options.kv_cache_tokens(100_000) >= 8 * (4096 + 1 + 20 * 128 + 63));
        assert!(options.kv_cache_tokens(4500) >= 8 * 4500);
    }

    #[test]
    fn what_decodes_leaves_the_prompts_less_of_a_step() {
        let of = |batch, step_tokens| sequence_tokens(batch, 2048, 64, step_tokens) - 2048 - 1 - 64;
        assert_eq!([of(1, 512), of(2, 512)], [0, 5]);
        // 704 tokens are the default for 256 sequences: at worst 449 of them are of prompts.
        assert_eq!(of(256, 704), 255 * 5);
        assert_eq!(of(256, 2048 + 255), 255);
        assert_eq!(of(256, 256), 255 * 2048, "one token in a step");
    }

    #[test]
    fn absurd_numbers_are_sized_without_overflow() {
        let options = BenchOptions {
            prompt_tokens: vec![usize::MAX],
            gen_tokens: usize::MAX,
            batch: vec![0, usize::MAX],
            depth: vec![usize::MAX],
            repeat: 2,
            max_num_batched_tokens: None,
            seed: 0,
            profile: false,
        };
        assert_eq!(options.max_model_len(4096), 4096);
        assert_eq!(options.kv_cache_tokens(4096), usize::MAX);
        assert_eq!(options.max_num_seqs(), usize::MAX);
        assert_eq!(options.zero(), Some("batch"));
    }
}
