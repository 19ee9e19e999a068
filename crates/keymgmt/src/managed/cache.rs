//! Managed keys in memory: as many as the settings allow, each ready for use, none older than the store's last change that
//! was heard of. Beside them: which keys of the token are versions of managed keys.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use hsm_core::{HsmKeyId, KeyRef};

use super::counters::Window;
use super::record::{KeyRecord, VersionMaterial};
use super::{Inner, Settings, change, resolve, seal};
use crate::key_id::{KeyId, ManagedId};
use crate::service::{Error, Result};

/// How often the map of versions is read again because it changed while it was read.
const TRIES: usize = 3;

/// A managed key, ready for use.
pub(crate) struct Entry {
    /// What the store has of it. Checked: a gateway wrote it.
    pub(crate) record: KeyRecord,
    versions: Box<[Ready]>,
}

/// What the use of a version needs, made at its first use.
#[derive(Default)]
struct Ready {
    key: OnceLock<KeyRef>,
    window: OnceLock<Arc<Window>>,
}

/// Managed keys in memory.
pub(crate) struct Cache {
    entries: quick_cache::sync::Cache<ManagedId, Arc<Entry>>,
    /// Held while an entry is put, so that an older one does not take the place of a newer.
    putting: Mutex<()>,
    versions: RwLock<Versions>,
    /// Keys that are to be read again before the map is true, and whether they were in memory.
    changed: Mutex<BTreeMap<ManagedId, bool>>,
    /// Whether all of it is to be read again.
    all_changed: AtomicBool,
    /// Whether there is anything to be read again.
    behind: AtomicBool,
    /// Held while it is read.
    reading: tokio::sync::Mutex<()>,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// How managed keys in memory fare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachedKeys {
    /// Keys in memory.
    pub keys: usize,
    /// As many at most.
    pub most: usize,
    /// Uses of keys that were in memory.
    pub hits: u64,
    /// Uses of keys that were read from the store for it.
    pub misses: u64,
}

/// Which keys of the token are versions.
#[derive(Default)]
struct Versions {
    by_id: HashMap<HsmKeyId, (ManagedId, u32)>,
    by_name: HashMap<ManagedId, OfKey>,
    /// Counts what was changed.
    changes: u64,
}

#[derive(Default)]
struct OfKey {
    revision: u64,
    ids: Vec<HsmKeyId>,
}

impl Entry {
    fn new(record: KeyRecord) -> Arc<Entry> {
        let versions = record.versions.iter().map(|_| Ready::default()).collect();
        Arc::new(Entry { record, versions })
    }

    /// What an operation is given to use this version.
    ///
    /// # Errors
    /// [`Error::VersionNotFound`], [`Error::KeyDestroyed`]; [`Error::Tampered`] if its key-encryption key is none of ours.
    pub(crate) async fn key(&self, inner: &Inner, version: u32) -> Result<KeyRef> {
        let missing = || change::no_version(&self.record.name, version);
        let ready = self.ready(version).ok_or_else(missing)?;
        if let Some(key) = ready.key.get() {
            return Ok(key.clone());
        }
        let one = self.record.version(version).ok_or_else(missing)?;
        let key = resolve::key_of(inner, &self.record, one).await?;
        let key = key.ok_or_else(|| change::version_destroyed(&self.record.name, version))?;
        Ok(ready.key.get_or_init(|| key).clone())
    }

    /// The encryptions that are reserved of this version.
    ///
    /// # Errors
    /// [`Error::VersionNotFound`].
    pub(crate) fn window(&self, inner: &Inner, version: u32) -> Result<Arc<Window>> {
        let missing = || change::no_version(&self.record.name, version);
        let ready = self.ready(version).ok_or_else(missing)?;
        let window = ready
            .window
            .get_or_init(|| inner.counters.window(&self.record.name, version));
        Ok(window.clone())
    }

    fn ready(&self, version: u32) -> Option<&Ready> {
        let at = usize::try_from(version.checked_sub(1)?).ok()?;
        self.versions.get(at)
    }
}

impl Cache {
    /// An empty one.
    pub(crate) fn new(settings: &Settings) -> Cache {
        Cache {
            entries: quick_cache::sync::Cache::new(settings.cached_keys.max(1)),
            putting: Mutex::default(),
            versions: RwLock::default(),
            changed: Mutex::default(),
            all_changed: AtomicBool::new(false),
            behind: AtomicBool::new(false),
            reading: tokio::sync::Mutex::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// How they fare.
    pub(crate) fn status(&self) -> CachedKeys {
        CachedKeys {
            keys: self.entries.len(),
            most: usize::try_from(self.entries.capacity()).unwrap_or(usize::MAX),
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
        }
    }

    /// A key that is to be used: from memory, or else from the store, its seal checked. Those who miss the same key share one
    /// reading of it.
    ///
    /// # Errors
    /// [`Error::KeyNotFound`], [`Error::StoreUnavailable`] also if the store was not heard of for too long,
    /// [`Error::Tampered`], the token's.
    pub(crate) async fn entry(&self, inner: &Inner, name: &ManagedId) -> Result<Arc<Entry>> {
        let status = inner.store.status();
        let fresh = status.last_contact.elapsed() < inner.settings.stale;
        if let Some(entry) = self.entries.get(name).filter(|_| fresh) {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(entry);
        }
        if !status.available {
            // As long as it is away nobody waits for it; the background finds out when it is back.
            let why = status.fault.as_deref().unwrap_or("it does not answer");
            return Err(Error::StoreUnavailable(format!(
                "the store of the key `{name}` can't be read ({why}); try again later"
            )));
        }
        if !fresh {
            self.entries.remove(name);
        }
        let entry = self.kept(inner, name).await?;
        self.misses.fetch_add(1, Ordering::Relaxed);
        Ok(entry)
    }

    /// Takes a record that was just written to the store. One that is older than what is there is left.
    pub(crate) fn put(&self, record: KeyRecord) {
        self.versions_of(&record);
        let _one = lock(&self.putting);
        let newer = |there: Arc<Entry>| there.record.revision > record.revision;
        if !self.entries.peek(&record.name).is_some_and(newer) {
            self.entries.insert(record.name.clone(), Entry::new(record));
        }
    }

    /// A key was changed by somebody else: it is read again at its next use, and what is just being read of it is not kept.
    pub(crate) fn forget(&self, name: &ManagedId) {
        let there = self.entries.remove(name).is_some();
        self.read_again(name, there);
        self.behind.store(true, Ordering::SeqCst);
    }

    /// Any key may have been changed.
    pub(crate) fn forget_all(&self) {
        self.entries.clear();
        self.all_changed.store(true, Ordering::SeqCst);
        self.behind.store(true, Ordering::SeqCst);
    }

    /// The key, if it is in memory.
    pub(crate) fn peek(&self, name: &ManagedId) -> Option<Arc<Entry>> {
        self.entries.peek(name)
    }

    /// The managed key that a key of the token is a version of, as far as it is in memory.
    pub(crate) fn version_of(&self, id: &HsmKeyId) -> Option<(ManagedId, u32)> {
        let versions = self.versions.read().unwrap_or_else(PoisonError::into_inner);
        versions.by_id.get(id).cloned()
    }

    /// Reads which keys of the token are versions.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn load(&self, inner: &Inner) -> Result<()> {
        let _one = self.reading.lock().await;
        self.load_all(inner).await
    }

    /// Reads again what was changed by others. While the store is away what is in memory holds.
    pub(crate) async fn catch_up(&self, inner: &Inner) {
        if !self.behind.load(Ordering::SeqCst) || !inner.store.status().available {
            return;
        }
        let _one = self.reading.lock().await;
        if !self.behind.swap(false, Ordering::SeqCst) {
            return;
        }
        if let Err(error) = self.read_changed(inner).await {
            self.behind.store(true, Ordering::SeqCst);
            inner.failed(&error);
            tracing::warn!(%error, "which keys of the token are versions of managed keys can't be read; it is tried again");
        }
    }

    /// From memory or from the store.
    async fn kept(&self, inner: &Inner, name: &ManagedId) -> Result<Arc<Entry>> {
        let guard = match self.entries.get_value_or_guard_async(name).await {
            Ok(entry) => return Ok(entry),
            Err(guard) => guard,
        };
        let entry = self.read(inner, name).await?;
        // Refused if the key was put or forgotten while it was read: what was read may be older.
        if guard.insert(entry.clone()).is_ok() {
            self.versions_of(&entry.record);
        }
        Ok(entry)
    }

    async fn read(&self, inner: &Inner, name: &ManagedId) -> Result<Arc<Entry>> {
        let found = inner.store.key(name).await?;
        let record = found.ok_or_else(|| Error::KeyNotFound(KeyId::Managed(name.clone())))?;
        seal::check(inner, &record).await?;
        Ok(Entry::new(record))
    }

    async fn read_changed(&self, inner: &Inner) -> Result<()> {
        if self.all_changed.swap(false, Ordering::SeqCst)
            && let Err(error) = self.load_all(inner).await
        {
            self.all_changed.store(true, Ordering::SeqCst);
            return Err(error);
        }
        let names = std::mem::take(&mut *lock(&self.changed));
        let mut failed = Ok(());
        for (name, there) in names {
            let read = match &failed {
                Ok(()) if there => self.kept(inner, &name).await.map(drop),
                Ok(()) => self.read_versions(inner, &name).await,
                Err(_) => {
                    self.read_again(&name, there);
                    continue;
                }
            };
            match read {
                Ok(()) => {}
                Err(Error::KeyNotFound(_)) => self.versions_gone(&name),
                // It can't be used anyhow, and its keys stay those of a managed key.
                Err(Error::Tampered(text)) => tracing::error!("{text}"),
                Err(error) => {
                    self.read_again(&name, there);
                    failed = Err(error);
                }
            }
        }
        failed
    }

    /// Notes which versions a key has that is not in memory otherwise.
    async fn read_versions(&self, inner: &Inner, name: &ManagedId) -> Result<()> {
        match inner.store.key(name).await? {
            Some(record) => self.versions_of(&record),
            None => self.versions_gone(name),
        }
        Ok(())
    }

    fn read_again(&self, name: &ManagedId, there: bool) {
        *lock(&self.changed).entry(name.clone()).or_default() |= there;
    }

    async fn load_all(&self, inner: &Inner) -> Result<()> {
        for _ in 0..TRIES {
            let before = self.versions.read().unwrap_or_else(PoisonError::into_inner).changes;
            let all = inner.store.versions_on_token().await?;
            let mut versions = self.versions.write().unwrap_or_else(PoisonError::into_inner);
            if versions.changes != before {
                continue;
            }
            *versions = Versions {
                changes: before + 1,
                ..Versions::default()
            };
            for (id, name, version) in all {
                let of_key = versions.by_name.entry(name.clone()).or_default();
                of_key.ids.push(id.clone());
                versions.by_id.insert(id, (name, version));
            }
            return Ok(());
        }
        self.all_changed.store(true, Ordering::SeqCst);
        self.behind.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Notes which keys of the token are versions of this one.
    fn versions_of(&self, record: &KeyRecord) {
        let on_token = |material: &VersionMaterial| match material {
            VersionMaterial::OnToken(id) => Some(id.clone()),
            VersionMaterial::Wrapped { .. } | VersionMaterial::Destroyed => None,
        };
        let ids = record
            .versions
            .iter()
            .filter_map(|one| Some((on_token(&one.material)?, one.version)));
        let ids: Vec<(HsmKeyId, u32)> = ids.collect();
        {
            let versions = self.versions.read().unwrap_or_else(PoisonError::into_inner);
            let known = versions.by_name.get(&record.name);
            // Most keys have none, and most records that are read say nothing new.
            if known.map_or(ids.is_empty(), |known| known.revision >= record.revision) {
                return;
            }
        }
        let mut versions = self.versions.write().unwrap_or_else(PoisonError::into_inner);
        let known = versions.by_name.get(&record.name);
        if known.is_some_and(|known| known.revision >= record.revision) {
            return;
        }
        versions.remove(&record.name);
        versions.changes += 1;
        let mut of_key = OfKey {
            revision: record.revision,
            ids: Vec::with_capacity(ids.len()),
        };
        for (id, version) in ids {
            of_key.ids.push(id.clone());
            versions.by_id.insert(id, (record.name.clone(), version));
        }
        versions.by_name.insert(record.name.clone(), of_key);
    }

    fn versions_gone(&self, name: &ManagedId) {
        let mut versions = self.versions.write().unwrap_or_else(PoisonError::into_inner);
        versions.remove(name);
        versions.changes += 1;
    }
}

impl Versions {
    fn remove(&mut self, name: &ManagedId) {
        let known = self.by_name.remove(name);
        for id in known.into_iter().flat_map(|known| known.ids) {
            self.by_id.remove(&id);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use quick_cache::sync::GuardResult;

    use super::*;
    use crate::managed::change::tests::sample;

    fn cache() -> Cache {
        Cache::new(&Settings {
            stale: Duration::from_secs(1),
            cached_keys: 10,
        })
    }

    fn revision(revision: u64) -> KeyRecord {
        KeyRecord { revision, ..sample(1) }
    }

    fn kept(cache: &Cache) -> Option<u64> {
        let entry = cache.entries.peek(&sample(1).name)?;
        Some(entry.record.revision)
    }

    /// What `meanwhile` leaves of a key whose record of revision 1 was being read.
    fn after_reading(meanwhile: impl FnOnce(&Cache)) -> Option<u64> {
        let cache = cache();
        let GuardResult::Guard(guard) = cache.entries.get_value_or_guard(&sample(1).name, None) else {
            return None;
        };
        meanwhile(&cache);
        let _ = guard.insert(Entry::new(revision(1)));
        kept(&cache)
    }

    #[test]
    fn a_reading_that_began_before_a_change_is_not_kept() {
        let name = sample(1).name;
        assert_eq!(after_reading(|_| {}), Some(1));
        assert_eq!(after_reading(|cache| cache.forget(&name)), None);
        assert_eq!(after_reading(Cache::forget_all), None);
        assert_eq!(after_reading(|cache| cache.put(revision(2))), Some(2));
        let put_and_forgotten = |cache: &Cache| {
            cache.put(revision(2));
            cache.forget(&name);
        };
        assert_eq!(after_reading(put_and_forgotten), None);
    }

    #[test]
    fn an_older_record_never_takes_the_place_of_a_newer() {
        let cache = cache();
        for (put, expected) in [(2, 2), (1, 2), (3, 3), (2, 3)] {
            cache.put(revision(put));
            assert_eq!(kept(&cache), Some(expected));
        }
    }

    #[test]
    fn keys_of_the_token_are_known_as_versions_while_they_are() {
        let cache = cache();
        let id = HsmKeyId::from_bytes(&[1, 2, 3]).unwrap();
        let with = |revision, material| {
            let mut record = sample(1);
            record.revision = revision;
            record.versions[0].material = material;
            record
        };
        let version = Some((sample(1).name, 1));
        cache.put(with(2, VersionMaterial::OnToken(id.clone())));
        assert_eq!(cache.version_of(&id), version);
        cache.put(with(1, VersionMaterial::Destroyed));
        assert_eq!(cache.version_of(&id), version, "an older record says nothing");
        cache.forget(&sample(1).name);
        assert_eq!(cache.version_of(&id), version, "it holds until it is read again");
        cache.put(with(3, VersionMaterial::Destroyed));
        assert_eq!(cache.version_of(&id), None);
    }
}
