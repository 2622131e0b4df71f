//! [`Score`]: how well the service does, in one number from 0 to 100.

use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value, json};

use super::health::Health;
use super::state::{Phase, Service};

/// Weight of the newest response: about the last fifty count.
const NEWEST: f64 = 0.02;
/// Blocks of the KV cache are to be used; only when fewer than this share are free do requests lose their places.
const FREE_ENOUGH: f64 = 0.1;
/// Below this, the service is degraded.
const DEGRADED: u32 = 50;
/// The [`status`] of a service whose engine hangs or is gone.
pub(super) const UNHEALTHY: &str = "unhealthy";

/// What counts how much in the health score. Only proportions matter; all zero is taken for all equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct HealthWeights {
    /// The engine makes progress. Default: 40.
    pub engine: u32,
    /// There is room in the queue. Default: 20.
    pub queue: u32,
    /// There are free blocks in the KV cache. Default: 20.
    pub memory: u32,
    /// Responses are no failures of the service (5xx). Default: 20.
    pub errors: u32,
}

impl Default for HealthWeights {
    fn default() -> Self {
        Self {
            engine: 40,
            queue: 20,
            memory: 20,
            errors: 20,
        }
    }
}

/// How everything is, in a word; [`UNHEALTHY`] if a restart would help.
pub(super) fn status(service: &Service, score: &Score) -> &'static str {
    let forgets = service
        .jobs()
        .is_ok_and(|jobs| jobs.health().reason.is_some());
    match service.health() {
        Health::Stalled(_) | Health::Gone(_) => UNHEALTHY,
        Health::Well if service.phase() == Phase::Ready && score.of_100 >= DEGRADED && !forgets => {
            "healthy"
        }
        Health::Well => "degraded",
    }
}

/// How many of the latest responses were failures of the service.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<f64>);

impl Failures {
    pub(super) fn saw(&self, status: u16) {
        // Refused because it starts or stops is not failed.
        let failed = f64::from(u8::from(status >= 500 && status != 503));
        let mut share = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *share += NEWEST * (failed - *share);
    }

    fn share(&self) -> f64 {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The score, and what it is made of: each signal between 0, bad, and 1.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Score {
    pub(super) of_100: u32,
    signals: [(&'static str, f64); 4],
}

impl Score {
    pub(super) fn of(service: &Service) -> Self {
        let options = &service.options;
        let stats = service
            .engine()
            .map(|engine| engine.stats())
            .unwrap_or_default();
        let waiting = service.fair.waiting().0 + stats.waiting;
        let total = stats.kv_blocks_total as f64;
        let signals = [
            (
                "engine",
                if service.health() == Health::Well {
                    1.0
                } else {
                    0.0
                },
            ),
            (
                "queue",
                1.0 - share(waiting as f64, options.max_waiting as f64),
            ),
            (
                "memory",
                if total > 0.0 {
                    share(stats.kv_blocks_free as f64, total * FREE_ENOUGH)
                } else {
                    1.0
                },
            ),
            ("errors", 1.0 - service.failures.share()),
        ];
        Self::weigh(signals, service.live().health_weights)
    }

    fn weigh(signals: [(&'static str, f64); 4], weights: HealthWeights) -> Self {
        let weights = [
            weights.engine,
            weights.queue,
            weights.memory,
            weights.errors,
        ]
        .map(f64::from);
        let sum: f64 = weights.iter().sum();
        let weight = |weight: f64| {
            if sum > 0.0 {
                weight / sum
            } else {
                1.0 / weights.len() as f64
            }
        };
        let score: f64 = signals
            .iter()
            .zip(weights)
            .map(|((_, signal), each)| signal * weight(each))
            .sum();
        Self {
            of_100: (score * 100.0).round() as u32,
            signals,
        }
    }

    pub(super) fn signals(&self) -> Value {
        let rounded = |signal: f64| json!((signal * 100.0).round() / 100.0);
        let signals = self
            .signals
            .map(|(name, signal)| (name.to_owned(), rounded(signal)));
        Value::Object(Map::from_iter(signals))
    }
}

/// `part` of `whole`, between 0 and 1; of nothing, any part is all.
fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 {
        (part / whole).clamp(0.0, 1.0)
    } else {
        f64::from(u8::from(part > 0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_decide_what_a_signal_costs() {
        let signals = [
            ("engine", 1.0),
            ("queue", 0.5),
            ("memory", 1.0),
            ("errors", 0.0),
        ];
        let score = |[engine, queue, memory, errors]: [u32; 4]| {
            let weights = HealthWeights {
                engine,
                queue,
                memory,
                errors,
            };
            Score::weigh(signals, weights).of_100
        };
        assert_eq!(score([40, 20, 20, 20]), 70);
        assert_eq!(score([1, 0, 0, 0]), 100);
        assert_eq!(score([0, 0, 0, 7]), 0);
        assert_eq!(score([0, 1, 0, 0]), 50);
        assert_eq!(score([0, 0, 0, 0]), 63);
        assert_eq!(
            Score::weigh(signals, HealthWeights::default()).signals()["queue"],
            0.5
        );
    }

    #[test]
    fn failures_are_forgotten_as_responses_succeed() {
        let failures = Failures::default();
        (0..200).for_each(|_| failures.saw(500));
        assert!(failures.share() > 0.95);
        (0..200).for_each(|_| failures.saw(200));
        assert!(failures.share() < 0.05);
        // A stop, and what the client did wrong, are no failures.
        (0..200).for_each(|_| failures.saw(503));
        (0..200).for_each(|_| failures.saw(400));
        assert!(failures.share() < 0.05);
    }
}
