//! Which keys the token has and where each lies: id → handles, type, usages. Read in bulk, kept true by our own changes at
//! once, by searches for ids that are not here, and by a walk over the token now and then.

mod key;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use crate::backend::{Class, Handle, Object, Session, Token};
use crate::key::{HsmKeyId, KeyInfo, KeySize, PublicKey, TokenName};

pub(crate) use key::Key;
use key::merge;

/// How old what was read of an object may be when a list is made of it.
const READ_ALL_AGE: Duration = Duration::from_secs(8);

/// What a walk saw: every key object's handle, and what was read of those that were not known.
pub(crate) struct Walk {
    generation: u64,
    change: u64,
    /// All handles that were found.
    pub found: Vec<Handle>,
    /// Whether all of them are read, known or not.
    all: bool,
    /// What was read of new ones; `None` for objects that are no keys of ours to list.
    pub read: Vec<(Handle, Option<Object>)>,
}

pub(crate) struct Index {
    state: RwLock<State>,
}

/// Objects that were found, and when: handles of another generation are not used.
pub(crate) struct Found {
    /// [`Index::generation`] when they were looked for.
    pub generation: u64,
    /// The objects.
    pub objects: Vec<(Handle, Object)>,
}

/// The handles have died.
#[derive(Debug)]
pub(crate) struct Stale;

#[derive(Default)]
struct State {
    /// Counts up when all handles die.
    generation: u64,
    /// Counts our own changes, so that a walk that began before one does not undo it.
    change: u64,
    groups: BTreeMap<HsmKeyId, Group>,
    known: HashMap<Handle, Known>,
    /// While a walk is under way: the handles that were removed since it began.
    removed: Option<HashSet<Handle>>,
    walked: Option<Instant>,
    /// When every object was last read, known or not.
    all_read: Option<Instant>,
    /// The token that the keys are on, for their URIs.
    token: Option<Token>,
    /// What their ids name it by.
    name: Option<TokenName>,
}

struct Known {
    id: Option<HsmKeyId>,
    change: u64,
}

struct Group {
    objects: Vec<(Handle, Object)>,
    key: Arc<Key>,
}

impl Index {
    pub(crate) fn new(token: Token, name: Option<TokenName>) -> Index {
        Index {
            state: RwLock::new(State {
                token: Some(token),
                name,
                ..State::default()
            }),
        }
    }

    /// The key, if the index has it.
    pub(crate) fn key(&self, id: &HsmKeyId) -> Option<Arc<Key>> {
        self.read().groups.get(id).map(|group| group.key.clone())
    }

    fn has_public_object(&self, id: &[u8]) -> bool {
        let state = self.read();
        let id = HsmKeyId::on(state.name.as_ref(), id);
        id.and_then(|id| state.groups.get(&id))
            .is_some_and(|group| group.key.has_public_object())
    }

    /// Whether the handles of `key` may still be used, and are still its own.
    pub(crate) fn is_current(&self, key: &Key) -> bool {
        let state = self.read();
        let same = |known: &Key| known.handles().eq(key.handles());
        if key.wrapped().is_some() {
            return state.generation == key.generation();
        }
        state.generation == key.generation() && state.groups.get(&key.info.id).is_some_and(|group| same(&group.key))
    }

    /// Keys in the order of their ids, after `after`, that `wanted` takes; at most `limit`, and whether there are more;
    /// `None` if the token was not walked over since everything was dropped.
    pub(crate) fn page(
        &self,
        after: Option<&HsmKeyId>,
        limit: usize,
        wanted: impl Fn(&KeyInfo) -> bool,
    ) -> Option<(Vec<KeyInfo>, bool)> {
        let state = self.read();
        state.walked?;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut matching = state
            .groups
            .range((from, Bound::Unbounded))
            .map(|(_, group)| &group.key.info)
            .filter(|info| wanted(info));
        let page = matching.by_ref().take(limit).cloned().collect();
        Some((page, matching.next().is_some()))
    }

    /// When the whole token was last walked over.
    pub(crate) fn walked(&self) -> Option<Instant> {
        self.read().walked
    }

    /// Drops everything: the sessions or the login are gone, and with them the handles.
    pub(crate) fn clear(&self) {
        let mut state = self.write();
        state.generation += 1;
        state.groups.clear();
        state.known.clear();
        state.walked = None;
        state.all_read = None;
    }

    /// Which handles are good: it changes when all of them die.
    pub(crate) fn generation(&self) -> u64 {
        self.read().generation
    }

    /// Takes note that the key with this id is gone.
    pub(crate) fn remove(&self, id: &HsmKeyId) {
        self.write().remove(id);
    }

    /// Puts what was found under an id in place of what was known; the key that it makes, if any.
    ///
    /// # Errors
    /// [`Stale`] if the handles have died since they were found.
    pub(crate) fn replace(&self, id: &HsmKeyId, found: Found) -> Result<Option<Arc<Key>>, Stale> {
        let mut state = self.write();
        if state.generation != found.generation {
            return Err(Stale);
        }
        state.remove(id);
        state.insert(found.objects);
        Ok(state.groups.get(id).map(|group| group.key.clone()))
    }

    /// Begins a walk; what is changed from now on stands above what the walk will have seen.
    pub(crate) fn begin_walk(&self) -> Walk {
        let mut state = self.write();
        state.removed = Some(HashSet::new());
        Walk {
            generation: state.generation,
            change: state.change,
            found: Vec::new(),
            all: false,
            read: Vec::new(),
        }
    }

    /// Of `found`, the handles to read: those that the index has not or that had no id yet, and all of them now and then,
    /// since other programs may change ids and labels.
    pub(crate) fn to_read(&self, walk: &mut Walk) -> Vec<Handle> {
        let state = self.read();
        walk.all = state.all_read.is_none_or(|at| at.elapsed() > READ_ALL_AGE);
        if walk.all {
            return walk.found.clone();
        }
        let found = &walk.found;
        found
            .iter()
            .copied()
            .filter(|handle| state.known.get(handle).is_none_or(|known| known.id.is_none()))
            .collect()
    }

    /// Takes in what a walk that began at `started` saw. A walk over handles that have died since is of no use.
    pub(crate) fn finish_walk(&self, walk: Walk, started: Instant) {
        let Walk {
            generation,
            change,
            found,
            all,
            read,
        } = walk;
        let mut state = self.write();
        let removed = state.removed.take().unwrap_or_default();
        if state.generation != generation {
            return;
        }
        let found: HashSet<Handle> = found.into_iter().collect();
        let gone: Vec<Handle> = state
            .known
            .iter()
            .filter(|(handle, known)| known.change <= change && !found.contains(handle))
            .map(|(handle, _)| *handle)
            .collect();
        for handle in gone {
            state.drop_object(handle);
        }
        for (handle, object) in read {
            let changed_since = state.known.get(&handle).is_some_and(|known| known.change > change);
            if !removed.contains(&handle) && !changed_since {
                state.add(handle, object);
            }
        }
        state.walked = Some(started);
        if all {
            state.all_read = Some(started);
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn insert(&mut self, objects: Vec<(Handle, Object)>) {
        self.change += 1;
        for (handle, object) in objects {
            self.add(handle, Some(object));
        }
    }

    fn remove(&mut self, id: &HsmKeyId) {
        self.change += 1;
        let Some(group) = self.groups.remove(id) else { return };
        for (handle, _) in group.objects {
            self.known.remove(&handle);
            self.removed.as_mut().map(|removed| removed.insert(handle));
        }
    }

    fn add(&mut self, handle: Handle, object: Option<Object>) {
        let name = self.name.as_ref();
        let id = object.as_ref().and_then(|object| HsmKeyId::on(name, &object.id));
        if let Some(old) = self.known.insert(
            handle,
            Known {
                id: id.clone(),
                change: self.change,
            },
        ) && old.id != id
        {
            old.id
                .inspect(|old| self.regroup(old, |objects| objects.retain(|(h, _)| *h != handle)));
        }
        if let (Some(id), Some(object)) = (id, object) {
            self.regroup(&id, |objects| {
                objects.retain(|(h, _)| *h != handle);
                objects.push((handle, object));
            });
        }
    }

    fn drop_object(&mut self, handle: Handle) {
        if let Some(Known { id: Some(id), .. }) = self.known.remove(&handle) {
            self.regroup(&id, |objects| objects.retain(|(h, _)| *h != handle));
        }
    }

    fn regroup(&mut self, id: &HsmKeyId, change: impl FnOnce(&mut Vec<(Handle, Object)>)) {
        let mut objects = self.groups.remove(id).map(|group| group.objects).unwrap_or_default();
        change(&mut objects);
        if objects.is_empty() {
            return;
        }
        objects.sort_by_key(|(handle, object)| (object.class, *handle));
        let key = Arc::new(merge(id, &objects, self.generation, self.token.as_ref()));
        self.groups.insert(id.clone(), Group { objects, key });
    }
}

/// Has certificates tell the public halves of private keys that no other object tells them of: those among `objects` which
/// the index has no public object for.
pub(crate) fn certify<'a>(
    session: &mut dyn Session,
    index: Option<&Index>,
    id: Option<&[u8]>,
    objects: impl Iterator<Item = &'a mut Object>,
) {
    let mut objects: Vec<_> = objects.filter(|object| object.class != Class::Secret).collect();
    let public: HashSet<Vec<u8>> = objects
        .iter()
        .filter(|object| object.class == Class::Public)
        .map(|object| object.id.clone())
        .collect();
    objects.retain(|object| {
        let alone = object.class == Class::Private && object.public_key.is_none() && !public.contains(&object.id);
        alone && !object.id.is_empty() && index.is_none_or(|index| !index.has_public_object(&object.id))
    });
    if objects.is_empty() {
        return;
    }
    // A search that fails takes nothing from the keys.
    let certified = session.certified(id).unwrap_or_default();
    for object in objects {
        let fits = |key: &PublicKey| {
            key.key_type() == object.key_type && (object.size == KeySize::Unknown || object.size == key.size())
        };
        let mut keys = certified.iter().filter(|(id, key)| *id == object.id && fits(key));
        object.public_key = keys.next().map(|(_, key)| key.clone());
    }
}
