//! A module that several tokens may be used through: who uses it, who is in a call of it, and how it begins anew for all.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crate::backend::{Backend, Outcome};
use crate::quirks::Catalogue;
use crate::shared::Shared;

/// How long the users of a module whose own tokens are well are left alone after a restart for another's sake.
const BETWEEN_DISTURBANCES: Duration = Duration::from_secs(30);

/// How long the end waits for a restart, or for somebody who opens a token.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// A module that tokens are used through, each by an [`Hsm`](crate::Hsm) of its own: [`Hsm::open`](crate::Hsm::open) takes
/// clones of it. It is finalized when the last of them is stopped.
#[derive(Clone)]
pub struct SharedBackend(pub(crate) Arc<Module>);

impl SharedBackend {
    /// Takes a backend that is ready for use.
    pub fn new(backend: impl Backend) -> SharedBackend {
        SharedBackend(Arc::new(Module {
            backend: Box::new(backend),
            at_work: AtomicUsize::new(0),
            paused: AtomicBool::new(false),
            epoch: AtomicU64::new(0),
            beginning: Mutex::default(),
            users: Mutex::default(),
            catalogue: Arc::default(),
        }))
    }
}

impl<B: Backend> From<B> for SharedBackend {
    fn from(backend: B) -> SharedBackend {
        SharedBackend::new(backend)
    }
}

impl fmt::Debug for SharedBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedBackend").finish_non_exhaustive()
    }
}

pub(crate) struct Module {
    pub(crate) backend: Box<dyn Backend>,
    /// Threads inside a call of the module.
    at_work: AtomicUsize,
    paused: AtomicBool,
    /// Counts up when the module begins anew.
    epoch: AtomicU64,
    /// Held while the module begins anew, or somebody begins or ends to use it; when it last began anew.
    beginning: Mutex<Option<Instant>>,
    users: Mutex<Vec<User>>,
    pub(crate) catalogue: Arc<Catalogue>,
}

struct User {
    number: u64,
    /// The slot that it uses; none while the module begins anew.
    slot: Option<u64>,
    shared: Weak<Shared>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Using,
    /// It was stopped while a call hung in the module.
    Hanging,
    /// Its sessions are closed, and its threads have ended.
    Ended,
}

impl User {
    fn has(&self, slot: u64) -> bool {
        self.slot == Some(slot) && self.state != State::Ended
    }
}

/// One use of a module: a token's. It ends when it is dropped, if not before.
pub(crate) struct Claim {
    module: Arc<Module>,
    number: u64,
}

/// Why the module should begin anew.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// It says that it is not initialized: nobody can use it.
    All,
    /// One token is not reached, which may be the fault of the module or not.
    One,
}

/// What became of the use of a module.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// The module is finalized.
    Finalized,
    /// Others use it, or its use had been ended before.
    InUse,
    /// Nobody uses it, but a call of another token hangs in it.
    Hanging,
}

pub(crate) struct AtWork<'a>(&'a AtomicUsize);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Module {
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

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Keeps the module from beginning anew or ending, for one who begins to use it.
    pub(crate) fn hold_still(&self) -> MutexGuard<'_, Option<Instant>> {
        self.beginning.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold_still_within(&self, patience: Duration) -> Option<MutexGuard<'_, Option<Instant>>> {
        let deadline = Instant::now() + patience;
        loop {
            match self.beginning.try_lock() {
                Ok(held) => return Some(held),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return None,
                Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// Takes the token in `slot` for oneself; `None` if another has it.
    pub(crate) fn claim(self: &Arc<Self>, slot: u64) -> Option<Claim> {
        let mut users = self.users();
        if users.iter().any(|user| user.has(slot)) {
            return None;
        }
        let number = users.iter().map(|user| user.number + 1).max().unwrap_or_default();
        users.push(User {
            number,
            slot: Some(slot),
            shared: Weak::new(),
            state: State::Using,
        });
        drop(users);
        Some(Claim {
            module: self.clone(),
            number,
        })
    }

    /// Finalizes the module and initializes it again for everybody who uses it, once nobody is in a call; `None` if
    /// somebody is not out by `deadline`, or hangs in it. If that was done since `seen`, nothing is left to do.
    pub(crate) fn begin_anew(
        &self,
        for_whom: &Shared,
        seen: u64,
        need: Need,
        deadline: Instant,
    ) -> Option<Outcome<()>> {
        let mut last = self.hold_still();
        if self.epoch() != seen {
            return Some(Ok(()));
        }
        let users = self.all_users();
        if users.iter().any(|user| user.queue.anybody_hangs()) {
            // It will not leave, and everybody would wait for it.
            return None;
        }
        let is_well = |user: &Shared| !user.queue.is_closed() && user.link.check().is_ok();
        let others_are_well = users
            .iter()
            .any(|user| !std::ptr::eq(&**user, for_whom) && is_well(user));
        if need == Need::One && others_are_well && last.is_some_and(|at| at.elapsed() < BETWEEN_DISTURBANCES) {
            return None;
        }
        let outcome = self.while_nobody_works(deadline, || {
            // Before numbers of handles are given out anew.
            users.iter().for_each(|user| user.index.clear());
            self.epoch.fetch_add(1, Ordering::AcqRel);
            let restarted = self.backend.restart();
            if restarted.is_ok() {
                self.find_tokens_again(&users);
            }
            restarted
        });
        *last = Some(Instant::now());
        drop(last);
        outcome
    }

    /// Runs `act` while nobody is in a call; `None` if they are not out by `deadline`.
    fn while_nobody_works<T>(&self, deadline: Instant, act: impl FnOnce() -> T) -> Option<T> {
        self.paused.store(true, Ordering::SeqCst);
        let mut outcome = None;
        while self.at_work.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        if self.at_work.load(Ordering::SeqCst) == 0 {
            outcome = Some(act());
        }
        self.paused.store(false, Ordering::SeqCst);
        outcome
    }

    /// The module may have given the slots other numbers, and no PIN may be tried on another's token.
    fn find_tokens_again(&self, users: &[Arc<Shared>]) {
        self.users().iter_mut().for_each(|user| user.slot = None);
        let slots = self.backend.slots();
        for user in users {
            let found = match &slots {
                Ok(slots) => user.link.find_slot_again(slots),
                Err(failure) => {
                    user.link.lose_slot();
                    Err(failure.to_string())
                }
            };
            if let Err(why) = found {
                user.lose_token(why.into());
            }
        }
    }

    fn all_users(&self) -> Vec<Arc<Shared>> {
        let users: Vec<Weak<Shared>> = self.users().iter().map(|user| user.shared.clone()).collect();
        users.iter().filter_map(Weak::upgrade).collect()
    }

    fn users(&self) -> MutexGuard<'_, Vec<User>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    /// Says whose claim it is.
    pub(crate) fn belongs_to(&self, shared: &Arc<Shared>) {
        self.change(|user| user.shared = Arc::downgrade(shared));
    }

    /// Takes another slot instead; `false` if another has it.
    pub(crate) fn move_to(&self, slot: u64) -> bool {
        let mut users = self.module.users();
        if users.iter().any(|user| user.number != self.number && user.has(slot)) {
            return false;
        }
        let own = users.iter_mut().find(|user| user.number == self.number);
        own.into_iter().for_each(|user| user.slot = Some(slot));
        true
    }

    /// Has no slot until it [moves](Self::move_to) to one.
    pub(crate) fn give_up(&self) {
        self.change(|user| user.slot = None);
    }

    /// Ends the use: all sessions are closed. The module stays as it is.
    pub(crate) fn end(&self) {
        self.change(|user| user.state = State::Ended);
    }

    /// Ends the use while a call hangs.
    pub(crate) fn leave_hanging(&self) {
        self.change(|user| user.state = State::Hanging);
    }

    /// Ends the use, and finalizes the module if it was the last one.
    pub(crate) fn end_and_finalize(&self) -> Outcome<Left> {
        let mut before = State::Ended;
        self.change(|user| before = std::mem::replace(&mut user.state, State::Ended));
        if before == State::Ended {
            return Ok(Left::InUse);
        }
        let Some(_still) = self.module.hold_still_within(LONGEST_WAIT) else {
            return Ok(Left::Hanging);
        };
        let users = self.module.users();
        let in_use = users.iter().any(|user| user.state == State::Using);
        let left_hanging = users.iter().filter(|user| user.state == State::Hanging);
        let left_hanging: Vec<Weak<Shared>> = left_hanging.map(|user| user.shared.clone()).collect();
        // Not locked any more: the last reference may be among these, and its end changes the list.
        drop(users);
        let hanging = left_hanging
            .iter()
            .filter_map(Weak::upgrade)
            .any(|shared| !shared.is_out());
        match (in_use, hanging) {
            (true, _) => Ok(Left::InUse),
            (false, true) => Ok(Left::Hanging),
            (false, false) => self.module.backend.finish().map(|()| Left::Finalized),
        }
    }

    fn change(&self, change: impl FnOnce(&mut User)) {
        let mut users = self.module.users();
        users.iter_mut().find(|user| user.number == self.number).map(change);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.module.users().retain(|user| user.number != self.number);
    }
}
