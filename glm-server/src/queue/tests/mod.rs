//! What every store must do, run on each kind that there is; what only SQLite does is tested in its own folder.

#[cfg(unix)]
mod crash;
mod examples;
mod machine;
mod model;
mod records;
mod threads;

use std::future::Future;

use proptest::test_runner::Config as ProptestConfig;
use tokio::runtime::{Builder, Runtime};

#[cfg(feature = "postgres")]
use super::postgres::testing;
use super::{SqliteOptions, SqliteStore, Store};

/// A store of every kind, empty.
fn stores() -> Vec<Box<dyn Store>> {
    let stores = [Some(sqlite()), postgres()];
    stores.into_iter().flatten().collect()
}

fn sqlite() -> Box<dyn Store> {
    Box::new(SqliteStore::in_memory(SqliteOptions::default()).unwrap())
}

/// If there is one here.
fn postgres() -> Option<Box<dyn Store>> {
    #[cfg(feature = "postgres")]
    return Some(Box::new(testing::store(Default::default())?));
    #[cfg(not(feature = "postgres"))]
    None
}

/// How often a property is tried. Failures are printed with their input, so no file is kept of them.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Waits for an answer.
pub(super) fn wait<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: Runtime = Builder::new_current_thread().build().unwrap();
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}
