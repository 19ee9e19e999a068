//! Keys made and destroyed. Neither is ever tried again; after an unclear end the key is looked for by the id that was
//! chosen before, and what is not wanted there is destroyed.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::algorithm::MechanismId;
use crate::backend::{Filter, Handle, Made, Outcome, Template};
use crate::call::Reply;
use crate::error::{Ckr, Error, Result};
use crate::key::{Curve, HsmKeyId, KeyInfo, KeySpec, Label, NewKey};
use crate::quirks;
use crate::worker::{Again, Worker};

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
    let made = prepare(worker, new).and_then(|id| make(worker, new, &id));
    let made = made.and_then(|info| {
        if Instant::now() < deadline {
            Ok(info)
        } else {
            undo(worker, &info.id, Error::Timeout)
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
    let holds_label = worker.run(Again::Once, |session| {
        for handle in session.find(&Filter::Label(label))? {
            let holder = session.read(handle)?;
            if holder.is_some_and(|object| !object.id.is_empty() && object.label == label) {
                return Ok(true);
            }
        }
        shared.link.still_logged_in(session)?;
        Ok(false)
    })?;
    if holds_label {
        return Err(taken(&new.label));
    }
    for _ in 0..8 {
        let mut bytes = [0; ID_BYTES];
        shared.entropy.fill(worker, &mut bytes)?;
        let free = worker.run(Again::Once, |session| Ok(session.find(&Filter::Id(&bytes))?.is_empty()))?;
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
    let token = worker.shared.link.token();
    let made = worker.run(Again::Never, |session| {
        session
            .generate(&template)
            .map_err(|failure| quirks::of_creation(&token, new.spec, failure))
    });
    let seen = made.and_then(|made| read(worker, id, made));
    seen.or_else(|error| undo(worker, id, error))
}

/// What the token tells of a key that was just made.
fn read(worker: &mut Worker, id: &HsmKeyId, made: Made) -> Result<KeyInfo> {
    let handles = match made {
        Made::Secret(secret) => vec![secret],
        Made::Pair { public, private } => vec![public, private],
    };
    let objects = worker.run(Again::Never, |session| {
        let read = |handle: &Handle| Ok(session.read(*handle)?.map(|object| (*handle, object)));
        handles.iter().map(read).collect::<Outcome<Option<Vec<_>>>>()
    })?;
    let key = objects.and_then(|objects| worker.shared.index.replace(id, objects));
    let key = key.ok_or_else(|| Error::Device("the token does not tell what kind of key it made".into()))?;
    Ok(key.info.clone())
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
    match destroy(worker, id, &key.handles().collect::<Vec<_>>()) {
        Ok(()) => Ok(info),
        Err(error) => match worker.find(id) {
            Err(Error::KeyNotFound(_)) => Ok(info),
            _ => Err(error),
        },
    }
}

/// Destroys every key object with this id, secret and private ones first; tells how many there were.
pub(crate) fn destroy_objects(worker: &mut Worker, id: &HsmKeyId) -> Result<usize> {
    let mut objects = worker.objects(id)?;
    objects.sort_by_key(|(_, object)| object.class);
    let handles: Vec<Handle> = objects.iter().map(|(handle, _)| *handle).collect();
    destroy(worker, id, &handles)?;
    Ok(handles.len())
}

fn destroy(worker: &mut Worker, id: &HsmKeyId, handles: &[Handle]) -> Result<()> {
    let shared = worker.shared.clone();
    for handle in handles {
        worker.run(Again::Never, |session| match session.destroy(*handle) {
            Err(failure) if failure.rv == Some(Ckr::ObjectHandleInvalid) => shared.link.still_logged_in(session),
            outcome => outcome,
        })?;
    }
    shared.index.remove(id);
    Ok(())
}
