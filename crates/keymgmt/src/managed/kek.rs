//! New versions of the gateway's own keys, on one token or on several, and records brought under them.

use hsm_core::{Hsm, KeyAttributes, KeyRef, SharedKey, TokenName, WrappedKey};
use tokio::sync::watch;

use super::own::{self, KEK, MAC};
use super::record::{GatewayKeys, KeyRecord, VersionMaterial};
use super::{Inner, change, fault, life, resolve};
use crate::ManagedId;
use crate::service::{Action, Error, Result};
use crate::store::{Done, Intent, IntentKind, StoreError};

/// Records that are asked for at once.
const PAGE: usize = 100;
/// How often a record is tried that others change meanwhile.
const MOST_TRIES: usize = 8;

/// Told after each record: how many are done, and how many are left.
pub(crate) type Progress<'a> = dyn FnMut(u64, u64) + Send + 'a;

/// The versions of the gateway's own keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KekStatus {
    /// In order; the last is in use.
    pub keys: Vec<GatewayKeys>,
    /// Managed keys that lie under, or are sealed by, an older version.
    pub outdated: u64,
}

/// How things stand.
pub(crate) async fn status(inner: &Inner) -> Result<KekStatus> {
    inner.own.reload(inner).await?;
    let keys = inner.own.all();
    let outdated = match keys.last() {
        Some(last) => inner.store.count_under_older(last.version).await?,
        None => 0,
    };
    Ok(KekStatus { keys, outdated })
}

/// Makes a new version on the default token and on those named. Answers its number.
///
/// # Errors
/// [`Error::Conflict`] if another token holds the present keys and is not named, or another rotation was first.
pub(crate) async fn rotate(inner: &Inner, to: &[TokenName]) -> Result<u32> {
    let present = inner.own.current(inner).await?;
    for (name, hsm) in inner.tokens.iter() {
        let Some(name) = name.filter(|name| !to.contains(name)) else {
            continue;
        };
        if hsm.own().has(&own::kek_on(&present, Some(name))?).await? {
            return Err(Error::Conflict(format!(
                "the token `{name}` holds the present key-encryption key: name it with `--to {name}`, or what lies under it could \
                 not be used there any more"
            )));
        }
    }
    let version = present.version + 1;
    if to.is_empty() {
        own::make(inner, version).await?;
    } else {
        share(inner, version, to).await?;
    }
    inner.own.reload(inner).await?;
    life::record_own(
        inner,
        Action::KekRotate,
        format!("gateway-keys:{version}"),
        Some(version),
    )
    .await;
    Ok(version)
}

/// Brings every record under the keys in use. What fails is left for the next time, and told at the end.
pub(crate) async fn rewrap_all(inner: &Inner, progress: &mut Progress<'_>) -> Result<()> {
    let version = inner.own.current(inner).await?.version;
    let mut left = inner.store.count_under_older(version).await?;
    let mut done = 0;
    let mut failed = None;
    let mut after = None;
    loop {
        let names = inner.store.wrapped_under_older(version, after.take(), PAGE).await?;
        let Some(last) = names.last().cloned() else { break };
        for name in names {
            match rewrap(inner, &name).await {
                Ok(()) => {
                    done += 1;
                    left = left.saturating_sub(1);
                    progress(done, left);
                }
                Err(error @ Error::StoreUnavailable(_)) => return Err(error),
                Err(error) => {
                    tracing::warn!(%name, %error, "the key could not be wrapped anew");
                    failed.get_or_insert(error);
                }
            }
        }
        after = Some(last);
    }
    failed.map_or(Ok(()), Err)
}

/// Some of the records under older keys, and not all at once: others work too.
pub(super) async fn rewrap_some(inner: &Inner, stop: &watch::Receiver<bool>) -> Result<()> {
    let Some(last) = inner.own.all().pop() else {
        return Ok(());
    };
    for name in inner.store.wrapped_under_older(last.version, None, PAGE).await? {
        if *stop.borrow() {
            break;
        }
        if let Err(error) = rewrap(inner, &name).await {
            inner.failed(&error);
            tracing::warn!(%name, %error, "the key could not be wrapped anew yet; it is tried again");
        }
    }
    Ok(())
}

async fn rewrap(inner: &Inner, name: &ManagedId) -> Result<()> {
    for _ in 0..MOST_TRIES {
        let Some(record) = inner.store.key(name).await? else {
            return Ok(());
        };
        super::seal::check(inner, &record).await?;
        let keys = inner.own.current(inner).await?;
        let material = anew(inner, &record, &keys).await?;
        if material.is_empty() && record.seal.version >= keys.version {
            return Ok(());
        }
        match life::update(inner, change::rewrapped(&record, material), Done::default()).await {
            Ok(_) => {
                fault::point("rewrap:after-one");
                return Ok(());
            }
            Err(Error::Conflict(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::Conflict(format!(
        "the key `{name}` is being changed again and again: try again"
    )))
}

async fn anew(inner: &Inner, record: &KeyRecord, keys: &GatewayKeys) -> Result<Vec<(u32, VersionMaterial)>> {
    let hsm = inner.tokens.named(record.token.as_ref().map(TokenName::as_str))?;
    let to = own::kek_on(keys, record.token.as_ref())?;
    let mut anew = Vec::new();
    for one in &record.versions {
        let Some(KeyRef::Wrapped(old)) = resolve::key_of(inner, record, one).await? else {
            continue;
        };
        if old.kek == to {
            continue;
        }
        let WrappedKey {
            id, algorithm, wrapped, ..
        } = hsm.own().rewrap(&old, &to).await?;
        let material = VersionMaterial::Wrapped {
            id,
            kek_version: keys.version,
            algorithm,
            wrapped,
        };
        anew.push((one.version, material));
    }
    Ok(anew)
}

/// Makes the keys once, and puts them on every token: on the way from one to the other they are encrypted for its RSA key.
async fn share(inner: &Inner, version: u32, to: &[TokenName]) -> Result<()> {
    let maker = inner.tokens.named(None)?;
    let mut holders: Vec<(Option<&TokenName>, &Hsm)> = vec![(None, maker)];
    for name in to {
        holders.push((Some(name), inner.tokens.named(Some(name.as_str()))?));
    }
    let (kek, mac) = (maker.fresh_id().await?, maker.fresh_id().await?);
    let mut ids = Vec::new();
    for (name, _) in &holders {
        ids.extend([own::on(*name, &kek)?, own::on(*name, &mac)?]);
    }
    let intent = Intent {
        kind: IntentKind::GatewayKeys,
        name: None,
        ids,
    };
    let intent = inner.store.begin(intent).await?;
    fault::point("gateway-keys:after-intent");
    let shared = async {
        let mut offers = Vec::new();
        for (_, hsm) in &holders {
            offers.push(hsm.own().offer().await?);
        }
        let keys = [&KEK, &MAC].map(|part| SharedKey {
            spec: part.spec,
            usages: part.usages,
        });
        let refs: Vec<_> = offers.iter().collect();
        let parcels = maker.own().make_shared(keys.to_vec(), &refs).await?;
        for ((offer, parcels), (name, hsm)) in offers.iter().zip(parcels).zip(&holders) {
            for ((part, id), parcel) in [(&KEK, &kek), (&MAC, &mac)].into_iter().zip(parcels) {
                let attributes = KeyAttributes {
                    id: Some(own::on(*name, id)?),
                    label: part.label(version, id)?,
                    extractable: false,
                    usages: part.usages,
                };
                hsm.own().accept(offer, parcel, attributes, part.spec).await?;
            }
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
        inner
            .store
            .add_gateway_keys(keys, done)
            .await
            .map_err(|error| match error {
                StoreError::Conflict(_) => {
                    Error::Conflict("another rotation of the gateway's keys was first: try again".into())
                }
                error => error.into(),
            })
    }
    .await;
    fault::point("gateway-keys:after-commit");
    if shared.is_err() {
        inner.give_up(intent).await;
    }
    shared
}
