//! The one session of a token that allows no second one.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

use crate::backend::Session;
use crate::link::Epoch;
use crate::vault::Tenure;

/// A session, what its objects hang on, and since when it has been good.
pub(crate) type Kept = (Box<dyn Session>, Tenure, Epoch);

/// Where the session of a token that allows no second one is kept between calls, for its worker and the keeper in turn.
#[derive(Default)]
pub(crate) struct Place {
    state: Mutex<PlaceState>,
    changed: Condvar,
}

#[derive(Default)]
struct PlaceState {
    taken: bool,
    session: Option<Kept>,
    /// Who waits, in the order of their coming.
    waiting: VecDeque<u64>,
    next: u64,
}

impl Place {
    /// Takes what is kept, which is nobody else's until it is put back; `None` if it was not one's turn by `deadline`.
    pub(crate) fn take(&self, deadline: Instant) -> Option<Option<Kept>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = state.next;
        state.next += 1;
        state.waiting.push_back(turn);
        while state.taken || state.waiting.front() != Some(&turn) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.waiting.retain(|other| *other != turn);
                self.changed.notify_all();
                return None;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.waiting.pop_front();
        state.taken = true;
        Some(state.session.take())
    }

    pub(crate) fn put_back(&self, session: Option<Kept>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.session = session;
        state.taken = false;
        self.changed.notify_all();
    }
}
