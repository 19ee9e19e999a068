//! What the writing thread and everybody else know together. No lock here is held while a file is touched.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::Status;
use super::record::Head;

/// What the thread tells everybody.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) writable: AtomicBool,
    pub(super) records: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) syncs: AtomicU64,
    pub(super) owed: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) view: View,
    pub(super) head: Head,
    pub(super) fault: Option<String>,
}

/// How far the log may be read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct View {
    /// First record of the file that is written to; later files are not there yet.
    pub(super) first_seq: u64,
    /// Bytes of it that are on disk.
    pub(super) synced: u64,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            writable: AtomicBool::new(false),
            records: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            owed: AtomicU64::new(0),
            state: Mutex::new(State {
                view: View::default(),
                head: Head::START,
                fault: None,
            }),
        }
    }
}

impl Shared {
    pub(super) fn writable(&self) -> bool {
        self.writable.load(Ordering::Acquire)
    }

    pub(super) fn view(&self) -> View {
        self.with_state(|state| state.view)
    }

    pub(super) fn status(&self) -> Status {
        let (head, fault) = self.with_state(|state| (state.head, state.fault.clone()));
        Status {
            records: self.records.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            syncs: self.syncs.load(Ordering::Relaxed),
            writable: self.writable(),
            fault,
            owed: self.owed.load(Ordering::Relaxed),
            head_seq: head.seq,
            head_hash: head.hex(),
        }
    }

    pub(super) fn with_state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
