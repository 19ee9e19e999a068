//! The watchdog: one thread that ends calls which are past their deadline, and has hanging threads replaced.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::{Job, Look, Seat, State, start_worker};
use crate::call::Settle;
use crate::error::Error;
use crate::keeper;
use crate::shared::Shared;

/// Ends calls that are past their deadline, and replaces threads that hang.
pub(super) fn watch(shared: &Arc<Shared>) {
    let queue = &shared.queue;
    let mut state = queue.lock();
    loop {
        if state.closed && state.jobs.is_empty() && state.waiting.is_empty() && state.running.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut round = Round::default();
        // Kept until they are answered: a job that is dropped ends its call with `internal`.
        let late_jobs = round.look_at_queue(&mut state, now);
        let (workers, keepers) = (queue.threads.most_workers, queue.threads.most_keepers);
        let workers = round.look_at_seats(&state.running, workers, now);
        let keepers = round.look_at_seats(&state.keepers, keepers, now);
        let Round { expired, next } = round;
        // A job may move from the queue to a worker between two looks; a second is the longest that it goes unseen.
        let pause = next.map_or(Duration::from_secs(1), |at| {
            at.saturating_duration_since(now)
                .clamp(Duration::from_millis(1), Duration::from_secs(1))
        });
        state.wake_at = Some(now + pause);
        if expired.is_empty() && workers + keepers == 0 {
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
        let started = (0..workers)
            .map(|_| start_worker(shared))
            .chain((0..keepers).map(|_| keeper::start(shared, None)));
        for error in started.filter_map(std::io::Result::err) {
            tracing::error!(%error, "no thread could be started in place of one that hangs");
        }
        state = queue.lock();
    }
}

/// What one look of the watchdog finds.
#[derive(Default)]
struct Round {
    /// Calls to end.
    expired: Vec<Arc<dyn Settle>>,
    /// The next deadline.
    next: Option<Instant>,
}

impl Round {
    /// Takes what is late out of the queue.
    fn look_at_queue(&mut self, state: &mut State, now: Instant) -> VecDeque<Job> {
        let late = |deadline: Instant| deadline <= now;
        let (late_jobs, jobs): (VecDeque<Job>, _) = std::mem::take(&mut state.jobs)
            .into_iter()
            .partition(|job| late(job.deadline));
        state.jobs = jobs;
        self.expired.extend(late_jobs.iter().map(|job| job.settle.clone()));
        state.waiting.retain(|waiting| match waiting.settle.upgrade() {
            Some(settle) if late(waiting.deadline) => {
                self.expired.push(settle);
                false
            }
            other => other.is_some(),
        });
        let jobs = state.jobs.iter().map(|job| job.deadline);
        self.next = jobs.chain(state.waiting.iter().map(|w| w.deadline)).min();
        late_jobs
    }

    /// Tells how many of those that hang are to be replaced, so that there are at most `most`.
    fn look_at_seats(&mut self, seats: &[Arc<Seat>], most: usize, now: Instant) -> usize {
        let spare = most.saturating_sub(seats.len());
        let mut to_replace = 0;
        for seat in seats {
            match seat.look(now) {
                Look::Well(deadline) => self.next = self.next.into_iter().chain(deadline).min(),
                Look::Late(settle) => {
                    self.expired.extend(settle);
                    if to_replace < spare && !seat.replaced.swap(true, Ordering::Relaxed) {
                        to_replace += 1;
                    }
                }
            }
        }
        to_replace
    }
}
