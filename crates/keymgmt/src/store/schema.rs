//! The schema, and how a database comes to have it.

use sqlx::AssertSqlSafe;

use super::db::{Db, Kind, Tx};
use super::error::{OpenError, Result};

/// The steps, in order; the first makes schema 1. A step that was released is never changed: a new one is added.
const STEPS: &[&str] = &[include_str!("../../migrations/0001_keys.sql")];

/// The newest schema that this program knows.
pub(super) const LATEST: i64 = 1;
const _: () = assert!(STEPS.len() == 1, "LATEST is the number of steps");

/// Any number will do, as long as nobody else in the database uses it.
const LOCK: &str = "SELECT pg_advisory_xact_lock(7305012345)::text";

/// The schema that a database has; 0: none.
pub(super) async fn current(db: &Db) -> Result<i64> {
    let mut tx = db.snapshot().await?;
    recorded(db, &mut tx).await
}

/// Brings the schema up to date, all steps in one transaction; other processes wait.
pub(super) async fn migrate(db: &Db) -> std::result::Result<(), OpenError> {
    let mut tx = db.begin().await?;
    if matches!(db.kind, Kind::Postgres { .. }) {
        let waiting = "SET LOCAL statement_timeout = 60000";
        sqlx::query(waiting).execute(&mut *tx).await.map_err(failed)?;
        sqlx::query(LOCK).execute(&mut *tx).await.map_err(failed)?;
    }
    let found = recorded(db, &mut tx).await?;
    if found > LATEST {
        return Err(OpenError::NewerSchema { found, known: LATEST });
    }
    let (bytes, name) = match db.kind {
        Kind::Sqlite { .. } => ("BLOB", "TEXT"),
        Kind::Postgres { .. } => ("BYTEA", "TEXT COLLATE \"C\""),
    };
    for (number, step) in (1..).zip(STEPS).filter(|(number, _)| *number > found) {
        let step = step.replace("{bytes}", bytes).replace("{name}", name);
        sqlx::raw_sql(AssertSqlSafe(step))
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        set_version(&mut tx, number).await?;
    }
    tx.commit().await.map_err(failed)
}

async fn set_version(tx: &mut Tx, number: i64) -> std::result::Result<(), OpenError> {
    if number == 1 {
        let table = "CREATE TABLE schema_version (version BIGINT NOT NULL)";
        sqlx::query(table).execute(&mut **tx).await.map_err(failed)?;
    }
    let clear = "DELETE FROM schema_version";
    sqlx::query(clear).execute(&mut **tx).await.map_err(failed)?;
    let set = sqlx::query("INSERT INTO schema_version (version) VALUES ($1)").bind(number);
    set.execute(&mut **tx).await.map_err(failed)?;
    Ok(())
}

async fn recorded(db: &Db, tx: &mut Tx) -> Result<i64> {
    let there = match db.kind {
        Kind::Sqlite { .. } => "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'schema_version'",
        Kind::Postgres { .. } => {
            "SELECT count(*) FROM pg_tables WHERE schemaname = current_schema() AND tablename = 'schema_version'"
        }
    };
    let there: i64 = sqlx::query_scalar(there).fetch_one(&mut **tx).await?;
    if there == 0 {
        return Ok(0);
    }
    let version = "SELECT version FROM schema_version";
    Ok(sqlx::query_scalar(version).fetch_one(&mut **tx).await?)
}

fn failed(error: sqlx::Error) -> OpenError {
    super::error::StoreError::from(error).into()
}
