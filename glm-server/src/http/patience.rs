//! [`Patient`] and [`Opened`]: sockets whose other end is not waited for for ever.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How long a client may take nothing of what is written to it; nginx's `send_timeout`, and half of the default of
/// [`ServeOptions::stall_timeout`](super::options::ServeOptions::stall_timeout). What the system keeps for a slow client is more than a
/// whole answer usually has, so whoever uses this up has stopped reading.
pub(super) const WRITE_PATIENCE: Duration = Duration::from_secs(60);

/// So many bytes, at least one, must have been read when a time is over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opening {
    pub(super) bytes: usize,
    pub(super) time: Duration,
}

/// Fails with [`io::ErrorKind::TimedOut`] when the other end has read nothing for a time in which something was there for it. To be put
/// around the socket itself: TLS takes what is written although nobody reads it.
#[derive(Debug)]
pub(super) struct Patient<S> {
    socket: S,
    patience: Duration,
    /// The end of the patience with a write under way.
    stuck: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    pub(super) fn new(socket: S, patience: Duration) -> Self {
        Self {
            socket,
            patience,
            stuck: None,
        }
    }

    /// The outcome of an attempt to write, or that it has been tried for too long.
    fn in_time<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stuck = None;
            return written;
        }
        let patience = self.patience;
        let over = self.stuck.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(over.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

/// Fails with [`io::ErrorKind::TimedOut`] when the other end has not said its opening in time. Reading is not limited otherwise: a client
/// that waits for its answer has nothing to say. To be put around TLS, whose handshake is no opening.
#[derive(Debug)]
pub(super) struct Opened<S> {
    socket: S,
    /// Bytes of the opening that are still to come, and until when.
    opening: Option<(usize, Pin<Box<Sleep>>)>,
}

impl<S> Opened<S> {
    pub(super) fn new(socket: S, opening: Opening) -> Self {
        Self {
            socket,
            opening: Some((opening.bytes, Box::pin(sleep(opening.time)))),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Opened<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let read = Pin::new(&mut this.socket).poll_read(cx, buf);
        let Some((bytes, over)) = &mut this.opening else {
            return read;
        };
        if read.is_ready() {
            *bytes = bytes.saturating_sub(buf.filled().len() - before);
            if *bytes == 0 {
                this.opening = None;
            }
            return read;
        }
        ready!(over.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.in_time(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, parts);
        self.in_time(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.socket).poll_flush(cx);
        self.in_time(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.socket).poll_shutdown(cx);
        self.in_time(cx, shut)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Opened<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::Instant;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_write_fails_when_nothing_is_read_for_long() {
        let (near, mut far) = duplex(4);
        let mut near = Patient::new(near, 10 * SECOND);
        let begun = Instant::now();
        // As long as something is read now and then, it goes on.
        let reads = tokio::spawn(async move {
            for _ in 0..5 {
                tokio::time::sleep(9 * SECOND).await;
                far.read_exact(&mut [0; 4]).await.unwrap();
            }
            far
        });
        let error = near.write_all(&[7; 100]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed().as_secs(), 5 * 9 + 10);
        drop(reads.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn an_opening_has_its_time_and_what_follows_has_none() {
        let opening = Opening {
            bytes: 3,
            time: 10 * SECOND,
        };
        let (near, mut far) = duplex(64);
        let mut near = Opened::new(near, opening);
        let begun = Instant::now();
        // A part of it, and what is said later, do not count.
        far.write_all(b"ab").await.unwrap();
        let error = near.read_exact(&mut [0; 3]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed(), 10 * SECOND);

        let (near, mut far) = duplex(64);
        let mut near = Opened::new(near, opening);
        far.write_all(b"abc").await.unwrap();
        near.read_exact(&mut [0; 3]).await.unwrap();
        let says = tokio::spawn(async move {
            tokio::time::sleep(100 * SECOND).await;
            far.write_all(b"d").await.unwrap();
        });
        assert_eq!(near.read_u8().await.unwrap(), b'd');
        says.await.unwrap();
    }
}
