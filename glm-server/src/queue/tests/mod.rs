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

#[cfg(feature = "postgres")]
use super::postgres::testing;
use super::{SqliteOptions, SqliteStore, Store};

/// A store of every kind, empty.
fn stores() -> Vec<Box<dyn Store>> {
    let sqlite = SqliteStore::in_memory(SqliteOptions::default()).unwrap();
    let mut stores: Vec<Box<dyn Store>> = vec![Box::new(sqlite)];
    #[cfg(feature = "postgres")]
    if let Some(postgres) = testing::store(Default::default()) {
        stores.push(Box::new(postgres));
    }
    stores
}

/// How many cases a property is tried with: a schema for each takes PostgreSQL some time.
const fn cases(of_sqlite: u32) -> u32 {
    match cfg!(feature = "postgres") {
        true => of_sqlite / 10,
        false => of_sqlite,
    }
}

/// Waits for an answer.
pub(super) fn wait<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: Runtime = Builder::new_current_thread().build().unwrap();
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}
