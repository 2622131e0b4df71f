//! [`Recent`]: how long things took in the last minute.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Seconds that are remembered.
const WINDOW: usize = 60;
/// Classes of times that are kept apart: each ends 9 % above the one before, from 10 µs to 18 minutes.
const CLASSES: usize = 214;
const SHORTEST: f64 = 1e-5;
const CLASSES_PER_DOUBLING: f64 = 8.0;

/// Counts times by their class and second. It takes 50 KB, however many times there are.
pub(in crate::http) struct Recent {
    start: Instant,
    seconds: Mutex<Vec<Second>>,
}

#[derive(Clone)]
struct Second {
    /// Since the start.
    number: u64,
    counts: [u32; CLASSES],
}

impl Recent {
    pub(in crate::http) fn new() -> Self {
        let never = Second {
            number: 0,
            counts: [0; CLASSES],
        };
        Self {
            start: Instant::now(),
            seconds: Mutex::new(vec![never; WINDOW]),
        }
    }

    pub(in crate::http) fn observe(&self, time: Duration) {
        self.observe_at(self.start.elapsed().as_secs(), time);
    }

    fn observe_at(&self, now: u64, time: Duration) {
        let mut seconds = self.lock();
        let second = &mut seconds[now as usize % WINDOW];
        if second.number != now {
            *second = Second {
                number: now,
                counts: [0; CLASSES],
            };
        }
        second.counts[class(time)] += 1;
    }

    /// How many there were, and times that half, 95 and 99 % of them did not exceed, in seconds within 5 %.
    pub(in crate::http) fn quantiles(&self) -> Value {
        self.quantiles_at(self.start.elapsed().as_secs())
    }

    fn quantiles_at(&self, now: u64) -> Value {
        let mut counts = [0_u64; CLASSES];
        for second in self
            .lock()
            .iter()
            .filter(|s| now - s.number.min(now) < WINDOW as u64)
        {
            for (sum, count) in counts.iter_mut().zip(second.counts) {
                *sum += u64::from(count);
            }
        }
        let count: u64 = counts.iter().sum();
        let quantile = |percent: u64| {
            let rank = (count * percent).div_ceil(100);
            let mut below = counts.iter().scan(0, |sum, count| {
                *sum += count;
                Some(*sum)
            });
            let class = below.position(|sum| sum >= rank)?;
            (count > 0).then(|| middle(class))
        };
        json!({"count": count, "p50": quantile(50), "p95": quantile(95), "p99": quantile(99)})
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Second>> {
        self.seconds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Recent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recent").finish_non_exhaustive()
    }
}

fn class(time: Duration) -> usize {
    let doublings = (time.as_secs_f64() / SHORTEST).log2();
    // What is negative becomes 0, as does a time of nothing.
    ((doublings * CLASSES_PER_DOUBLING) as usize).min(CLASSES - 1)
}

fn middle(class: usize) -> f64 {
    SHORTEST * ((class as f64 + 0.5) / CLASSES_PER_DOUBLING).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_near(value: &Value, seconds: f64) -> bool {
        (value.as_f64().unwrap() / seconds - 1.0).abs() < 0.05
    }

    #[test]
    fn quantiles_are_those_of_the_last_minute() {
        let recent = Recent::new();
        let empty = json!({"count": 0, "p50": null, "p95": null, "p99": null});
        assert_eq!(recent.quantiles_at(0), empty);
        for milliseconds in 1..=100 {
            recent.observe_at(milliseconds % 30, Duration::from_millis(milliseconds));
        }
        let found = recent.quantiles_at(30);
        assert_eq!(found["count"], 100);
        for (name, seconds) in [("p50", 0.050), ("p95", 0.095), ("p99", 0.099)] {
            assert!(is_near(&found[name], seconds), "{found}");
        }
        // Seconds pass out of the window one by one, also while nothing comes.
        assert_eq!(recent.quantiles_at(70)["count"], 19 * 3);
        assert_eq!(recent.quantiles_at(89), empty);
        recent.observe_at(200, Duration::from_secs(1));
        assert_eq!(recent.quantiles_at(200)["count"], 1);
    }

    #[test]
    fn no_time_is_too_short_or_too_long() {
        let recent = Recent::new();
        for (second, time) in [(0, Duration::ZERO), (100, Duration::MAX)] {
            recent.observe_at(second, time);
            assert_eq!(recent.quantiles_at(second)["count"], 1);
        }
    }
}
