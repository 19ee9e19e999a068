//! Keys made and destroyed. Neither is ever tried again; after an unclear end the key is looked for by the id that was
//! chosen before, and what is not wanted there is destroyed.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::algorithm::MechanismId;
use crate::backend::{Filter, Handle, Made, Outcome, Template};
use crate::call::Reply;
use crate::error::{Error, Result};
use crate::index::{Found, Stale};
use crate::key::{Curve, HsmKeyId, KeyInfo, KeySpec, Label, NewKey};
use crate::quirks;
use crate::worker::{Again, MOST_LOOKS, Worker, lost_again_and_again};

/// How long after its deadline a creation that has not returned is taken for failed.
const AFTER_DEADLINE: Duration = Duration::from_secs(1);
/// Length of a CKA_ID that is made here, in bytes.
const ID_BYTES: usize = 8;

/// Labels of keys that are being made: no second one may begin.
#[derive(Default)]
pub(crate) struct Creating(Mutex<HashSet<Label>>);

struct Reserved<'a> {
    creating: &'a Creating,
    label: &'a Label,
}

impl Creating {
    fn reserve<'a>(&'a self, label: &'a Label) -> Result<Reserved<'a>> {
        let fresh = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(label.clone());
        if fresh {
            Ok(Reserved { creating: self, label })
        } else {
            Err(taken(label))
        }
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.creating
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(self.label);
    }
}

fn taken(label: &Label) -> Error {
    Error::Conflict(format!("another key of the token has the label `{}`", label.as_str()))
}

/// The mechanism that makes such a key.
///
/// # Errors
/// [`Error::NotSupported`] for the post-quantum types.
pub(crate) fn mechanism(spec: KeySpec) -> Result<MechanismId> {
    match spec {
        KeySpec::Rsa { .. } => Ok(MechanismId::RSA_PKCS_KEY_PAIR_GEN),
        KeySpec::Aes { .. } => Ok(MechanismId::AES_KEY_GEN),
        KeySpec::Hmac { .. } => Ok(MechanismId::GENERIC_SECRET_KEY_GEN),
        KeySpec::Curve(Curve::Ed25519 | Curve::Ed448) => Ok(MechanismId::EC_EDWARDS_KEY_PAIR_GEN),
        KeySpec::Curve(Curve::P256 | Curve::P384 | Curve::P521 | Curve::Secp256k1) => Ok(MechanismId::EC_KEY_PAIR_GEN),
        KeySpec::PostQuantum { key_type, .. } => Err(Error::NotSupported(format!(
            "keys of type {key_type} are not served yet"
        ))),
    }
}

/// Makes a key and settles `reply` with it. If nobody waits for it any more, the key is destroyed.
pub(crate) fn create(worker: &mut Worker, new: &NewKey, reply: &Reply<KeyInfo>) {
    let deadline = worker.deadline;
    let shared = worker.shared.clone();
    let reserved = match shared.creating.reserve(&new.label) {
        Ok(reserved) => reserved,
        Err(error) => {
            reply.settle(Err(error));
            return;
        }
    };
    let made = prepare(worker, new).and_then(|id| {
        // Should the module never return, what it made is destroyed once it appears.
        let watched = shared.keeper.destroy_from(id.clone(), deadline + AFTER_DEADLINE);
        let made = make(worker, new, &id);
        let in_time = Instant::now() < deadline;
        let kept = shared.keeper.keep(&id) == watched;
        match (made, kept) {
            (Ok(info), true) if in_time => Ok(info),
            (Ok(_), _) => undo(worker, &id, Error::Timeout),
            (Err(error), _) => undo(worker, &id, error),
        }
    });
    let id = made.as_ref().ok().map(|info| info.id.clone());
    // Before the answer: who has it may use the label at once if there is no key, and else the token has it.
    drop(reserved);
    if !reply.settle(made)
        && let Some(id) = id
    {
        tracing::warn!(%id, "the key was ready after its creation had been answered with an error; it is destroyed");
        let _: Result<()> = undo(worker, &id, Error::Timeout);
    }
}

/// Chooses a free id, and sees that the label is free.
fn prepare(worker: &mut Worker, new: &NewKey) -> Result<HsmKeyId> {
    let label = new.label.as_str();
    let shared = worker.shared.clone();
    let token = shared.link.token();
    let holds_label = worker.run(Again::Once, |session| {
        let _hold = shared.catalogue.search(&token);
        shared.link.while_logged_in(session, |session| {
            for handle in session.find(&Filter::Label(label))? {
                let holder = match session.read(handle) {
                    // Destroyed by somebody between the search and the look.
                    Err(failure) if quirks::is_dead_handle(&token, &failure) => None,
                    holder => holder?,
                };
                if holder.is_some_and(|object| !object.id.is_empty() && object.label == label) {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    })?;
    if holds_label {
        return Err(taken(&new.label));
    }
    for _ in 0..8 {
        let mut bytes = [0; ID_BYTES];
        shared.entropy.fill(worker, &mut bytes)?;
        let free = worker.run(Again::Once, |session| {
            let _hold = shared.catalogue.search(&token);
            Ok(session.find(&Filter::Id(&bytes))?.is_empty())
        })?;
        if let (true, Some(id)) = (free, HsmKeyId::from_bytes(&bytes)) {
            return Ok(id);
        }
    }
    Err(Error::Device(
        "eight ids in a row are taken on the token: its random generator repeats itself".into(),
    ))
}

fn make(worker: &mut Worker, new: &NewKey, id: &HsmKeyId) -> Result<KeyInfo> {
    let template = Template {
        spec: new.spec,
        id: id.as_bytes(),
        label: new.label.as_str(),
        extractable: new.extractable,
        usages: new.usages,
        session_only: false,
    };
    let shared = worker.shared.clone();
    let token = shared.link.token();
    // In one go: the handles may not outlive a restart of the module.
    let found = worker.run(Again::Never, |session| {
        let _hold = shared.catalogue.change(&token);
        let generation = shared.index.generation();
        let made = session.generate(&template);
        let handles = match made.map_err(|failure| quirks::of_creation(&token, new.spec, failure))? {
            Made::Secret(secret) => vec![secret],
            Made::Pair { public, private } => vec![public, private],
        };
        let read = |handle: Handle| Ok(session.read(handle)?.map(|object| (handle, object)));
        let objects = handles.into_iter().map(read).collect::<Outcome<Option<Vec<_>>>>()?;
        Ok(objects.map(|objects| Found { generation, objects }))
    })?;
    let found = found.ok_or_else(|| Error::Device("the token does not tell what kind of key it made".into()))?;
    match shared.index.replace(id, found) {
        Ok(Some(key)) => Ok(key.info.clone()),
        // Dropped since: it is on the token, and will be found there.
        Ok(None) | Err(Stale) => Ok(worker.find(id)?.info.clone()),
    }
}

/// Destroys what there is under `id`, now or when it appears, and answers `error`.
fn undo<T>(worker: &mut Worker, id: &HsmKeyId, error: Error) -> Result<T> {
    worker.deadline = Instant::now() + worker.shared.options.timeout;
    let clearly_nothing = matches!(error, Error::NotSupported(_) | Error::InvalidRequest { .. });
    match destroy_objects(worker, id) {
        Ok(destroyed) if destroyed > 0 || clearly_nothing => {}
        Ok(_) | Err(_) => worker.shared.keeper.destroy_later(id.clone()),
    }
    Err(error)
}

/// Destroys a key: both halves of a pair, the private one first.
///
/// # Errors
/// [`Error::KeyNotFound`], [`Error::AmbiguousKey`], and what the token answers, if the key is still there afterwards.
pub(crate) fn delete(worker: &mut Worker, id: &HsmKeyId) -> Result<KeyInfo> {
    let key = worker.find(id)?;
    let info = key.info.clone();
    let mut fate = destroy(worker, id, &key.handles().collect::<Vec<_>>(), key.generation());
    for _ in 0..MOST_LOOKS {
        match fate {
            Ok(Fate::Destroyed) => return Ok(info),
            // Nothing was asked of the token yet for these: look again.
            Ok(Fate::HandlesDied) => {}
            Err(error) => {
                return match worker.find(id) {
                    Err(Error::KeyNotFound(_)) => Ok(info),
                    _ => Err(error),
                };
            }
        }
        let found = worker.objects(id)?;
        fate = destroy(worker, id, &in_order(&found), found.generation);
    }
    Err(lost_again_and_again())
}

/// Destroys every key object with this id, secret and private ones first; tells how many there were.
pub(crate) fn destroy_objects(worker: &mut Worker, id: &HsmKeyId) -> Result<usize> {
    let mut destroyed = 0;
    for _ in 0..MOST_LOOKS {
        let found = worker.objects(id)?;
        destroyed = destroyed.max(found.objects.len());
        match destroy(worker, id, &in_order(&found), found.generation)? {
            Fate::Destroyed => return Ok(destroyed),
            Fate::HandlesDied => {}
        }
    }
    Err(lost_again_and_again())
}

fn in_order(found: &Found) -> Vec<Handle> {
    let mut objects: Vec<_> = found
        .objects
        .iter()
        .map(|(handle, object)| (object.class, *handle))
        .collect();
    objects.sort_unstable();
    objects.into_iter().map(|(_, handle)| handle).collect()
}

/// What became of objects that were to be destroyed.
enum Fate {
    Destroyed,
    /// A handle was dead before it was used, or the token does not know it: what it stood for must be looked for again.
    HandlesDied,
}

fn destroy(worker: &mut Worker, id: &HsmKeyId, handles: &[Handle], generation: u64) -> Result<Fate> {
    let shared = worker.shared.clone();
    let token = shared.link.token();
    // Nobody uses the key from here on.
    shared.index.remove(id);
    for handle in handles {
        let fate = worker.run(Again::Never, |session| {
            if shared.index.generation() != generation {
                return Ok(Fate::HandlesDied);
            }
            let _hold = shared.catalogue.change(&token);
            match session.destroy(*handle) {
                Ok(()) => Ok(Fate::Destroyed),
                Err(failure) if quirks::is_dead_handle(&token, &failure) => Ok(Fate::HandlesDied),
                Err(failure) => Err(failure),
            }
        })?;
        if matches!(fate, Fate::HandlesDied) {
            return Ok(fate);
        }
    }
    shared.index.remove(id);
    Ok(Fate::Destroyed)
}
