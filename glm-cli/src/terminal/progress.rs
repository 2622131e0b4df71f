//! Progress bars on stderr, only when it is a terminal.

use std::fmt::Write;
use std::io::{self, IsTerminal};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use glm_core::Progress;
use indicatif::{ProgressBar, ProgressState, ProgressStyle};

/// A bar for work counted in bytes, or `None` where nobody would see it.
pub fn for_terminal() -> Option<Arc<dyn Progress>> {
    io::stderr()
        .is_terminal()
        .then(|| Arc::new(Bar::default()) as Arc<dyn Progress>)
}

/// One bar at a time; a new piece of work replaces the last.
#[derive(Default)]
struct Bar {
    current: Mutex<Option<ProgressBar>>,
}

impl Bar {
    fn current(&self) -> MutexGuard<'_, Option<ProgressBar>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Bar {
    fn begin(&self, what: &str, total: u64) {
        let style = ProgressStyle::with_template(
            "{msg:24!} {wide_bar} {bytes:>10}/{total_bytes:<10} {bytes_per_sec:>12} {eta:>4}",
        )
        .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(total)
            .with_style(style)
            .with_message(what.to_owned());
        if let Some(last) = self.current().replace(bar) {
            last.finish_and_clear();
        }
    }

    fn advance(&self, bytes: u64) {
        if let Some(bar) = &*self.current() {
            bar.inc(bytes);
        }
    }

    fn end(&self) {
        if let Some(bar) = self.current().take() {
            bar.finish_and_clear();
        }
    }
}

/// A bar that counts to `total`, hidden where nobody would see it.
pub fn counter(what: &'static str, total: usize) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg:24} {wide_bar} {pos}/{len} {rate:>12} {eta:>4}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("rate", |state: &ProgressState, out: &mut dyn Write| {
            let _ = write!(out, "{:.0}/s", state.per_sec());
        });
    ProgressBar::new(total as u64)
        .with_style(style)
        .with_message(what)
}

/// A bar over the lines of a batch, `done` of which were done before, with the tokens generated per second; hidden where
/// nobody would see it.
pub fn batch(
    total: u64,
    done: u64,
    tokens: impl Fn() -> u64 + Clone + Send + Sync + 'static,
) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = "{wide_bar} {pos}/{len} {rate:>12} {elapsed:>4} eta {eta:>4}";
    let style = ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("rate", move |state: &ProgressState, out: &mut dyn Write| {
            let seconds = state.elapsed().as_secs_f64().max(1e-3);
            let _ = write!(out, "{:.1} tok/s", tokens() as f64 / seconds);
        });
    let bar = ProgressBar::new(total)
        .with_style(style)
        .with_position(done);
    bar.reset_eta();
    // Answers may take long; the rate should not stand still meanwhile.
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}
