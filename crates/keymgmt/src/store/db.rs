//! Connections to the two kinds of database.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::time::Duration;

use hsm_core::secrecy::{ExposeSecret as _, SecretString};
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::{Any, AnyPool, ConnectOptions as _, Connection as _, Transaction};

use super::Place;
use super::error::{Result, StoreError};

/// How long a connection may take to come free, or to be made.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(3);
const READERS: u32 = 3;
const CONNECTIONS: u32 = 10;

/// For every connection. `synchronous` FULL: what was answered survives a power cut; freed pages are overwritten.
const SQLITE_SETTINGS: &str = "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
     PRAGMA foreign_keys = ON; PRAGMA secure_delete = ON; PRAGMA temp_store = MEMORY;";
const POSTGRES_SETTINGS: &str = "SET statement_timeout = 5000; SET idle_in_transaction_session_timeout = 60000; \
     SET application_name = 'hsm-server'; SET default_transaction_isolation = 'read committed';";

pub(super) type Tx = Transaction<'static, Any>;

/// A database: where changes are written, and where is read.
pub(super) struct Db {
    pub(super) kind: Kind,
    write: AnyPool,
    read: AnyPool,
}

pub(super) enum Kind {
    /// The file, and which one it was when it was opened.
    Sqlite {
        file: PathBuf,
        identity: (u64, u64),
    },
    Postgres {
        url: SecretString,
    },
}

impl Db {
    /// Connects; makes the file of SQLite.
    pub(super) fn open(place: &Place) -> Result<Db> {
        sqlx::any::install_default_drivers();
        let unusable = |why: sqlx::Error| StoreError::Unavailable(format!("the database's address is no URL ({why})"));
        match place {
            Place::Sqlite(file) => {
                let identity = make_file(file)?;
                let options = quiet(&sqlite_url(file)?).map_err(unusable)?;
                let pool = |connections| settled(connections, SQLITE_SETTINGS).connect_lazy_with(options.clone());
                Ok(Db {
                    kind: Kind::Sqlite {
                        file: file.clone(),
                        identity,
                    },
                    write: pool(1),
                    read: pool(READERS),
                })
            }
            Place::Postgres(url) => {
                let options = quiet(url.expose_secret()).map_err(|_| {
                    let text =
                        "the address of the store is no URL: it looks like postgres://user:password@host/database";
                    StoreError::Unavailable(text.into())
                })?;
                let pool = settled(CONNECTIONS, POSTGRES_SETTINGS).connect_lazy_with(options);
                Ok(Db {
                    kind: Kind::Postgres { url: url.clone() },
                    write: pool.clone(),
                    read: pool,
                })
            }
        }
    }

    /// A transaction that changes something.
    pub(super) async fn begin(&self) -> Result<Tx> {
        self.check_file()?;
        Ok(match self.kind {
            Kind::Sqlite { .. } => self.write.begin_with("BEGIN IMMEDIATE").await?,
            Kind::Postgres { .. } => self.write.begin().await?,
        })
    }

    /// A transaction that reads what was there at one instant.
    pub(super) async fn snapshot(&self) -> Result<Tx> {
        self.check_file()?;
        Ok(match self.kind {
            Kind::Sqlite { .. } => self.read.begin().await?,
            Kind::Postgres { .. } => {
                let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
                self.read.begin_with(begin).await?
            }
        })
    }

    /// Lets the statements of a transaction take as long as they need: for backup.
    pub(super) async fn without_limit(&self, tx: &mut Tx) -> Result<()> {
        if matches!(self.kind, Kind::Postgres { .. }) {
            sqlx::query("SET LOCAL statement_timeout = 0")
                .execute(&mut **tx)
                .await?;
        }
        Ok(())
    }

    /// This machine's time for SQLite, the server's for PostgreSQL: its clients' clocks may differ.
    pub(super) async fn now(&self, tx: &mut Tx) -> Result<i64> {
        match self.kind {
            Kind::Sqlite { .. } => super::rows::micros(time::OffsetDateTime::now_utc()),
            Kind::Postgres { .. } => {
                let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
                Ok(sqlx::query_scalar(sql).fetch_one(&mut **tx).await?)
            }
        }
    }

    pub(super) async fn close(&self) {
        self.write.close().await;
        self.read.close().await;
    }

    /// SQLite goes on with a file that was deleted, and what it writes is lost.
    fn check_file(&self) -> Result<()> {
        let Kind::Sqlite { file, identity } = &self.kind else {
            return Ok(());
        };
        let path = file.display();
        match fs::metadata(file) {
            Ok(found) if (found.dev(), found.ino()) == *identity => Ok(()),
            Ok(_) => Err(StoreError::Unavailable(format!(
                "{path} was replaced by another file: put the old one back, or restart to use the new one"
            ))),
            Err(why) => Err(StoreError::Unavailable(format!(
                "{path} can't be found any more ({why}): put it back, or restore a backup and restart"
            ))),
        }
    }
}

fn quiet(url: &str) -> std::result::Result<AnyConnectOptions, sqlx::Error> {
    Ok(AnyConnectOptions::from_str(url)?.disable_statement_logging())
}

fn settled(connections: u32, settings: &'static str) -> AnyPoolOptions {
    AnyPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_LIMIT)
        // SQLite ends a transaction itself when the disk is full, and its connection is then for ever taken to be in one.
        .before_acquire(|connection, _| {
            let idle = !connection.is_in_transaction();
            Box::pin(async move { Ok(idle) })
        })
        .after_connect(move |connection, _| {
            Box::pin(async move {
                for setting in settings.split_inclusive(';') {
                    sqlx::raw_sql(setting).execute(&mut *connection).await?;
                }
                Ok(())
            })
        })
}

/// Makes the file for its owner alone (what SQLite puts beside it gets the same rights), and says which one it is.
fn make_file(file: &Path) -> Result<(u64, u64)> {
    let failed = |why: io::Error| {
        let path = file.display();
        StoreError::Unavailable(format!(
            "{path} can't be opened ({why}): see that its folder is there and may be written by this user"
        ))
    };
    let mut options = fs::OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let opened = options.open(file).map_err(failed)?;
    let found = opened.metadata().map_err(failed)?;
    if found.permissions().mode() & 0o077 != 0 {
        opened
            .set_permissions(fs::Permissions::from_mode(0o600))
            .map_err(failed)?;
    }
    Ok((found.dev(), found.ino()))
}

fn sqlite_url(file: &Path) -> Result<String> {
    let path = std::path::absolute(file).ok();
    let Some(path) = path.as_deref().and_then(Path::to_str) else {
        let text = format!("the path {} is not UTF-8: choose another folder", file.display());
        return Err(StoreError::Unavailable(text));
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'-' | b'_');
    let escaped: String = path
        .bytes()
        .map(|byte| {
            if plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect();
    Ok(format!("sqlite://{escaped}?mode=rw"))
}
