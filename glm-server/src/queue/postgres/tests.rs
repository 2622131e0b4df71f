//! What is particular to PostgreSQL: how it is reached, and what happens when it is not.

use std::time::Duration;

use serde_json::json;

use super::super::tests::wait;
use super::super::{DEFAULT_POOL, ErrorKind, NewTask, Store, StoreError, Timestamp};
use super::{PostgresOptions, PostgresStore, testing};

const NOW: Timestamp = Timestamp::from_millis(0);

fn task() -> NewTask {
    NewTask::new("t", "/v1/completions", json!({"prompt": "x"}))
}

#[test]
fn a_queue_is_there_when_it_is_opened_again() {
    let Some(store) = testing::store(PostgresOptions::default()) else {
        return;
    };
    wait(store.submit(vec![task()], NOW)).unwrap();
    let again = store.again();
    drop(store);
    assert_eq!(wait(again.backlog(DEFAULT_POOL)).unwrap()[0].queued, 1);
}

#[test]
fn a_server_that_is_not_there_is_said_not_to_be_without_its_password() {
    let options = PostgresOptions {
        connect_timeout: Duration::from_secs(5),
        ..PostgresOptions::default()
    };
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().to_str().unwrap().replace('/', "%2F");
    let url = format!("postgres://me:sesame@{socket}/tasks?sslmode=disable");
    let error = PostgresStore::open(&url, options).unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let text = format!("{error} {error:?}");
    assert!(text.contains("tasks") && !text.contains("sesame"), "{text}");
}

#[test]
fn the_server_is_reached_through_tls_if_it_is_trusted() {
    let Some((url, certificate)) = testing::url_with_tls() else {
        return;
    };
    let options = PostgresOptions {
        schema: "tls".to_owned(),
        connect_timeout: Duration::from_secs(10),
        ..PostgresOptions::default()
    };
    let trusting = format!("{url}&sslrootcert={}", certificate.display());
    let store = PostgresStore::open(&trusting, options.clone()).unwrap();
    let is_encrypted = store.call(|db| {
        Box::pin(async move {
            let ssl = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
            let row = sqlx::query(ssl).fetch_one(db).await?;
            Ok(sqlx::Row::try_get::<bool, _>(&row, "ssl")?)
        })
    });
    assert!(wait(is_encrypted).unwrap());
    wait(store.submit(vec![task()], NOW)).unwrap();
    // Nobody whom this system trusts has signed it.
    let error = PostgresStore::open(&url, options).unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
}

#[test]
fn what_is_no_url_and_no_schema_is_refused() {
    let error = PostgresStore::open("postgres://[", PostgresOptions::default()).unwrap_err();
    assert!(matches!(error, StoreError::Database { .. }), "{error:?}");
    let Some(url) = testing::url() else {
        return;
    };
    let options = PostgresOptions {
        schema: "x; DROP SCHEMA public".to_owned(),
        ..PostgresOptions::default()
    };
    let error = PostgresStore::open(&url, options).unwrap_err();
    assert!(matches!(error, StoreError::Foreign { .. }), "{error:?}");
}

#[test]
fn names_that_it_cannot_hold_are_refused_where_they_are_asked_for() {
    let Some(store) = testing::store(PostgresOptions::default()) else {
        return;
    };
    let error = wait(store.record("file", "a\0b", None)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    assert_eq!(wait(store.record("file", "a", None)).unwrap(), None);
}

#[test]
fn tables_of_a_newer_version_are_refused() {
    let Some(store) = testing::store(PostgresOptions::default()) else {
        return;
    };
    let newer = store.call(|db| {
        Box::pin(async move {
            sqlx::query("UPDATE queue_schema SET version = 1000")
                .execute(db)
                .await?;
            Ok(())
        })
    });
    wait(newer).unwrap();
    let error = PostgresStore::open(&testing::url().unwrap(), store.options.clone()).unwrap_err();
    assert!(
        matches!(error, StoreError::NewerSchema { found: 1000, .. }),
        "{error:?}"
    );
}

#[test]
fn the_database_itself_refuses_a_second_result() {
    let Some(store) = testing::store(PostgresOptions::default()) else {
        return;
    };
    let id = wait(store.submit(vec![task()], NOW)).unwrap()[0].task.id;
    let insert = || {
        store.call(move |db| {
            Box::pin(async move {
                let insert = sqlx::query("INSERT INTO task_result VALUES ($1, '1')");
                insert.bind(id.to_string()).execute(db).await?;
                Ok(())
            })
        })
    };
    wait(insert()).unwrap();
    assert!(matches!(wait(insert()), Err(StoreError::Database { .. })));
}
