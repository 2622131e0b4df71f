//! Medians and spreads of repeated measurements.

/// Median and extremes of a set of measurements.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Middle value; the mean of the two middle ones of an even count.
    pub median: f64,
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
}

impl Spread {
    /// The spread of `samples`, in any order.
    ///
    /// # Panics
    /// If there is no sample.
    pub fn of(samples: &[f64]) -> Self {
        let sorted = sorted(samples);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            (sorted[middle - 1] + sorted[middle]) / 2.0
        };
        Self {
            median,
            min: sorted[0],
            max: sorted[sorted.len() - 1],
        }
    }
}

/// The smallest sample that `share` (0 to 1) of all samples do not exceed: the nearest-rank percentile.
///
/// # Panics
/// If there is no sample.
pub fn percentile(samples: &[f64], share: f64) -> f64 {
    let sorted = sorted(samples);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    assert!(
        !samples.is_empty(),
        "a spread needs at least one measurement"
    );
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(
            Spread::of(&[3.0]),
            Spread {
                median: 3.0,
                min: 3.0,
                max: 3.0
            }
        );
        assert_eq!(
            Spread::of(&[5.0, 1.0, 2.0]),
            Spread {
                median: 2.0,
                min: 1.0,
                max: 5.0
            }
        );
        assert_eq!(
            Spread::of(&[4.0, 1.0, 2.0, 3.0]),
            Spread {
                median: 2.5,
                min: 1.0,
                max: 4.0
            }
        );
    }

    #[test]
    fn percentiles_are_samples() {
        let samples: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&samples, 0.95), 95.0);
        assert_eq!(percentile(&samples, 1.0), 100.0);
        assert_eq!(percentile(&samples, 0.0), 1.0);
        assert_eq!(percentile(&[7.0], 0.95), 7.0);
    }
}
