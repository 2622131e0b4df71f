//! How the tables come to be.

use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

use super::error::Failure;
use super::{Database, StoreError};

/// What brings the tables from each version to the next; the first from nothing. Never change one: add another.
const MIGRATIONS: [&str; 2] = [include_str!("schema.sql"), include_str!("schema2.sql")];
/// "GLMQ": those who create the tables take turns by this lock.
const LOCK: i64 = 0x474c_4d51;

/// Creates the schema and the tables unless they are there, and brings them up to date.
pub(super) async fn prepare(database: &Database, schema: &str) -> Result<(), Failure> {
    let is_name = |name: &str| {
        let mut chars = name.chars();
        chars.next().is_some_and(|c| c.is_ascii_lowercase())
            && name.len() <= 63
            && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    if !is_name(schema) {
        return Err(Failure::Refused(StoreError::Foreign {
            at: format!("the schema `{schema}`"),
        }));
    }
    let mut connection = database.pool.acquire().await?;
    let mut transaction = connection.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(LOCK)
        .execute(&mut *transaction)
        .await?;
    let create = format!("CREATE SCHEMA IF NOT EXISTS {schema}");
    if !exists(
        &mut transaction,
        "SELECT 1 FROM pg_namespace WHERE nspname = $1",
        schema,
    )
    .await?
    {
        sqlx::raw_sql(AssertSqlSafe(create))
            .execute(&mut *transaction)
            .await?;
    }
    let tables = "SELECT 1 FROM pg_tables WHERE schemaname = $1 AND tablename = 'queue_schema'";
    let found = match exists(&mut transaction, tables, schema).await? {
        true => version(&mut transaction).await?,
        false => 0,
    };
    let Some(missing) = MIGRATIONS.get(found..) else {
        return Err(Failure::Refused(StoreError::NewerSchema {
            at: format!("{} (schema {schema})", database.at),
            found: u32::try_from(found).unwrap_or(u32::MAX),
            known: MIGRATIONS.len() as u32,
        }));
    };
    for migration in missing {
        sqlx::raw_sql(*migration).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    Ok(())
}

async fn version(db: &mut PgConnection) -> Result<usize, sqlx::Error> {
    let found = sqlx::query("SELECT version FROM queue_schema")
        .fetch_one(db)
        .await?;
    let version: i64 = found.try_get("version")?;
    Ok(usize::try_from(version).unwrap_or(usize::MAX))
}

async fn exists(db: &mut PgConnection, sql: &'static str, name: &str) -> Result<bool, sqlx::Error> {
    let found = sqlx::query(sql).bind(name).fetch_optional(db).await?;
    Ok(found.is_some())
}
