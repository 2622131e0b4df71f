//! Whether the engine makes progress, which is more than that the port answers.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use glm_runtime::EngineStats;

/// What became of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Health {
    /// It works, or has nothing to do.
    Well,
    /// It has work and has done no step for so long.
    Stalled(Duration),
    /// Its thread has ended, for this reason.
    Gone(String),
}

impl Health {
    /// What is wrong, if anything.
    pub(super) fn problem(&self) -> Option<String> {
        match self {
            Self::Well => None,
            Self::Stalled(time) => Some(format!(
                "the engine has done no step for {} s",
                time.as_secs()
            )),
            Self::Gone(reason) => Some(format!("the engine has ended: {reason}")),
        }
    }
}

/// Watches the engine's counter of steps. It looks when it is asked, so a hang is seen by the second probe in it.
#[derive(Debug, Default)]
pub(super) struct Watch(Mutex<Watched>);

#[derive(Debug, Default)]
struct Watched {
    /// The counter, and since when it has had this value while there was work.
    steps: Option<(u64, Instant)>,
    gone: Option<String>,
}

impl Watch {
    /// A request ended with the news that the engine is gone.
    pub(super) fn gone(&self, reason: String) {
        self.lock().gone.get_or_insert(reason);
    }

    /// - `unanswered`: requests of which the engine has said nothing yet. Statistics are those after the latest step, so they
    ///   do not know of a request in whose first step it hangs.
    /// - `patience`: the longest that a step may take.
    pub(super) fn look(
        &self,
        stats: &EngineStats,
        unanswered: usize,
        patience: Duration,
        now: Instant,
    ) -> Health {
        let mut watched = self.lock();
        if let Some(reason) = &watched.gone {
            return Health::Gone(reason.clone());
        }
        let is_idle = stats.running + stats.waiting + unanswered == 0;
        let since = match watched.steps {
            Some((steps, since)) if steps == stats.steps && !is_idle => since,
            _ => now,
        };
        watched.steps = Some((stats.steps, since));
        match now.saturating_duration_since(since) {
            stalled if stalled > patience => Health::Stalled(stalled),
            _ => Health::Well,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Watched> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(steps: u64, running: usize) -> EngineStats {
        let mut stats = EngineStats::default();
        (stats.steps, stats.running) = (steps, running);
        stats
    }

    #[test]
    fn work_without_a_step_is_a_stall() {
        let (watch, start) = (Watch::default(), Instant::now());
        let patience = Duration::from_secs(10);
        let look = |steps, running, unanswered, second| {
            let now = start + Duration::from_secs(second);
            watch.look(&stats(steps, running), unanswered, patience, now)
        };
        // Nothing to do, however long.
        assert_eq!(look(5, 0, 0, 0), Health::Well);
        assert_eq!(look(5, 0, 0, 100), Health::Well);
        // A request in its first step.
        assert_eq!(look(5, 0, 1, 110), Health::Well);
        assert_eq!(look(5, 0, 1, 111), Health::Stalled(Duration::from_secs(11)));
        // A slow engine is no dead one.
        assert_eq!(look(6, 1, 0, 121), Health::Well);
        assert_eq!(look(6, 1, 0, 131), Health::Well);
        assert_eq!(look(6, 1, 0, 132), Health::Stalled(Duration::from_secs(11)));
        assert_eq!(look(7, 1, 0, 200), Health::Well);
        // Gone is gone.
        watch.gone("first".to_owned());
        watch.gone("second".to_owned());
        assert_eq!(look(8, 0, 0, 201), Health::Gone("first".to_owned()));
    }
}
