//! Lists of keys of every kind, what is told of one for those who check signatures, and calls that are answered once.

use hsm_core::{HsmKeyId, KeyInfo, KeyPage, KeyQuery, KeyType, PublicKey, Usages};

use super::{Action, Error, KeyService, Managed, Result};
use crate::key_id::{KeyId, ManagedId};
use crate::managed::change;
use crate::managed::record::{KeyState, Protection, VersionState};
use crate::store::{Answer, Begun, IdempotentCall, Query, TicketId};

/// Which keys to list.
#[derive(Clone, Debug, Default)]
pub struct ListQuery {
    /// Keys that come after this one: managed keys by their names, then keys of the token by their ids.
    pub after: Option<KeyId>,
    /// How many at most.
    pub limit: usize,
    /// Only keys of this type.
    pub key_type: Option<KeyType>,
    /// Only keys with exactly this label; managed keys have none.
    pub label: Option<String>,
    /// Only managed keys with this tag, name and value.
    pub tag: Option<(String, String)>,
    /// Only keys in this state; without it all that are not destroyed. Those of the token are enabled.
    pub state: Option<KeyState>,
    /// Only keys whose material lies there.
    pub protection: Option<Protection>,
}

/// A page of keys.
#[derive(Clone, Debug)]
pub struct ListPage {
    /// The keys.
    pub keys: Vec<AnyKey>,
    /// Whether there are more.
    pub more: bool,
}

/// A key of some kind.
#[derive(Clone, Debug)]
pub enum AnyKey {
    /// A managed key.
    Managed(Managed),
    /// A key of the token that is no version of a managed key.
    Hsm(KeyInfo),
}

/// The public keys of a key.
#[derive(Clone, Debug)]
pub struct Jwks {
    /// Each with its id, `name:version`, or the id itself for a key of the token.
    pub keys: Vec<(String, PublicKey)>,
    /// What the key may be used for.
    pub usages: Usages,
    /// Changes whenever the keys may; `None` where that is not known.
    pub revision: Option<u64>,
}

impl AnyKey {
    /// The id.
    pub fn id(&self) -> KeyId {
        match self {
            AnyKey::Managed(managed) => KeyId::Managed(managed.record.name.clone()),
            AnyKey::Hsm(info) => KeyId::Hsm(info.id.clone()),
        }
    }
}

impl KeyService {
    /// A page of keys of every kind: managed keys by their names, then the keys of the tokens that are no version of one, by
    /// their ids. Not recorded.
    ///
    /// # Errors
    /// [`Error::StoreUnavailable`]; [`Error::Hsm`], also if only one of the tokens can't be asked.
    pub async fn list(&self, query: ListQuery) -> Result<ListPage> {
        self.timed(Action::List, self.every_kind(query)).await
    }

    /// The managed key that a key of the token is a version of.
    pub fn managed_by(&self, id: &HsmKeyId) -> Option<ManagedId> {
        self.keys.0.cache.version_of(id).map(|(name, _)| name)
    }

    /// The public keys of all enabled versions of a key, older ones first. Not recorded.
    ///
    /// # Errors
    /// [`Error::KeyNotFound`], [`Error::KeyDisabled`], [`Error::KeyDestroyed`], [`Error::StoreUnavailable`],
    /// [`Error::Tampered`]; [`Error::Hsm`] with `KeyTypeMismatch` for a secret key.
    pub async fn jwks(&self, id: &KeyId) -> Result<Jwks> {
        self.timed(Action::Jwks, self.public_keys(id)).await
    }

    /// Begins a call that is to be done once: says whether it is fresh, or what it was answered.
    ///
    /// # Errors
    /// [`Error::StoreUnavailable`].
    pub async fn idempotent(&self, call: IdempotentCall) -> Result<Begun> {
        Ok(self.store().begin_call(call).await?)
    }

    /// Keeps the answer of such a call for the next time.
    ///
    /// # Errors
    /// [`Error::StoreUnavailable`].
    pub async fn answer_call(&self, ticket: TicketId, answer: Answer) -> Result<()> {
        Ok(self.store().answer_call(ticket, answer).await?)
    }

    /// Such a call failed: it may be tried again with the same key.
    ///
    /// # Errors
    /// [`Error::StoreUnavailable`].
    pub async fn forget_call(&self, ticket: TicketId) -> Result<()> {
        Ok(self.store().forget_call(ticket).await?)
    }

    async fn every_kind(&self, query: ListQuery) -> Result<ListPage> {
        let mut page = ListPage {
            keys: Vec::new(),
            more: false,
        };
        let ListQuery {
            after,
            limit,
            key_type,
            label,
            tag,
            state,
            protection,
        } = query;
        // A key of the token has no tags, is on the token, and is in use as long as it is there.
        let managed_alone = tag.is_some()
            || state.is_some_and(|state| state != KeyState::Enabled)
            || protection.is_some_and(|protection| protection != Protection::Hsm);
        let (after_name, after_id) = match after {
            None => (None, None),
            Some(KeyId::Managed(name)) => (Some(name), None),
            Some(KeyId::Hsm(id)) => (None, Some(id)),
        };
        if after_id.is_none() && label.is_none() {
            let query = Query {
                after: after_name,
                limit,
                key_type,
                tag,
                state,
                protection,
            };
            let found = self.store().page(query).await?;
            let keys = found.keys.into_iter();
            page.keys
                .extend(keys.map(|record| AnyKey::Managed(self.with_usage(record))));
            page.more = found.more;
        }
        if page.more || managed_alone {
            return Ok(page);
        }
        self.keys.0.cache.catch_up(&self.keys.0).await;
        let mut after = after_id;
        loop {
            let query = KeyQuery {
                after: after.clone(),
                limit: limit.saturating_sub(page.keys.len()),
                key_type,
                label: label.clone(),
            };
            let full = query.limit == 0;
            let KeyPage { keys, more } = self.page(query).await?;
            after = keys.last().map(|last| last.id.clone()).or(after);
            let unmanaged = keys.into_iter().filter(|info| self.managed_by(&info.id).is_none());
            page.keys.extend(unmanaged.map(AnyKey::Hsm));
            page.more = more;
            if full || !more || page.keys.len() >= limit {
                return Ok(page);
            }
        }
    }

    async fn public_keys(&self, id: &KeyId) -> Result<Jwks> {
        let KeyId::Managed(name) = id else {
            let target = self.keys.0.target(id, None).await?;
            let info = self.info(&target).await?;
            let public = info.public_key.ok_or_else(secret)?;
            return Ok(Jwks {
                keys: vec![(id.to_string(), public)],
                usages: info.usages,
                revision: None,
            });
        };
        let entry = self.keys.0.cache.entry(&self.keys.0, name).await?;
        let record = &entry.record;
        change::is_alive(record)?;
        if record.state == KeyState::Disabled {
            return Err(change::disabled(name));
        }
        let mut keys = Vec::new();
        for version in record.versions.iter().filter(|one| one.state == VersionState::Enabled) {
            let public = match &version.public_key {
                Some(public) => public.clone(),
                None => {
                    let target = self.keys.0.target(id, Some(version.version)).await?;
                    self.info(&target).await?.public_key.ok_or_else(secret)?
                }
            };
            keys.push((format!("{name}:{}", version.version), public));
        }
        Ok(Jwks {
            keys,
            usages: record.usages,
            revision: Some(record.revision),
        })
    }
}

fn secret() -> Error {
    hsm_core::Error::KeyTypeMismatch("the key has no public half; only pairs have public keys to publish".into()).into()
}
