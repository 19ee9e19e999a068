//! Managed keys: reading them, and changing one as a whole.

use std::collections::BTreeMap;

use sqlx::any::AnyRow;
use sqlx::{AssertSqlSafe, Row as _};

use super::db::Tx;
use super::error::{Result, StoreError};
use super::intents::{self, IntentId};
use super::rows::{self, KEY_COLUMNS, KeyRow, VERSION_COLUMNS, VersionRow};
use super::{Core, Store, TicketId, calls, changes};
use crate::key_id::ManagedId;
use crate::managed::record::{KeyRecord, KeyState, Protection};

/// Which keys a page has.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Only keys after this one; names are in the order of their bytes.
    pub after: Option<ManagedId>,
    /// At most so many.
    pub limit: usize,
    /// Only of this type.
    pub key_type: Option<hsm_core::KeyType>,
    /// Only with this tag of this value.
    pub tag: Option<(String, String)>,
    /// Only in this state; `None`: all but destroyed ones.
    pub state: Option<KeyState>,
    /// Only so protected.
    pub protection: Option<Protection>,
}

/// Some keys, in the order of their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The keys.
    pub keys: Vec<KeyRecord>,
    /// Whether there are more behind them.
    pub more: bool,
}

/// What a change also does, in the same transaction.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// The intent that ends.
    pub intent: Option<IntentId>,
    /// The call that made something, and what.
    pub ticket: Option<(TicketId, String)>,
}

impl Store {
    /// A key by its name.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Corrupt`].
    pub async fn key(&self, name: &ManagedId) -> Result<Option<KeyRecord>> {
        let name = name.to_string();
        self.run(|core| async move {
            let mut tx = core.db.snapshot().await?;
            let Some(row) = key_row(&mut tx, &name).await? else {
                return Ok(None);
            };
            row.record().map(Some)
        })
        .await
    }

    /// Some keys, in the order of their names.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Corrupt`].
    pub async fn page(&self, query: Query) -> Result<Page> {
        self.run(|core| async move {
            let mut tx = core.db.snapshot().await?;
            let (sql, values) = page_sql(&query);
            let mut select = sqlx::query(AssertSqlSafe(sql));
            for value in values {
                select = select.bind(value);
            }
            let limit = i64::try_from(query.limit).unwrap_or(i64::MAX).saturating_add(1);
            let found = select.bind(limit).fetch_all(&mut *tx).await?;
            let more = found.len() > query.limit;
            let found = found.get(..query.limit.min(found.len())).unwrap_or_default();
            let keys = whole(&mut tx, found).await?.into_iter().map(KeyRow::record);
            Ok(Page {
                keys: keys.collect::<Result<_>>()?,
                more,
            })
        })
        .await
    }

    /// Puts a new key in.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the name, or a token key of it, is taken, an intent that is not ended here names such a key,
    /// or the intent is no longer ours.
    pub async fn create(&self, record: KeyRecord, done: Done) -> Result<()> {
        self.run(|core| async move {
            let row = KeyRow::of(&record)?;
            let mut tx = core.db.begin().await?;
            insert(&mut tx, &row).await?;
            finish(&core, &mut tx, &done).await?;
            intents::none_has(&mut tx, &row).await?;
            changes::record(&core.db, &mut tx, &[Some(row.name)]).await?;
            Ok(tx.commit().await?)
        })
        .await
    }

    /// Puts many new keys in, all or none.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub async fn create_many(&self, records: Vec<KeyRecord>) -> Result<()> {
        self.run(|core| async move {
            let mut rows: Vec<KeyRow> = records.iter().map(KeyRow::of).collect::<Result<_>>()?;
            rows.sort_by(|a, b| a.name.cmp(&b.name));
            let mut tx = core.db.begin().await?;
            for row in &rows {
                insert(&mut tx, row).await?;
            }
            let names: Vec<_> = rows.into_iter().map(|row| Some(row.name)).collect();
            changes::record(&core.db, &mut tx, &names).await?;
            Ok(tx.commit().await?)
        })
        .await
    }

    /// Changes a key: its `revision` is the stored one and 1. What counts its use is left as it is, but for
    /// `operations_at_rotation` when versions are added. Of the versions only those are written that differ.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the stored revision is another, the key is gone, or the intent is no longer ours.
    pub async fn update(&self, record: KeyRecord, done: Done) -> Result<()> {
        self.run(|core| async move {
            let row = KeyRow::of(&record)?;
            let mut tx = core.db.begin().await?;
            update(&mut tx, &row).await?;
            finish(&core, &mut tx, &done).await?;
            changes::record(&core.db, &mut tx, &[Some(row.name)]).await?;
            Ok(tx.commit().await?)
        })
        .await
    }

    /// Ends an intent and notes what a call made, where no record is written.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the intent is no longer ours.
    pub async fn finish(&self, done: Done) -> Result<()> {
        self.run(|core| async move {
            let mut tx = core.db.begin().await?;
            finish(&core, &mut tx, &done).await?;
            Ok(tx.commit().await?)
        })
        .await
    }

    /// Takes a key out again whose creation is undone.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if it was changed since, or is gone.
    pub async fn remove(&self, name: &ManagedId, revision: u64) -> Result<()> {
        let name = name.to_string();
        self.run(move |core| async move {
            let mut tx = core.db.begin().await?;
            let delete = sqlx::query("DELETE FROM keys WHERE name = $1 AND revision = $2");
            let delete = delete.bind(name.clone()).bind(rows::number(revision)?);
            if delete.execute(&mut *tx).await?.rows_affected() == 0 {
                return Err(changed(&name));
            }
            changes::record(&core.db, &mut tx, &[Some(name)]).await?;
            Ok(tx.commit().await?)
        })
        .await
    }
}

/// The rows of a page and the texts that its first placeholders stand for; the last is the limit.
fn page_sql(query: &Query) -> (String, Vec<String>) {
    let mut values = Vec::new();
    let mut placeholder = |value: String| {
        values.push(value);
        format!("${}", values.len())
    };
    let (from, name) = match &query.tag {
        Some((tag, value)) => {
            let (tag, value) = (placeholder(tag.clone()), placeholder(value.clone()));
            let join = format!("tags t JOIN keys k ON k.name = t.name WHERE t.tag = {tag} AND t.value = {value}");
            (join, "t.name")
        }
        // The state's name is text of ours: it lets the database see that the index of that part will do.
        None => ("keys k WHERE 1 = 1".to_owned(), "k.name"),
    };
    let mut sql = from;
    if let Some(after) = &query.after {
        sql += &format!(" AND {name} > {}", placeholder(after.to_string()));
    }
    sql += &match query.state {
        Some(KeyState::Enabled) => " AND k.state = 'enabled'".to_owned(),
        Some(state) => format!(" AND k.state = '{}' AND k.state <> 'enabled'", state.name()),
        None => format!(" AND k.state <> '{}'", KeyState::Destroyed.name()),
    };
    if let Some(key_type) = query.key_type {
        sql += &format!(" AND k.key_type = {}", placeholder(key_type.name().into()));
    }
    if let Some(protection) = query.protection {
        sql += &format!(" AND k.protection = {}", placeholder(protection.name().into()));
    }
    let columns: Vec<_> = KEY_COLUMNS
        .split(", ")
        .map(|column| format!("k.{}", column.trim()))
        .collect();
    let columns = columns.join(", ");
    let limit = values.len() + 1;
    (
        format!("SELECT {columns} FROM {sql} ORDER BY {name} LIMIT ${limit}"),
        values,
    )
}

pub(super) async fn key_row(tx: &mut Tx, name: &str) -> Result<Option<KeyRow>> {
    let select = format!("SELECT {KEY_COLUMNS} FROM keys WHERE name = $1");
    let select = sqlx::query(AssertSqlSafe(select)).bind(name.to_owned());
    let found = select.fetch_all(&mut **tx).await?;
    Ok(whole(tx, &found).await?.pop())
}

/// Reads tags and versions to rows of `keys`.
pub(super) async fn whole(tx: &mut Tx, found: &[AnyRow]) -> Result<Vec<KeyRow>> {
    let mut keys: BTreeMap<String, KeyRow> = BTreeMap::new();
    for row in found {
        let row = KeyRow::read(row)?;
        keys.insert(row.name.clone(), row);
    }
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let places: Vec<_> = (1..=keys.len()).map(|at| format!("${at}")).collect();
    let places = places.join(", ");
    let versions = format!("SELECT {VERSION_COLUMNS} FROM versions WHERE name IN ({places}) ORDER BY name, version");
    let tags = format!("SELECT name, tag, value FROM tags WHERE name IN ({places})");
    let names: Vec<String> = keys.keys().cloned().collect();
    for row in in_names(tx, versions, &names).await? {
        let name: String = row.try_get("name")?;
        if let Some(key) = keys.get_mut(&name) {
            key.versions.push(VersionRow::read(&row)?);
        }
    }
    for row in in_names(tx, tags, &names).await? {
        let name: String = row.try_get("name")?;
        if let Some(key) = keys.get_mut(&name) {
            key.tags.insert(row.try_get("tag")?, row.try_get("value")?);
        }
    }
    Ok(keys.into_values().collect())
}

async fn in_names(tx: &mut Tx, sql: String, names: &[String]) -> Result<Vec<AnyRow>> {
    let mut select = sqlx::query(AssertSqlSafe(sql)).persistent(names.len() == 1);
    for name in names {
        select = select.bind(name.clone());
    }
    Ok(select.fetch_all(&mut **tx).await?)
}

pub(super) async fn insert(tx: &mut Tx, row: &KeyRow) -> Result<()> {
    let insert = sqlx::query(
        "INSERT INTO keys (name, key_type, size, usages, protection, token, state, state_before, destroy_at, \
         primary_version, rotation_period_days, rotate_after_operations, next_rotation_at, created_at, changed_at, \
         revision, seal_version, seal_mac, oldest_kek, unfinished, operations, operations_at_rotation, last_used_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, \
         $23)",
    );
    let insert = insert
        .bind(row.name.clone())
        .bind(row.key_type.clone())
        .bind(row.size.clone())
        .bind(row.usages.clone())
        .bind(row.protection.clone())
        .bind(row.token.clone())
        .bind(row.state.clone())
        .bind(row.state_before.clone())
        .bind(row.destroy_at)
        .bind(row.primary_version)
        .bind(row.rotation_period_days)
        .bind(row.rotate_after_operations)
        .bind(row.next_rotation_at)
        .bind(row.created_at)
        .bind(row.changed_at)
        .bind(row.revision)
        .bind(row.seal_version)
        .bind(row.seal_mac.0.clone())
        .bind(row.oldest_kek())
        .bind(i64::from(row.unfinished()))
        .bind(row.operations)
        .bind(row.operations_at_rotation)
        .bind(row.last_used_at);
    let failed = |error: sqlx::Error| match StoreError::from(error) {
        StoreError::Conflict(_) => StoreError::Conflict(format!("there is a key {:?} already", row.name)),
        other => other,
    };
    insert.execute(&mut **tx).await.map_err(failed)?;
    insert_tags(tx, row).await?;
    for version in &row.versions {
        put_version(tx, &row.name, version).await?;
    }
    Ok(())
}

async fn insert_tags(tx: &mut Tx, row: &KeyRow) -> Result<()> {
    for (tag, value) in &row.tags {
        let insert = sqlx::query("INSERT INTO tags (tag, value, name) VALUES ($1, $2, $3)");
        let insert = insert.bind(tag.clone()).bind(value.clone()).bind(row.name.clone());
        insert.execute(&mut **tx).await?;
    }
    Ok(())
}

/// Writes a version, new or changed; what is reserved of a version that is there stays.
async fn put_version(tx: &mut Tx, name: &str, row: &VersionRow) -> Result<()> {
    let put = sqlx::query(
        "INSERT INTO versions (name, version, state, material, hsm_id, kek_version, algorithm, wrapped, public_key, \
         created_at, encryptions_reserved) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) \
         ON CONFLICT (name, version) DO UPDATE SET state = excluded.state, material = excluded.material, \
         hsm_id = excluded.hsm_id, kek_version = excluded.kek_version, algorithm = excluded.algorithm, \
         wrapped = excluded.wrapped, public_key = excluded.public_key, created_at = excluded.created_at",
    );
    let put = put
        .bind(name.to_owned())
        .bind(row.version)
        .bind(row.state.clone())
        .bind(row.material.clone())
        .bind(row.hsm_id.clone())
        .bind(row.kek_version)
        .bind(row.algorithm.clone())
        .bind(row.wrapped.as_ref().map(|bytes| bytes.0.clone()))
        .bind(row.public_key.as_ref().map(|bytes| bytes.0.clone()))
        .bind(row.created_at)
        .bind(row.encryptions_reserved);
    let id = row.hsm_id.as_deref().unwrap_or_default();
    let failed = |error: sqlx::Error| match StoreError::from(error) {
        StoreError::Conflict(_) => StoreError::Conflict(format!("{id} is a version of a managed key already")),
        other => other,
    };
    put.execute(&mut **tx).await.map_err(failed)?;
    Ok(())
}

async fn update(tx: &mut Tx, row: &KeyRow) -> Result<()> {
    let update = sqlx::query(
        "UPDATE keys SET key_type = $1, size = $2, usages = $3, protection = $4, token = $5, state = $6, \
         state_before = $7, destroy_at = $8, primary_version = $9, rotation_period_days = $10, \
         rotate_after_operations = $11, next_rotation_at = $12, created_at = $13, changed_at = $14, revision = $15, \
         seal_version = $16, seal_mac = $17, oldest_kek = $18, unfinished = $19 WHERE name = $20 AND revision = $21",
    );
    let update = update
        .bind(row.key_type.clone())
        .bind(row.size.clone())
        .bind(row.usages.clone())
        .bind(row.protection.clone())
        .bind(row.token.clone())
        .bind(row.state.clone())
        .bind(row.state_before.clone())
        .bind(row.destroy_at)
        .bind(row.primary_version)
        .bind(row.rotation_period_days)
        .bind(row.rotate_after_operations)
        .bind(row.next_rotation_at)
        .bind(row.created_at)
        .bind(row.changed_at)
        .bind(row.revision)
        .bind(row.seal_version)
        .bind(row.seal_mac.0.clone())
        .bind(row.oldest_kek())
        .bind(i64::from(row.unfinished()))
        .bind(row.name.clone())
        .bind(row.revision - 1);
    if update.execute(&mut **tx).await?.rows_affected() == 0 {
        return Err(changed(&row.name));
    }
    let stored = key_row(tx, &row.name).await?.ok_or_else(|| changed(&row.name))?;
    if stored.versions.len() < row.versions.len() {
        let rotated = sqlx::query("UPDATE keys SET operations_at_rotation = $1 WHERE name = $2");
        let rotated = rotated.bind(row.operations_at_rotation).bind(row.name.clone());
        rotated.execute(&mut **tx).await?;
    }
    if stored.tags != row.tags {
        let delete = sqlx::query("DELETE FROM tags WHERE name = $1").bind(row.name.clone());
        delete.execute(&mut **tx).await?;
        insert_tags(tx, row).await?;
    }
    for (at, version) in row.versions.iter().enumerate() {
        let same = stored.versions.get(at).is_some_and(|stored| {
            let mut stored = stored.clone();
            stored.encryptions_reserved = version.encryptions_reserved;
            stored == *version
        });
        if !same {
            put_version(tx, &row.name, version).await?;
        }
    }
    Ok(())
}

/// Ends the intent and notes what the call made.
pub(super) async fn finish(core: &Core, tx: &mut Tx, done: &Done) -> Result<()> {
    if let Some(intent) = &done.intent {
        intents::end_own(core, tx, intent).await?;
    }
    if let Some((ticket, what)) = &done.ticket {
        calls::note(tx, ticket, what).await?;
    }
    Ok(())
}

fn changed(name: &str) -> StoreError {
    StoreError::Conflict(format!("key {name:?} was changed meanwhile, or is gone: read it again"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Place;

    fn plan(query: Query) -> String {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(Place::Sqlite(folder.path().join("store.sqlite"))).unwrap();
        let explained = store.run(|core| async move {
            let (sql, values) = page_sql(&query);
            let mut tx = core.db.snapshot().await?;
            let mut explain = sqlx::query(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}")));
            for value in values {
                explain = explain.bind(value);
            }
            let rows = explain.bind(10_i64).fetch_all(&mut *tx).await?;
            let lines: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
            Ok(lines.join("\n"))
        });
        futures_executor::block_on(explained).unwrap()
    }

    #[test]
    fn pages_are_found_by_an_index() {
        let after = ManagedId::parse("m");
        let tag = Some(("team".to_owned(), "red".to_owned()));
        let by_tag = plan(Query {
            after: after.clone(),
            tag,
            ..Query::default()
        });
        assert!(
            by_tag.contains("INDEX tags_by_value (tag=? AND value=? AND name>?)"),
            "{by_tag}"
        );
        let by_name = plan(Query {
            after: after.clone(),
            ..Query::default()
        });
        assert!(by_name.contains("(name>?)"), "{by_name}");
        let by_state = plan(Query {
            after,
            state: Some(KeyState::Disabled),
            ..Query::default()
        });
        assert!(
            by_state.contains("INDEX keys_not_enabled (state=? AND name>?)"),
            "{by_state}"
        );
        for plan in [by_tag, by_name, by_state] {
            assert!(!plan.contains("SCAN") && !plan.contains("TEMP B-TREE"), "{plan}");
        }
    }
}
