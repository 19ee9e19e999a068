//! A session with its owner: runs operations, heals what can be healed, and tries once more what may be tried again.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::backend::{Filter, Outcome, Session};
use crate::error::{Ckr, Error, Failure, Result};
use crate::index::{Found, Key, Stale};
use crate::key::HsmKeyId;
use crate::link::{Epoch, Trouble, is_gone};
use crate::quirks;
use crate::shared::Shared;

/// A session with its owner: runs operations, and heals what can be healed.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    session: Option<Box<dyn Session>>,
    epoch: Epoch,
    /// When the job at hand must have ended.
    pub(crate) deadline: Instant,
}

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
        let (mut tries, mut failures) = (0, 0);
        loop {
            tries += 1;
            let shared = self.shared.clone();
            // Looked at when nothing can begin anew any more: a stale handle may be another key's by now.
            let outcome = self.enter(&mut |session| {
                let current = shared.index.is_current(&key);
                if current {
                    operation(session, &key).map(Some)
                } else {
                    Ok(None)
                }
            })?;
            let failure = match outcome {
                Ok(Some(value)) => return Ok(value),
                Ok(None) if tries > MOST_LOOKS => {
                    return Err(lost_again_and_again());
                }
                Ok(None) => {
                    key = self.find(&id)?;
                    continue;
                }
                Err(failure) => failure,
            };
            failures += 1;
            match self.diagnose(&failure)? {
                Ailment::Operation => return Err(failure.meaning(Some(&id))),
                Ailment::Session | Ailment::Login if failures == 1 => {}
                Ailment::Handle => {
                    let found = self.find(&id)?;
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
                Ok(objects)
            })?;
            Ok(Found { generation, objects })
        })
    }

    /// Closes the session, unless the module has begun anew since: its handle may be another session's by now.
    pub(crate) fn close(&mut self) {
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
                shared.link.check()?;
                Ok(Err(failure))
            }
            Err(Trouble::Refused(error)) => {
                shared.keeper.wake();
                Err(error)
            }
            Err(Trouble::NoSlots) => Err(Error::Unavailable("the module has no slots".into())),
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
                // Not closed: its number may be another session's by now.
                std::mem::forget(self.session.take());
                if self.epoch == self.shared.link.epoch() {
                    tracing::warn!(%failure, "the sessions are lost; they are opened anew");
                    // In this order: with a new session nobody may use an old handle.
                    self.shared.index.clear();
                    self.shared.link.renew_sessions();
                }
                Ok(Ailment::Session)
            }
            // An operation that an earlier failure left behind: a new session has none.
            Ckr::OperationActive => {
                let shared = self.shared.clone();
                let _at_work = shared.queue.enter();
                self.close();
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
            Ckr::DeviceError | Ckr::GeneralError | Ckr::FunctionFailed if self.session_is_ill() => {
                std::mem::forget(self.session.take());
                self.shared.keeper.suspect();
                Ok(Ailment::Operation)
            }
            _ if quirks::is_dead_handle(&self.shared.link.token(), failure) => Ok(Ailment::Handle),
            _ => Ok(Ailment::Operation),
        }
    }

    fn login_is_lost(&mut self) -> bool {
        let shared = self.shared.clone();
        let _at_work = shared.queue.enter();
        let session = self.session.as_mut().filter(|_| shared.link.login_is_expected());
        session.is_some_and(|session| matches!(session.logged_in(), Ok(false)))
    }

    /// Whether the token does not even tell how the session fares.
    fn session_is_ill(&mut self) -> bool {
        let shared = self.shared.clone();
        let _at_work = shared.queue.enter();
        self.session
            .as_mut()
            .is_some_and(|session| session.logged_in().is_err())
    }

    fn log_in_again(&mut self) -> Result<Ailment> {
        let shared = self.shared.clone();
        shared.link.check_login()?;
        let _at_work = shared.queue.enter();
        let Some(session) = self.session.as_mut() else {
            return Ok(Ailment::Session);
        };
        // In this order: after the login nobody may use an old handle.
        shared.index.clear();
        match shared.link.log_in(session.as_mut()) {
            Ok(true) => tracing::warn!("the login was lost; the user is logged in again"),
            Ok(false) => {}
            Err(_) if is_gone(session.as_mut()) => {
                std::mem::forget(self.session.take());
                return Ok(Ailment::Session);
            }
            Err(error) => {
                shared.keeper.wake();
                return Err(error);
            }
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
