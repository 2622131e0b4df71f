//! Random numbers as a function of seed and counter: no state to share, save or lose.

use crate::load::mix;

/// The `counter`-th number of the stream `seed`, uniform in `[0, 1)` with 53 random bits.
///
/// Seed and counter are hashed one after the other (SplitMix64's output function), so streams with neighbouring seeds
/// have nothing in common.
pub fn uniform(seed: u64, counter: u64) -> f64 {
    (bits(seed, counter) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// The same number in units of 2^-64, to its last bit.
pub fn bits(seed: u64, counter: u64) -> u64 {
    let stream = mix(seed.wrapping_add(0x9e37_79b9_7f4a_7c15));
    mix(stream ^ mix(counter.wrapping_add(0xd1b5_4a32_d192_ed03)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_uniform_and_streams_differ() {
        let n = 20_000;
        for seed in [0, 1, u64::MAX] {
            let numbers: Vec<f64> = (0..n).map(|i| uniform(seed, i)).collect();
            assert!(numbers.iter().all(|u| (0.0..1.0).contains(u)));
            let mean = numbers.iter().sum::<f64>() / n as f64;
            assert!((mean - 0.5).abs() < 0.01, "mean {mean}");
            let mut deciles = [0u32; 10];
            numbers
                .iter()
                .for_each(|u| deciles[(u * 10.0) as usize] += 1);
            assert!(
                deciles.iter().all(|&count| count.abs_diff(2000) < 200),
                "{deciles:?}"
            );
        }
        let equal = (0..n).filter(|&i| uniform(1, i) == uniform(2, i)).count();
        assert_eq!(equal, 0);
    }
}
