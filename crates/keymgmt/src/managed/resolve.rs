//! From the id that a caller wrote to the key that an operation uses: which version, in what state, on which token.

use std::sync::Arc;

use hsm_core::{Algorithm, Choice, HsmKeyId, KeyRef, KeyType, WrappedKey};

use super::cache::Entry;
use super::record::{KeyRecord, KeyState, VersionMaterial, VersionRecord};
use super::{Inner, change, own};
use crate::key_id::{KeyId, ManagedId};
use crate::service::{Done, Error, Result};

/// A key that may be used.
#[derive(Clone)]
pub(crate) struct Target {
    /// What the operation is given. Its id tells the token.
    pub(crate) key: KeyRef,
    /// How answers and records name it.
    pub(crate) done: Done,
    /// The managed key that it is of.
    pub(crate) managed: Option<OfManaged>,
}

/// A version of a managed key.
#[derive(Clone)]
pub(crate) struct OfManaged {
    pub(crate) entry: Arc<Entry>,
    pub(crate) version: u32,
    /// Whether the caller named the managed key, and not the key of the token.
    pub(crate) by_name: bool,
}

/// That no version is asked for where there is none.
///
/// # Errors
/// [`Error::Invalid`] for `key_version`.
pub(crate) fn check_version(id: &KeyId, version: Option<u32>) -> Result<()> {
    match (id, version) {
        (KeyId::Hsm(_), Some(_)) => Err(Error::Invalid {
            field: "key_version",
            detail: "must be null or left out: a key of the token has no versions".into(),
        }),
        (KeyId::Hsm(_), None) | (KeyId::Managed(_), _) => Ok(()),
    }
}

/// What an operation is given to use a version; `None` where its material is gone.
///
/// # Errors
/// The token's, the store's; [`Error::Tampered`] where the store lacks the gateway keys that it is wrapped under.
pub(crate) async fn key_of(inner: &Inner, record: &KeyRecord, one: &VersionRecord) -> Result<Option<KeyRef>> {
    let (id, kek_version, algorithm, wrapped) = match &one.material {
        VersionMaterial::OnToken(id) => return Ok(Some(KeyRef::Token(id.clone()))),
        VersionMaterial::Destroyed => return Ok(None),
        VersionMaterial::Wrapped {
            id,
            kek_version,
            algorithm,
            wrapped,
        } => (id, kek_version, algorithm, wrapped),
    };
    let keys = inner.own.find(inner, *kek_version).await?.ok_or_else(|| {
        Error::Tampered(format!(
            "version {} of the key `{}` is wrapped under version {kek_version} of the gateway keys, which the store does not \
             have; restore the store from a backup",
            one.version, record.name
        ))
    })?;
    Ok(Some(KeyRef::Wrapped(Arc::new(WrappedKey {
        id: id.clone(),
        key_type: record.key_type,
        size: record.size,
        usages: record.usages,
        public_key: one.public_key.clone(),
        kek: own::kek_on(&keys, record.token.as_ref())?,
        algorithm: *algorithm,
        wrapped: wrapped.clone(),
    }))))
}

impl Inner {
    /// The key that an id stands for, if it may be used: of a managed key this version, or the primary one.
    ///
    /// A key of the token that is a version of a managed key is used only while that version may be.
    ///
    /// # Errors
    /// [`Error::KeyNotFound`], [`Error::VersionNotFound`], [`Error::KeyDisabled`], [`Error::KeyDestroyed`],
    /// [`Error::StoreUnavailable`], [`Error::Tampered`]. Whether a key of the token is there is not asked.
    pub(crate) async fn target(&self, id: &KeyId, version: Option<u32>) -> Result<Target> {
        check_version(id, version)?;
        match id {
            KeyId::Managed(name) => self.named(name, version).await,
            KeyId::Hsm(id) => self.on_token(id).await,
        }
    }

    async fn named(&self, name: &ManagedId, version: Option<u32>) -> Result<Target> {
        let entry = self.cache.entry(self, name).await?;
        let version = version.unwrap_or(entry.record.primary_version);
        let key = self.usable(&entry, version).await?;
        Ok(Target {
            key,
            done: Done {
                key_id: name.to_string(),
                key_version: Some(version),
            },
            managed: Some(OfManaged {
                entry,
                version,
                by_name: true,
            }),
        })
    }

    async fn on_token(&self, id: &HsmKeyId) -> Result<Target> {
        self.cache.catch_up(self).await;
        let mut target = Target {
            key: KeyRef::Token(id.clone()),
            done: Done {
                key_id: id.to_string(),
                key_version: None,
            },
            managed: None,
        };
        let Some((name, version)) = self.cache.version_of(id) else {
            return Ok(target);
        };
        let entry = self.cache.entry(self, &name).await?;
        self.usable(&entry, version).await?;
        target.managed = Some(OfManaged {
            entry,
            version,
            by_name: false,
        });
        Ok(target)
    }

    async fn usable(&self, entry: &Entry, version: u32) -> Result<KeyRef> {
        let record = &entry.record;
        change::is_alive(record)?;
        if record.state == KeyState::Disabled {
            return Err(change::disabled(&record.name));
        }
        let one = record.version(version);
        let one = one.ok_or_else(|| change::no_version(&record.name, version))?;
        change::is_enabled(&record.name, one)?;
        entry.key(self, version).await
    }

    /// Counts an encryption before it is done, where there is a limit to them: with an AES key and a random IV of 96 bits.
    ///
    /// # Errors
    /// [`Error::Conflict`] at the limit, [`Error::StoreUnavailable`].
    pub(crate) async fn reserve(&self, target: &Target, algorithm: &Choice) -> Result<()> {
        const UNLIMITED: [&str; 2] = [Algorithm::AesCtr.name(), Algorithm::AesCbc.name()];
        let Some(OfManaged { entry, version, .. }) = &target.managed else {
            return Ok(());
        };
        let unlimited = algorithm.name().is_some_and(|name| UNLIMITED.contains(&name));
        if entry.record.key_type != KeyType::Aes || unlimited {
            return Ok(());
        }
        entry.window(self, *version)?.take(self).await
    }

    /// Counts an operation that was done.
    pub(crate) fn count(&self, target: &Target) {
        if let Some(OfManaged { entry, .. }) = &target.managed {
            self.counters.count(&entry.record.name, 1);
        }
    }

    /// An error of the token in the terms of the caller, who knows no ids of objects behind a managed key. That such an object
    /// is gone is no fault of the caller's: the token lost it, or somebody destroyed it there.
    pub(crate) fn told(&self, target: &Target, error: hsm_core::Error) -> Error {
        let Some(OfManaged {
            entry,
            version,
            by_name: true,
        }) = &target.managed
        else {
            return Error::Hsm(error);
        };
        let name = &entry.record.name;
        let lost = |what: &str| {
            // It may have been changed elsewhere just now.
            self.cache.forget(name);
            let text = format!(
                "the token {what} that version {version} of the key `{name}` needs: was it destroyed there, or is this another \
                 token? Restore the token from its backup, or use another version"
            );
            Error::Hsm(hsm_core::Error::Device(text.into()))
        };
        match error {
            hsm_core::Error::KeyNotFound(_) => lost("has no key object"),
            hsm_core::Error::AmbiguousKey(_) => lost("has several unrelated objects under the id"),
            error => Error::Hsm(error),
        }
    }
}
