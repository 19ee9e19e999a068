//! What others changed: every change has a number, in the order in which changes become visible.

use std::collections::BTreeSet;

use sqlx::Row as _;

use super::db::{Db, Kind, Tx};
use super::error::{Result, StoreError};
use super::{Store, rows};
use crate::key_id::ManagedId;

/// So many are kept.
const KEPT: i64 = 10_000;
/// Whoever has missed more should forget all that he knows.
const TOO_MANY: i64 = 5_000;
/// More names in one transaction are not told one by one.
const TOLD: usize = 100;
/// Names in one statement.
const ROWS: usize = 1_000;

pub(super) const CHANNEL: &str = "keymgmt";

/// What was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// The number of the last change.
    pub seq: u64,
    /// The keys; `None`: too many, all must be read anew.
    pub names: Option<BTreeSet<ManagedId>>,
    /// Whether the gateway's own keys are among it.
    pub gateway_keys: bool,
}

impl Store {
    /// What was changed, by whomever, after the change of this number.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Corrupt`].
    pub async fn changes(&self, since: u64) -> Result<Changes> {
        self.run(move |core| async move { changes(&core.db, since).await })
            .await
    }

    /// The number of the last change; 0 before the first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn change_seq(&self) -> Result<u64> {
        self.run(|core| async move {
            let mut tx = core.db.snapshot().await?;
            Ok(last(&mut tx).await?.unsigned_abs())
        })
        .await
    }
}

async fn last(tx: &mut Tx) -> Result<i64> {
    let value = sqlx::query_scalar("SELECT value FROM counters WHERE name = 'changes'");
    Ok(value.fetch_one(&mut **tx).await?)
}

async fn changes(db: &Db, since: u64) -> Result<Changes> {
    let mut tx = db.snapshot().await?;
    let last = last(&mut tx).await?;
    let seq = last.unsigned_abs();
    let everything = Changes {
        seq,
        names: None,
        gateway_keys: true,
    };
    // A number that was never given: the database was put back.
    let Some(since) = i64::try_from(since).ok().filter(|since| (0..=last).contains(since)) else {
        return Ok(everything);
    };
    if last - since > TOO_MANY {
        return Ok(everything);
    }
    let select = sqlx::query("SELECT seq, name FROM changes WHERE seq > $1").bind(since);
    let found = select.fetch_all(&mut *tx).await?;
    let mut names = BTreeSet::new();
    let mut gateway_keys = false;
    for row in &found {
        match row.try_get::<Option<String>, _>("name")? {
            Some(name) => _ = names.insert(rows::name(&name)?),
            None => gateway_keys = true,
        }
    }
    // What an import brings has numbers, but no rows.
    if i64::try_from(found.len()).ok() != Some(last - since) {
        return Ok(everything);
    }
    Ok(Changes {
        seq,
        names: Some(names),
        gateway_keys,
    })
}

/// Numbers changes and tells of them, as the last thing before the commit: the counter's row stays locked until then.
/// `None` is the gateway's own keys.
pub(super) async fn record(db: &Db, tx: &mut Tx, names: &[Option<String>]) -> Result<()> {
    let count = i64::try_from(names.len()).unwrap_or(i64::MAX);
    let last = advance(tx, count).await?;
    let numbered: Vec<(i64, &Option<String>)> = (last - count + 1..).zip(names).collect();
    for part in numbered.chunks(ROWS) {
        let values: Vec<String> = (0..part.len())
            .map(|at| format!("(${}, ${})", 2 * at + 1, 2 * at + 2))
            .collect();
        let insert = format!("INSERT INTO changes (seq, name) VALUES {}", values.join(", "));
        let mut insert = sqlx::query(sqlx::AssertSqlSafe(insert));
        for (seq, name) in part {
            insert = insert.bind(*seq).bind((*name).clone());
        }
        insert.persistent(part.len() == 1).execute(&mut **tx).await?;
    }
    let prune = sqlx::query("DELETE FROM changes WHERE seq <= $1").bind(last - KEPT);
    prune.execute(&mut **tx).await?;
    let told: Vec<&str> = names.iter().map(|name| name.as_deref().unwrap_or_default()).collect();
    notify(db, tx, if told.len() > TOLD { &[""] } else { &told }).await
}

/// Takes numbers without saying for what: whoever asks reads everything anew.
pub(super) async fn record_everything(db: &Db, tx: &mut Tx) -> Result<()> {
    advance(tx, TOO_MANY + 1).await?;
    notify(db, tx, &[""]).await
}

async fn advance(tx: &mut Tx, count: i64) -> Result<i64> {
    let update = "UPDATE counters SET value = value + $1 WHERE name = 'changes' RETURNING value";
    let value = sqlx::query_scalar(update).bind(count).fetch_optional(&mut **tx).await?;
    value.ok_or_else(|| StoreError::Corrupt("the counter of changes is missing: restore a backup".into()))
}

async fn notify(db: &Db, tx: &mut Tx, names: &[&str]) -> Result<()> {
    if matches!(db.kind, Kind::Sqlite { .. }) {
        return Ok(());
    }
    for name in names {
        let notify = sqlx::query("SELECT pg_notify($1, $2)::text")
            .bind(CHANNEL)
            .bind((*name).to_owned());
        notify.execute(&mut **tx).await?;
    }
    Ok(())
}
