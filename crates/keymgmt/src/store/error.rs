//! What can go wrong with the store, in terms of who can mend it.

use sqlx::error::{DatabaseError, ErrorKind};

/// The result of a call of the store.
pub type Result<T> = std::result::Result<T, StoreError>;

/// Why a call of the store failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The database can't be reached or written: why, and what to do. Whether a change was made is not known.
    #[error("{0}")]
    Unavailable(String),
    /// It is not as the call supposes: somebody was faster, or there is one already.
    #[error("{0}")]
    Conflict(String),
    /// A row that can't be read.
    #[error("{0}")]
    Corrupt(String),
}

/// Why a store could not be opened.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpenError {
    /// The database can't be reached, made or written: why, and what to do.
    #[error("{0}")]
    Unavailable(String),
    /// A newer program has changed its schema.
    #[error(
        "the database has schema {found}, and this program knows schemas up to {known}: start the program that wrote it \
         or a newer one, or restore the backup that was made before"
    )]
    NewerSchema {
        /// The schema that it has.
        found: i64,
        /// The newest schema that this program knows.
        known: i64,
    },
}

impl From<StoreError> for OpenError {
    fn from(error: StoreError) -> OpenError {
        match error {
            StoreError::Unavailable(why) | StoreError::Conflict(why) | StoreError::Corrupt(why) => {
                OpenError::Unavailable(why)
            }
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> StoreError {
        match &error {
            sqlx::Error::Database(database) => from_database(database.as_ref()),
            sqlx::Error::ColumnDecode { index, source } => {
                StoreError::Corrupt(format!("column {index} of a row can't be read: {source}"))
            }
            sqlx::Error::PoolTimedOut => StoreError::Unavailable(
                "no connection to the database came free in time: see whether it runs, is overloaded, or is locked"
                    .into(),
            ),
            sqlx::Error::Io(why) => {
                StoreError::Unavailable(format!("the database can't be reached ({why}): see whether it runs"))
            }
            other => StoreError::Unavailable(format!("the database failed ({other}): see whether it runs")),
        }
    }
}

fn from_database(error: &dyn DatabaseError) -> StoreError {
    if matches!(error.kind(), ErrorKind::UniqueViolation) {
        return StoreError::Conflict(format!("it is there already: {}", error.message()));
    }
    let code = error.code().unwrap_or_default();
    // PostgreSQL takes no NUL in a text, for one: it is the value that is wrong, the database is there.
    if code.len() == 5 && code.starts_with("22") {
        return StoreError::Conflict(format!("the database does not take a value: {}", error.message()));
    }
    StoreError::Unavailable(format!(
        "the database failed ({}, code {code}): {}",
        error.message(),
        advice(&code)
    ))
}

/// What an operator does about a code: SQLite's are numbers whose lowest byte tells the kind, PostgreSQL's are SQLSTATEs.
fn advice(code: &str) -> &'static str {
    // SQLSTATEs have 5 characters; SQLite's codes have at most 4.
    if code.len() < 5 {
        let kind = code.parse::<u32>().unwrap_or_default() & 0xff;
        return match kind {
            5 | 6 => "another program holds its lock; end that program",
            8 => "it is read-only; see to the rights of file and folder, and to how the file system is mounted",
            10 => "the disk failed or is full; see the system's log",
            11 | 26 => "the file is damaged or no database; restore a backup",
            13 => "the disk is full; make room",
            14 => "the file can't be opened; see that its folder is there and may be written",
            _ => "see the system's log",
        };
    }
    match code.get(..2).unwrap_or_default() {
        "28" => "see to user and password in the URL",
        "3D" => "make the database that the URL names",
        "42" => "give the user of the URL all rights in its schema",
        "53" => "it is out of disk, memory or connections; make room",
        "57" => "it is stopping, or the statement took too long; see whether it is overloaded",
        "25" => "it is read-only; let the URL lead to the primary server",
        "08" => "see whether it runs",
        _ => "see its log",
    }
}
