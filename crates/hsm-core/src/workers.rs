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

use crate::call::Settle;
use crate::error::{Error, Result};
use crate::shared::Shared;
use crate::worker::{Again, Worker};

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

    /// Hands a job to a worker that is free, or has it wait; if the queue is full, or the service is ending, the call ends
    /// with [`Error::Busy`].
    pub(crate) fn submit(&self, job: Job) {
        let mut state = self.lock();
        if state.closed || state.jobs.len() >= state.idle.saturating_add(self.limit) {
            drop(state);
            job.settle.fail(Error::Busy);
            return;
        }
        self.watch(&mut state, job.deadline);
        state.jobs.push_back(job);
        drop(state);
        self.work.notify_one();
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

    /// Waits while the module begins anew; the guard says that a call is under way.
    pub(crate) fn enter(&self) -> AtWork<'_> {
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

pub(crate) struct AtWork<'a>(&'a AtomicUsize);

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
            worker.close();
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
        if state.closed && state.jobs.is_empty() && state.waiting.is_empty() && state.running.is_empty() {
            return;
        }
        let now = Instant::now();
        let late = |deadline: Instant| deadline <= now;
        let mut expired: Vec<Arc<dyn Settle>> = Vec::new();
        // Kept until they are answered: a job that is dropped ends its call with `internal`.
        let (late_jobs, jobs): (VecDeque<Job>, _) = std::mem::take(&mut state.jobs)
            .into_iter()
            .partition(|job| late(job.deadline));
        state.jobs = jobs;
        expired.extend(late_jobs.iter().map(|job| job.settle.clone()));
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
                    if !seat.hung.swap(true, Ordering::Relaxed) {
                        tracing::warn!("a session is past its deadline in a call of the module");
                        expired.push(settle.clone());
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
        if expired.is_empty() && to_replace == 0 {
            // Not let go in between: a job that comes now wakes it.
            let waited = queue.watchdog.wait_timeout(state, pause);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            continue;
        }
        drop(state);
        for settle in expired {
            settle.fail(Error::Timeout);
        }
        drop(late_jobs);
        for _ in 0..to_replace {
            if let Err(error) = start_worker(shared) {
                tracing::error!(%error, "no thread could be started in place of one that hangs");
            }
        }
        state = queue.lock();
    }
}
