//! What is about to be made on a token, written down before: whoever finds it after a crash can undo it.

use hsm_core::HsmKeyId;
use sqlx::Row as _;
use time::OffsetDateTime;

use super::db::Tx;
use super::error::{Result, StoreError};
use super::rows::KeyRow;
use super::{Core, Store, instance, rows};
use crate::key_id::ManagedId;

/// Names an intent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IntentId(String);

/// What is about to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntentKind {
    /// A managed key is made.
    Create,
    /// A managed key gets another version.
    Rotate,
    /// A key of the token is made that is no version of a managed key.
    TokenKey,
    /// The gateway's own keys are made.
    GatewayKeys,
}

/// What is about to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// What is done.
    pub kind: IntentKind,
    /// The managed key; nobody else may begin anything with it meanwhile.
    pub name: Option<ManagedId>,
    /// The ids that objects on the token will have.
    pub ids: Vec<HsmKeyId>,
}

/// An intent that nobody pursues any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenIntent {
    /// Its id.
    pub id: IntentId,
    /// What was to be made.
    pub intent: Intent,
    /// When it was written.
    pub begun_at: OffsetDateTime,
}

const KINDS: [(IntentKind, &str); 4] = [
    (IntentKind::Create, "create"),
    (IntentKind::Rotate, "rotate"),
    (IntentKind::TokenKey, "token_key"),
    (IntentKind::GatewayKeys, "gateway_keys"),
];

impl Store {
    /// Writes an intent down.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if there is one for this name, whoever's.
    pub async fn begin(&self, intent: Intent) -> Result<IntentId> {
        self.run(|core| async move {
            let id = instance::random_id()?;
            let kind = KINDS
                .iter()
                .find(|(kind, _)| *kind == intent.kind)
                .map_or("", |(_, name)| name);
            let name = intent.name.as_ref().map(ToString::to_string);
            let ids: Vec<_> = intent.ids.iter().map(ToString::to_string).collect();
            let mut tx = core.db.begin().await?;
            let now = core.db.now(&mut tx).await?;
            let insert = sqlx::query(
                "INSERT INTO intents (id, kind, name, locked_name, ids, owner, abandoned, begun_at) \
                 VALUES ($1, $2, $3, $4, $5, $6, 0, $7)",
            );
            let insert = insert
                .bind(id.clone())
                .bind(kind)
                .bind(name.clone())
                .bind(name.clone())
                .bind(ids.join(" "))
                .bind(core.instance.id().to_owned())
                .bind(now);
            let failed = |error: sqlx::Error| match StoreError::from(error) {
                StoreError::Conflict(_) => {
                    let name = name.clone().unwrap_or_default();
                    StoreError::Conflict(format!("key {name:?} is just being made or rotated"))
                }
                other => other,
            };
            insert.execute(&mut *tx).await.map_err(failed)?;
            tx.commit().await?;
            Ok(IntentId(id))
        })
        .await
    }

    /// Strikes an intent out: it is done or undone.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]; [`StoreError::Conflict`] if another process has taken it over.
    pub async fn end(&self, id: &IntentId) -> Result<()> {
        let id = id.clone();
        self.run(|core| async move {
            let mut tx = core.db.begin().await?;
            end_own(&core, &mut tx, &id).await?;
            Ok(tx.commit().await?)
        })
        .await
    }

    /// Leaves an intent to recovery, which undoes it. Its name is free.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn abandon(&self, id: &IntentId) -> Result<()> {
        let id = id.clone();
        self.run(|core| async move {
            let mut tx = core.db.begin().await?;
            let update =
                sqlx::query("UPDATE intents SET abandoned = 1, locked_name = NULL WHERE id = $1 AND owner = $2");
            let update = update.bind(id.0).bind(core.instance.id().to_owned());
            update.execute(&mut *tx).await?;
            Ok(tx.commit().await?)
        })
        .await
    }

    /// Takes over all intents that nobody pursues any more: abandoned ones, and those of processes that have ended
    /// (PostgreSQL: that have not been heard of for 30 seconds). From here on their former owners can't end them, nor
    /// put in the record that they were for. Those that are not ended are answered again the next time.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Corrupt`].
    pub async fn orphaned_intents(&self) -> Result<Vec<OpenIntent>> {
        self.run(|core| async move {
            let mut tx = core.db.begin().await?;
            let select = "SELECT id, kind, name, ids, owner, abandoned, begun_at FROM intents ORDER BY begun_at, id";
            let mut orphans = Vec::new();
            for row in sqlx::query(select).fetch_all(&mut *tx).await? {
                let owner: String = row.try_get("owner")?;
                let abandoned = row.try_get::<i64, _>("abandoned")? == 1;
                let left = if owner == core.instance.id() {
                    abandoned
                } else {
                    !core.instance.lives(&core.db, &mut tx, &owner).await?
                };
                if !left {
                    continue;
                }
                let open = open_intent(&row)?;
                let claim = sqlx::query("UPDATE intents SET owner = $1, abandoned = 1 WHERE id = $2 AND owner = $3");
                let claim = claim
                    .bind(core.instance.id().to_owned())
                    .bind(open.id.0.clone())
                    .bind(owner);
                if claim.execute(&mut *tx).await?.rows_affected() == 1 {
                    orphans.push(open);
                }
            }
            tx.commit().await?;
            Ok(orphans)
        })
        .await
    }
}

pub(super) async fn end_own(core: &Core, tx: &mut Tx, id: &IntentId) -> Result<()> {
    let delete = sqlx::query("DELETE FROM intents WHERE id = $1 AND owner = $2");
    let delete = delete.bind(id.0.clone()).bind(core.instance.id().to_owned());
    if delete.execute(&mut **tx).await?.rows_affected() == 0 {
        let text = "it took too long: another process has taken it over and undoes it. Try again";
        return Err(StoreError::Conflict(text.into()));
    }
    Ok(())
}

/// That nobody is about to make or to destroy a key of the token that a record is to name: it could go under the record.
pub(super) async fn none_has(tx: &mut Tx, row: &KeyRow) -> Result<()> {
    let pending: Vec<String> = sqlx::query_scalar("SELECT ids FROM intents")
        .fetch_all(&mut **tx)
        .await?;
    let on_token = row.versions.iter().filter(|version| version.material == rows::ON_TOKEN);
    for id in on_token.filter_map(|version| version.hsm_id.as_deref()) {
        if pending.iter().any(|ids| ids.split_whitespace().any(|one| one == id)) {
            let text =
                format!("the key {id} is just being made, or its creation is being undone: try again in some minutes");
            return Err(StoreError::Conflict(text));
        }
    }
    Ok(())
}

fn open_intent(row: &sqlx::any::AnyRow) -> Result<OpenIntent> {
    let id: String = row.try_get("id")?;
    let wrong = |column: &str| {
        StoreError::Corrupt(format!(
            "the store's row of intent {id} has a wrong value in {column}: restore a backup"
        ))
    };
    let kind: String = row.try_get("kind")?;
    let kind = KINDS
        .iter()
        .find(|(_, name)| *name == kind)
        .ok_or_else(|| wrong("kind"))?
        .0;
    let name: Option<String> = row.try_get("name")?;
    let ids: String = row.try_get("ids")?;
    let ids = ids
        .split_whitespace()
        .map(|id| HsmKeyId::parse(id).map_err(|_| wrong("ids")));
    let begun_at = i128::from(row.try_get::<i64, _>("begun_at")?) * 1000;
    Ok(OpenIntent {
        intent: Intent {
            kind,
            name: name.as_deref().map(rows::name).transpose()?,
            ids: ids.collect::<Result<_>>()?,
        },
        begun_at: OffsetDateTime::from_unix_timestamp_nanos(begun_at).map_err(|_| wrong("begun_at"))?,
        id: IntentId(id),
    })
}
