//! Ctrl-C. By default it ends the program at once with exit code 130; a command that has something to stop or to clean
//! up says so for as long as that is true.

use std::io::{self, IsTerminal, Write};
use std::process;
use std::sync::{Mutex, MutexGuard, PoisonError};

type Action = Box<dyn Fn() + Send>;

static ACTION: Mutex<Option<Action>> = Mutex::new(None);

/// Catches Ctrl-C from now on. Where the system does not allow it, Ctrl-C keeps its usual effect.
pub fn install() {
    let _ = ctrlc::set_handler(|| match &*action() {
        Some(action) => action(),
        None => {
            if io::stderr().is_terminal() {
                let _ = writeln!(io::stderr()); // the shell's prompt starts on a line of its own
            }
            process::exit(130);
        }
    });
}

/// Until the result is dropped, Ctrl-C calls `action` (on a thread of its own) instead of ending the program.
#[must_use]
pub fn instead(action_now: impl Fn() + Send + 'static) -> Instead {
    *action() = Some(Box::new(action_now));
    Instead(())
}

/// While this lives, Ctrl-C does something other than end the program.
pub struct Instead(());

impl Drop for Instead {
    fn drop(&mut self) {
        *action() = None;
    }
}

fn action() -> MutexGuard<'static, Option<Action>> {
    ACTION.lock().unwrap_or_else(PoisonError::into_inner)
}
