//! What systemd is told, if it started the process: that it is ready, reads its settings again, stops, and is alive. Elsewhere none of this
//! does anything.

use std::net::TcpListener;

use listenfd::ListenFd;
use sd_notify::NotifyState;

/// Requests are answered from now on, or again.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Settings are being read again; [`ready`] ends that.
pub(super) fn reloading() {
    // systemd tells this from an earlier one by the time.
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
    }
}

/// Nothing new is taken.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// The engine makes progress. Without this systemd starts the service anew, if its unit has `WatchdogSec`.
pub(super) fn alive() {
    if sd_notify::watchdog_enabled().is_some() {
        tell(&[NotifyState::Watchdog]);
    }
}

fn tell(state: &[NotifyState]) {
    // Nothing depends on being heard.
    let _ = sd_notify::notify(state);
}

/// The socket that whoever started this process has opened for it, if so: systemd, or a service that this one takes over from.
///
/// # Errors
/// There is one, and it is not for TCP.
pub(super) fn listener() -> std::io::Result<Option<TcpListener>> {
    ListenFd::from_env().take_tcp_listener(0)
}
