//! [`Backlog`]: how fast the engine works off tokens, and so when to come back.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use glm_runtime::EngineStats;

/// Weight of the newest measurement: about the last ten of them count.
const NEWEST: f64 = 0.2;
/// Nobody is told to wait longer: by then much may have changed.
const LONGEST: Duration = Duration::from_secs(300);
/// Measured at most so often, so that one long step is not taken for a standstill.
const INTERVAL: Duration = Duration::from_secs(1);

/// Throughput of the engine while it has work, measured where it is asked for and every second.
#[derive(Debug, Default)]
pub(in crate::http) struct Backlog(Mutex<Measured>);

#[derive(Debug, Default)]
struct Measured {
    /// Tokens computed so far, and when they were counted.
    last: Option<(u64, Instant)>,
    tokens_per_second: Option<f64>,
}

impl Backlog {
    /// Looks at the engine.
    pub(in crate::http) fn observe(&self, stats: &EngineStats, now: Instant) {
        let mut measured = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let tokens = stats.prefill_tokens + stats.generated_tokens;
        let Some((before, since)) = measured.last else {
            measured.last = Some((tokens, now));
            return;
        };
        let elapsed = now.saturating_duration_since(since);
        if elapsed < INTERVAL {
            return;
        }
        measured.last = Some((tokens, now));
        // An idle engine is not a slow one.
        if tokens > before {
            let speed = (tokens - before) as f64 / elapsed.as_secs_f64();
            let known = measured.tokens_per_second.unwrap_or(speed);
            measured.tokens_per_second = Some(known + NEWEST * (speed - known));
        }
    }

    /// When so many waiting tokens will have been worked off: a second at least, and while nothing has been measured.
    pub(in crate::http) fn wait_for(&self, tokens: u64) -> Duration {
        let measured = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let speed = measured.tokens_per_second;
        let seconds = speed.map_or(0.0, |speed| tokens as f64 / speed.max(0.01));
        let longest = LONGEST.as_secs_f64();
        Duration::from_secs_f64(seconds.clamp(1.0, longest))
    }

    /// Tokens per second, of prompts and generated ones, if any have been computed.
    pub(in crate::http) fn throughput(&self) -> Option<f64> {
        let measured = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        measured.tokens_per_second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_is_what_waits_over_what_was_measured() {
        let (backlog, start) = (Backlog::default(), Instant::now());
        let look = |tokens, second| {
            let mut stats = EngineStats::default();
            stats.generated_tokens = tokens;
            backlog.observe(&stats, start + Duration::from_secs(second));
        };
        assert_eq!(backlog.wait_for(1_000_000).as_secs(), 1);
        look(0, 0);
        look(1_000, 10);
        assert_eq!(backlog.throughput(), Some(100.0));
        assert_eq!(backlog.wait_for(500).as_secs(), 5);
        assert_eq!(backlog.wait_for(0).as_secs(), 1);
        assert_eq!(backlog.wait_for(u64::MAX), LONGEST);
        // A pause changes nothing, work at another speed does.
        look(1_000, 1_000);
        assert_eq!(backlog.wait_for(500).as_secs(), 5);
        look(3_000, 1_010);
        assert_eq!(backlog.throughput(), Some(120.0));
    }
}
