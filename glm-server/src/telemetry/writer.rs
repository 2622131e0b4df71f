//! [`Writer`]: lines on their way to a file or a terminal that may be slow.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::Duration;

/// Lines that may wait to be written.
const MAX_WAITING: usize = 8192;
/// How long the end of the process waits for them, where they cannot be written at once.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

enum Message {
    Line(String),
    Flush(SyncSender<()>),
}

#[derive(Debug, Clone)]
pub(super) struct Writer {
    lines: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

impl Writer {
    pub(super) fn start(target: Box<dyn Write + Send>) -> io::Result<Self> {
        let (lines, waiting) = mpsc::sync_channel(MAX_WAITING);
        let dropped = Arc::new(AtomicU64::new(0));
        let writer = Self {
            lines,
            dropped: Arc::clone(&dropped),
        };
        thread::Builder::new()
            .name("glm-log".to_owned())
            .spawn(move || write(target, &waiting))?;
        Ok(writer)
    }

    /// Writes a line soon, or drops it where too many wait: nobody waits for a log.
    pub(super) fn line(&self, line: String) {
        if self.lines.try_send(Message::Line(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many lines have been dropped since this was asked last.
    pub(super) fn take_dropped(&self) -> u64 {
        self.dropped.swap(0, Ordering::Relaxed)
    }

    /// Waits until what was said is written, for a while.
    pub(super) fn flush(&self) {
        let (written, is_written) = mpsc::sync_channel(1);
        if self.lines.try_send(Message::Flush(written)).is_ok() {
            let _ = is_written.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

/// Until the process ends. That a line cannot be written, on a full disk for one, must not end the service.
fn write(mut target: Box<dyn Write + Send>, waiting: &Receiver<Message>) {
    for message in waiting {
        match message {
            Message::Line(line) => {
                let _ = target.write_all(line.as_bytes());
            }
            Message::Flush(written) => {
                let _ = target.flush();
                let _ = written.send(());
            }
        }
    }
}
