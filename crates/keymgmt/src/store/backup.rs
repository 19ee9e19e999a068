//! A copy of the store as text, from and for either kind of database.
//!
//! JSON, a line each: a head, the gateway's keys by version, the keys by name, and an end with the count of lines between
//! and the SHA-256 of all bytes before it. Intents and idempotency keys are not in it: they speak of one moment.

use std::io::{BufRead, Write};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use sqlx::AssertSqlSafe;
use time::OffsetDateTime;

use super::db::{Db, Tx};
use super::error::{Result, StoreError};
use super::rows::{GatewayRow, KEY_COLUMNS, KeyRow, micros};
use super::{Store, changes, gateway, keys};

const FORMAT: &str = "hsm-gateway-store";
const VERSION: u32 = 1;
const LIMIT: Duration = Duration::from_secs(3600);
const KEYS_AT_ONCE: i64 = 500;
/// 10,000 versions of RSA-4096 are about 40 MiB.
const LINE_BYTES: u64 = 256 << 20;

/// Where the audit log stood when a backup was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditHead {
    /// The number of its last record.
    pub seq: u64,
    /// That record's hash, in hexadecimal digits.
    pub hash: String,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// How many managed keys.
    pub keys: u64,
    /// How many versions of the gateway's own keys.
    pub gateway_keys: u64,
    /// SHA-256 of all but the last line, in hexadecimal digits.
    pub sha256: String,
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// How many managed keys.
    pub keys: u64,
    /// How many versions of the gateway's own keys.
    pub gateway_keys: u64,
    /// When the backup was made.
    pub created_at: OffsetDateTime,
    /// Where the audit log stood then.
    pub audit: AuditHead,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Gateway(GatewayRow),
    Key(Box<KeyRow>),
    End { lines: u64, sha256: String },
}

#[derive(Serialize, Deserialize)]
struct HeadLine {
    format: String,
    version: u32,
    created_at: i64,
    audit: AuditHead,
}

impl Store {
    /// Writes all keys as they are at one instant. Wrapped ones stay wrapped.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], also when `out` can't be written; [`StoreError::Corrupt`].
    pub async fn export(&self, out: impl Write + Send + 'static, head: AuditHead) -> Result<Exported> {
        self.run_within(LIMIT, |core| async move { export(&core.db, out, head).await })
            .await
    }

    /// Reads a backup into an empty store: all of it, or nothing.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the store is not empty; [`StoreError::Corrupt`] if the backup is damaged, cut off, or
    /// of a newer format.
    pub async fn import(&self, from: impl BufRead + Send + 'static) -> Result<Imported> {
        self.run_within(LIMIT, |core| async move { import(&core.db, from).await })
            .await
    }
}

struct Writer<W> {
    out: W,
    hash: Sha256,
}

impl<W: Write> Writer<W> {
    fn line(&mut self, line: &impl Serialize) -> Result<()> {
        let failed =
            |why: &dyn std::fmt::Display| StoreError::Unavailable(format!("the backup can't be written: {why}"));
        let mut bytes = serde_json::to_vec(line).map_err(|why| failed(&why))?;
        bytes.push(b'\n');
        self.hash.update(&bytes);
        tokio::task::block_in_place(|| self.out.write_all(&bytes)).map_err(|why| failed(&why))
    }
}

async fn export(db: &Db, out: impl Write, audit: AuditHead) -> Result<Exported> {
    let hash = Sha256::new();
    let mut writer = Writer { out, hash };
    let mut tx = db.snapshot().await?;
    db.without_limit(&mut tx).await?;
    writer.line(&HeadLine {
        format: FORMAT.into(),
        version: VERSION,
        created_at: micros(OffsetDateTime::now_utc())?,
        audit,
    })?;
    let mut written = Exported {
        keys: 0,
        gateway_keys: 0,
        sha256: String::new(),
    };
    for row in gateway::rows(&mut tx).await? {
        row.keys()?;
        writer.line(&Line::Gateway(row))?;
        written.gateway_keys += 1;
    }
    let mut after = String::new();
    loop {
        let select = format!("SELECT {KEY_COLUMNS} FROM keys WHERE name > $1 ORDER BY name LIMIT {KEYS_AT_ONCE}");
        let found = sqlx::query(AssertSqlSafe(select))
            .bind(after.clone())
            .fetch_all(&mut *tx)
            .await?;
        let rows = keys::whole(&mut tx, &found).await?;
        let Some(last) = rows.last() else { break };
        after.clone_from(&last.name);
        for row in rows {
            row.clone().record()?;
            writer.line(&Line::Key(Box::new(row)))?;
            written.keys += 1;
        }
    }
    written.sha256 = hex(writer.hash.clone());
    writer.line(&Line::End {
        lines: written.keys + written.gateway_keys,
        sha256: written.sha256.clone(),
    })?;
    let failed = |why| StoreError::Unavailable(format!("the backup can't be written: {why}"));
    tokio::task::block_in_place(|| writer.out.flush()).map_err(failed)?;
    Ok(written)
}

async fn import(db: &Db, mut from: impl BufRead) -> Result<Imported> {
    let mut tx = db.begin().await?;
    db.without_limit(&mut tx).await?;
    for table in ["keys", "gateway_keys", "intents"] {
        let count = format!("SELECT count(*) FROM {table}");
        let count: i64 = sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(&mut *tx).await?;
        if count > 0 {
            let text = "the store is not empty: a backup is only read into a new one";
            return Err(StoreError::Conflict(text.into()));
        }
    }
    let mut hash = Sha256::new();
    let cut_off = || damaged("it is cut off");
    let first = next_line(&mut from)?.ok_or_else(cut_off)?;
    let head = head(&first)?;
    hash.update(&first);
    let mut read = Imported {
        keys: 0,
        gateway_keys: 0,
        created_at: OffsetDateTime::from_unix_timestamp_nanos(i128::from(head.created_at) * 1000)
            .map_err(|_| damaged("its time is none"))?,
        audit: head.audit,
    };
    loop {
        let line = next_line(&mut from)?.ok_or_else(cut_off)?;
        let number = read.keys + read.gateway_keys;
        let unreadable = |why| damaged(&format!("line {} can't be read: {why}", number + 2));
        match serde_json::from_slice(&line).map_err(unreadable)? {
            Line::Gateway(row) => {
                row.keys()?;
                gateway::insert(&mut tx, &row).await?;
                read.gateway_keys += 1;
            }
            Line::Key(row) => {
                insert(&mut tx, *row).await?;
                read.keys += 1;
            }
            Line::End { lines, sha256 } => {
                if lines != number || sha256 != hex(hash) {
                    return Err(damaged("count or SHA-256 at its end do not fit"));
                }
                break;
            }
        }
        hash.update(&line);
    }
    if next_line(&mut from)?.is_some() {
        return Err(damaged("something follows its end"));
    }
    changes::record_everything(db, &mut tx).await?;
    tx.commit().await?;
    Ok(read)
}

async fn insert(tx: &mut Tx, row: KeyRow) -> Result<()> {
    row.clone().record()?;
    keys::insert(tx, &row).await
}

fn head(line: &[u8]) -> Result<HeadLine> {
    #[derive(Deserialize)]
    struct Kind {
        format: String,
        version: u32,
    }
    let kind: Kind = serde_json::from_slice(line).map_err(|_| damaged("it does not begin as a backup does"))?;
    if kind.format != FORMAT {
        return Err(damaged("it does not begin as a backup does"));
    }
    if kind.version > VERSION {
        return Err(StoreError::Corrupt(format!(
            "the backup has format {}, and this program reads up to {VERSION}: use the program that wrote it, or a newer one",
            kind.version
        )));
    }
    serde_json::from_slice(line).map_err(|why| damaged(&format!("line 1 can't be read: {why}")))
}

fn next_line(from: &mut impl BufRead) -> Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let failed = |why| StoreError::Unavailable(format!("the backup can't be read: {why}"));
    let read = || std::io::Read::take(&mut *from, LINE_BYTES).read_until(b'\n', &mut line);
    tokio::task::block_in_place(read).map_err(failed)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        return Err(damaged("it is cut off"));
    }
    Ok(Some(line))
}

fn damaged(how: &str) -> StoreError {
    StoreError::Corrupt(format!(
        "the backup is damaged ({how}): nothing was restored; use another one"
    ))
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
