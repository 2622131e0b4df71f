//! What the engine uses of `async-channel`, on shuttle's lock and condition variable.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

pub use async_channel::{RecvError, SendError, TryRecvError, TrySendError};
use futures_core::Stream;
use shuttle::sync::{Condvar, Mutex, MutexGuard};

struct Channel<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    messages: VecDeque<T>,
    capacity: usize,
    senders: usize,
    closed: bool,
    waker: Option<Waker>,
}

impl<T> Channel<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap()
    }

    fn close(&self) {
        self.state().closed = true;
        self.wake();
    }

    fn wake(&self) {
        self.changed.notify_all();
        let waker = self.state().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> State<T> {
    fn take(&mut self) -> Result<T, TryRecvError> {
        match self.messages.pop_front() {
            Some(message) => Ok(message),
            None if self.closed => Err(TryRecvError::Closed),
            None => Err(TryRecvError::Empty),
        }
    }
}

/// As `async_channel::unbounded`.
pub fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
    bounded(usize::MAX)
}

/// As `async_channel::bounded`.
pub fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let state = State {
        messages: VecDeque::new(),
        capacity,
        senders: 1,
        closed: false,
        waker: None,
    };
    let channel = Arc::new(Channel {
        state: Mutex::new(state),
        changed: Condvar::new(),
    });
    (Sender(channel.clone()), Receiver(channel))
}

pub struct Sender<T>(Arc<Channel<T>>);

impl<T> Sender<T> {
    pub fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        let mut state = self.0.state();
        if state.closed {
            return Err(TrySendError::Closed(message));
        }
        if state.messages.len() == state.capacity {
            return Err(TrySendError::Full(message));
        }
        state.messages.push_back(message);
        drop(state);
        self.0.wake();
        Ok(())
    }

    /// Of an unbounded channel: there it never blocks.
    pub fn send_blocking(&self, message: T) -> Result<(), SendError<T>> {
        self.try_send(message)
            .map_err(|error| SendError(error.into_inner()))
    }

    pub fn len(&self) -> usize {
        self.0.state().messages.len()
    }

    pub fn is_closed(&self) -> bool {
        self.0.state().closed
    }

    pub fn downgrade(&self) -> WeakSender<T> {
        WeakSender(Arc::downgrade(&self.0))
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.state().senders += 1;
        Self(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.senders -= 1;
        let last = state.senders == 0;
        drop(state);
        if last {
            self.0.close();
        }
    }
}

pub struct WeakSender<T>(Weak<Channel<T>>);

impl<T> WeakSender<T> {
    pub fn upgrade(&self) -> Option<Sender<T>> {
        let channel = self.0.upgrade()?;
        let mut state = channel.state();
        if state.senders == 0 {
            return None;
        }
        state.senders += 1;
        drop(state);
        Some(Sender(channel))
    }
}

pub struct Receiver<T>(Arc<Channel<T>>);

impl<T> Receiver<T> {
    pub fn recv_blocking(&self) -> Result<T, RecvError> {
        let mut state = self.0.state();
        loop {
            match state.take() {
                Ok(message) => return Ok(message),
                Err(TryRecvError::Closed) => return Err(RecvError),
                Err(TryRecvError::Empty) => state = self.0.changed.wait(state).unwrap(),
            }
        }
    }

    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        self.0.state().take()
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.0.state().messages.is_empty()
    }

    pub fn is_closed(&self) -> bool {
        self.0.state().closed
    }

    pub fn close(&self) {
        self.0.close();
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.0.close();
        // Messages hold senders of other channels.
        let messages = std::mem::take(&mut self.0.state().messages);
        drop(messages);
    }
}

macro_rules! opaque {
    ($($name:ident)*) => {
        $(impl<T> std::fmt::Debug for $name<T> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        })*
    };
}

opaque!(Sender WeakSender Receiver);

impl<T> Stream for Receiver<T> {
    type Item = T;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.0.state();
        match state.take() {
            Ok(message) => Poll::Ready(Some(message)),
            Err(TryRecvError::Closed) => Poll::Ready(None),
            Err(TryRecvError::Empty) => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}
