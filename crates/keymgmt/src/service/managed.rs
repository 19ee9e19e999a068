//! The life of managed keys: made, adopted, changed, rotated, destroyed; each recorded.

use std::collections::BTreeMap;

use hsm_core::{HsmKeyId, KeySpec, TokenName, Usages};
use time::OffsetDateTime;

use super::{Action, Caller, Done, Error, KeyService, Result, is_unrecorded};
use crate::key_id::ManagedId;
use crate::managed::change::{self, Birth};
use crate::managed::record::{KeyRecord, Protection, VersionState};
use crate::managed::{fault, kek, life};
use crate::store::TicketId;

pub use crate::managed::KekStatus;
pub use crate::managed::change::{Rotation, Update};

/// A managed key to be made.
#[derive(Clone, Debug)]
pub struct NewManaged {
    /// The id.
    pub name: ManagedId,
    /// Type and size.
    pub spec: KeySpec,
    /// Where its material will lie.
    pub protection: Protection,
    /// What it may be used for.
    pub usages: Usages,
    /// The name of a further token on which it is made; `None`: the default one.
    pub token: Option<String>,
    /// When it is rotated by itself.
    pub rotation: Rotation,
    /// At most 50 tags: names of 1 to 128 bytes without colons, values of at most 256.
    pub tags: BTreeMap<String, String>,
}

/// A key of the token that is to be a managed key.
#[derive(Clone, Debug)]
pub struct Adopt {
    /// The id that it gets.
    pub name: ManagedId,
    /// The key.
    pub hsm_key_id: HsmKeyId,
    /// When it is rotated by itself.
    pub rotation: Rotation,
    /// As [`NewManaged::tags`].
    pub tags: BTreeMap<String, String>,
}

/// A managed key as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Managed {
    /// What is kept of it.
    pub record: KeyRecord,
    /// Operations so far, those included that are not written yet.
    pub operations: u64,
    /// When it was last used.
    pub last_used_at: Option<OffsetDateTime>,
}

impl KeyService {
    /// Makes a managed key with its first version.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the name is or was taken; [`Error::Hsm`], [`Error::StoreUnavailable`], [`Error::AuditUnavailable`].
    pub async fn create_managed(&self, caller: &Caller, new: NewManaged, ticket: Option<TicketId>) -> Result<Managed> {
        let (birth, spec) = self.birth(new)?;
        birth.check()?;
        let (service, caller) = (self.clone(), caller.clone());
        self.keys
            .to_the_end(async move {
                let name = birth.name.clone();
                let made = life::create(&service.keys.0, birth, spec, ticket);
                let made = service.act(Action::Create, made).await?;
                service.record_birth(&caller, Action::Create, &name, made).await
            })
            .await
    }

    /// Makes many keys of protection `wrapped` in one transaction, all or none, without records: for measurements of a full
    /// store, not for users.
    ///
    /// # Errors
    /// As [`create_managed`](Self::create_managed).
    #[doc(hidden)]
    pub async fn fill(&self, keys: Vec<NewManaged>) -> Result<()> {
        let births = keys.into_iter().map(|new| self.birth(new)).collect::<Result<_>>()?;
        let service = self.clone();
        let fill = async move { life::create_many(&service.keys.0, births).await };
        self.keys.to_the_end(fill).await
    }

    /// Makes a key of the token the first version of a managed key.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the name is or was taken, or the key is a version already; [`Error::Hsm`],
    /// [`Error::StoreUnavailable`], [`Error::AuditUnavailable`].
    pub async fn adopt(&self, caller: &Caller, adopt: Adopt, ticket: Option<TicketId>) -> Result<Managed> {
        let (service, caller) = (self.clone(), caller.clone());
        self.keys
            .to_the_end(async move {
                let name = adopt.name.clone();
                let made = service.act(Action::Adopt, service.adopted(adopt, ticket)).await?;
                service.record_birth(&caller, Action::Adopt, &name, made).await
            })
            .await
    }

    /// A managed key as it is now. Not recorded.
    ///
    /// # Errors
    /// [`Error::KeyNotFound`], [`Error::StoreUnavailable`], [`Error::Tampered`].
    pub async fn managed(&self, name: &ManagedId) -> Result<Managed> {
        let read = life::existing(&self.keys.0, name);
        Ok(self.with_usage(self.timed(Action::Get, read).await?))
    }

    /// Changes tags, rotation, state or primary version.
    ///
    /// # Errors
    /// The key's state; [`Error::Hsm`] for what may not be; [`Error::StoreUnavailable`], [`Error::AuditUnavailable`].
    pub async fn update(&self, caller: &Caller, name: &ManagedId, update: Update) -> Result<Managed> {
        self.change(caller, Action::Update, name, 200, None, move |record, now| {
            change::updated(record, &update, now)
        })
        .await
    }

    /// Makes a new version, which is the primary one.
    ///
    /// # Errors
    /// The key's state; [`Error::Conflict`] if another rotation is under way; [`Error::Hsm`], [`Error::StoreUnavailable`],
    /// [`Error::AuditUnavailable`].
    pub async fn rotate(&self, caller: &Caller, name: &ManagedId, ticket: Option<TicketId>) -> Result<Managed> {
        let (service, caller, name) = (self.clone(), caller.clone(), name.clone());
        self.keys
            .to_the_end(async move {
                let inner = &service.keys.0;
                let rotated = service
                    .act(Action::Rotate, async {
                        let made = life::rotate(inner, &name, ticket, false).await?;
                        made.ok_or_else(|| Error::Conflict(format!("the key `{name}` was just rotated")))
                    })
                    .await?;
                let version = rotated.as_ref().ok().map(KeyRecord::latest_version);
                if let Some(version) = version {
                    inner.marks.version(&name, version);
                }
                let rotated = service
                    .record_managed(&caller, Action::Rotate, &name, version, rotated, 200)
                    .await;
                fault::point("rotate:after-record");
                rotated
            })
            .await
    }

    /// Enables or disables a version.
    ///
    /// # Errors
    /// The key's state and the version's; [`Error::VersionNotFound`]; [`Error::StoreUnavailable`], [`Error::AuditUnavailable`].
    pub async fn update_version(
        &self,
        caller: &Caller,
        name: &ManagedId,
        version: u32,
        state: VersionState,
    ) -> Result<Managed> {
        let action = Action::UpdateVersion;
        self.change(caller, action, name, 200, Some(version), move |record, now| {
            change::version_set(record, version, state, now)
        })
        .await
    }

    /// Has a key destroyed after so many days, 0 to 30; with 0 within some seconds.
    ///
    /// # Errors
    /// The key's state; [`Error::StoreUnavailable`], [`Error::AuditUnavailable`].
    pub async fn schedule_destruction(&self, caller: &Caller, name: &ManagedId, window_days: u8) -> Result<Managed> {
        self.change(caller, Action::Delete, name, 202, None, move |record, now| {
            change::scheduled(record, window_days, now).map(Some)
        })
        .await
    }

    /// Has a key not be destroyed after all.
    ///
    /// # Errors
    /// [`Error::Conflict`] if it is not to be destroyed, [`Error::KeyDestroyed`] if it is too late;
    /// [`Error::StoreUnavailable`], [`Error::AuditUnavailable`].
    pub async fn restore(&self, caller: &Caller, name: &ManagedId) -> Result<Managed> {
        self.change(caller, Action::Restore, name, 200, None, |record, now| {
            change::restored(record, now).map(Some)
        })
        .await
    }

    /// The versions of the gateway's own keys, and how much lies under older ones.
    ///
    /// # Errors
    /// [`Error::StoreUnavailable`].
    pub async fn kek_status(&self) -> Result<KekStatus> {
        kek::status(&self.keys.0).await
    }

    /// Makes a new version of the gateway's own keys, on the default token and on those named, and brings every record under
    /// it. `progress` is told how many are done and how many are left. Answers the version.
    ///
    /// # Errors
    /// [`Error::Conflict`] if a token holds the present keys and is not named; [`Error::Hsm`], [`Error::StoreUnavailable`],
    /// [`Error::AuditUnavailable`]. What is left undone then, [`rewrap_all`](Self::rewrap_all) does.
    pub async fn rotate_kek(&self, to: &[TokenName], progress: impl FnMut(u64, u64) + Send) -> Result<u32> {
        if !self.audit.writable() {
            return Err(Error::AuditUnavailable);
        }
        let (keys, to) = (self.keys.clone(), to.to_vec());
        let version = self
            .keys
            .to_the_end(async move { kek::rotate(&keys.0, &to).await })
            .await?;
        self.rewrap_all(progress).await?;
        Ok(version)
    }

    /// Brings every record under the gateway's own keys in use, where it is not.
    ///
    /// # Errors
    /// [`Error::Hsm`], [`Error::StoreUnavailable`], [`Error::Tampered`]: of the first that failed; the others are done.
    pub async fn rewrap_all(&self, mut progress: impl FnMut(u64, u64) + Send) -> Result<()> {
        kek::rewrap_all(&self.keys.0, &mut progress).await
    }

    /// A record with what was counted of it here and is not written yet.
    pub(super) fn with_usage(&self, record: KeyRecord) -> Managed {
        let (pending, last) = self.keys.0.counters.pending(&record.name);
        Managed {
            operations: record.usage.operations.saturating_add(pending),
            last_used_at: last.max(record.usage.last_used_at),
            record,
        }
    }

    fn birth(&self, new: NewManaged) -> Result<(Birth, KeySpec)> {
        let NewManaged {
            name,
            spec,
            protection,
            usages,
            token,
            rotation,
            tags,
        } = new;
        self.tokens.named(token.as_deref())?;
        let birth = Birth {
            name,
            key_type: spec.key_type(),
            size: spec.size(),
            usages,
            protection,
            token: token.as_deref().and_then(TokenName::parse),
            rotation,
            tags,
        };
        Ok((birth, spec))
    }

    async fn adopted(&self, adopt: Adopt, ticket: Option<TicketId>) -> Result<KeyRecord> {
        let Adopt {
            name,
            hsm_key_id,
            rotation,
            tags,
        } = adopt;
        let told = life::told(&self.keys.0, &hsm_key_id).await?;
        let birth = Birth {
            name,
            key_type: told.key_type,
            size: told.size,
            usages: told.usages,
            protection: Protection::Hsm,
            token: hsm_key_id.token().cloned(),
            rotation,
            tags,
        };
        life::adopt(&self.keys.0, birth, hsm_key_id, ticket).await
    }

    /// Records a creation. One that can't be recorded is undone.
    async fn record_birth(
        &self,
        caller: &Caller,
        action: Action,
        name: &ManagedId,
        made: Result<KeyRecord>,
    ) -> Result<Managed> {
        let record = made.as_ref().ok().cloned();
        let key = Done {
            key_id: name.to_string(),
            key_version: record.as_ref().map(KeyRecord::latest_version),
        };
        let answer = self.record(caller, action, key, None, made, 201).await;
        fault::point("create:after-record");
        if let (Err(Error::AuditUnavailable), Some(record)) = (&answer, record)
            && let Err(error) = life::undo_creation(&self.keys.0, &record, action == Action::Adopt).await
        {
            tracing::error!(%name, %error, "a key whose creation could not be recorded is still there: delete it");
        }
        Ok(self.with_usage(answer?))
    }

    async fn change(
        &self,
        caller: &Caller,
        action: Action,
        name: &ManagedId,
        status: u16,
        version: Option<u32>,
        next: impl Fn(&KeyRecord, OffsetDateTime) -> Result<Option<KeyRecord>> + Send + Sync + 'static,
    ) -> Result<Managed> {
        let (service, caller, name) = (self.clone(), caller.clone(), name.clone());
        self.keys
            .to_the_end(async move {
                let changed = service.act(action, life::change(&service.keys.0, &name, next)).await?;
                if action == Action::Delete {
                    fault::point("schedule-destruction:after-commit");
                }
                service
                    .record_managed(&caller, action, &name, version, changed, status)
                    .await
            })
            .await
    }

    /// Records what was changed, later if it can't be now.
    async fn record_managed(
        &self,
        caller: &Caller,
        action: Action,
        name: &ManagedId,
        key_version: Option<u32>,
        result: Result<KeyRecord>,
        status: u16,
    ) -> Result<Managed> {
        if is_unrecorded(&result) {
            return result.map(|record| self.with_usage(record));
        }
        let key = Done {
            key_id: name.to_string(),
            key_version,
        };
        let entry = self.entry(caller, action, key, None, result.as_ref().err(), status);
        let written = match &result {
            Ok(_) => self.audit.append_owed(vec![entry]).await,
            Err(_) => self.audit.append(vec![entry]).await,
        };
        written.map_err(|_| Error::AuditUnavailable)?;
        Ok(self.with_usage(result?))
    }
}
