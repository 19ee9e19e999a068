//! Counts of use, written in blocks and apart from changes.

use time::OffsetDateTime;

use super::error::Result;
use super::{Store, rows};
use crate::key_id::ManagedId;

/// How a key was used since it was last written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    /// The key.
    pub name: ManagedId,
    /// How many operations more.
    pub operations: u64,
    /// The last time.
    pub last_used_at: OffsetDateTime,
}

impl Store {
    /// Adds to the counts of operations. Keys that are gone are left out.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`](super::StoreError::Unavailable): nothing was added, or all of it.
    pub async fn add_usage(&self, mut used: Vec<Used>) -> Result<()> {
        // Everybody locks rows in the same order.
        used.sort_by(|a, b| a.name.cmp(&b.name));
        self.run(|core| async move {
            let mut tx = core.db.begin().await?;
            for one in used {
                let at = rows::micros(one.last_used_at)?;
                let update = sqlx::query(
                    "UPDATE keys SET operations = operations + $1, last_used_at = CASE WHEN last_used_at > $2 THEN \
                     last_used_at ELSE $3 END WHERE name = $4",
                );
                let update = update.bind(rows::number(one.operations)?).bind(at).bind(at);
                update.bind(one.name.to_string()).execute(&mut *tx).await?;
            }
            Ok(tx.commit().await?)
        })
        .await
    }

    /// Adds to what is reserved of versions, all in one transaction. Answers what was reserved of each before, in the
    /// order of `wanted`; `None` if there is no such version.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`](super::StoreError::Unavailable): perhaps they are reserved, for nobody.
    pub async fn reserve(&self, wanted: Vec<(ManagedId, u32, u64)>) -> Result<Vec<Option<u64>>> {
        self.run(|core| async move {
            let mut before = vec![None; wanted.len()];
            let mut ordered: Vec<_> = before.iter_mut().zip(wanted).collect();
            ordered.sort_by(|(_, a), (_, b)| a.cmp(b));
            let mut tx = core.db.begin().await?;
            for (before, (name, version, count)) in ordered {
                let count = rows::number(count)?;
                let update = sqlx::query_scalar(
                    "UPDATE versions SET encryptions_reserved = encryptions_reserved + $1 \
                     WHERE name = $2 AND version = $3 RETURNING encryptions_reserved",
                );
                let update = update.bind(count).bind(name.to_string()).bind(i64::from(version));
                let after: Option<i64> = update.fetch_optional(&mut *tx).await?;
                *before = after.and_then(|after| u64::try_from(after - count).ok());
            }
            tx.commit().await?;
            Ok(before)
        })
        .await
    }
}
