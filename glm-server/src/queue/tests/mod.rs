//! What every store must do, run on each kind that there is; what only SQLite does is tested in its own folder.

#[cfg(unix)]
mod crash;
mod examples;
mod machine;
mod model;
mod records;
mod threads;

use std::future::Future;

use tokio::runtime::{Builder, Runtime};

use super::{SqliteOptions, SqliteStore, Store};

/// A store of every kind, empty.
fn stores() -> Vec<Box<dyn Store>> {
    vec![Box::new(
        SqliteStore::in_memory(SqliteOptions::default()).unwrap(),
    )]
}

/// Waits for an answer.
pub(super) fn wait<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: Runtime = Builder::new_current_thread().build().unwrap();
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}
