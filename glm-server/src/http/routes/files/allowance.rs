//! [`Allowance`]: how much of a form is read before something of it is whole.
//!
//! The reader of forms keeps what it has until it is a head or a part of a field, however much that becomes, takes all that is there whenever it
//! is asked, and searches all of it each time.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use axum::body::{Body, BodyDataStream, Bytes};
use futures_util::Stream;

/// Most bytes read for one thing: the beginning of a field, or a part of one. Heads of fields are far shorter.
pub(super) const MAX_BETWEEN: usize = 128 << 10;
/// Bytes that are read at once.
const PIECE: usize = 64 << 10;

/// What may still be read of a body for the next thing in it.
#[derive(Debug, Clone, Default)]
pub(super) struct Allowance(Arc<AtomicUsize>);

impl Allowance {
    /// The body, piece after piece, up to the allowance; what is beyond it is an error.
    pub(super) fn meter(&self, body: Body) -> Body {
        Body::from_stream(Metered {
            body: body.into_data_stream(),
            rest: Bytes::new(),
            pauses: false,
            allowance: self.clone(),
        })
    }

    /// The next thing may be read.
    pub(super) fn renew(&self) {
        self.0.store(MAX_BETWEEN, Ordering::Relaxed);
    }

    pub(super) fn is_spent(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

struct Metered {
    body: BodyDataStream,
    /// What has come and is not read.
    rest: Bytes,
    /// A piece has been read, and its reader should look at it before it takes another.
    pauses: bool,
    allowance: Allowance,
}

impl Stream for Metered {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if std::mem::take(&mut this.pauses) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if this.rest.is_empty() {
            match ready!(Pin::new(&mut this.body).poll_next(cx)) {
                Some(Ok(bytes)) => this.rest = bytes,
                end => return Poll::Ready(end),
            }
        }
        let left = this.allowance.0.load(Ordering::Relaxed);
        if left == 0 {
            return Poll::Ready(Some(Err(axum::Error::new("the allowance is spent"))));
        }
        let piece = this.rest.split_to(this.rest.len().min(PIECE).min(left));
        this.allowance
            .0
            .store(left - piece.len(), Ordering::Relaxed);
        this.pauses = true;
        Poll::Ready(Some(Ok(piece)))
    }
}
