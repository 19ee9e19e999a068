//! Worker threads, each with a session of its own, and the bounded queue that they take jobs from.
//!
//! A watchdog ends calls whose deadline has passed. A worker that hangs in the module is counted and replaced, up to as many
//! again as there are workers and never beyond the sessions that the token allows, since what hangs still holds its own; if
//! it ever comes back it ends. The same holds for the keeper.

mod watchdog;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::call::Settle;
use crate::error::{Error, Result};
use crate::shared::Shared;
use crate::worker::{Again, Worker};

/// How long a worker without a session waits before it tries to have one again.
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(200);

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
    winding_down: AtomicBool,
    work: Condvar,
    watchdog: Condvar,
    limit: usize,
    threads: Threads,
}

/// How many threads with a session there are, and may be with those in place of hanging ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Threads {
    workers: usize,
    most_workers: usize,
    most_keepers: usize,
}

impl Threads {
    /// So that there are never more sessions than `allowed`; with a single one, the worker and the keeper share it.
    pub(crate) fn new(wanted: usize, allowed: Option<usize>) -> Threads {
        let wanted = wanted.max(1);
        let Some(allowed) = allowed else {
            return Threads {
                workers: wanted,
                most_workers: 2 * wanted,
                most_keepers: 2,
            };
        };
        let without_keeper = allowed.saturating_sub(1).max(1);
        let workers = wanted.min(without_keeper);
        let second_keeper = usize::from(workers < without_keeper);
        Threads {
            workers,
            most_workers: (2 * workers).min(without_keeper - second_keeper),
            most_keepers: 1 + second_keeper,
        }
    }
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Calls that wait for the keeper.
    waiting: Vec<Watched>,
    running: Vec<Arc<Seat>>,
    keepers: Vec<Arc<Seat>>,
    idle: usize,
    closed: bool,
    wake_at: Option<Instant>,
}

struct Watched {
    settle: std::sync::Weak<dyn Settle>,
    deadline: Instant,
}

/// What a thread with a session is doing.
struct Task {
    /// What to end when the deadline passes; the keeper has nothing.
    settle: Option<Arc<dyn Settle>>,
    deadline: Instant,
}

/// Where a thread with a session says what it is doing.
#[derive(Default)]
pub(crate) struct Seat {
    job: Mutex<Option<Task>>,
    hung: AtomicBool,
    replaced: AtomicBool,
    /// Others have all the sessions that the token allows.
    without_session: AtomicBool,
}

impl Seat {
    /// A job begins.
    pub(crate) fn begin(&self, settle: Option<Arc<dyn Settle>>, deadline: Instant) {
        *self.job() = Some(Task { settle, deadline });
    }

    /// A part of the job begins, with a deadline of its own.
    pub(crate) fn begin_part(&self, until: Instant) {
        if let Some(task) = &mut *self.job() {
            task.deadline = until;
        }
    }

    /// The job has ended.
    pub(crate) fn end(&self) {
        *self.job() = None;
        self.hung.store(false, Ordering::Relaxed);
    }

    /// Whether another thread has taken the place of this one, which should end.
    pub(crate) fn is_replaced(&self) -> bool {
        self.replaced.load(Ordering::Relaxed)
    }

    pub(crate) fn has_session(&self, has: bool) {
        self.without_session.store(!has, Ordering::Relaxed);
    }

    fn is_hung(&self) -> bool {
        self.hung.load(Ordering::Relaxed)
    }

    fn is_without_session(&self) -> bool {
        self.without_session.load(Ordering::Relaxed)
    }

    fn job(&self) -> MutexGuard<'_, Option<Task>> {
        self.job.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the clock for it: what to end, whether it is late for the first time, and until when it may work.
    fn look(&self, now: Instant) -> Look {
        let job = self.job();
        match &*job {
            None => Look::Well(None),
            Some(task) if task.deadline > now => Look::Well(Some(task.deadline)),
            Some(_) if self.hung.load(Ordering::Relaxed) => Look::Late(None),
            Some(task) => {
                self.hung.store(true, Ordering::Relaxed);
                tracing::warn!("a session is past its deadline in a call of the module");
                Look::Late(task.settle.clone())
            }
        }
    }
}

enum Look {
    /// Nothing to do, or until then.
    Well(Option<Instant>),
    /// Past its deadline; what there is to end for it.
    Late(Option<Arc<dyn Settle>>),
}

impl Queue {
    pub(crate) fn new(threads: Threads, limit: usize) -> Queue {
        Queue {
            state: Mutex::default(),
            winding_down: AtomicBool::new(false),
            work: Condvar::new(),
            watchdog: Condvar::new(),
            limit,
            threads,
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

    /// Puts a job that has begun at the end of the queue, where it keeps its place whatever the queue's limit is.
    pub(crate) fn put_back(&self, job: Job) {
        let mut state = self.lock();
        self.watch(&mut state, job.deadline);
        state.jobs.push_back(job);
        drop(state);
        self.work.notify_one();
    }

    pub(crate) fn others_wait(&self) -> bool {
        !self.lock().jobs.is_empty()
    }

    /// Has long jobs end where they are.
    pub(crate) fn wind_down(&self) {
        self.winding_down.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_winding_down(&self) -> bool {
        self.winding_down.load(Ordering::Relaxed)
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
            hung: state.running.iter().filter(|seat| seat.is_hung()).count(),
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
        let ready = || {
            let state = self.lock();
            let waiting = state.running.iter().filter(|seat| seat.is_without_session()).count();
            state.idle + waiting >= self.threads.workers
        };
        while !ready() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether no keeper's thread is there any more.
    pub(crate) fn keepers_have_ended(&self) -> bool {
        self.lock().keepers.is_empty()
    }

    /// Gives a new keeper its seat.
    pub(crate) fn seat_keeper(&self) -> Arc<Seat> {
        let seat = Arc::new(Seat::default());
        self.lock().keepers.push(seat.clone());
        seat
    }

    pub(crate) fn unseat_keeper(&self, seat: &Arc<Seat>) {
        self.lock().keepers.retain(|other| !Arc::ptr_eq(other, seat));
    }

    /// Whether a thread, the keeper's too, is past a deadline in a call of the module.
    pub(crate) fn anybody_hangs(&self) -> bool {
        let state = self.lock();
        state.running.iter().chain(&state.keepers).any(|seat| seat.is_hung())
    }

    /// Whether other workers can do what there is to do.
    fn others_have_sessions(&self, seat: &Arc<Seat>) -> bool {
        let state = self.lock();
        let mut others = state.running.iter().filter(|other| !Arc::ptr_eq(other, seat));
        others.any(|other| !other.is_without_session() && !other.is_hung())
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

/// Starts the workers and their watchdog.
pub(crate) fn start(shared: &Arc<Shared>) -> std::io::Result<()> {
    for _ in 0..shared.queue.threads.workers {
        start_worker(shared)?;
    }
    let shared = shared.clone();
    thread::Builder::new()
        .name("hsm-watchdog".into())
        .spawn(move || watchdog::watch(&shared))?;
    Ok(())
}

fn start_worker(shared: &Arc<Shared>) -> std::io::Result<()> {
    let seat = Arc::new(Seat::default());
    shared.queue.lock().running.push(seat.clone());
    let started = thread::Builder::new().name("hsm-worker".into()).spawn({
        let (shared, seat) = (shared.clone(), seat.clone());
        move || {
            let mut worker = Worker::new(shared.clone(), seat.clone(), None);
            // So that the first request need not wait for a session; if none can be had now, a request will say so.
            let _: Result<()> = worker.run(Again::Never, |_| Ok(()));
            work(&mut worker);
            drop(worker);
            shared.queue.lock().running.retain(|other| !Arc::ptr_eq(other, &seat));
        }
    });
    if started.is_err() {
        shared.queue.lock().running.retain(|other| !Arc::ptr_eq(other, &seat));
    }
    started.map(|_| ())
}

fn work(worker: &mut Worker) {
    let (shared, seat) = (worker.shared.clone(), worker.seat.clone());
    loop {
        // Those that have a session do more of the work than one that waits for it.
        let may_come = || !shared.queue.is_closed() && shared.link.check().is_ok();
        while seat.is_without_session() && shared.queue.others_have_sessions(&seat) && may_come() {
            thread::sleep(BETWEEN_ATTEMPTS);
            worker.deadline = Instant::now();
            let _: Result<()> = worker.run(Again::Never, |_| Ok(()));
        }
        let Some(job) = shared.queue.next() else {
            return;
        };
        let Job { run, settle, deadline } = job;
        seat.begin(Some(settle), deadline);
        worker.deadline = deadline;
        if catch_unwind(AssertUnwindSafe(|| run(worker))).is_err() {
            // The state of the session is unknown; the dropped reply has ended the call with `internal`.
            worker.close();
        }
        if shared.vault.has_waste() && Instant::now() < deadline {
            let _: Result<()> = worker.run(Again::Never, |session| {
                shared.vault.sweep(&shared, session);
                Ok(())
            });
        }
        seat.end();
        if seat.is_replaced() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_never_more_threads_than_sessions() {
        for allowed in 2..40 {
            for wanted in 1..20 {
                let threads = Threads::new(wanted, Some(allowed));
                let Threads {
                    workers,
                    most_workers,
                    most_keepers,
                } = threads;
                assert!(most_workers + most_keepers <= allowed, "{threads:?}");
                assert!(
                    (1..=most_workers).contains(&workers) && most_keepers >= 1,
                    "{threads:?}"
                );
                assert_eq!(workers, wanted.min(allowed - 1));
            }
        }
        let one = Threads::new(4, Some(1));
        assert_eq!((one.workers, one.most_workers, one.most_keepers), (1, 1, 1));
    }
}
