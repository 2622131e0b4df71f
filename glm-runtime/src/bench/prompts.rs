//! What is asked of a model under measurement.

/// An endless supply of random token ids: SplitMix64 (Steele et al. 2014, doi:10.1145/2660193.2660195).
pub(super) struct Prompts {
    state: u64,
    vocab_size: u64,
}

impl Prompts {
    pub(super) fn new(seed: u64, vocab_size: usize) -> Self {
        Self {
            state: seed,
            vocab_size: vocab_size as u64,
        }
    }

    pub(super) fn take(&mut self, count: usize) -> Vec<u32> {
        (0..count)
            .map(|_| (self.next() % self.vocab_size) as u32)
            .collect()
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_the_same_for_the_same_seed_and_differ_otherwise() {
        let take = |seed| Prompts::new(seed, 1000).take(64);
        assert_eq!(take(1), take(1));
        assert_ne!(take(1), take(2));
        assert!(take(3).iter().all(|&id| id < 1000));
    }
}
