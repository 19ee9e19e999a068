//! The keeper: one thread with a session of its own, which keeps the login alive, walks over the token for ids that the
//! index has not, destroys what failed creations left, and looks for a token that is away.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::backend::{Class, Filter, Session};
use crate::call::Settle;
use crate::error::{Ckr, Error, Result};
use crate::index::certify;
use crate::key::HsmKeyId;
use crate::link::{Login, Trouble};
use crate::module::Need;
use crate::quirks;
use crate::shared::Shared;
use crate::worker::{Again, Worker};
use crate::workers::Seat;

/// At most one walk starts in this time.
const BETWEEN_WALKS: Duration = Duration::from_millis(250);
/// How long what a failed creation may have left is looked for.
const LOOK_FOR_LEFTOVERS: Duration = Duration::from_secs(600);
/// How many of them at once.
const MOST_LEFTOVERS: usize = 1000;
const FIRST_LOOK: Duration = Duration::from_secs(1);
const LAST_LOOK: Duration = Duration::from_secs(60);
/// How long all work may stand still for a restart of the module.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
const FIRST_PROBE: Duration = Duration::from_millis(100);
const LAST_PROBE: Duration = Duration::from_secs(5);

/// What is done once a walk that started after it was asked for is over.
pub(crate) type AfterWalk = Box<dyn FnOnce(Result<()>) + Send>;

#[derive(Default)]
pub(crate) struct Keeper {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<AfterWalk>,
    leftovers: Vec<Leftover>,
    suspicious: bool,
    /// Somebody has no session, and the token allows no more.
    crowded: bool,
    closed: Option<Close>,
}

/// How the keeper ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Close {
    /// Log out first: nobody else is in the module.
    LogOut,
    /// Leave the login to the end of the last session.
    Leave,
}

struct Leftover {
    id: HsmKeyId,
    until: Instant,
    again_at: Instant,
    pause: Duration,
}

impl Keeper {
    /// Has `then` called after a walk over the token that starts from now on.
    pub(crate) fn walk_then(&self, shared: &Shared, settle: &Arc<dyn Settle>, deadline: Instant, then: AfterWalk) {
        shared.queue.watch_waiting(settle, deadline);
        self.lock().waiting.push(then);
        self.wake.notify_one();
    }

    /// Has the objects with this id destroyed, whenever they appear.
    pub(crate) fn destroy_later(&self, id: HsmKeyId) {
        self.destroy_from(id, Instant::now());
    }

    /// The same, from `again_at` on; `false` if there are too many already.
    pub(crate) fn destroy_from(&self, id: HsmKeyId, again_at: Instant) -> bool {
        let mut state = self.lock();
        if state.leftovers.len() >= MOST_LEFTOVERS {
            tracing::error!(%id, "too many creations have failed: what this one may have left is not looked for");
            return false;
        }
        let until = again_at + LOOK_FOR_LEFTOVERS;
        state.leftovers.push(Leftover {
            id,
            until,
            again_at,
            pause: FIRST_LOOK,
        });
        drop(state);
        self.wake.notify_one();
        true
    }

    /// Takes back [`destroy_from`](Self::destroy_from); `false` if it has begun.
    pub(crate) fn keep(&self, id: &HsmKeyId) -> bool {
        let mut state = self.lock();
        let before = state.leftovers.len();
        state.leftovers.retain(|leftover| leftover.id != *id);
        state.leftovers.len() < before
    }

    /// The token seems ill: try to reach it, and begin anew with the module if that fails.
    pub(crate) fn suspect(&self) {
        self.lock().suspicious = true;
        self.wake.notify_one();
    }

    /// A session is lacking: close the keeper's own until it is needed.
    pub(crate) fn give_way(&self) {
        self.lock().crowded = true;
        self.wake.notify_one();
    }

    pub(crate) fn wake(&self) {
        // So that it is not between its look at the link and its sleep.
        drop(self.lock());
        self.wake.notify_one();
    }

    pub(crate) fn close(&self, how: Close) {
        self.lock().closed.get_or_insert(how);
        self.wake.notify_all();
    }

    /// How many calls wait for a walk.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the keeper's thread, with the session that was opened first; without one if it takes the place of one that hangs.
pub(crate) fn start(shared: &Arc<Shared>, session: Option<Box<dyn Session>>) -> std::io::Result<()> {
    let seat = shared.queue.seat_keeper();
    let mut worker = Worker::new(shared.clone(), seat.clone(), session);
    let thread = thread::Builder::new().name("hsm-keeper".into()).spawn(move || {
        let (shared, seat) = (worker.shared.clone(), worker.seat.clone());
        // A panic must not end the healing of everything; calls that waited are answered `internal` by their replies.
        while catch_unwind(AssertUnwindSafe(|| keep(&mut worker))).is_err() {
            worker.close();
            seat.end();
        }
        // Its session closes before anybody finalizes the module.
        worker.deadline = Instant::now() + LONGEST_PAUSE;
        worker.close();
        drop(worker);
        shared.queue.unseat_keeper(&seat);
    });
    if thread.is_err() {
        shared.queue.unseat_keeper(&seat);
    }
    thread.map(|_| ())
}

/// Does a piece of work that has a deadline.
fn at_work<T>(worker: &mut Worker, work: impl FnOnce(&mut Worker) -> T) -> T {
    let seat: Arc<Seat> = worker.seat.clone();
    worker.deadline = Instant::now() + worker.shared.options.timeout;
    seat.begin(None, worker.deadline);
    let outcome = work(worker);
    seat.end();
    outcome
}

fn keep(worker: &mut Worker) {
    let shared = worker.shared.clone();
    let keeper = &shared.keeper;
    let mut walked: Option<Instant> = None;
    let mut probe_at = Instant::now();
    let mut probe_pause = FIRST_PROBE;
    loop {
        if worker.seat.is_replaced() {
            return;
        }
        let mut state = keeper.lock();
        if let Some(how) = state.closed {
            let waiting = std::mem::take(&mut state.waiting);
            drop(state);
            waiting.into_iter().for_each(|then| then(Err(Error::Busy)));
            if how == Close::LogOut && shared.link.login() == Login::LoggedIn {
                // The session's end logs out too, should this fail.
                let _: Result<()> = at_work(worker, |worker| worker.run(Again::Never, |session| session.logout()));
            }
            return;
        }
        let now = Instant::now();
        if shared.link.may_come_back() || state.suspicious {
            if now >= probe_at {
                drop(state);
                let back = at_work(worker, probe);
                keeper.lock().suspicious &= !back;
                probe_pause = if back {
                    FIRST_PROBE
                } else {
                    (probe_pause * 2).min(LAST_PROBE)
                };
                probe_at = Instant::now() + probe_pause;
                continue;
            }
            if let Err(error) = shared.link.check() {
                let waiting = std::mem::take(&mut state.waiting);
                drop(state);
                waiting.into_iter().for_each(|then| then(Err(error.clone())));
                state = keeper.lock();
            }
            drop(keeper.wake.wait_timeout(state, probe_at.saturating_duration_since(now)));
            continue;
        }
        probe_at = now;
        if std::mem::take(&mut state.crowded) {
            drop(state);
            at_work(worker, Worker::close);
            continue;
        }
        let walk_at = walked.map_or(now, |at| at + BETWEEN_WALKS);
        if !state.waiting.is_empty() && now >= walk_at {
            let waiting = std::mem::take(&mut state.waiting);
            drop(state);
            walked = Some(now);
            let outcome = shared.link.check().and_then(|()| at_work(worker, walk));
            waiting.into_iter().for_each(|then| then(outcome.clone()));
            continue;
        }
        if let Some(at) = state.leftovers.iter().position(|leftover| leftover.again_at <= now) {
            let leftover = state.leftovers.swap_remove(at);
            drop(state);
            at_work(worker, |worker| clear_away(worker, leftover));
            continue;
        }
        let next_leftover = state.leftovers.iter().map(|leftover| leftover.again_at).min();
        let next_walk = (!state.waiting.is_empty()).then_some(walk_at);
        let pause = next_leftover
            .into_iter()
            .chain(next_walk)
            .min()
            .map_or(Duration::from_secs(60), |at| at.saturating_duration_since(now));
        drop(keeper.wake.wait_timeout(state, pause));
    }
}

/// Walks over all key objects of the token; once more if everything was dropped meanwhile.
fn walk(worker: &mut Worker) -> Result<()> {
    walk_once(worker)?;
    if worker.shared.index.walked().is_none() && !worker.seat.is_replaced() {
        walk_once(worker)?;
    }
    Ok(())
}

/// Walks over all key objects of the token, reading those that the index has not.
fn walk_once(worker: &mut Worker) -> Result<()> {
    let shared = worker.shared.clone();
    let token = shared.link.token();
    let seat = worker.seat.clone();
    worker.run(Again::Once, |session| {
        let _hold = shared.catalogue.search(&token);
        let started = Instant::now();
        let mut walk = shared.index.begin_walk();
        shared.link.while_logged_in(session, |session| {
            for class in Class::ALL {
                walk.found.extend(session.find(&Filter::Class(class))?);
            }
            for handle in shared.index.to_read(&mut walk) {
                match session.read(handle) {
                    Ok(object) => walk.read.push((handle, object)),
                    // Destroyed by somebody between the search and the look.
                    Err(failure) if quirks::is_dead_handle(&token, &failure) => {}
                    Err(failure) => return Err(failure),
                }
            }
            let read = walk.read.iter_mut().filter_map(|(_, object)| object.as_mut());
            certify(session, Some(&shared.index), None, read);
            Ok(())
        })?;
        // Another walk may be under way by now, if this one hung.
        if !seat.is_replaced() {
            shared.index.finish_walk(walk, started);
        }
        Ok(())
    })
}

/// Tries to reach the token; `true` once it is there, and everything begins anew.
fn probe(worker: &mut Worker) -> bool {
    let shared = worker.shared.clone();
    // Its own place may be the last that the token has, so it is closed before.
    let outcome = worker.replace_session(|| {
        let seen = shared.link.module.epoch();
        let reconnect = || shared.link.reconnect(|| shared.index.clear());
        let reconnected = reconnect().or_else(|trouble| {
            let need = match &trouble {
                Trouble::Failed(failure) => match failure.rv {
                    Some(Ckr::CryptokiNotInitialized) => Some(Need::All),
                    Some(Ckr::DeviceError | Ckr::GeneralError | Ckr::FunctionFailed) => Some(Need::One),
                    _ => None,
                },
                // What is behind the module was not there when it was initialized.
                Trouble::NoSlots => Some(Need::All),
                Trouble::Refused(_) => None,
            };
            match need {
                Some(need) if begin_anew(&shared, seen, need, &trouble) => reconnect(),
                Some(_) | None => Err(trouble),
            }
        });
        if reconnected.is_ok() {
            shared.link.renew_sessions();
            shared.index.clear();
            // It may be another device, or the same one with other firmware.
            shared.trials.forget();
            shared.oaep.forget();
        }
        reconnected
    });
    match outcome {
        Some(Ok(())) => {
            shared.link.come_up();
            true
        }
        Some(Err(trouble)) => {
            tracing::debug!(%trouble, "the token is not back yet");
            false
        }
        None => false,
    }
}

/// Finalizes and initializes the module, if nobody is in it.
fn begin_anew(shared: &Shared, seen: u64, need: Need, why: &Trouble) -> bool {
    let deadline = Instant::now() + shared.options.timeout.min(LONGEST_PAUSE);
    match shared.link.module.begin_anew(shared, seen, need, deadline) {
        Some(Ok(())) => {
            tracing::warn!(%why, "the module was initialized anew");
            true
        }
        Some(Err(failure)) => {
            tracing::warn!(%failure, "the module can't be initialized anew");
            false
        }
        None => false,
    }
}

fn clear_away(worker: &mut Worker, leftover: Leftover) {
    let id = leftover.id.clone();
    match crate::create::destroy_objects(worker, &id) {
        Ok(0) | Err(_) => {
            let now = Instant::now();
            if now < leftover.until {
                let pause = (leftover.pause * 2).min(LAST_LOOK);
                let next = Leftover {
                    again_at: now + pause,
                    pause,
                    ..leftover
                };
                worker.shared.keeper.lock().leftovers.push(next);
            }
        }
        Ok(_) => tracing::warn!(%id, "a key that appeared after its creation had failed was destroyed"),
    }
}
