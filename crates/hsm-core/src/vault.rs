//! Keys that lie wrapped outside the token, while they are loaded: session objects, a bounded number of them, each there for
//! all workers.
//!
//! A session object is gone with the session that made it, and its handle may be another object's afterwards. So nobody who
//! holds a loaded key may see its session closed: what is dropped here is destroyed once the last user is done, and a
//! session that must go before that stays open until then.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use quick_cache::sync::Cache;

use crate::algorithm::Operation;
use crate::backend::{Handle, Made, Outcome, Session, Template};
use crate::call::Call;
use crate::error::{Error, Failure, Result};
use crate::hsm::Hsm;
use crate::index::Key;
use crate::key::{HsmKeyId, KeyType, Material, Usage, WrappedKey};
use crate::operation::{no_half, under_a_key};
use crate::quirks;
use crate::shared::Shared;
use crate::software::PreparedKey;
use crate::worker::{Again, Worker};

/// How the loaded keys fare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadedKeys {
    /// How many are loaded.
    pub keys: usize,
    /// How many there may be.
    pub most: usize,
    /// How often a key was there.
    pub hits: u64,
    /// How often it was to be loaded.
    pub misses: u64,
}

/// The keys that are loaded.
pub(crate) struct Vault {
    keys: Cache<HsmKeyId, Arc<Key>>,
    waste: Arc<Waste>,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// What the objects of one session hang on; each session has its own. The last one to go leaves the session, if it was left
/// open for the objects' sake, to be closed.
#[derive(Clone, Default)]
pub(crate) struct Tenure(Arc<Kept>);

#[derive(Default)]
struct Kept(Mutex<Option<Left>>);

/// A session that was left open, and where it goes to be closed.
struct Left {
    session: Box<dyn Session>,
    waste: Arc<Waste>,
}

/// What is to be destroyed and closed by a worker, when it comes by.
#[derive(Default)]
struct Waste {
    objects: Mutex<Vec<Doomed>>,
    sessions: Mutex<Vec<Box<dyn Session>>>,
    /// Whether there is anything.
    any: AtomicBool,
}

impl Waste {
    fn add_objects(&self, doomed: Doomed) {
        lock(&self.objects).push(doomed);
        self.any.store(true, Ordering::Release);
    }

    fn add_session(&self, session: Box<dyn Session>) {
        lock(&self.sessions).push(session);
        self.any.store(true, Ordering::Release);
    }
}

struct Doomed {
    objects: Vec<Handle>,
    generation: u64,
    tenure: Tenure,
}

/// Holds the objects of a loaded key: with the last user they are to be destroyed.
pub(crate) struct Grip {
    objects: Vec<Handle>,
    generation: u64,
    tenure: Tenure,
    waste: Arc<Waste>,
}

/// A private key of the session that is needed for more than one call.
pub(crate) struct Parked {
    private: Handle,
    grip: Grip,
}

impl Parked {
    /// Its handle, if it is still good.
    pub(crate) fn private(&self, generation: u64) -> Option<Handle> {
        (self.grip.generation == generation).then_some(self.private)
    }
}

impl Tenure {
    fn is(&self, other: &Tenure) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let kept = self.0.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Left { session, waste }) = kept {
            waste.add_session(session);
        }
    }
}

impl Grip {
    pub(crate) fn hangs_on(&self, tenure: &Tenure) -> bool {
        self.tenure.is(tenure)
    }
}

impl Drop for Grip {
    fn drop(&mut self) {
        self.waste.add_objects(Doomed {
            objects: std::mem::take(&mut self.objects),
            generation: self.generation,
            tenure: self.tenure.clone(),
        });
    }
}

impl Vault {
    /// At most `most` keys are loaded at once.
    pub(crate) fn new(most: usize) -> Vault {
        Vault {
            keys: Cache::new(most.max(1)),
            waste: Arc::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// The key, if it is loaded.
    pub(crate) fn key(&self, wrapped: &WrappedKey, generation: u64) -> Option<Arc<Key>> {
        let found = self.keys.get(&wrapped.id).filter(|key| {
            // The same key under another key-encryption key is the same; anything else is not what was asked for.
            let same =
                |loaded: &Arc<WrappedKey>| loaded.usages == wrapped.usages && loaded.key_type == wrapped.key_type;
            key.generation() == generation && key.wrapped().is_some_and(same)
        });
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Drops a key, whose handles have died; whether it was loaded.
    pub(crate) fn drop_key(&self, id: &HsmKeyId) -> bool {
        self.keys.remove(id).is_some()
    }

    pub(crate) fn load(&self) -> LoadedKeys {
        LoadedKeys {
            keys: self.keys.len(),
            most: usize::try_from(self.keys.capacity()).unwrap_or(usize::MAX),
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
        }
    }

    /// Whether there is anything to [`sweep`](Self::sweep).
    pub(crate) fn has_waste(&self) -> bool {
        self.waste.any.load(Ordering::Acquire)
    }

    /// Destroys what nobody uses any more, by a session, and closes sessions that were left open for it.
    pub(crate) fn sweep(&self, shared: &Shared, session: &mut dyn Session) {
        if !self.waste.any.swap(false, Ordering::AcqRel) {
            return;
        }
        let doomed = std::mem::take(&mut *lock(&self.waste.objects));
        let left = std::mem::take(&mut *lock(&self.waste.sessions));
        if doomed.is_empty() && left.is_empty() {
            return;
        }
        let _hold = shared.catalogue.change(&shared.link.token());
        let generation = shared.index.generation();
        // After sessions were lost, older handles are dead, or other objects'.
        let live = doomed.iter().filter(|doomed| doomed.generation == generation);
        for object in live.flat_map(|doomed| &doomed.objects) {
            if let Err(failure) = session.destroy(*object) {
                tracing::debug!(%failure, "a key of the session stays until the session closes");
            }
        }
    }

    /// Keeps a pair of the session until it is dropped.
    pub(crate) fn park(&self, made: Made, private: Handle, generation: u64, tenure: Tenure) -> Parked {
        Parked {
            private,
            grip: self.grip(made, generation, tenure),
        }
    }

    fn grip(&self, made: Made, generation: u64, tenure: Tenure) -> Grip {
        Grip {
            objects: made.handles().collect(),
            generation,
            tenure,
            waste: self.waste.clone(),
        }
    }

    fn put(&self, key: &Arc<Key>) {
        self.keys.insert(key.info.id.clone(), key.clone());
    }

    /// Closes a session, at once if no loaded key hangs on it, else as soon as none does.
    pub(crate) fn leave(&self, tenure: &Tenure, session: Box<dyn Session>) {
        if Arc::strong_count(&tenure.0) > 1 {
            self.keys.retain(|_, key| !key.hangs_on(tenure));
            // Those are not to be destroyed one by one: they go with the session.
            lock(&self.waste.objects).retain(|doomed| !doomed.tenure.is(tenure));
        }
        if Arc::strong_count(&tenure.0) > 1 {
            *lock(&tenure.0.0) = Some(Left {
                session,
                waste: self.waste.clone(),
            });
        }
    }
}

impl Hsm {
    /// Has a wrapped key leave the token, if it is loaded: at once, or when the last who uses it is done.
    pub fn unload(&self, id: &HsmKeyId) -> Call<()> {
        if !self.shared().vault.drop_key(id) {
            return Call::settled(Ok(()));
        }
        self.call(self.shared().options.timeout, move |worker, reply| {
            let shared = worker.shared.clone();
            let swept = worker.run(Again::Once, |session| {
                shared.vault.sweep(&shared, session);
                Ok(())
            });
            reply.settle(swept);
        })
    }

    /// How the wrapped keys fare that are loaded.
    pub fn loaded(&self) -> LoadedKeys {
        self.shared().vault.load()
    }
}

impl Worker {
    /// Has a wrapped key as a session object.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if its key-encryption key is not on the token; [`Error::Device`] if it does not unwrap.
    pub(crate) fn load(&mut self, wrapped: &Arc<WrappedKey>) -> Result<Arc<Key>> {
        let shared = self.shared.clone();
        if let Some(key) = shared.vault.key(wrapped, shared.index.generation()) {
            return Ok(key);
        }
        let mechanism = under_a_key(&shared, wrapped.algorithm, Operation::Unwrap)?;
        let token = shared.link.token();
        let kek = self.kek(&wrapped.kek)?;
        let template = Template {
            id: wrapped.id.as_bytes(),
            label: LOADED,
            extractable: false,
            usages: wrapped.usages,
            session_only: true,
        };
        let made = self.make_with_key(&kek, |session, kek| {
            shared.vault.sweep(&shared, session);
            let _hold = shared.catalogue.change(&token);
            let generation = shared.index.generation();
            let kek = kek.private().ok_or_else(|| no_half("private"))?;
            let private = session
                .unwrap(&mechanism, kek, &wrapped.wrapped, wrapped.key_type, &template)
                .map_err(|failure| quirks::of_unwrapping(&token, failure))?;
            Ok((with_public_half(session, wrapped, private, &template)?, generation))
        });
        let ((made, generation), tenure) = made.map_err(|error| of_loading(error, wrapped))?;
        let grip = shared.vault.grip(made, generation, tenure);
        let key = Arc::new(Key::of_wrapped(wrapped.clone(), Some(made), generation, Some(grip)));
        shared.vault.put(&key);
        Ok(key)
    }

    /// The key-encryption key of a wrapped one.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it is not on the token.
    pub(crate) fn kek(&mut self, id: &HsmKeyId) -> Result<Arc<Key>> {
        if let Some(kek) = self.shared.index.key(id) {
            return Ok(kek);
        }
        self.find(id).map_err(|error| match error {
            Error::KeyNotFound(_) => no_kek(id),
            error => error,
        })
    }
}

/// The label of a loaded key.
const LOADED: &str = "loaded";

/// A secret needs none; of a pair the public half is used beside the token, but where only the token knows how.
fn with_public_half(
    session: &mut dyn Session,
    wrapped: &WrappedKey,
    made: Handle,
    template: &Template<'_>,
) -> Outcome<Made> {
    if matches!(wrapped.key_type, KeyType::Aes | KeyType::Hmac) {
        return Ok(Made::Secret(made));
    }
    let beside = |key| PreparedKey::new(key).is_ok() && !wrapped.usages.contains(Usage::Wrap);
    let Some(public) = wrapped.public_key.as_ref().filter(|key| !beside(key)) else {
        return Ok(Made::Private(made));
    };
    match session.import(&Material::Public(public.clone()), template) {
        Ok(Made::Public(public)) => Ok(Made::Pair { public, private: made }),
        Ok(_) => Ok(Made::Private(made)),
        Err(failure) => {
            session.destroy(made).map_err(Failure::afterwards)?;
            Err(failure.afterwards())
        }
    }
}

fn of_loading(error: Error, wrapped: &WrappedKey) -> Error {
    match error {
        Error::KeyNotFound(_) => no_kek(&wrapped.kek),
        Error::InvalidRequest { .. }
        | Error::UsageNotPermitted(_)
        | Error::NotExtractable
        | Error::DecryptionFailed => {
            let text = format!(
                "the wrapped key does not unwrap under its key-encryption key {} on this token",
                wrapped.kek
            );
            Error::Device(text.into())
        }
        error => error,
    }
}

fn no_kek(id: &HsmKeyId) -> Error {
    let text = format!(
        "the key-encryption key {id} is not on this token: configure the token that has it, or have a new one made for both"
    );
    Error::Unavailable(text.into())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
