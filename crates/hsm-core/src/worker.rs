//! A session with its owner: runs operations, heals what can be healed, and tries once more what may be tried again.

mod heal;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::backend::{Filter, Outcome, Session};
use crate::error::{Ckr, During, Error, Failure, Result};
use crate::index::{Found, Key, Stale, certify};
use crate::key::HsmKeyId;
use crate::link::{Epoch, Trouble, says_nothing_of_the_pin};
use crate::quirks;
use crate::shared::Shared;
use crate::vault::Tenure;
use crate::workers::Seat;
use heal::Ailment;

/// A session with its owner: runs operations, and heals what can be healed.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) seat: Arc<Seat>,
    session: Option<Box<dyn Session>>,
    /// What the objects of the session hang on.
    tenure: Tenure,
    epoch: Epoch,
    /// Whether what the [`Place`] has is here, if there is one.
    holds_place: bool,
    /// When the job at hand must have ended.
    pub(crate) deadline: Instant,
}

/// How long before its deadline a job gives up to wait for a session or the token, so that it can say why.
const BEFORE_DEADLINE: Duration = Duration::from_millis(100);
/// How often a session is asked for while others have all that the token allows.
const BETWEEN_REQUESTS: Duration = Duration::from_millis(20);

/// How often a key is looked up for one operation, when everything changes under it.
pub(crate) const MOST_LOOKS: u32 = 5;

/// Why it was not looked up once more.
pub(crate) fn lost_again_and_again() -> Error {
    Error::Device("the token's sessions are lost again and again".into())
}

/// Whether an operation may be done again after a failure that left it undone or unclear.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// It changes nothing: once more.
    Once,
    /// It changes the token: never.
    Never,
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>, seat: Arc<Seat>, session: Option<Box<dyn Session>>) -> Worker {
        let epoch = shared.link.epoch();
        let mut worker = Worker {
            shared,
            seat,
            session: None,
            tenure: Tenure::default(),
            epoch,
            holds_place: false,
            deadline: Instant::now(),
        };
        if session.is_some() {
            worker.take_over(session);
        }
        worker
    }

    /// Has a session that was opened just now, in place of any that it had.
    fn take_over(&mut self, session: Option<Box<dyn Session>>) {
        if self.hold().is_ok() {
            self.epoch = self.shared.link.epoch();
            self.session = session;
            self.tenure = Tenure::default();
        }
        self.let_go();
    }

    /// Runs `operation` on a logged-in session.
    ///
    /// # Errors
    /// What the failure means ([`Failure::meaning`]), after one more try if that may help.
    pub(crate) fn run<T>(&mut self, again: Again, operation: impl FnMut(&mut dyn Session) -> Outcome<T>) -> Result<T> {
        let outcome = self.run_on_session(again, operation);
        self.let_go();
        outcome
    }

    /// The same, for objects that the operation makes in the session: what they hang on is told with the outcome.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub(crate) fn make<T>(&mut self, operation: impl FnMut(&mut dyn Session) -> Outcome<T>) -> Result<(T, Tenure)> {
        let outcome = self.run_on_session(Again::Once, operation);
        let outcome = outcome.map(|made| (made, self.tenure.clone()));
        self.let_go();
        outcome
    }

    fn run_on_session<T>(
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
        operation: impl FnMut(&mut dyn Session, &Key) -> Outcome<T>,
    ) -> Result<T> {
        let outcome = self.run_on_key(key, operation);
        self.let_go();
        outcome
    }

    /// The same, for objects that the operation makes in the session: what they hang on is told with the outcome.
    ///
    /// # Errors
    /// As [`run_with_key`](Self::run_with_key).
    pub(crate) fn make_with_key<T>(
        &mut self,
        key: &Arc<Key>,
        operation: impl FnMut(&mut dyn Session, &Key) -> Outcome<T>,
    ) -> Result<(T, Tenure)> {
        let outcome = self.run_on_key(key, operation);
        let outcome = outcome.map(|made| (made, self.tenure.clone()));
        self.let_go();
        outcome
    }

    fn run_on_key<T>(
        &mut self,
        key: &Arc<Key>,
        mut operation: impl FnMut(&mut dyn Session, &Key) -> Outcome<T>,
    ) -> Result<T> {
        let id = key.info.id.clone();
        let mut key = key.clone();
        let (mut tries, mut failures) = (0, 0);
        loop {
            tries += 1;
            let shared = self.shared.clone();
            let mut refused = None;
            // Looked at when nothing can begin anew any more: a stale handle may be another key's by now.
            let outcome = self.enter(&mut |session| {
                if !shared.index.is_current(&key) {
                    return Ok(None);
                }
                let _one_login_at_a_time = key.always_authenticate.then(|| shared.link.context_login());
                if key.always_authenticate {
                    refused = shared.link.check_context_login().err();
                }
                if refused.is_some() {
                    return Ok(None);
                }
                let outcome = operation(session, &key);
                if let (true, Err(failure)) = (key.always_authenticate, &outcome) {
                    // Before the next one may try.
                    refused = shared.link.context_login_failed(failure);
                }
                outcome.map(Some)
            })?;
            if let Err(failure) = &outcome
                && failure.during == During::Login
                && !says_nothing_of_the_pin(failure)
            {
                // The operation that it was for is still active.
                let _at_work = shared.link.module.enter();
                self.close_inside();
            }
            if let Some(refused) = refused {
                shared.keeper.wake();
                return Err(refused);
            }
            let failure = match outcome {
                Ok(Some(value)) => return Ok(value),
                Ok(None) if tries > MOST_LOOKS => {
                    return Err(lost_again_and_again());
                }
                Ok(None) => {
                    key = self.find_again(&key)?;
                    continue;
                }
                Err(failure) => failure,
            };
            failures += 1;
            match self.diagnose(&failure)? {
                Ailment::Operation => return Err(failure.meaning(Some(&id))),
                Ailment::Session | Ailment::Login if failures == 1 => {}
                Ailment::Handle => {
                    let found = self.find_again(&key)?;
                    if failures > 1 {
                        return Err(failure.meaning(Some(&id)));
                    }
                    key = found;
                }
                Ailment::Login => {
                    return Err(Error::Unavailable("the login to the token was lost again".into()));
                }
                Ailment::Session => return Err(failure.meaning(None)),
            }
        }
    }

    /// Looks for a key by its id on the token itself, and takes note of what is there.
    ///
    /// # Errors
    /// [`Error::KeyNotFound`], [`Error::AmbiguousKey`].
    pub(crate) fn find(&mut self, id: &HsmKeyId) -> Result<Arc<Key>> {
        for _ in 0..MOST_LOOKS {
            let found = self.objects(id)?;
            match self.shared.index.replace(id, found) {
                Ok(Some(key)) if key.ambiguous => return Err(Error::AmbiguousKey(id.clone())),
                Ok(Some(key)) => return Ok(key),
                Ok(None) => return Err(Error::KeyNotFound(id.clone())),
                Err(Stale) => {}
            }
        }
        Err(lost_again_and_again())
    }

    /// The key again, whose handles have died: found on the token, or loaded anew.
    pub(crate) fn find_again(&mut self, key: &Key) -> Result<Arc<Key>> {
        match key.wrapped() {
            Some(wrapped) => {
                let wrapped = wrapped.clone();
                self.shared.vault.drop_key(&wrapped.id);
                self.load(&wrapped)
            }
            None => self.find(&key.info.id),
        }
    }

    /// The key objects with this id, read from the token.
    pub(crate) fn objects(&mut self, id: &HsmKeyId) -> Result<Found> {
        let shared = self.shared.clone();
        let token = self.shared.link.token();
        self.run(Again::Once, |session| {
            let _hold = shared.catalogue.search(&token);
            let generation = shared.index.generation();
            let objects = shared.link.while_logged_in(session, |session| {
                let mut objects = Vec::new();
                for handle in session.find(&Filter::Id(id.as_bytes()))? {
                    match session.read(handle) {
                        Ok(Some(object)) => objects.push((handle, object)),
                        Ok(None) => {}
                        // Destroyed by somebody between the search and the look.
                        Err(failure) if quirks::is_dead_handle(&token, &failure) => {}
                        Err(failure) => return Err(failure),
                    }
                }
                certify(
                    session,
                    None,
                    Some(id.as_bytes()),
                    objects.iter_mut().map(|(_, object)| object),
                );
                Ok(objects)
            })?;
            Ok(Found { generation, objects })
        })
    }

    /// Closes the session, unless the module has begun anew since: its handle may be another session's by now.
    pub(crate) fn close(&mut self) {
        if self.hold().is_ok() {
            let shared = self.shared.clone();
            let _at_work = shared.link.module.enter();
            self.close_inside();
        }
        self.let_go();
    }

    /// Closes the session, and opens one with `open` once there is none; nobody else opens one meanwhile, where the token
    /// allows but one.
    ///
    /// # Errors
    /// What `open` answers; `None` if the session is still at work at the deadline.
    pub(crate) fn replace_session<E>(
        &mut self,
        open: impl FnOnce() -> Result<Box<dyn Session>, E>,
    ) -> Option<Result<(), E>> {
        self.hold().ok()?;
        {
            let shared = self.shared.clone();
            let _at_work = shared.link.module.enter();
            self.close_inside();
        }
        let opened = open().map(|session| {
            self.epoch = self.shared.link.epoch();
            self.session = Some(session);
            self.tenure = Tenure::default();
        });
        self.let_go();
        Some(opened)
    }

    fn close_inside(&mut self) {
        let tenure = std::mem::take(&mut self.tenure);
        let Some(mut session) = self.session.take() else {
            return;
        };
        if self.epoch.module != self.shared.link.epoch().module {
            std::mem::forget(session);
            return;
        }
        self.shared.vault.sweep(&self.shared, session.as_mut());
        self.shared.vault.leave(&tenure, session);
    }

    /// Takes the session from where it is kept, if it is not one's own.
    fn hold(&mut self) -> Result<()> {
        let Some(place) = self.shared.place.as_ref().filter(|_| !self.holds_place) else {
            return Ok(());
        };
        let kept = place.take(self.deadline).ok_or(Error::Timeout)?;
        self.holds_place = true;
        if let Some((session, tenure, epoch)) = kept {
            (self.session, self.tenure, self.epoch) = (Some(session), tenure, epoch);
        }
        Ok(())
    }

    /// Puts it back.
    fn let_go(&mut self) {
        if let Some(place) = self.shared.place.as_ref().filter(|_| self.holds_place) {
            let tenure = std::mem::take(&mut self.tenure);
            place.put_back(self.session.take().map(|session| (session, tenure, self.epoch)));
            self.holds_place = false;
        }
    }

    /// Runs one call on the session, opening it if there is none.
    fn enter<T>(&mut self, operation: &mut impl FnMut(&mut dyn Session) -> Outcome<T>) -> Result<Outcome<T>> {
        let shared = self.shared.clone();
        loop {
            self.hold()?;
            let at_work = shared.link.module.enter();
            match self.ready() {
                // Ready means that there is one.
                Ok(()) => match self.session.as_mut() {
                    Some(session) => return Ok(operation(session.as_mut())),
                    None => return Err(Error::Internal("the session is gone".into())),
                },
                Err(Trouble::Failed(failure)) if failure.rv == Some(Ckr::SessionCount) => {
                    drop(at_work);
                    self.wait_for_room(&failure)?;
                }
                Err(Trouble::Failed(failure)) => {
                    shared.no_session(&failure);
                    shared.link.check()?;
                    return Ok(Err(failure));
                }
                Err(Trouble::Refused(error)) => {
                    shared.keeper.wake();
                    return Err(error);
                }
                Err(trouble @ Trouble::NoSlots) => return Err(Error::Unavailable(trouble.to_string().into())),
            }
        }
    }

    /// Sees to it that there is a session. Not while the link is down: what was in the slot may not be there any more.
    fn ready(&mut self) -> Result<(), Trouble> {
        self.shared.link.check().map_err(Trouble::Refused)?;
        let epoch = self.shared.link.epoch();
        if self.epoch != epoch {
            self.close_inside();
            self.epoch = epoch;
        }
        if self.session.is_none() {
            let opened = self.shared.link.open_session(|| self.shared.index.clear());
            let full = matches!(&opened, Err(Trouble::Failed(failure)) if failure.rv == Some(Ckr::SessionCount));
            self.seat.has_session(!full);
            self.session = Some(opened?);
            self.tenure = Tenure::default();
        }
        Ok(())
    }

    /// Waits an instant: others have all the sessions that the token allows.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the deadline is near.
    fn wait_for_room(&mut self, failure: &Failure) -> Result<()> {
        // Its session may be the one that is lacking.
        self.shared.keeper.give_way();
        self.let_go();
        if Instant::now() + BETWEEN_REQUESTS < self.latest() {
            thread::sleep(BETWEEN_REQUESTS);
            return Ok(());
        }
        Err(Error::Unavailable(format!(
            "the token has no session free ({failure}): other programs hold those that it allows; try again later, or end some"
        ).into()))
    }

    /// Until when something may be waited for.
    fn latest(&self) -> Instant {
        self.deadline.checked_sub(BEFORE_DEADLINE).unwrap_or(self.deadline)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // What is shared is the keeper's to close, which is the last one.
        if self.shared.place.is_none() {
            self.close();
        }
    }
}
