//! Which keys wait for something.

use hsm_core::HsmKeyId;
use sqlx::Row as _;
use time::OffsetDateTime;

use super::error::{Result, StoreError};
use super::{Store, rows};
use crate::key_id::ManagedId;

/// Keys that the schedule has to do with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// To be rotated: by their period, or by their use.
    pub rotate: Vec<ManagedId>,
    /// To be destroyed, or destroyed and not yet finished.
    pub destroy: Vec<ManagedId>,
}

const ROTATE_BY_PERIOD: &str = "SELECT name FROM keys WHERE state = 'enabled' AND next_rotation_at IS NOT NULL \
     AND next_rotation_at <= $1 ORDER BY next_rotation_at LIMIT $2";
const ROTATE_BY_USE: &str = "SELECT name FROM keys WHERE state = 'enabled' AND rotate_after_operations IS NOT NULL \
     AND operations - operations_at_rotation >= rotate_after_operations ORDER BY name LIMIT $1";
const DESTROY: &str = "SELECT name FROM keys WHERE state = 'scheduled_for_destruction' AND destroy_at <= $1 \
     ORDER BY destroy_at LIMIT $2";
const UNFINISHED: &str = "SELECT name FROM keys WHERE unfinished = 1 ORDER BY name LIMIT $1";

impl Store {
    /// Every version that lies on a token.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Corrupt`].
    pub async fn versions_on_token(&self) -> Result<Vec<(HsmKeyId, ManagedId, u32)>> {
        self.run(|core| async move {
            let mut tx = core.db.snapshot().await?;
            let select = sqlx::query("SELECT hsm_id, name, version FROM versions WHERE material = 'token'");
            let rows = select.fetch_all(&mut *tx).await?;
            let read = |row: &sqlx::any::AnyRow| {
                let (id, name): (String, String) = (row.try_get("hsm_id")?, row.try_get("name")?);
                let version: i64 = row.try_get("version")?;
                let wrong = || StoreError::Corrupt(format!("a version of key {name:?} has no good hsm_id or number"));
                let id = HsmKeyId::parse(&id).map_err(|_| wrong())?;
                Ok((id, rows::name(&name)?, u32::try_from(version).map_err(|_| wrong())?))
            };
            rows.iter().map(read).collect()
        })
        .await
    }

    /// The version that a key of the token is, if it is one.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Corrupt`].
    pub async fn version_on_token(&self, id: &HsmKeyId) -> Result<Option<(ManagedId, u32)>> {
        let id = id.to_string();
        self.run(|core| async move {
            let mut tx = core.db.snapshot().await?;
            let select = sqlx::query("SELECT name, version FROM versions WHERE material = 'token' AND hsm_id = $1");
            let Some(row) = select.bind(id).fetch_optional(&mut *tx).await? else {
                return Ok(None);
            };
            let (name, version): (String, i64) = (row.try_get("name")?, row.try_get("version")?);
            let wrong = || StoreError::Corrupt(format!("a version of key {name:?} has no good number"));
            Ok(Some((rows::name(&name)?, u32::try_from(version).map_err(|_| wrong())?)))
        })
        .await
    }

    /// Keys that are to be rotated or destroyed by now, at most `limit` of each.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Corrupt`].
    pub async fn due(&self, now: OffsetDateTime, limit: usize) -> Result<Due> {
        self.run(move |core| async move {
            let now = rows::micros(now)?;
            let most = i64::try_from(limit).unwrap_or(i64::MAX);
            let mut tx = core.db.snapshot().await?;
            let by_period = sqlx::query_scalar(ROTATE_BY_PERIOD).bind(now).bind(most);
            let by_period: Vec<String> = by_period.fetch_all(&mut *tx).await?;
            let by_use: Vec<String> = sqlx::query_scalar(ROTATE_BY_USE).bind(most).fetch_all(&mut *tx).await?;
            let scheduled = sqlx::query_scalar(DESTROY).bind(now).bind(most);
            let scheduled: Vec<String> = scheduled.fetch_all(&mut *tx).await?;
            let unfinished: Vec<String> = sqlx::query_scalar(UNFINISHED).bind(most).fetch_all(&mut *tx).await?;
            Ok(Due {
                rotate: joined(by_period, by_use, limit)?,
                destroy: joined(unfinished, scheduled, limit)?,
            })
        })
        .await
    }

    /// Keys whose seal, or a wrapped version of which, needs gateway keys older than this version.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Corrupt`].
    pub async fn wrapped_under_older(
        &self,
        kek_version: u32,
        after: Option<ManagedId>,
        limit: usize,
    ) -> Result<Vec<ManagedId>> {
        self.run(move |core| async move {
            let mut tx = core.db.snapshot().await?;
            let select = "SELECT name FROM keys WHERE oldest_kek < $1 AND name > $2 ORDER BY name LIMIT $3";
            let select = sqlx::query_scalar(select)
                .bind(i64::from(kek_version))
                .bind(after.map(|after| after.to_string()).unwrap_or_default())
                .bind(i64::try_from(limit).unwrap_or(i64::MAX));
            let names: Vec<String> = select.fetch_all(&mut *tx).await?;
            names.iter().map(|name| rows::name(name)).collect()
        })
        .await
    }

    /// How many keys there are of those.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn count_under_older(&self, kek_version: u32) -> Result<u64> {
        self.run(move |core| async move {
            let mut tx = core.db.snapshot().await?;
            let count = sqlx::query_scalar("SELECT count(*) FROM keys WHERE oldest_kek < $1");
            let count: i64 = count.bind(i64::from(kek_version)).fetch_one(&mut *tx).await?;
            Ok(count.unsigned_abs())
        })
        .await
    }
}

fn joined(first: Vec<String>, second: Vec<String>, limit: usize) -> Result<Vec<ManagedId>> {
    let mut names: Vec<ManagedId> = Vec::new();
    for name in first.into_iter().chain(second) {
        let name = rows::name(&name)?;
        if names.len() < limit && !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}
