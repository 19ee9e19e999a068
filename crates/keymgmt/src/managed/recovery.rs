//! What was begun and not finished is undone: keys on the token that no record names go.

use hsm_core::HsmKeyId;
use time::Duration;

use super::record::VersionMaterial;
use super::{Inner, change, fault, life};
use crate::service::{Action, Result};
use crate::store::{Intent, OpenIntent};

/// A module that did not answer in time may still make the key: so long it is looked for.
const LATE: Duration = Duration::minutes(2);

/// Undoes what nobody is at work on any more. What fails is tried again the next time.
pub(super) async fn recover(inner: &Inner) -> Result<()> {
    let given_up = std::mem::take(&mut *inner.given_up.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    for intent in given_up {
        inner.give_up(intent).await;
    }
    for open in inner.store.orphaned_intents().await? {
        if let Err(error) = undo(inner, open).await {
            inner.failed(&error);
            tracing::warn!(%error, "what a creation left behind can't be cleaned up yet; it is tried again");
        }
    }
    Ok(())
}

async fn undo(inner: &Inner, open: OpenIntent) -> Result<()> {
    let OpenIntent { id, intent, begun_at } = open;
    // From here on its own gateway can't finish it, should it live after all; so what is seen now stays true.
    inner.store.abandon(&id).await?;
    let named = named(inner, &intent).await?;
    for key in intent.ids.iter().filter(|key| !named.contains(key)) {
        let gone = inner.tokens.of(key)?.destroy_all(key).await?;
        if gone > 0 {
            tracing::info!(%key, "a key was destroyed whose creation was not finished");
            life::record_own(inner, Action::Destroy, key.to_string(), None).await;
        }
    }
    fault::point("recover:after-token");
    if intent.ids.is_empty() || change::now() - begun_at > LATE {
        inner.store.end(&id).await?;
    }
    Ok(())
}

/// Those of the intent's keys that a record names, or that are the gateway's own, and that therefore stay: whatever the
/// intent says that it is.
async fn named(inner: &Inner, intent: &Intent) -> Result<Vec<HsmKeyId>> {
    let own = inner.store.gateway_keys().await?;
    let own: Vec<_> = own.into_iter().flat_map(|keys| [keys.kek, keys.mac]).collect();
    let is_own = |key: &&HsmKeyId| own.iter().any(|id| id.as_bytes() == key.as_bytes());
    let mut named: Vec<_> = intent.ids.iter().filter(is_own).cloned().collect();
    if let Some(name) = &intent.name
        && let Some(record) = inner.store.key(name).await?
    {
        named.extend(record.versions.into_iter().filter_map(|one| match one.material {
            VersionMaterial::OnToken(id) => Some(id),
            VersionMaterial::Wrapped { .. } | VersionMaterial::Destroyed => None,
        }));
    }
    let all = inner.store.versions_on_token().await?;
    named.extend(all.into_iter().map(|(id, ..)| id).filter(|id| intent.ids.contains(id)));
    Ok(named)
}
