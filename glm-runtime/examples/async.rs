//! Reads two answers at the same time as `futures` streams; any executor will do, this one is ten lines of std:
//! `cargo run --release --example async [MODEL]`.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::thread::{self, Thread};

use futures_util::{StreamExt, stream};
use glm_runtime::{Engine, Event, GenerateOptions};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let (mut future, waker) = (pin!(future), Arc::new(Unpark(thread::current())).into());
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::builder(std::env::args().nth(1).unwrap_or("demo".into())).build()?;
    let options = GenerateOptions {
        max_tokens: Some(8),
        ..GenerateOptions::default()
    };
    let first = engine
        .generate("The sea is", options.clone())?
        .map(|event| ("sea", event));
    let second = engine
        .generate("The sky is", options)?
        .map(|event| ("sky", event));
    block_on(
        stream::select(first, second).for_each(async |(name, event)| match event {
            Event::Token(token) => println!("{name}: {:?}", token.text),
            Event::Finished(finished) => println!("{name}: {:?}", finished.reason),
            Event::Failed(error) => println!("{name}: {error}"),
        }),
    );
    Ok(())
}
