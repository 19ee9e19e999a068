//! Keys made and destroyed. Neither is ever tried again; after an unclear end the key is looked for by the id that was
//! chosen before, and what is not wanted there is destroyed.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::backend::{Class, Filter, Handle, Made, Outcome, Session, Template};
use crate::call::Reply;
use crate::error::{Error, Failure, Result};
use crate::index::{Found, Key, Stale};
use crate::key::{HsmKeyId, KeyAttributes, KeyInfo, Label};
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

/// How a key comes to be.
pub(crate) struct Birth<A> {
    /// The key that it is made of or under, if any.
    pub(crate) base: Option<Arc<Key>>,
    /// Makes it, and tells what is told beside it. Called again only if nothing was made, since a handle had died.
    pub(crate) make: Make,
    /// Whether it may stay.
    pub(crate) accept: Accept,
    /// What the call answers.
    pub(crate) answer: fn(KeyInfo, Vec<u8>) -> A,
}

pub(crate) type Accept = Box<dyn Fn(&KeyInfo) -> Result<()> + Send>;

pub(crate) type Make = Box<dyn FnMut(&mut dyn Session, Option<&Key>, &Template<'_>) -> Outcome<(Made, Vec<u8>)> + Send>;

/// Makes a key and settles `reply` with it. If nobody waits for it any more, the key is destroyed.
pub(crate) fn create<A: Send + 'static>(worker: &mut Worker, new: &KeyAttributes, birth: Birth<A>, reply: &Reply<A>) {
    let deadline = worker.deadline;
    let shared = worker.shared.clone();
    let reserved = match shared.creating.reserve(&new.label) {
        Ok(reserved) => reserved,
        Err(error) => {
            reply.settle(Err(error));
            return;
        }
    };
    let Birth {
        base,
        mut make,
        accept,
        answer,
    } = birth;
    let made = prepare(worker, new).and_then(|id| {
        // Should the module never return, what it made is destroyed once it appears.
        let watched = shared.keeper.destroy_from(id.clone(), deadline + AFTER_DEADLINE);
        let made = make_one(worker, new, &id, base, &mut make);
        let made = made.and_then(|(info, told)| {
            accept(&info)?;
            Ok((info, told))
        });
        let in_time = Instant::now() < deadline;
        let kept = shared.keeper.keep(&id) == watched;
        match (made, kept) {
            (Ok(made), true) if in_time => Ok(made),
            (Ok(_), _) => undo(worker, &id, Error::Timeout),
            (Err(error), _) => undo(worker, &id, error),
        }
    });
    let id = made.as_ref().ok().map(|(info, _)| info.id.clone());
    // Before the answer: who has it may use the label at once if there is no key, and else the token has it.
    drop(reserved);
    if !reply.settle(made.map(|(info, told)| answer(info, told)))
        && let Some(id) = id
    {
        tracing::warn!(%id, "the key was ready after its creation had been answered with an error; it is destroyed");
        let _: Result<()> = undo(worker, &id, Error::Timeout);
    }
}

/// That the token made the key as secret as it was asked to be.
fn as_asked(new: &KeyAttributes, id: &HsmKeyId, found: &Found) -> Result<()> {
    if found.objects.iter().any(|(_, object)| object.id != id.as_bytes()) {
        let text = "this token gives keys an id (CKA_ID) of its own choice: they could not be told apart";
        return Err(Error::NotSupported(text.into()));
    }
    let mut secret = found.objects.iter().filter(|(_, object)| object.class != Class::Public);
    if secret.all(|(_, object)| object.sensitive && object.extractable == new.extractable) {
        return Ok(());
    }
    let text =
        "the token made the key less secret than it was asked to (CKA_SENSITIVE, CKA_EXTRACTABLE); it was destroyed";
    Err(Error::Device(text.into()))
}

/// Gives a key another label, both its halves.
///
/// # Errors
/// [`Error::Conflict`] if another key has it.
pub(crate) fn relabel(worker: &mut Worker, id: &HsmKeyId, label: &Label) -> Result<KeyInfo> {
    let shared = worker.shared.clone();
    let token = shared.link.token();
    shared.check_label(label)?;
    let key = worker.find(id).and_then(|key| shared.in_sight(key))?;
    let _reserved = shared.creating.reserve(label)?;
    if holder(worker, label, Some(id))? {
        return Err(taken(label));
    }
    worker.run_with_key(&key, |session, key| {
        let _hold = shared.catalogue.change(&token);
        for (done, handle) in key.handles().enumerate() {
            let Err(failure) = session.relabel(handle, label.as_str()) else {
                continue;
            };
            // Both halves have one label, the old one then.
            for handle in key.handles().take(done) {
                if let Err(failure) = session.relabel(handle, &key.info.label) {
                    tracing::warn!(id = %key.info.id, %failure, "half a key has another label now; set it once more");
                }
            }
            return Err(failure);
        }
        Ok(())
    })?;
    Ok(worker.find(id)?.info.clone())
}

/// Whether a key other than `but` has the label.
fn holder(worker: &mut Worker, label: &Label, but: Option<&HsmKeyId>) -> Result<bool> {
    let shared = worker.shared.clone();
    let token = shared.link.token();
    let label = label.as_str();
    let but = but.map(HsmKeyId::as_bytes);
    worker.run(Again::Once, |session| {
        let _hold = shared.catalogue.search(&token);
        shared.link.while_logged_in(session, |session| {
            for handle in session.find(&Filter::Label(label))? {
                let holder = match session.read(handle) {
                    // Destroyed by somebody between the search and the look.
                    Err(failure) if quirks::is_dead_handle(&token, &failure) => None,
                    holder => holder?,
                };
                let other = |id: &[u8]| !id.is_empty() && but != Some(id);
                if holder.is_some_and(|object| other(&object.id) && object.label == label) {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    })
}

/// Sees that the label is free, and the id; chooses one if there is none yet.
fn prepare(worker: &mut Worker, new: &KeyAttributes) -> Result<HsmKeyId> {
    if holder(worker, &new.label, None)? {
        return Err(taken(&new.label));
    }
    match &new.id {
        None => fresh_id(worker),
        Some(id) if id.token() != worker.shared.options.name.as_ref() => Err(Error::KeyNotFound(id.clone())),
        Some(id) if is_free(worker, id.as_bytes())? => Ok(id.clone()),
        Some(id) => Err(Error::Conflict(format!("the id {id} is another key's by now"))),
    }
}

/// Chooses a free id.
pub(crate) fn fresh_id(worker: &mut Worker) -> Result<HsmKeyId> {
    let shared = worker.shared.clone();
    for _ in 0..8 {
        let mut bytes = [0; ID_BYTES];
        shared.entropy.fill(worker, &mut bytes)?;
        let id = HsmKeyId::on(shared.options.name.as_ref(), &bytes);
        if let (true, Some(id)) = (is_free(worker, &bytes)?, id) {
            return Ok(id);
        }
    }
    Err(Error::Device(
        "eight ids in a row are taken on the token: its random generator repeats itself".into(),
    ))
}

fn is_free(worker: &mut Worker, id: &[u8]) -> Result<bool> {
    let shared = worker.shared.clone();
    let token = shared.link.token();
    worker.run(Again::Once, |session| {
        let _hold = shared.catalogue.search(&token);
        Ok(session.find(&Filter::Id(id))?.is_empty())
    })
}

/// What became of an attempt.
enum Attempt {
    Made(Option<Found>, Vec<u8>),
    /// The base key's handle is not good any more, and nothing was made.
    Again(Option<Failure>),
}

fn make_one(
    worker: &mut Worker,
    new: &KeyAttributes,
    id: &HsmKeyId,
    mut base: Option<Arc<Key>>,
    make: &mut Make,
) -> Result<(KeyInfo, Vec<u8>)> {
    let template = Template {
        id: id.as_bytes(),
        label: new.label.as_str(),
        extractable: new.extractable,
        usages: new.usages,
        session_only: false,
    };
    let shared = worker.shared.clone();
    let token = shared.link.token();
    let (mut died, mut looks) = (0, 0);
    let (found, told) = loop {
        let with = base.clone();
        // In one go: the handles may not outlive a restart of the module.
        let attempt = worker.run(Again::Never, |session| {
            let _hold = shared.catalogue.change(&token);
            if with.as_ref().is_some_and(|key| !shared.index.is_current(key)) {
                return Ok(Attempt::Again(None));
            }
            let generation = shared.index.generation();
            let (made, told) = match make(session, with.as_deref(), &template) {
                Err(failure) if with.is_some() && quirks::is_dead_handle(&token, &failure) => {
                    return Ok(Attempt::Again(Some(failure)));
                }
                made => made?,
            };
            let read = |handle: Handle| Ok(session.read(handle)?.map(|object| (handle, object)));
            let objects = made.handles().map(read).collect::<Outcome<Option<Vec<_>>>>()?;
            Ok(Attempt::Made(
                objects.map(|objects| Found { generation, objects }),
                told,
            ))
        })?;
        let (failure, died_id) = match (attempt, &base) {
            (Attempt::Made(found, told), _) => break (found, told),
            (Attempt::Again(failure), Some(key)) => (failure, key.info.id.clone()),
            (Attempt::Again(_), None) => return Err(lost_again_and_again()),
        };
        base = Some(worker.find(&died_id)?);
        died += u32::from(failure.is_some());
        looks += 1;
        match failure {
            Some(failure) if died > 1 => return Err(failure.meaning(Some(&died_id))),
            _ if looks > MOST_LOOKS => return Err(lost_again_and_again()),
            _ => {}
        }
    };
    let found = found.ok_or_else(|| Error::Device("the token does not tell what kind of key it made".into()))?;
    if let Err(error) = as_asked(new, id, &found) {
        // By its handles: the id may not be the one that was asked for.
        worker.run(Again::Never, |session| {
            let _hold = shared.catalogue.change(&token);
            in_order(&found)
                .into_iter()
                .try_for_each(|handle| session.destroy(handle))
        })?;
        return Err(error);
    }
    let info = match shared.index.replace(id, found) {
        Ok(Some(key)) => key.info.clone(),
        // Dropped since: it is on the token, and will be found there.
        Ok(None) | Err(Stale) => worker.find(id)?.info.clone(),
    };
    Ok((info, told))
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
    let key = worker.find(id).and_then(|key| worker.shared.in_sight(key))?;
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
