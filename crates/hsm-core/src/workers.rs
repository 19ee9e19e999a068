//! Worker threads, each with a session of its own, and the bounded queue that they take jobs from.
//!
//! A watchdog ends calls whose deadline has passed. A worker that hangs in the module is counted and replaced, up to as many
//! again as there are workers; if it ever comes back it ends.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::backend::{Handle, Object, Outcome, Session};
use crate::call::Settle;
use crate::error::{Ckr, During, Error, Failure, Result};
use crate::hsm::Shared;
use crate::index::Key;
use crate::key::HsmKeyId;
use crate::link::{Epoch, Trouble};

/// A piece of work for one session.
pub(crate) struct Job {
    pub run: Box<dyn FnOnce(&mut Worker) + Send>,
    pub settle: Arc<dyn Settle>,
    pub deadline: Instant,
}

/// How many sessions do what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Worker threads, those in place of hanging ones included.
    pub workers: usize,
    /// Workers that wait for work.
    pub idle: usize,
    /// Workers that are past a deadline in a call of the module.
    pub hung: usize,
    /// Calls that wait.
    pub queued: usize,
}

pub(crate) struct Queue {
    state: Mutex<State>,
    work: Condvar,
    watchdog: Condvar,
    limit: usize,
    workers: usize,
    /// Workers inside a call of the module, for a restart of the module.
    at_work: AtomicUsize,
    paused: AtomicBool,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Calls that wait for the keeper.
    waiting: Vec<Watched>,
    running: Vec<Arc<Seat>>,
    idle: usize,
    closed: bool,
    wake_at: Option<Instant>,
}

struct Watched {
    settle: std::sync::Weak<dyn Settle>,
    deadline: Instant,
}

/// Where a worker says what it is doing.
#[derive(Default)]
struct Seat {
    job: Mutex<Option<(Arc<dyn Settle>, Instant)>>,
    hung: AtomicBool,
    replaced: AtomicBool,
}

impl Queue {
    pub(crate) fn new(workers: usize, limit: usize) -> Queue {
        Queue {
            state: Mutex::default(),
            work: Condvar::new(),
            watchdog: Condvar::new(),
            limit,
            workers,
            at_work: AtomicUsize::new(0),
            paused: AtomicBool::new(false),
        }
    }

    /// Hands a job to a worker that is free, or has it wait.
    ///
    /// # Errors
    /// [`Error::Busy`] if no worker is free and the queue is full, or the service is ending.
    pub(crate) fn submit(&self, job: Job) -> Result<()> {
        let mut state = self.lock();
        if state.closed || state.jobs.len() >= state.idle.saturating_add(self.limit) {
            return Err(Error::Busy);
        }
        self.watch(&mut state, job.deadline);
        state.jobs.push_back(job);
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    /// Has the watchdog end a call that waits elsewhere than in the queue.
    pub(crate) fn watch_waiting(&self, settle: &Arc<dyn Settle>, deadline: Instant) {
        let mut state = self.lock();
        self.watch(&mut state, deadline);
        state.waiting.push(Watched {
            settle: Arc::downgrade(settle),
            deadline,
        });
    }

    pub(crate) fn load(&self) -> Load {
        let state = self.lock();
        Load {
            workers: state.running.len(),
            idle: state.idle,
            hung: state
                .running
                .iter()
                .filter(|seat| seat.hung.load(Ordering::Relaxed))
                .count(),
            queued: state.jobs.len(),
        }
    }

    /// Takes no more jobs; workers end when those that wait are done.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.work.notify_all();
        self.watchdog.notify_all();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Waits until every worker has ended; `false` if one has not by `deadline`.
    pub(crate) fn wait_for_workers(&self, deadline: Instant) -> bool {
        while self.load().workers > 0 {
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(Duration::from_millis(2));
        }
        true
    }

    /// Waits until every worker has its session and waits for work, at most until `deadline`.
    pub(crate) fn wait_until_idle(&self, deadline: Instant) {
        while self.load().idle < self.workers && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Runs `begin_anew` while no worker is in a call; `None` if they are not out by `deadline`.
    pub(crate) fn while_nobody_works<T>(&self, deadline: Instant, begin_anew: impl FnOnce() -> T) -> Option<T> {
        self.paused.store(true, Ordering::SeqCst);
        let mut outcome = None;
        while self.at_work.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        if self.at_work.load(Ordering::SeqCst) == 0 {
            outcome = Some(begin_anew());
        }
        self.paused.store(false, Ordering::SeqCst);
        outcome
    }

    fn enter(&self) -> AtWork<'_> {
        loop {
            self.at_work.fetch_add(1, Ordering::SeqCst);
            let at_work = AtWork(&self.at_work);
            if !self.paused.load(Ordering::SeqCst) {
                return at_work;
            }
            drop(at_work);
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn watch(&self, state: &mut State, deadline: Instant) {
        if state.wake_at.is_none_or(|at| deadline < at) {
            state.wake_at = Some(deadline);
            self.watchdog.notify_one();
        }
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state.idle += 1;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct AtWork<'a>(&'a AtomicUsize);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Starts the workers and their watchdog.
pub(crate) fn start(shared: &Arc<Shared>) -> std::io::Result<()> {
    for _ in 0..shared.queue.workers {
        start_worker(shared)?;
    }
    let shared = shared.clone();
    thread::Builder::new()
        .name("hsm-watchdog".into())
        .spawn(move || watch(&shared))?;
    Ok(())
}

fn start_worker(shared: &Arc<Shared>) -> std::io::Result<()> {
    let seat = Arc::new(Seat::default());
    shared.queue.lock().running.push(seat.clone());
    let started = thread::Builder::new().name("hsm-worker".into()).spawn({
        let (shared, seat) = (shared.clone(), seat.clone());
        move || {
            let mut worker = Worker::new(shared.clone(), None);
            // So that the first request need not wait for a session; if none can be had now, a request will say so.
            let _: Result<()> = worker.run(Again::Never, |_| Ok(()));
            work(&mut worker, &seat);
            drop(worker);
            shared.queue.lock().running.retain(|other| !Arc::ptr_eq(other, &seat));
        }
    });
    if started.is_err() {
        shared.queue.lock().running.retain(|other| !Arc::ptr_eq(other, &seat));
    }
    started.map(|_| ())
}

fn work(worker: &mut Worker, seat: &Seat) {
    let shared = worker.shared.clone();
    while let Some(job) = shared.queue.next() {
        let Job { run, settle, deadline } = job;
        *seat.job.lock().unwrap_or_else(PoisonError::into_inner) = Some((settle, deadline));
        worker.deadline = deadline;
        if catch_unwind(AssertUnwindSafe(|| run(worker))).is_err() {
            // The state of the session is unknown; the dropped reply has ended the call with `internal`.
            worker.session = None;
        }
        *seat.job.lock().unwrap_or_else(PoisonError::into_inner) = None;
        seat.hung.store(false, Ordering::Relaxed);
        if seat.replaced.load(Ordering::Relaxed) {
            return;
        }
    }
}

/// Ends calls that are past their deadline, and replaces workers that hang.
fn watch(shared: &Arc<Shared>) {
    let queue = &shared.queue;
    let mut state = queue.lock();
    loop {
        if state.closed && state.jobs.is_empty() && state.running.is_empty() {
            return;
        }
        let now = Instant::now();
        let late = |deadline: Instant| deadline <= now;
        let mut expired: Vec<Arc<dyn Settle>> = Vec::new();
        state.jobs.retain(|job| {
            if late(job.deadline) {
                expired.push(job.settle.clone());
            }
            !late(job.deadline)
        });
        state.waiting.retain(|waiting| match waiting.settle.upgrade() {
            Some(settle) if late(waiting.deadline) => {
                expired.push(settle);
                false
            }
            other => other.is_some(),
        });
        let mut next = state
            .jobs
            .iter()
            .map(|job| job.deadline)
            .chain(state.waiting.iter().map(|w| w.deadline))
            .min();
        let mut to_replace = 0;
        let spare = (2 * queue.workers).saturating_sub(state.running.len());
        for seat in &state.running {
            let job = seat.job.lock().unwrap_or_else(PoisonError::into_inner);
            match &*job {
                Some((settle, deadline)) if late(*deadline) => {
                    expired.push(settle.clone());
                    if !seat.hung.swap(true, Ordering::Relaxed) {
                        tracing::warn!("a session is past its deadline in a call of the module");
                    }
                    if to_replace < spare && !seat.replaced.swap(true, Ordering::Relaxed) {
                        to_replace += 1;
                    }
                }
                Some((_, deadline)) => next = Some(next.map_or(*deadline, |at: Instant| at.min(*deadline))),
                None => {}
            }
        }
        // A job may move from the queue to a worker between two looks; a second is the longest that it goes unseen.
        let pause = next.map_or(Duration::from_secs(1), |at| {
            at.saturating_duration_since(now)
                .clamp(Duration::from_millis(1), Duration::from_secs(1))
        });
        state.wake_at = Some(now + pause);
        drop(state);
        for settle in expired {
            settle.fail(Error::Timeout);
        }
        for _ in 0..to_replace {
            if let Err(error) = start_worker(shared) {
                tracing::error!(%error, "no thread could be started in place of one that hangs");
            }
        }
        state = queue.lock();
        state = queue
            .watchdog
            .wait_timeout(state, pause)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
    }
}

/// A session with its owner: runs operations, and heals what can be healed.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    session: Option<Box<dyn Session>>,
    epoch: Epoch,
    /// When the job at hand must have ended.
    pub(crate) deadline: Instant,
}

/// Whether an operation may be done again after a failure that left it undone or unclear.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// It changes nothing: once more.
    Once,
    /// It changes the token: never.
    Never,
}

/// What a failure means for the session and the keys' handles.
enum Ailment {
    /// None of ours: the operation itself failed.
    Operation,
    /// The session is to be opened anew.
    Session,
    /// The login was lost, and is there again.
    Login,
    /// The handle is dead, or the key is not what it was.
    Handle,
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>, session: Option<Box<dyn Session>>) -> Worker {
        let epoch = shared.link.epoch();
        Worker {
            shared,
            session,
            epoch,
            deadline: Instant::now(),
        }
    }

    /// Runs `operation` on a logged-in session.
    ///
    /// # Errors
    /// What the failure means ([`Failure::meaning`]), after one more try if that may help.
    pub(crate) fn run<T>(
        &mut self,
        again: Again,
        mut operation: impl FnMut(&mut dyn Session) -> Outcome<T>,
    ) -> Result<T> {
        let mut tries = 0;
        loop {
            tries += 1;
            let failure = match self.enter(&mut operation)? {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            let ailment = self.diagnose(&failure)?;
            let healed = matches!(ailment, Ailment::Session | Ailment::Login);
            if !healed || again == Again::Never || tries > 1 {
                return Err(failure.meaning(None));
            }
        }
    }

    /// Runs `operation` on a key's objects, finding them anew if their handles have died.
    ///
    /// # Errors
    /// As [`run`](Self::run); [`Error::KeyNotFound`] if the key is gone.
    pub(crate) fn run_with_key<T>(
        &mut self,
        key: &Arc<Key>,
        mut operation: impl FnMut(&mut dyn Session, &Key) -> Outcome<T>,
    ) -> Result<T> {
        let id = key.info.id.clone();
        let mut key = key.clone();
        let mut tries = 0;
        loop {
            tries += 1;
            if !self.shared.index.is_current(&key) {
                key = self.find(&id)?;
            }
            let failure = match self.enter(&mut |session| operation(session, &key))? {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            match self.diagnose(&failure)? {
                Ailment::Operation => return Err(failure.meaning(Some(&id))),
                Ailment::Session | Ailment::Login if tries == 1 => {}
                Ailment::Handle => {
                    let found = self.find(&id)?;
                    if tries > 1 {
                        return Err(failure.meaning(Some(&id)));
                    }
                    key = found;
                }
                Ailment::Session | Ailment::Login => return Err(failure.meaning(Some(&id))),
            }
        }
    }

    /// Looks for a key by its id on the token itself, and takes note of what is there.
    ///
    /// # Errors
    /// [`Error::KeyNotFound`], [`Error::AmbiguousKey`].
    pub(crate) fn find(&mut self, id: &HsmKeyId) -> Result<Arc<Key>> {
        let objects = self.objects(id)?;
        self.shared.index.remove(id);
        self.shared.index.insert(objects);
        match self.shared.index.key(id) {
            Some(key) if key.ambiguous => Err(Error::AmbiguousKey(id.clone())),
            Some(key) => Ok(key),
            None => Err(Error::KeyNotFound(id.clone())),
        }
    }

    /// The key, its attributes read afresh.
    ///
    /// # Errors
    /// [`Error::KeyNotFound`], [`Error::AmbiguousKey`].
    pub(crate) fn read_again(&mut self, key: &Arc<Key>) -> Result<Arc<Key>> {
        if key.is_half() {
            return self.find(&key.info.id);
        }
        let objects = self.run_with_key(key, |session, key| {
            let mut objects = Vec::new();
            for handle in key.handles() {
                objects.extend(session.read(handle)?.map(|object| (handle, object)));
            }
            Ok(objects)
        })?;
        self.shared.index.insert(objects);
        self.shared
            .index
            .key(&key.info.id)
            .ok_or_else(|| Error::KeyNotFound(key.info.id.clone()))
    }

    /// The key objects with this id, read from the token.
    pub(crate) fn objects(&mut self, id: &HsmKeyId) -> Result<Vec<(Handle, Object)>> {
        self.run(Again::Once, |session| {
            let handles = session.find(&crate::backend::Filter::Id(id.as_bytes()))?;
            let mut objects = Vec::with_capacity(handles.len());
            for handle in handles {
                match session.read(handle) {
                    Ok(Some(object)) => objects.push((handle, object)),
                    Ok(None) => {}
                    // Destroyed by somebody between the search and the look.
                    Err(failure) if failure.rv == Some(Ckr::ObjectHandleInvalid) => {}
                    Err(failure) => return Err(failure),
                }
            }
            Ok(objects)
        })
    }

    /// Closes the session, unless the module has begun anew since: its handle may be another session's by now.
    fn close(&mut self) {
        let session = self.session.take();
        if self.epoch.module != self.shared.link.epoch().module {
            std::mem::forget(session);
        }
    }

    /// Runs one call on the session, opening it if there is none.
    fn enter<T>(&mut self, operation: &mut impl FnMut(&mut dyn Session) -> Outcome<T>) -> Result<Outcome<T>> {
        let shared = self.shared.clone();
        let _at_work = shared.queue.enter();
        match self.ready() {
            Ok(session) => Ok(operation(session)),
            Err(Trouble::Failed(failure)) => {
                shared.no_session(&failure);
                Ok(Err(failure))
            }
            Err(Trouble::Refused(error)) => Err(error),
        }
    }

    fn ready(&mut self) -> Result<&mut dyn Session, Trouble> {
        let epoch = self.shared.link.epoch();
        if self.epoch != epoch {
            self.close();
            self.epoch = epoch;
        }
        let session = match self.session.take() {
            Some(session) => session,
            None => self.shared.link.open_session()?,
        };
        Ok(self.session.insert(session).as_mut())
    }

    /// Tells what a failure means, and mends what it can.
    fn diagnose(&mut self, failure: &Failure) -> Result<Ailment> {
        let Some(rv) = failure.rv else {
            return Ok(Ailment::Operation);
        };
        match rv {
            Ckr::SessionHandleInvalid | Ckr::SessionClosed => {
                self.session = None;
                if self.epoch == self.shared.link.epoch() {
                    tracing::warn!(%failure, "the sessions are lost; they are opened anew");
                    self.shared.link.renew_sessions();
                    self.shared.index.clear();
                }
                Ok(Ailment::Session)
            }
            // An operation that an earlier failure left behind: a new session has none.
            Ckr::OperationActive => {
                self.session = None;
                Ok(Ailment::Session)
            }
            Ckr::TokenNotPresent | Ckr::DeviceRemoved => {
                self.shared.lose_token(failure.to_string());
                Err(failure.meaning(None))
            }
            Ckr::CryptokiNotInitialized => {
                self.shared.lose_token(failure.to_string());
                self.wait_for_the_token();
                self.shared.link.check()?;
                Ok(Ailment::Session)
            }
            Ckr::UserNotLoggedIn => self.log_in_again(),
            Ckr::ObjectHandleInvalid | Ckr::KeyHandleInvalid | Ckr::HostMemory if self.login_is_lost() => {
                self.log_in_again()
            }
            Ckr::ObjectHandleInvalid | Ckr::KeyHandleInvalid => Ok(Ailment::Handle),
            _ => Ok(Ailment::Operation),
        }
    }

    fn login_is_lost(&mut self) -> bool {
        let expected = self.shared.link.login() == crate::link::Login::LoggedIn;
        let session = self.session.as_mut().filter(|_| expected);
        session.is_some_and(|session| matches!(session.logged_in(), Ok(false)))
    }

    fn log_in_again(&mut self) -> Result<Ailment> {
        self.shared.link.check_login()?;
        let Some(session) = self.session.as_mut() else {
            return Ok(Ailment::Session);
        };
        if self.shared.link.log_in(session.as_mut())? {
            tracing::warn!("the login was lost; the user is logged in again");
            self.shared.index.clear();
        }
        Ok(Ailment::Login)
    }

    /// Gives the keeper time to begin anew with the module, as long as the job's deadline allows.
    fn wait_for_the_token(&self) {
        let until = self.deadline.min(Instant::now() + Duration::from_secs(5));
        while self.shared.link.check().is_err() && Instant::now() < until {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.close();
    }
}

impl Failure {
    /// What the failure means for the caller; `key` is the key that the call used.
    pub(crate) fn meaning(&self, key: Option<&HsmKeyId>) -> Error {
        use Ckr as C;
        let Some(rv) = self.rv else {
            return Error::Device(self.to_string());
        };
        match (rv, self.during) {
            (C::TokenNotPresent | C::DeviceRemoved, _) => Error::Unavailable(format!("the token is not there: {self}")),
            (C::UserNotLoggedIn, _) => Error::Unavailable(format!("the login to the token is lost: {self}")),
            (
                C::MechanismInvalid
                | C::MechanismParamInvalid
                | C::CurveNotSupported
                | C::FunctionNotSupported
                | C::TokenWriteProtected
                | C::SessionReadOnly,
                _,
            )
            | (C::ArgumentsBad, During::Start) => Error::NotSupported(format!("this token cannot do it: {self}")),
            (C::KeyFunctionNotPermitted | C::ActionProhibited, _) => {
                Error::UsageNotPermitted(format!("the token does not permit this use of the key: {self}"))
            }
            (C::KeyUnextractable | C::KeyNotWrappable, _) => Error::NotExtractable,
            (C::KeyHandleInvalid | C::ObjectHandleInvalid, _) if key.is_some() => {
                key.cloned().map_or(Error::Timeout, Error::KeyNotFound)
            }
            (
                C::EncryptedDataInvalid
                | C::EncryptedDataLenRange
                | C::AeadDecryptFailed
                | C::DataInvalid
                | C::DataLenRange
                | C::GeneralError
                | C::FunctionFailed,
                During::Decrypt,
            ) => Error::DecryptionFailed,
            (
                C::KeySizeRange
                | C::AttributeTypeInvalid
                | C::AttributeValueInvalid
                | C::TemplateIncomplete
                | C::TemplateInconsistent
                | C::DomainParamsInvalid,
                During::Create,
            ) => Error::invalid("key_type", format!("the token does not make such a key: {self}")),
            (C::DataInvalid | C::DataLenRange, During::Encrypt | During::Sign) => Error::invalid(
                "data",
                format!("the token does not take this much or this little: {self}"),
            ),
            _ => Error::Device(self.to_string()),
        }
    }
}
