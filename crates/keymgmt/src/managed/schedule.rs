//! What goes on in the background: changes by other gateways are taken in, keys rotated and destroyed when their time has
//! come, counts written, and what was left behind undone.

use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::sleep;

use super::record::KeyState;
use super::{Inner, Keys, change, kek, life, recovery};
use crate::service::{Action, Error, Result};

/// How often is looked for changes by others, if none are told of.
const LOOKING: Duration = Duration::from_secs(1);
/// How often is looked for what is due.
const WORKING: Duration = Duration::from_secs(1);
/// How often counts are written.
const COUNTING: Duration = Duration::from_secs(2);
/// How often is looked for what was left behind.
const RECOVERING: Duration = Duration::from_secs(5);
/// How often is looked for records under older gateway keys.
const REWRAPPING: Duration = Duration::from_secs(60);
/// How often old answers are dropped.
const SWEEPING: Duration = Duration::from_secs(3600);
/// How many keys are rotated or destroyed before the next look.
const AT_ONCE: usize = 100;

/// A thing that is done every so often.
struct Every {
    interval: Duration,
    last: Option<Instant>,
}

impl Every {
    /// At once, and then every so often.
    const fn new(interval: Duration) -> Every {
        Every { interval, last: None }
    }

    fn is_due(&mut self) -> bool {
        let due = self.last.is_none_or(|last| last.elapsed() >= self.interval);
        if due {
            self.last = Some(Instant::now());
        }
        due
    }
}

/// Starts it all. It ends with the keys, or when they are closed.
pub(super) fn start(keys: &Keys) {
    let stop = keys.0.stop.subscribe();
    let inner = std::sync::Arc::downgrade(&keys.0);
    keys.0
        .store
        .spawn(look(inner.clone(), stop.clone(), keys.0.store.on_notice()));
    keys.0.store.spawn(work(inner, stop));
}

/// Takes in what others changed: when it is told, and otherwise every second.
async fn look(inner: Weak<Inner>, mut stop: watch::Receiver<bool>, mut notices: crate::store::Notices) {
    loop {
        tokio::select! {
            _ = stop.changed() => return,
            _ = notices.next() => {}
            () = sleep(LOOKING) => {}
        }
        let Some(inner) = inner.upgrade() else { return };
        said(
            &inner,
            "changes by other gateways can't be looked for",
            take_in(&inner).await,
        );
    }
}

async fn take_in(inner: &Inner) -> Result<()> {
    let seen = inner.seen.load(Ordering::SeqCst);
    let changes = inner.store.changes(seen).await?;
    let mut held = Vec::new();
    match &changes.names {
        None => inner.cache.forget_all(),
        Some(names) => {
            held.extend(names.iter().filter_map(|name| inner.cache.peek(name)));
            names.iter().for_each(|name| inner.cache.forget(name));
        }
    }
    inner.cache.catch_up(inner).await;
    for before in held {
        let now = inner.cache.peek(&before.record.name);
        if now.is_none_or(|now| now.record.state == KeyState::Destroyed) {
            life::unload(inner, &before.record).await;
        }
    }
    if changes.gateway_keys {
        inner.own.reload(inner).await?;
    }
    // Only now: what failed is looked at again.
    inner.seen.store(changes.seq, Ordering::SeqCst);
    Ok(())
}

async fn work(inner: Weak<Inner>, mut stop: watch::Receiver<bool>) {
    let mut counting = Every::new(COUNTING);
    let mut recovering = Every::new(RECOVERING);
    let mut rewrapping = Every::new(REWRAPPING);
    let mut sweeping = Every::new(SWEEPING);
    loop {
        let Some(inner) = inner.upgrade() else { return };
        if recovering.is_due() {
            said(
                &inner,
                "what was left behind can't be looked for",
                recovery::recover(&inner).await,
            );
        }
        said(&inner, "what is due can't be looked for", due(&inner, &stop).await);
        if counting.is_due() {
            inner.counters.flush(&inner).await;
        }
        if rewrapping.is_due() {
            let done = kek::rewrap_some(&inner, &stop).await;
            said(&inner, "records under older gateway keys can't be wrapped anew", done);
        }
        if sweeping.is_due() {
            let swept = inner.store.sweep_calls().await.map_err(Error::from);
            said(&inner, "old answers can't be dropped", swept);
        }
        drop(inner);
        tokio::select! {
            _ = stop.changed() => return,
            () = sleep(WORKING) => {}
        }
    }
}

/// Rotates and destroys what is due. One that fails does not hold up the others.
async fn due(inner: &Inner, stop: &watch::Receiver<bool>) -> Result<()> {
    if !inner.audit.writable() {
        return Ok(());
    }
    let due = inner.store.due(change::now(), AT_ONCE).await?;
    for name in due.destroy {
        if *stop.borrow() {
            return Ok(());
        }
        if !life::is_here(inner, &name).await {
            continue;
        }
        if let Err(error) = told(inner, Action::Destroy, life::destroy(inner, &name)).await {
            inner.failed(&error);
            tracing::warn!(%name, %error, "a key could not be destroyed yet; it is tried again");
        }
    }
    for name in due.rotate {
        if *stop.borrow() {
            return Ok(());
        }
        if !life::is_here(inner, &name).await {
            continue;
        }
        match told(inner, Action::Rotate, life::rotate(inner, &name, None, true)).await {
            Ok(Some(record)) => {
                let version = record.latest_version();
                life::record_own(inner, Action::Rotate, name.to_string(), Some(version)).await;
                inner.marks.version(&name, version);
            }
            // Another gateway did it.
            Ok(None) | Err(Error::Conflict(_)) => {}
            Err(error) => {
                inner.failed(&error);
                tracing::warn!(%name, %error, "a key could not be rotated yet; it is tried again");
            }
        }
    }
    Ok(())
}

/// Tells the metrics of it.
async fn told<T>(inner: &Inner, action: Action, work: impl Future<Output = Result<T>>) -> Result<T> {
    let started = Instant::now();
    let result = work.await;
    let outcome = result
        .as_ref()
        .err()
        .map_or("success", |error| (inner.hooks.describe)(error).1);
    (inner.hooks.observe)(action, outcome, started.elapsed());
    result
}

/// A store that is away says so itself, and often.
fn said(inner: &Inner, what: &str, result: Result<()>) {
    let Err(error) = result else { return };
    inner.failed(&error);
    match error {
        Error::StoreUnavailable(_) => tracing::debug!(%error, "{what}"),
        error => tracing::warn!(%error, "{what}"),
    }
}
