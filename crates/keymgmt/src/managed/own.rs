//! The gateway's own keys on the token: the key-encryption key of wrapped keys, and the key of the seals, in versions.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use hsm_core::{Hsm, HsmKeyId, KeySpec, Label, NewKey, TokenName, Usage, Usages};

use super::record::GatewayKeys;
use super::{Inner, OWN_LABELS, change, fault};
use crate::service::{Error, Result};
use crate::store::{Done, Intent, IntentKind, StoreError};

/// The key-encryption key.
pub(super) const KEK: Part = Part {
    name: "kek",
    spec: KeySpec::Aes { bits: 256 },
    usages: Usages::NONE.with(Usage::Wrap).with(Usage::Unwrap),
};
/// The key of the seals.
pub(super) const MAC: Part = Part {
    name: "mac",
    spec: KeySpec::Hmac { bits: 256 },
    usages: Usages::NONE.with(Usage::Sign).with(Usage::Verify),
};

/// One of the keys of a version.
pub(super) struct Part {
    name: &'static str,
    pub(super) spec: KeySpec,
    pub(super) usages: Usages,
}

impl Part {
    /// A label that no other key has, also none of a version that was begun and not finished.
    pub(super) fn label(&self, version: u32, id: &HsmKeyId) -> Result<Label> {
        let id: String = id.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Label::parse(&format!("{OWN_LABELS}{}:{version}:{id}", self.name))?)
    }
}

/// The versions of the gateway's keys, in memory.
#[derive(Default)]
pub(crate) struct OwnKeys {
    known: RwLock<BTreeMap<u32, Known>>,
    /// Held while the first ones are made, so that a process makes them once.
    making: tokio::sync::Mutex<()>,
    /// Held while they are read, so that what was read before does not take the place of what was read after.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct Known {
    keys: GatewayKeys,
    /// Whether the token said that they are the gateway's own, and not keys that users can use.
    checked: bool,
}

impl OwnKeys {
    /// The keys in use. The first ones are made when they are needed first.
    ///
    /// # Errors
    /// The store's, the token's; [`Error::Tampered`] if the store names keys that are not the gateway's.
    pub(crate) async fn current(&self, inner: &Inner) -> Result<GatewayKeys> {
        if let Some(version) = self.newest() {
            return self.checked(inner, version).await;
        }
        let _one = self.making.lock().await;
        self.reload(inner).await?;
        if self.newest().is_none() {
            make(inner, 1).await?;
            self.reload(inner).await?;
        }
        let version = self.newest().ok_or_else(gone)?;
        self.checked(inner, version).await
    }

    /// The keys of a version, if there is such a one.
    ///
    /// # Errors
    /// As [`current`](Self::current).
    pub(crate) async fn find(&self, inner: &Inner, version: u32) -> Result<Option<GatewayKeys>> {
        if self.by_version(version).is_none() {
            self.reload(inner).await?;
        }
        match self.by_version(version) {
            None => Ok(None),
            Some(_) => self.checked(inner, version).await.map(Some),
        }
    }

    /// The keys of a version, as far as they are in memory.
    pub(crate) fn by_version(&self, version: u32) -> Option<GatewayKeys> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(&version).map(|known| known.keys.clone())
    }

    /// All versions that are in memory, in order.
    pub(crate) fn all(&self) -> Vec<GatewayKeys> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.values().map(|known| known.keys.clone()).collect()
    }

    /// Reads them from the store.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn reload(&self, inner: &Inner) -> Result<()> {
        let _one = self.reading.lock().await;
        let read = inner.store.gateway_keys().await?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *known);
        for keys in read {
            let same = before.get(&keys.version).filter(|one| one.keys == keys);
            let checked = same.is_some_and(|one| one.checked);
            known.insert(keys.version, Known { keys, checked });
        }
        Ok(())
    }

    fn newest(&self) -> Option<u32> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.keys().next_back().copied()
    }

    /// Asks the token once for each version: who can write to the store alone could name a key there that he may use.
    async fn checked(&self, inner: &Inner, version: u32) -> Result<GatewayKeys> {
        let known = {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            known.get(&version).cloned()
        };
        let Known { keys, checked } = known.ok_or_else(gone)?;
        if checked {
            return Ok(keys);
        }
        let hsm = inner.tokens.named(None)?;
        for id in [&keys.kek, &keys.mac] {
            if !hsm.own().has(id).await? {
                return Err(Error::Tampered(format!(
                    "the token has no key {id}, which the store names as one of the gateway's own (version {version}): this \
                     is another token, or the key is lost; use the token that the store belongs to, or restore the token \
                     from its backup"
                )));
            }
            if !is_hidden(hsm, id).await? {
                return Err(Error::Tampered(format!(
                    "the store names the key {id} as one of the gateway's own (version {version}), and the token knows it as \
                     a key of users: the store was changed by another program; restore it from a backup"
                )));
            }
        }
        let mut all = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get_mut(&version).filter(|known| known.keys == keys) {
            known.checked = true;
        }
        Ok(keys)
    }
}

/// The key-encryption key of a version, as the token of this name knows it.
///
/// # Errors
/// `Internal` can't happen.
pub(crate) fn kek_on(keys: &GatewayKeys, token: Option<&TokenName>) -> Result<HsmKeyId> {
    on(token, &keys.kek)
}

/// The same CKA_ID on another token.
pub(super) fn on(token: Option<&TokenName>, id: &HsmKeyId) -> Result<HsmKeyId> {
    let id = HsmKeyId::on(token, id.as_bytes());
    Ok(id.ok_or_else(|| hsm_core::Error::Internal("an id of a wrong length".into()))?)
}

async fn is_hidden(hsm: &Hsm, id: &HsmKeyId) -> Result<bool> {
    match hsm.key(id).await {
        Ok(_) => Ok(false),
        Err(hsm_core::Error::KeyNotFound(_)) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Makes the keys of a version on the default token alone. Another gateway may be first: then its keys are used.
pub(super) async fn make(inner: &Inner, version: u32) -> Result<()> {
    let hsm = inner.tokens.named(None)?;
    let (kek, mac) = (hsm.fresh_id().await?, hsm.fresh_id().await?);
    let intent = Intent {
        kind: IntentKind::GatewayKeys,
        name: None,
        ids: vec![kek.clone(), mac.clone()],
    };
    let intent = inner.store.begin(intent).await?;
    fault::point("gateway-keys:after-intent");
    let made = async {
        for (part, id) in [(&KEK, &kek), (&MAC, &mac)] {
            let new = NewKey {
                id: Some(id.clone()),
                usages: part.usages,
                ..NewKey::new(part.spec, part.label(version, id)?)
            };
            hsm.own().generate(new).await?;
        }
        fault::point("gateway-keys:after-token");
        let keys = GatewayKeys {
            version,
            kek: kek.clone(),
            mac: mac.clone(),
            created_at: change::now(),
        };
        let done = Done {
            intent: Some(intent.clone()),
            ..Done::default()
        };
        match inner.store.add_gateway_keys(keys, done).await {
            Ok(()) => Ok(true),
            Err(StoreError::Conflict(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
    .await;
    fault::point("gateway-keys:after-commit");
    match made {
        Ok(true) => Ok(()),
        Ok(false) => {
            inner.give_up(intent).await;
            Ok(())
        }
        Err(error) => {
            inner.give_up(intent).await;
            Err(error)
        }
    }
}

fn gone() -> Error {
    Error::Tampered("the gateway's own keys are gone from the store: restore it from a backup".into())
}
