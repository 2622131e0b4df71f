//! What is particular to a file of SQLite: how it is opened, refused and shared, and what happens when the database cannot go on.

use std::fs;
use std::time::Duration;

use rusqlite::Connection;
use serde_json::json;

use super::super::tests::wait;
use super::super::*;
use super::schema;

const NOW: Timestamp = Timestamp::from_millis(0);

fn impatient() -> SqliteOptions {
    SqliteOptions {
        busy_timeout: Duration::ZERO,
        ..SqliteOptions::default()
    }
}

fn task() -> NewTask {
    NewTask::new("t", "/v1/completions", json!({"prompt": "x"}))
}

fn in_directory(test: impl FnOnce(&std::path::Path)) {
    let directory = tempfile::tempdir().unwrap();
    test(&directory.path().join("queue.db"));
}

#[test]
fn a_queue_is_there_when_it_is_opened_again() {
    in_directory(|path| {
        let store = SqliteStore::open(path, impatient()).unwrap();
        // Nobody waits for the answer.
        drop(store.submit(vec![task()], NOW));
        drop(store);
        let store = SqliteStore::open(path, impatient()).unwrap();
        assert_eq!(wait(store.backlog(DEFAULT_POOL)).unwrap()[0].queued, 1);
    });
}

#[cfg(unix)]
#[test]
fn what_users_ask_is_readable_for_this_user_only() {
    use std::os::unix::fs::PermissionsExt;
    in_directory(|path| {
        let _store = SqliteStore::open(path, impatient()).unwrap();
        let mut files = 0;
        for file in fs::read_dir(path.parent().unwrap()).unwrap() {
            let mode = file.unwrap().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            files += 1;
        }
        assert!(files > 1, "the log is there too");
    });
}

#[test]
fn every_transaction_reaches_the_disk() {
    in_directory(|path| {
        let db = schema::open(path, Duration::ZERO).unwrap();
        let text = |pragma| {
            db.pragma_query_value(None, pragma, |row| row.get::<_, String>(0))
                .unwrap()
        };
        let number = |pragma| {
            db.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0))
                .unwrap()
        };
        assert_eq!(text("journal_mode"), "wal");
        assert_eq!(number("synchronous"), 2, "FULL");
        assert_eq!(number("foreign_keys"), 1);
    });
}

#[test]
fn a_file_of_a_newer_version_is_refused() {
    in_directory(|path| {
        drop(SqliteStore::open(path, impatient()).unwrap());
        let db = Connection::open(path).unwrap();
        db.pragma_update(None, "user_version", 1000).unwrap();
        drop(db);
        let error = SqliteStore::open(path, impatient()).unwrap_err();
        assert!(
            matches!(error, StoreError::NewerSchema { found: 1000, .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains("newer version"));
        assert_eq!(error.kind(), ErrorKind::Broken);
    });
}

#[test]
fn a_file_of_somebody_else_is_refused_and_left_alone() {
    in_directory(|path| {
        let db = Connection::open(path).unwrap();
        db.execute_batch("CREATE TABLE recipes (name TEXT)")
            .unwrap();
        drop(db);
        let before = fs::read(path).unwrap();
        let error = SqliteStore::open(path, impatient()).unwrap_err();
        assert!(matches!(error, StoreError::Foreign { .. }), "{error:?}");
        assert_eq!(fs::read(path).unwrap(), before);

        fs::write(path, "a text that is no database at all").unwrap();
        let error = SqliteStore::open(path, impatient()).unwrap_err();
        assert!(matches!(error, StoreError::Foreign { .. }), "{error:?}");
    });
}

#[test]
fn a_file_that_cannot_be_opened_is_named() {
    in_directory(|path| {
        let error = SqliteStore::open(&path.join("queue.db"), impatient()).unwrap_err();
        assert!(matches!(error, StoreError::Open { .. }), "{error:?}");
        let text = error.to_string();
        assert!(
            text.contains("queue.db") && text.contains("directory must exist"),
            "{text}"
        );
    });
}

#[test]
fn another_process_that_keeps_the_file_locked_is_said_to() {
    in_directory(|path| {
        let store = SqliteStore::open(path, impatient()).unwrap();
        let other = Connection::open(path).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let error = wait(store.submit(vec![task()], NOW)).unwrap_err();
        assert!(matches!(error, StoreError::Locked { .. }), "{error:?}");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        // Who only reads need not wait.
        assert!(wait(store.backlog(DEFAULT_POOL)).unwrap().is_empty());
        other.execute_batch("ROLLBACK").unwrap();
        wait(store.submit(vec![task()], NOW)).unwrap();
    });
}

#[test]
fn a_full_disk_refuses_what_is_new_and_keeps_what_was_there() {
    let db = schema::in_memory().unwrap();
    let pages: i64 = db
        .pragma_query_value(None, "page_count", |row| row.get(0))
        .unwrap();
    db.pragma_update_and_check(None, "max_page_count", pages + 20, |_| Ok(()))
        .unwrap();
    let store = SqliteStore::start(db, "memory".into(), impatient()).unwrap();
    let id = wait(store.submit(vec![task()], NOW)).unwrap()[0].task.id;

    let large = NewTask {
        body: json!("x".repeat(200_000)),
        ..task()
    };
    // In one turn with others, which share its fate or come through, but are answered truly.
    let mut answers = vec![store.submit(vec![task()], NOW)];
    answers.push(store.submit(vec![task(), large], NOW));
    answers.push(store.submit(vec![task()], NOW));
    let answers: Vec<_> = answers.into_iter().map(wait).collect();
    assert!(
        matches!(answers[1], Err(StoreError::Full { .. })),
        "{answers:?}"
    );
    let taken = answers.iter().flatten().flatten().count();
    assert_eq!(
        wait(store.backlog(DEFAULT_POOL)).unwrap()[0].queued,
        1 + taken as u64
    );
    assert!(wait(store.get(id, None)).unwrap().is_some());
    wait(store.submit(vec![task()], NOW)).unwrap();
}

#[test]
fn a_damaged_file_is_said_to_be_damaged() {
    in_directory(|path| {
        let store = SqliteStore::open(path, impatient()).unwrap();
        let tasks = vec![task(); 200];
        let id = wait(store.submit(tasks, NOW)).unwrap()[0].task.id;
        drop(store);
        let mut bytes = fs::read(path).unwrap();
        // All but the first page, which says what the file is.
        bytes[4096..].fill(0x55);
        fs::write(path, bytes).unwrap();
        let failed = match SqliteStore::open(path, impatient()) {
            Ok(store) => wait(store.get(id, None)).unwrap_err(),
            Err(error) => error,
        };
        assert!(matches!(failed, StoreError::Corrupt { .. }), "{failed:?}");
    });
}

#[test]
fn a_value_that_this_program_would_not_write_is_damage_not_a_panic() {
    let db = schema::in_memory().unwrap();
    db.execute_batch(
        "INSERT INTO task (id, tenant, endpoint, pool, priority, level, due, max_retries, retention, status, attempts, not_before,
                           cancel_requested, lease, created)
         VALUES ('no uuid', 't', '/', 'default', 0, 0, 9, 0, 0, 'queued', 0, 0, 0, 0, 0)",
    )
    .unwrap();
    let store = SqliteStore::start(db, "memory".into(), impatient()).unwrap();
    let failed = wait(store.list(Filter::default(), Paging::default())).unwrap_err();
    assert!(matches!(failed, StoreError::Corrupt { .. }), "{failed:?}");
    assert!(matches!(
        wait(store.claim(DEFAULT_POOL, "w", 1, Duration::ZERO, NOW)),
        Err(StoreError::Corrupt { .. })
    ));
}

#[test]
fn the_database_itself_refuses_a_second_result() {
    let db = schema::in_memory().unwrap();
    let store = SqliteStore::start(db, "memory".into(), impatient()).unwrap();
    let id = wait(store.submit(vec![task()], NOW)).unwrap()[0].task.id;
    let insert = || {
        let sql = format!("INSERT INTO task_result VALUES ('{id}', '1')");
        store.write(move |db| Ok(db.execute_batch(&sql)?))
    };
    wait(insert()).unwrap();
    assert!(matches!(wait(insert()), Err(StoreError::Database { .. })));
}

/// The plan of a statement, as SQLite describes it.
fn plan(db: &Connection, sql: &str) -> String {
    let mut statement = db.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let steps = statement
        .query_map([], |row| row.get::<_, String>("detail"))
        .unwrap();
    steps.map(|step| step.unwrap() + "\n").collect()
}

#[test]
fn what_is_asked_often_goes_along_an_index() {
    let db = schema::in_memory().unwrap();
    let queries = [
        (
            "SELECT id FROM task WHERE status = 'queued' AND pool = 'p' AND not_before <= 5 AND due > 5 ORDER BY level, due, id LIMIT 3",
            "COVERING INDEX task_queue",
        ),
        ("SELECT id FROM task WHERE status = 'running' AND lease_until <= 5", "INDEX task_lease (lease_until<?)"),
        ("SELECT id FROM task WHERE status IN ('queued', 'running') AND due <= 5", "INDEX task_due (due<?)"),
        (
            "SELECT priority, status, count(*), min(created) FROM task WHERE status IN ('queued', 'running') AND pool = 'p'
             GROUP BY priority, status",
            "COVERING INDEX task_backlog",
        ),
        ("SELECT status, count(*) FROM task WHERE task_group = 'g' GROUP BY status", "INDEX task_by_group"),
        ("SELECT * FROM task WHERE tenant = 't' AND id < 'x' ORDER BY id DESC LIMIT 3", "INDEX task_by_tenant"),
        ("SELECT id FROM task WHERE purge_at <= 5 ORDER BY purge_at LIMIT 3", "INDEX task_purge (purge_at<?)"),
    ];
    for (sql, index) in queries {
        let plan = plan(&db, sql);
        assert!(plan.contains(index), "{sql}\n{plan}");
        assert!(!plan.contains("ORDER BY"), "sorted: {sql}\n{plan}");
    }
}
