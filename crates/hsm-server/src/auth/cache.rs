//! Tokens whose signature was checked before.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

/// SHA-256 of the whole token. The token itself is not kept.
pub(super) type Fingerprint = [u8; 32];

pub(super) fn fingerprint(token: &str) -> Fingerprint {
    Sha256::digest(token).into()
}

/// A bounded map of verified tokens, in two generations: what was not asked for while a whole
/// generation came in goes with the older one. Only valid tokens get in, so a stranger can't
/// push others out.
pub(super) struct Cache<T> {
    generations: Mutex<Generations<T>>,
    /// Entries a generation.
    capacity: usize,
}

struct Generations<T> {
    young: HashMap<Fingerprint, T>,
    old: HashMap<Fingerprint, T>,
}

impl<T: Clone> Cache<T> {
    /// A cache of at most twice `capacity` entries.
    pub(super) fn new(capacity: usize) -> Self {
        let generations = Generations {
            young: HashMap::new(),
            old: HashMap::new(),
        };
        Self {
            generations: Mutex::new(generations),
            capacity,
        }
    }

    pub(super) fn find(&self, key: &Fingerprint) -> Option<T> {
        let mut generations = self.lock();
        if let Some(entry) = generations.young.get(key) {
            return Some(entry.clone());
        }
        let entry = generations.old.remove(key)?;
        self.put(&mut generations, *key, entry.clone());
        Some(entry)
    }

    pub(super) fn insert(&self, key: Fingerprint, entry: T) {
        self.put(&mut self.lock(), key, entry);
    }

    pub(super) fn remove(&self, key: &Fingerprint) {
        let mut generations = self.lock();
        generations.young.remove(key);
        generations.old.remove(key);
    }

    fn put(&self, generations: &mut Generations<T>, key: Fingerprint, entry: T) {
        if generations.young.len() >= self.capacity {
            generations.old = std::mem::take(&mut generations.young);
        }
        generations.young.insert(key, entry);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Generations<T>> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> Fingerprint {
        [number; 32]
    }

    #[test]
    fn it_is_bounded_and_keeps_what_is_used() {
        let cache = Cache::new(4);
        for number in 0..100 {
            cache.insert(key(number), number);
            assert_eq!(cache.find(&key(0)), Some(0), "{number}");
        }
        let held = (0..100).filter(|number| cache.find(&key(*number)).is_some());
        assert!(held.count() <= 8);
        assert_eq!(cache.find(&key(99)), Some(99));
        cache.remove(&key(99));
        assert_eq!(cache.find(&key(99)), None);
    }
}
