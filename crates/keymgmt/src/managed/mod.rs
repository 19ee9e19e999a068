//! Managed keys: names with versions, rotation and states.

pub(crate) mod cache;
pub mod change;
pub(crate) mod counters;
pub mod fault;
pub(crate) mod kek;
pub(crate) mod life;
mod marks;
mod own;
pub mod record;
mod recovery;
pub(crate) mod resolve;
mod schedule;
mod seal;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use futures_channel::oneshot;
use hsm_core::ErrorKind;
use tokio::sync::watch;

use crate::audit::AuditLog;
use crate::service::{Error, Hooks, Result};
use crate::store::{IntentId, Store};
use crate::tokens::Tokens;

pub use cache::CachedKeys;
pub use kek::KekStatus;
pub use seal::is_sealed;

/// What the labels of the gateway's own keys begin with. Keys with such labels are hidden from users.
pub const OWN_LABELS: &str = "hsm-gateway:";

/// How long closing waits for the counts of operations to be written.
const CLOSING: Duration = Duration::from_secs(2);

/// How managed keys are kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// For how long after the last contact with the store a key that is in memory may be used.
    pub stale: Duration,
    /// How many keys' records are kept in memory.
    pub cached_keys: usize,
}

/// All that managed keys need. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Keys(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) tokens: Tokens,
    pub(crate) store: Store,
    pub(crate) audit: AuditLog,
    pub(crate) hooks: Hooks,
    pub(crate) own: own::OwnKeys,
    pub(crate) cache: cache::Cache,
    pub(crate) counters: counters::Counters,
    pub(crate) settings: Settings,
    pub(crate) marks: marks::Marks,
    /// Intents of this process that could not be given up, the store being away.
    given_up: Mutex<Vec<IntentId>>,
    /// The last change of the store that was taken in.
    seen: AtomicU64,
    /// What failed in the background.
    failures: AtomicU64,
    /// Says that the background work ends.
    stop: watch::Sender<bool>,
}

impl Keys {
    /// Reads what must be in memory, and starts what goes on in the background. Blocks.
    ///
    /// # Errors
    /// The store's.
    pub(crate) fn start(
        tokens: Tokens,
        store: Store,
        audit: AuditLog,
        hooks: Hooks,
        settings: Settings,
        background: bool,
    ) -> Result<Keys> {
        let marks = marks::Marks::read(&audit);
        let inner = Inner {
            own: own::OwnKeys::default(),
            cache: cache::Cache::new(&settings),
            counters: counters::Counters::default(),
            marks,
            given_up: Mutex::default(),
            seen: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            stop: watch::Sender::new(false),
            tokens,
            store,
            audit,
            hooks,
            settings,
        };
        let keys = Keys(Arc::new(inner));
        let loading = keys.clone();
        keys.wait(async move { loading.0.load().await })??;
        if background {
            schedule::start(&keys);
        }
        Ok(keys)
    }

    /// Does `work` to its end, whatever becomes of the one who waits for it.
    ///
    /// # Errors
    /// Those of `work`; [`Error::StoreUnavailable`] when all is being closed.
    pub(crate) async fn to_the_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.0.store.spawn(async move {
            // Nobody may wait any more; the work was done all the same.
            let _ = reply.send(work.await);
        });
        answer.await.map_err(|_| closing())?
    }

    /// Ends the background work, and writes what was counted. Blocks for two seconds at most.
    pub(crate) fn close(&self) {
        self.0.stop.send_replace(true);
        let (reply, done) = mpsc::sync_channel(1);
        let inner = self.0.clone();
        self.0.store.spawn(async move {
            inner.counters.flush(&inner).await;
            let _ = reply.send(());
        });
        if done.recv_timeout(CLOSING).is_err() {
            tracing::warn!("the last counts of operations could not be written in time");
        }
        self.0.store.close();
    }

    fn wait<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T> {
        let (reply, done) = mpsc::sync_channel(1);
        self.0.store.spawn(async move {
            let _ = reply.send(work.await);
        });
        done.recv().map_err(|_| closing())
    }
}

impl Inner {
    async fn load(&self) -> Result<()> {
        // Before anything is read: what changes meanwhile is read again.
        self.seen.store(self.store.change_seq().await?, Ordering::SeqCst);
        self.own.reload(self).await?;
        self.cache.load(self).await
    }

    /// Counts what failed in the background. A store that is away says so itself.
    pub(crate) fn failed(&self, error: &Error) {
        if !matches!(error, Error::StoreUnavailable(_)) {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// So much failed in the background.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Gives up an intent, so that recovery undoes what is left of it; later, if the store is away.
    pub(crate) async fn give_up(&self, intent: IntentId) {
        if let Err(error) = self.store.abandon(&intent).await {
            tracing::warn!(%error, "a creation that failed is cleaned up when the store is back");
            self.given_up
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(intent);
        }
    }

    /// Nothing was made, or the token does not say: then it is looked after. Answers why.
    pub(crate) async fn not_made(&self, intent: IntentId, error: hsm_core::Error) -> Error {
        let ended = match error.kind() {
            ErrorKind::Caller | ErrorKind::TokenCannot | ErrorKind::Busy => self.store.end(&intent).await.is_ok(),
            ErrorKind::Operator | ErrorKind::Unavailable | ErrorKind::Device | ErrorKind::Internal => false,
        };
        if !ended {
            self.give_up(intent).await;
        }
        error.into()
    }
}

fn closing() -> Error {
    Error::StoreUnavailable("the server is stopping: try again at another one".into())
}
