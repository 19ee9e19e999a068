//! Which processes use the store, and which of them still live.
//!
//! SQLite: each holds a lock on a file of its own beside the database, and the system frees it when the process ends.
//! PostgreSQL: each has a row with the time when it was last heard of.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::db::{Db, Kind, Tx};
use super::error::{Result, StoreError};

/// A process that has not been heard of for so long is dead.
const SILENCE_MICROS: i64 = 30_000_000;
const FORGOTTEN_MICROS: i64 = 24 * 3_600_000_000;

pub(super) struct Instance {
    id: String,
    lock: Option<(File, PathBuf)>,
}

impl Instance {
    pub(super) async fn begin(db: &Db) -> Result<Instance> {
        let id = random_id()?;
        let lock = match &db.kind {
            Kind::Sqlite { file, .. } => {
                sweep(file);
                let path = lock_path(file, &id);
                let failed = |why| {
                    let path = path.display();
                    StoreError::Unavailable(format!(
                        "{path} can't be made or locked ({why}): see to the folder's rights"
                    ))
                };
                let mut options = fs::OpenOptions::new();
                let options = options.write(true).create_new(true).mode(0o600);
                let lock = options.open(&path).map_err(failed)?;
                lock.lock().map_err(failed)?;
                Some((lock, path))
            }
            Kind::Postgres { .. } => None,
        };
        let instance = Instance { id, lock };
        instance.beat(db).await?;
        Ok(instance)
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) async fn beat(&self, db: &Db) -> Result<()> {
        if matches!(db.kind, Kind::Sqlite { .. }) {
            let mut tx = db.snapshot().await?;
            let _: i64 = sqlx::query_scalar("SELECT value FROM counters")
                .fetch_one(&mut *tx)
                .await?;
            return Ok(());
        }
        let mut tx = db.begin().await?;
        let now = db.now(&mut tx).await?;
        let upsert = "INSERT INTO instances (id, seen_at) VALUES ($1, $2) \
             ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at";
        let upsert = sqlx::query(upsert).bind(self.id.clone()).bind(now);
        upsert.execute(&mut *tx).await?;
        let forget = sqlx::query("DELETE FROM instances WHERE seen_at < $1").bind(now - FORGOTTEN_MICROS);
        forget.execute(&mut *tx).await?;
        Ok(tx.commit().await?)
    }

    /// What the process does last: it is dead at once for the others.
    pub(super) async fn end(&self, db: &Db) {
        if matches!(db.kind, Kind::Sqlite { .. }) {
            return;
        }
        let goodbye = async {
            let mut tx = db.begin().await?;
            let delete = sqlx::query("DELETE FROM instances WHERE id = $1").bind(self.id.clone());
            delete.execute(&mut *tx).await?;
            Result::Ok(tx.commit().await?)
        };
        if let Err(why) = goodbye.await {
            tracing::debug!("the store was not told that this process ends: {why}");
        }
    }

    /// Whether a process lives, this one included.
    pub(super) async fn lives(&self, db: &Db, tx: &mut Tx, id: &str) -> Result<bool> {
        if id == self.id {
            return Ok(true);
        }
        match &db.kind {
            Kind::Sqlite { file, .. } => Ok(is_locked(&lock_path(file, id))),
            Kind::Postgres { .. } => {
                let now = db.now(tx).await?;
                let count = "SELECT count(*) FROM instances WHERE id = $1 AND seen_at > $2";
                let count = sqlx::query_scalar(count).bind(id.to_owned()).bind(now - SILENCE_MICROS);
                let found: i64 = count.fetch_one(&mut **tx).await?;
                Ok(found > 0)
            }
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Some((_, path)) = &self.lock {
            let _ = fs::remove_file(path);
        }
    }
}

/// 128 random bits in hexadecimal digits.
pub(super) fn random_id() -> Result<String> {
    let mut bytes = [0; 16];
    let failed = |why| StoreError::Unavailable(format!("the system gives no random numbers: {why}"));
    getrandom::fill(&mut bytes).map_err(failed)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn lock_path(database: &Path, id: &str) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(format!(".{id}.lock"));
    path.into()
}

fn is_locked(path: &Path) -> bool {
    match File::open(path) {
        // Shared, so that two that look at the same time don't take each other for the owner.
        Ok(file) => matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)),
        // One that can't be opened just now says nothing of its process: it may well live.
        Err(why) => why.kind() != io::ErrorKind::NotFound,
    }
}

/// Removes the lock files of processes that ended without doing so.
fn sweep(database: &Path) {
    let (Some(folder), Some(name)) = (database.parent(), database.file_name()) else {
        return;
    };
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let file_name = entry.file_name();
        let rest = file_name
            .to_str()
            .zip(name.to_str())
            .and_then(|(file, name)| file.strip_prefix(name));
        let id = rest.and_then(|rest| rest.strip_prefix('.')?.strip_suffix(".lock"));
        let fresh = || {
            entry
                .metadata()
                .and_then(|found| found.modified())
                .is_ok_and(|at| at.elapsed().is_ok_and(|age| age.as_secs() < 60))
        };
        if id.is_some() && !fresh() && !is_locked(&entry.path()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
