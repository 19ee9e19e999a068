//! What changes managed keys: on the token, in the store, and in memory. Each either happens or leaves nothing behind.

use hsm_core::{HsmKeyId, KeyInfo, KeySpec, Label, NewKey, NewWrapped, PublicKey, TokenName, Usages, WrappedKey};
use time::{Duration, OffsetDateTime};

use super::change::{self, Birth};
use super::record::{KeyRecord, KeyState, Protection, VersionMaterial};
use super::{Inner, fault, own, seal};
use crate::audit::{Entry, Outcome};
use crate::key_id::{KeyId, ManagedId};
use crate::service::{Action, Error, Result};
use crate::store::{Done, Intent, IntentId, IntentKind, StoreError, TicketId};

/// How often a change is tried that meets other changes of the same key.
const MOST_TRIES: usize = 16;

/// How long a destruction that was begun is left to the gateway that began it.
const AT_WORK: Duration = Duration::seconds(15);

/// A call's idempotency ticket.
pub(crate) type Ticket = Option<TicketId>;

struct Material {
    material: VersionMaterial,
    public_key: Option<PublicKey>,
    /// What is on the token for it until the record is there.
    intent: Option<IntentId>,
}

struct Order<'a> {
    kind: IntentKind,
    name: &'a ManagedId,
    version: u32,
    spec: KeySpec,
    usages: Usages,
    protection: Protection,
    token: Option<&'a TokenName>,
    after_intent: &'static str,
}

/// Makes a key with its first version.
pub(crate) async fn create(inner: &Inner, birth: Birth, spec: KeySpec, ticket: Ticket) -> Result<KeyRecord> {
    birth.check()?;
    is_free(inner, &birth.name).await?;
    let token = birth.token.clone();
    let name = birth.name.clone();
    let order = Order {
        kind: IntentKind::Create,
        name: &name,
        version: 1,
        spec,
        usages: birth.usages,
        protection: birth.protection,
        token: token.as_ref(),
        after_intent: "create:after-intent",
    };
    let Material {
        material,
        public_key,
        intent,
    } = make(inner, order).await?;
    fault::point("create:after-token");
    let committed = commit_new(
        inner,
        birth.record(material, public_key, change::now()),
        intent.clone(),
        ticket,
    )
    .await;
    fault::point("create:after-commit");
    unless_given_up(inner, intent, committed).await
}

/// Makes many keys that lie wrapped in the store, all or none.
pub(crate) async fn create_many(inner: &Inner, births: Vec<(Birth, KeySpec)>) -> Result<()> {
    let mut records = Vec::with_capacity(births.len());
    for (birth, spec) in births {
        birth.check()?;
        let order = Order {
            kind: IntentKind::Create,
            name: &birth.name,
            version: 1,
            spec,
            usages: birth.usages,
            protection: Protection::Wrapped,
            token: birth.token.as_ref(),
            after_intent: "create:after-intent",
        };
        let Material {
            material, public_key, ..
        } = make(inner, order).await?;
        let mut record = birth.record(material, public_key, change::now());
        seal::seal(inner, &mut record).await?;
        records.push(record);
    }
    Ok(inner.store.create_many(records).await?)
}

/// Makes a managed key of a key that is on the token.
pub(crate) async fn adopt(inner: &Inner, birth: Birth, id: HsmKeyId, ticket: Ticket) -> Result<KeyRecord> {
    birth.check()?;
    is_free(inner, &birth.name).await?;
    inner.cache.catch_up(inner).await;
    if let Some((name, version)) = inner.cache.version_of(&id) {
        return Err(Error::Conflict(format!(
            "the key {id} is version {version} of the managed key `{name}`: use it by that name"
        )));
    }
    let public_key = inner.tokens.of(&id)?.key(&id).await?.public_key;
    let record = birth.record(VersionMaterial::OnToken(id), public_key, change::now());
    let committed = commit_new(inner, record, None, ticket).await;
    fault::point("create:after-commit");
    committed
}

/// What an adopted key will be, told by the token.
pub(crate) async fn told(inner: &Inner, id: &HsmKeyId) -> Result<KeyInfo> {
    Ok(inner.tokens.of(id)?.key(id).await?)
}

/// Undoes a creation: the record goes, then what is on the token.
pub(crate) async fn undo_creation(inner: &Inner, record: &KeyRecord, adopted: bool) -> Result<()> {
    let ids: Vec<_> = on_token(record).filter(|_| !adopted).cloned().collect();
    // Whatever happens from here on, what is on the token goes if the record does.
    let intent = Intent {
        kind: IntentKind::TokenKey,
        name: None,
        ids,
    };
    let intent = inner.store.begin(intent).await?;
    let removed = inner.store.remove(&record.name, record.revision).await;
    inner.cache.forget(&record.name);
    inner.give_up(intent).await;
    Ok(removed?)
}

/// Makes a new version, which is the primary one. `due`: only if the schedule asks for it by now.
pub(crate) async fn rotate(inner: &Inner, name: &ManagedId, ticket: Ticket, due: bool) -> Result<Option<KeyRecord>> {
    let before = existing(inner, name).await?;
    let spec = change::may_rotate(&before)?;
    if due && !change::is_due(&before, change::now()) {
        return Ok(None);
    }
    let version = before.latest_version() + 1;
    let order = Order {
        kind: IntentKind::Rotate,
        name,
        version,
        spec,
        usages: before.usages,
        protection: before.protection,
        token: before.token.as_ref(),
        after_intent: "rotate:after-intent",
    };
    let Material {
        material,
        public_key,
        intent,
    } = make(inner, order).await?;
    fault::point("rotate:after-token");
    let committed = commit_version(inner, name, version, (material, public_key), intent.clone(), ticket).await;
    fault::point("rotate:after-commit");
    unless_given_up(inner, intent, committed).await.map(Some)
}

/// Changes a record; `next` is asked again if another change came between. Answers the record as it is then.
pub(crate) async fn change(
    inner: &Inner,
    name: &ManagedId,
    next: impl Fn(&KeyRecord, OffsetDateTime) -> Result<Option<KeyRecord>> + Send,
) -> Result<KeyRecord> {
    for _ in 0..MOST_TRIES {
        let record = existing(inner, name).await?;
        let Some(next) = next(&record, change::now())? else {
            return Ok(record);
        };
        match update(inner, next, Done::default()).await {
            Ok(record) => return Ok(record),
            Err(Error::Conflict(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Err(changing(name))
}

/// Destroys a key whose time has come, or goes on with it. Answers whether there was something to do.
pub(crate) async fn destroy(inner: &Inner, name: &ManagedId) -> Result<bool> {
    let mut record = existing(inner, name).await?;
    let begun = record.state == KeyState::Destroyed;
    if begun && change::now() - record.changed_at < AT_WORK {
        return Ok(false);
    }
    if let Some(doomed) = change::doomed(&record, change::now()) {
        record = match update(inner, doomed, Done::default()).await {
            Ok(record) => record,
            // Restored, or another gateway is at it.
            Err(Error::Conflict(_)) => return Ok(false),
            Err(error) => return Err(error),
        };
        fault::point("destroy:after-state");
    }
    let Some(emptied) = change::emptied(&record, change::now()) else {
        return Ok(false);
    };
    unload(inner, &record).await;
    for (at, id) in on_token(&record).enumerate() {
        if at > 0 {
            fault::point("destroy:between-objects");
        }
        inner.tokens.of(id)?.destroy_all(id).await?;
    }
    fault::point("destroy:after-token");
    record_own(inner, Action::Destroy, name.to_string(), None).await;
    inner.marks.destroyed(name);
    fault::point("destroy:after-record");
    match update(inner, emptied, Done::default()).await {
        Ok(_) | Err(Error::Conflict(_)) => {}
        Err(error) => return Err(error),
    }
    fault::point("destroy:after-commit");
    Ok(true)
}

/// Seals a record, and writes it over the one before.
pub(crate) async fn update(inner: &Inner, mut record: KeyRecord, done: Done) -> Result<KeyRecord> {
    seal::seal(inner, &mut record).await?;
    inner.store.update(record.clone(), done).await?;
    inner.cache.put(record.clone());
    Ok(record)
}

/// A key's record as it is in the store now, checked.
pub(crate) async fn existing(inner: &Inner, name: &ManagedId) -> Result<KeyRecord> {
    let found = inner.store.key(name).await?;
    let record = found.ok_or_else(|| Error::KeyNotFound(KeyId::Managed(name.clone())))?;
    seal::check(inner, &record).await?;
    Ok(record)
}

/// Records what nobody asked for. It is done, so it is recorded later if it can't be now.
pub(crate) async fn record_own(inner: &Inner, action: Action, key_id: String, key_version: Option<u32>) {
    let entry = Entry {
        request_id: None,
        subject: None,
        client: None,
        action: action.name().into(),
        key_id: Some(key_id),
        key_version,
        algorithm: None,
        outcome: Outcome::Success,
        status: 200,
        code: None,
    };
    if let Err(error) = inner.audit.append_owed(vec![entry]).await {
        tracing::warn!(%error, action = action.name(), "a change is recorded when the audit log can be written again");
    }
}

/// Whether a key is this gateway's to rotate and to destroy by the schedule: gateways of one store may have other tokens
/// than this. Of a key whose objects are on none of its tokens nobody is in charge; a day after it was due it is anybody's.
pub(crate) async fn is_here(inner: &Inner, name: &ManagedId) -> bool {
    let Ok(Some(record)) = inner.store.key(name).await else {
        return false;
    };
    let begun = record.state == KeyState::Destroyed;
    if begun || on_token(&record).next().is_none() {
        return true;
    }
    for id in on_token(&record) {
        let Ok(hsm) = inner.tokens.of(id) else { continue };
        if matches!(hsm.own().has(id).await, Ok(true)) {
            return true;
        }
    }
    let nobodys = record.destroy_at.is_some_and(|at| change::now() - at > Duration::DAY);
    if !nobodys {
        tracing::debug!(%name, "a key that is due lies on a token that this gateway does not have");
    }
    nobodys
}

/// Has versions that lie in the store leave the token, where they are loaded.
pub(crate) async fn unload(inner: &Inner, record: &KeyRecord) {
    let Ok(hsm) = inner.tokens.named(record.token.as_ref().map(TokenName::as_str)) else {
        return;
    };
    for one in &record.versions {
        if let VersionMaterial::Wrapped { id, .. } = &one.material
            && let Err(error) = hsm.unload(id).await
        {
            tracing::debug!(%error, "a key that is loaded leaves the token later");
        }
    }
}

fn on_token(record: &KeyRecord) -> impl Iterator<Item = &HsmKeyId> {
    record.versions.iter().filter_map(|one| match &one.material {
        VersionMaterial::OnToken(id) => Some(id),
        VersionMaterial::Wrapped { .. } | VersionMaterial::Destroyed => None,
    })
}

async fn is_free(inner: &Inner, name: &ManagedId) -> Result<()> {
    match inner.store.key(name).await? {
        None => Ok(()),
        Some(record) if record.state == KeyState::Destroyed => Err(Error::Conflict(format!(
            "there was a key `{name}`, which is destroyed; its name is not used again: choose another one"
        ))),
        Some(_) => Err(Error::Conflict(format!("there is a key `{name}`: choose another name"))),
    }
}

/// Makes the material of a version.
async fn make(inner: &Inner, order: Order<'_>) -> Result<Material> {
    let Order {
        kind,
        name,
        version,
        spec,
        usages,
        protection,
        token,
        after_intent,
    } = order;
    let hsm = inner.tokens.named(token.map(TokenName::as_str))?;
    // Without them no record can be sealed.
    let keys = inner.own.current(inner).await?;
    if protection == Protection::Wrapped {
        let kek = own::kek_on(&keys, token)?;
        if let Some(token) = token
            && !hsm.own().has(&kek).await?
        {
            return Err(Error::Conflict(format!(
                "the token `{token}` does not hold the gateway's key-encryption key: `hsm-server kek rotate --to {token}` puts a \
                 new one on it"
            )));
        }
        let made = hsm.own().make_wrapped(NewWrapped { spec, usages, kek }).await?;
        let WrappedKey {
            id,
            public_key,
            algorithm,
            wrapped,
            ..
        } = made;
        return Ok(Material {
            material: VersionMaterial::Wrapped {
                id,
                kek_version: keys.version,
                algorithm,
                wrapped,
            },
            public_key,
            intent: None,
        });
    }
    let label = Label::parse(&format!("{name}:{version}"))?;
    let id = hsm.fresh_id().await?;
    let intent = Intent {
        kind,
        name: Some(name.clone()),
        ids: vec![id.clone()],
    };
    let intent = inner.store.begin(intent).await?;
    fault::point(after_intent);
    let new = NewKey {
        id: Some(id.clone()),
        usages,
        ..NewKey::new(spec, label)
    };
    let mut made = hsm.generate(new.clone()).await;
    if let Err(hsm_core::Error::Conflict(_)) = made {
        // Anybody may have taken the label; with the id in it, nobody has.
        let digits: String = id.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let label = Label::parse(&format!("{name}:{version}:{digits}"))?;
        made = hsm.generate(NewKey { label, ..new }).await;
    }
    match made {
        Ok(info) => Ok(Material {
            material: VersionMaterial::OnToken(id),
            public_key: info.public_key,
            intent: Some(intent),
        }),
        Err(error) => Err(inner.not_made(intent, error).await),
    }
}

async fn commit_new(
    inner: &Inner,
    mut record: KeyRecord,
    intent: Option<IntentId>,
    ticket: Ticket,
) -> Result<KeyRecord> {
    seal::seal(inner, &mut record).await?;
    let done = Done {
        intent,
        ticket: ticket.map(|ticket| (ticket, record.name.to_string())),
    };
    if let Err(error) = inner.store.create(record.clone(), done).await {
        // The name, or a key of the token that is to be its version.
        is_free(inner, &record.name).await?;
        return Err(error.into());
    }
    inner.cache.put(record.clone());
    Ok(record)
}

async fn commit_version(
    inner: &Inner,
    name: &ManagedId,
    version: u32,
    (material, public_key): (VersionMaterial, Option<PublicKey>),
    intent: Option<IntentId>,
    ticket: Ticket,
) -> Result<KeyRecord> {
    for _ in 0..MOST_TRIES {
        let record = existing(inner, name).await?;
        let mut next = change::rotated(&record, material.clone(), public_key.clone(), change::now())?;
        if next.latest_version() != version {
            return Err(Error::Conflict(format!(
                "another rotation of the key `{name}` came first: version {} is there",
                record.latest_version()
            )));
        }
        let done = Done {
            intent: intent.clone(),
            ticket: ticket.clone().map(|ticket| (ticket, name.to_string())),
        };
        seal::seal(inner, &mut next).await?;
        match inner.store.update(next.clone(), done).await {
            Ok(()) => {
                inner.cache.put(next.clone());
                return Ok(next);
            }
            Err(StoreError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(changing(name))
}

/// What is on the token for a record that is not there goes. Whether it is there is for recovery to find out: a store that
/// failed may have written it.
async fn unless_given_up<T>(inner: &Inner, intent: Option<IntentId>, committed: Result<T>) -> Result<T> {
    if let (Err(_), Some(intent)) = (&committed, intent) {
        inner.give_up(intent).await;
    }
    committed
}

fn changing(name: &ManagedId) -> Error {
    Error::Conflict(format!("the key `{name}` is being changed again and again: try again"))
}
