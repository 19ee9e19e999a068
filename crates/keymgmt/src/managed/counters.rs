//! What is counted of the use of managed keys: operations, written now and then; and encryptions with AES-GCM, of which no
//! version may do more than 2^32, reserved in blocks before they are done.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_channel::oneshot;
use time::OffsetDateTime;

use super::{Inner, change};
use crate::key_id::ManagedId;
use crate::service::{Error, Result};
use crate::store::{Store, Used};

/// With random IVs of 96 bits, so many encryptions and no more (NIST SP 800-38D §8.3).
const MOST_ENCRYPTIONS: u64 = 1 << 32;
/// How many encryptions are reserved at once, once a version is seen to be used.
const BLOCK: u64 = 1 << 16;
/// The first block of a version: what is reserved is lost when the process ends, and when a key leaves the memory.
const FIRST_BLOCK: u64 = 1 << 12;
/// How long nothing is asked for ahead after the store refused.
const PAUSE: Duration = Duration::from_secs(1);
/// Versions whose reserved encryptions are kept in memory.
const WINDOWS: usize = 100_000;
/// Why nothing is reserved any more.
const STOPPING: &str = "the server is stopping";
/// Reservations that are written in one transaction.
const AT_ONCE: usize = 1_000;

/// What is counted, and not written yet.
pub(crate) struct Counters {
    used: Mutex<HashMap<ManagedId, Pending>>,
    /// What is being written. It stays until it is known to be written.
    writing: Mutex<HashMap<ManagedId, Pending>>,
    flushing: tokio::sync::Mutex<()>,
    windows: quick_cache::sync::Cache<(ManagedId, u32), Arc<Window>>,
    wanted: Arc<Mutex<Wanted>>,
}

#[derive(Clone, Copy)]
struct Pending {
    operations: u64,
    last_used_at: OffsetDateTime,
}

/// The encryptions that are reserved of one version.
pub(crate) struct Window {
    name: ManagedId,
    version: u32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    left: u64,
    /// The size of the last block; 0: none yet.
    block: u64,
    /// A block has been asked for.
    asked: bool,
    /// No more can be had.
    end: Option<End>,
    /// When the store refused last.
    refused: Option<Instant>,
    waiting: Vec<oneshot::Sender<Result<(), String>>>,
}

#[derive(Clone, Copy)]
enum End {
    Limit,
    NoVersion,
}

/// Windows that want a block. All that come while one transaction is under way share the next.
#[derive(Default)]
struct Wanted {
    windows: Vec<(Arc<Window>, u64)>,
    collecting: bool,
}

impl Default for Counters {
    fn default() -> Counters {
        Counters {
            used: Mutex::default(),
            writing: Mutex::default(),
            flushing: tokio::sync::Mutex::default(),
            windows: quick_cache::sync::Cache::new(WINDOWS),
            wanted: Arc::default(),
        }
    }
}

impl Counters {
    /// Counts operations that were done with a key.
    pub(crate) fn count(&self, name: &ManagedId, operations: u64) {
        let more = Pending {
            operations,
            last_used_at: change::now(),
        };
        add(&mut lock(&self.used), name, more);
    }

    /// What is counted of a key and not written yet, and when it was used last.
    pub(crate) fn pending(&self, name: &ManagedId) -> (u64, Option<OffsetDateTime>) {
        // One after the other, in the order in which a count moves on: none is missed.
        let used = lock(&self.used).get(name).copied();
        let writing = lock(&self.writing).get(name).copied();
        let both = used.into_iter().chain(writing);
        both.fold((0, None), |(operations, last), pending| {
            (operations + pending.operations, last.max(Some(pending.last_used_at)))
        })
    }

    /// Writes what was counted. What can't be written is kept for the next time.
    pub(crate) async fn flush(&self, inner: &Inner) {
        let _one = self.flushing.lock().await;
        let batch: Vec<Used> = {
            let mut used = lock(&self.used);
            let mut writing = lock(&self.writing);
            for (name, pending) in used.drain() {
                add(&mut writing, &name, pending);
            }
            let used = writing.iter().map(|(name, pending)| Used {
                name: name.clone(),
                operations: pending.operations,
                last_used_at: pending.last_used_at,
            });
            used.collect()
        };
        if batch.is_empty() {
            return;
        }
        match inner.store.add_usage(batch).await {
            Ok(()) => lock(&self.writing).clear(),
            Err(error) => tracing::debug!(%error, "counts of operations can't be written now; they are kept"),
        }
    }

    /// The encryptions that are reserved of a version.
    pub(crate) fn window(&self, name: &ManagedId, version: u32) -> Arc<Window> {
        let key = (name.clone(), version);
        let made = self.windows.get_or_insert_with(&key, || {
            Ok::<_, std::convert::Infallible>(Arc::new(Window {
                name: name.clone(),
                version,
                state: Mutex::default(),
            }))
        });
        match made {
            Ok(window) => window,
            Err(never) => match never {},
        }
    }

    fn want(&self, store: &Store, window: &Arc<Window>, block: u64) {
        {
            let mut wanted = lock(&self.wanted);
            wanted.windows.push((window.clone(), block));
            if std::mem::replace(&mut wanted.collecting, true) {
                return;
            }
        }
        let collecting = Collecting {
            wanted: self.wanted.clone(),
            done: false,
        };
        store.spawn(collect(store.clone(), collecting));
    }
}

impl Window {
    /// Takes one of the encryptions that are reserved; waits for more to be reserved if there is none.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the version has done all that it may, [`Error::StoreUnavailable`],
    /// [`Error::VersionNotFound`].
    pub(crate) async fn take(self: &Arc<Window>, inner: &Inner) -> Result<()> {
        loop {
            let (block, more) = {
                let mut state = lock(&self.state);
                let taken = state.left > 0;
                state.left = state.left.saturating_sub(1);
                let more = match state.end {
                    _ if taken => None,
                    Some(end) => return Err(self.ended(end)),
                    None => {
                        let (sender, receiver) = oneshot::channel();
                        state.waiting.push(sender);
                        Some(receiver)
                    }
                };
                (state.next_block(taken), more)
            };
            if let Some(block) = block {
                inner.counters.want(&inner.store, self, block);
            }
            let Some(more) = more else {
                return Ok(());
            };
            let told = more.await.unwrap_or_else(|_| Err(STOPPING.into()));
            told.map_err(|why| {
                Error::StoreUnavailable(format!(
                    "encryptions with the key `{}` can't be counted in the store ({why}); try again later",
                    self.name
                ))
            })?;
        }
    }

    fn ended(&self, end: End) -> Error {
        match end {
            End::Limit => Error::Conflict(format!(
                "version {} of the key `{}` has done 2^32 encryptions, the most that AES-GCM allows: rotate the key",
                self.version, self.name
            )),
            End::NoVersion => change::no_version(&self.name, self.version),
        }
    }

    /// Takes in what the store answered: how many were reserved before.
    fn answered(&self, block: u64, answer: Result<Option<u64>, String>) {
        let mut state = lock(&self.state);
        state.asked = false;
        let told = match answer {
            Ok(Some(before)) => {
                let usable = MOST_ENCRYPTIONS.saturating_sub(before).min(block);
                state.left += usable;
                state.block = block;
                state.refused = None;
                state.end = (usable < block).then_some(End::Limit);
                Ok(())
            }
            Ok(None) => {
                state.end = Some(End::NoVersion);
                Ok(())
            }
            Err(why) => {
                state.refused = Some(Instant::now());
                Err(why)
            }
        };
        for waiting in state.waiting.drain(..) {
            // Whoever does not wait any more has no need of it.
            let _ = waiting.send(told.clone());
        }
    }
}

impl State {
    /// The block to ask for now, if one is to be asked for; noted as asked for.
    fn next_block(&mut self, taken: bool) -> Option<u64> {
        let paused = self.refused.is_some_and(|at| at.elapsed() < PAUSE);
        let needed = !taken || (self.left <= self.block / 4 && !paused);
        if self.asked || self.end.is_some() || !needed {
            return None;
        }
        self.asked = true;
        Some(if self.block == 0 { FIRST_BLOCK } else { BLOCK })
    }
}

/// The work of [`collect`]. If it ends early, because the store was closed, nobody waits for it in vain.
struct Collecting {
    wanted: Arc<Mutex<Wanted>>,
    done: bool,
}

impl Drop for Collecting {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let mut wanted = std::mem::take(&mut *lock(&self.wanted));
        for (window, block) in wanted.windows.drain(..) {
            window.answered(block, Err(STOPPING.into()));
        }
    }
}

/// Reserves what is wanted, many keys in one transaction, until nothing is wanted any more.
async fn collect(store: Store, mut collecting: Collecting) {
    loop {
        let asked: Vec<(ManagedId, u32, u64)> = {
            let mut wanted = lock(&collecting.wanted);
            if wanted.windows.is_empty() {
                wanted.collecting = false;
                break;
            }
            let some = wanted.windows.iter().take(AT_ONCE);
            some.map(|(window, block)| (window.name.clone(), window.version, *block))
                .collect()
        };
        let count = asked.len();
        let answers = store.reserve(asked).await;
        let windows: Vec<(Arc<Window>, u64)> = lock(&collecting.wanted).windows.drain(..count).collect();
        match answers {
            Ok(answers) => {
                let answers = answers.into_iter().map(Ok);
                let answers = answers.chain(std::iter::repeat_with(|| Err("it answered too little".into())));
                for ((window, block), answer) in windows.into_iter().zip(answers) {
                    window.answered(block, answer);
                }
            }
            Err(error) => {
                for (window, block) in windows {
                    window.answered(block, Err(error.to_string()));
                }
            }
        }
    }
    // What has come since has another one.
    collecting.done = true;
}

fn add(all: &mut HashMap<ManagedId, Pending>, name: &ManagedId, more: Pending) {
    let Some(pending) = all.get_mut(name) else {
        all.insert(name.clone(), more);
        return;
    };
    pending.operations += more.operations;
    pending.last_used_at = pending.last_used_at.max(more.last_used_at);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
