//! The gateway's own keys, version by version.

use super::db::Tx;
use super::error::{Result, StoreError};
use super::keys::{Done, finish};
use super::rows::GatewayRow;
use super::{Store, changes};
use crate::managed::record::GatewayKeys;

impl Store {
    /// All versions, in order.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Corrupt`].
    pub async fn gateway_keys(&self) -> Result<Vec<GatewayKeys>> {
        self.run(|core| async move {
            let mut tx = core.db.snapshot().await?;
            rows(&mut tx).await?.iter().map(GatewayRow::keys).collect()
        })
        .await
    }

    /// Puts a version in.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the version is there, or the intent is no longer ours.
    pub async fn add_gateway_keys(&self, keys: GatewayKeys, done: Done) -> Result<()> {
        self.run(|core| async move {
            let mut tx = core.db.begin().await?;
            insert(&mut tx, &GatewayRow::of(&keys)?).await?;
            finish(&core, &mut tx, &done).await?;
            changes::record(&core.db, &mut tx, &[None]).await?;
            Ok(tx.commit().await?)
        })
        .await
    }
}

pub(super) async fn rows(tx: &mut Tx) -> Result<Vec<GatewayRow>> {
    let select = sqlx::query("SELECT version, kek, mac, created_at FROM gateway_keys ORDER BY version");
    select
        .fetch_all(&mut **tx)
        .await?
        .iter()
        .map(GatewayRow::read)
        .collect()
}

pub(super) async fn insert(tx: &mut Tx, row: &GatewayRow) -> Result<()> {
    let insert = sqlx::query("INSERT INTO gateway_keys (version, kek, mac, created_at) VALUES ($1, $2, $3, $4)");
    let insert = insert
        .bind(row.version)
        .bind(row.kek.clone())
        .bind(row.mac.clone())
        .bind(row.created_at);
    let failed = |error: sqlx::Error| match StoreError::from(error) {
        StoreError::Conflict(_) => StoreError::Conflict(format!(
            "version {} of the gateway's keys is there already",
            row.version
        )),
        other => other,
    };
    insert.execute(&mut **tx).await.map_err(failed)?;
    Ok(())
}
