//! The file: how it is opened, and how its tables come to be.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

use super::StoreError;
use super::error::explain;

/// What a queue that is in no file is called in messages.
pub(super) const IN_MEMORY: &str = "memory";

/// "GLMQ": says in the file whose it is.
const APPLICATION_ID: i32 = 0x474c_4d51;

/// What brings a file from the schema of each version to the next; the first from nothing. Never change one: add another.
const MIGRATIONS: &[&str] = &[include_str!("schema/1.sql"), include_str!("schema/2.sql")];

/// One store at a time is opened in a process: see [`create`].
static OPENING: Mutex<()> = Mutex::new(());

/// Opens a file, or creates it, and brings its schema up to date.
pub(super) fn open(path: &Path, busy_timeout: Duration) -> Result<Connection, StoreError> {
    let at = path.display().to_string();
    let _turn = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
    create(path).map_err(|source| StoreError::Open {
        at: at.clone(),
        source: Arc::new(source),
    })?;
    let failed = |error| explain(&at, busy_timeout, error);
    // Without URI, so that every path is a path.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags).map_err(failed)?;
    db.busy_timeout(busy_timeout).map_err(failed)?;
    // Before anything is written: the file may be somebody else's. In a transaction, because another process may be making a queue
    // of it at this moment.
    let transaction =
        Transaction::new_unchecked(&db, TransactionBehavior::Deferred).map_err(failed)?;
    check(&transaction, &at, failed)?;
    transaction.commit().map_err(failed)?;
    keep_a_log(&db, busy_timeout).map_err(failed)?;
    configure(&db).map_err(failed)?;
    migrate(&db, &at, failed)?;
    Ok(db)
}

/// A database that is in no file.
pub(super) fn in_memory() -> Result<Connection, StoreError> {
    let failed = |error| explain(IN_MEMORY, Duration::ZERO, error);
    let db = Connection::open_in_memory().map_err(failed)?;
    configure(&db).map_err(failed)?;
    migrate(&db, IN_MEMORY, failed)?;
    Ok(db)
}

/// Creates the file if there is none, readable for this user only: it holds what users ask and are answered. SQLite gives the
/// files beside it the same rights.
fn create(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    // Never a file that is there, or that another thread opens meanwhile: closing it again would release all locks that this
    // process has on it (https://sqlite.org/howtocorrupt.html, 2.2).
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        created => created.map(drop),
    }
}

/// Switches the file to a write-ahead log. SQLite refuses that at once, without waiting, while another process looks at the file.
fn keep_a_log(db: &Connection, busy_timeout: Duration) -> rusqlite::Result<()> {
    let begin = Instant::now();
    loop {
        let switched = db.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()));
        let is_busy =
            |error: &rusqlite::Error| error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy);
        match switched {
            Err(error) if is_busy(&error) && begin.elapsed() < busy_timeout => {
                thread::sleep(Duration::from_millis(5));
            }
            switched => return switched,
        }
    }
}

fn configure(db: &Connection) -> rusqlite::Result<()> {
    // The log is on the disk when a transaction ends, not only when it is copied into the database.
    db.pragma_update(None, "synchronous", "full")?;
    db.pragma_update(None, "foreign_keys", true)?;
    // What a burst of work leaves of the log.
    db.pragma_update(None, "journal_size_limit", 64 << 20)?;
    db.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// Whether the file is new, or a queue of a version that this program knows. Answers that version, or 0.
fn check(
    db: &Connection,
    at: &str,
    failed: impl Fn(rusqlite::Error) -> StoreError,
) -> Result<u32, StoreError> {
    let number = |pragma| db.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0));
    let application = number("application_id").map_err(&failed)?;
    let version = number("user_version").map_err(&failed)?;
    let tables = "SELECT count(*) FROM sqlite_schema";
    let tables: i64 = db
        .query_row(tables, [], |row| row.get(0))
        .map_err(&failed)?;
    let known = MIGRATIONS.len() as u32;
    match (application, u32::try_from(version)) {
        (0, Ok(0)) if tables == 0 => Ok(0),
        (APPLICATION_ID, Ok(version)) if version <= known => Ok(version),
        (APPLICATION_ID, Ok(found)) => Err(StoreError::NewerSchema {
            at: at.to_owned(),
            found,
            known,
        }),
        _ => Err(StoreError::Foreign { at: at.to_owned() }),
    }
}

fn migrate(
    db: &Connection,
    at: &str,
    failed: impl Fn(rusqlite::Error) -> StoreError,
) -> Result<(), StoreError> {
    // Several processes may open a new file at the same time: one migrates, the others then see what it made.
    let transaction =
        Transaction::new_unchecked(db, TransactionBehavior::Immediate).map_err(&failed)?;
    let version = check(&transaction, at, &failed)?;
    let apply = || {
        for migration in &MIGRATIONS[version as usize..] {
            transaction.execute_batch(migration)?;
        }
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", MIGRATIONS.len() as u32)
    };
    if (version as usize) < MIGRATIONS.len() {
        apply().map_err(&failed)?;
    }
    transaction.commit().map_err(&failed)
}
