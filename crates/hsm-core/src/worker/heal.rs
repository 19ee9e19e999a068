//! What a failure means for a worker's session, and how it is mended.

use std::thread;
use std::time::{Duration, Instant};

use super::Worker;
use crate::error::{Ckr, Error, Failure, Result};
use crate::link::is_gone;
use crate::quirks;

/// What a failure means for the session and the keys' handles.
pub(super) enum Ailment {
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
    /// Tells what a failure means, and mends what it can.
    pub(super) fn diagnose(&mut self, failure: &Failure) -> Result<Ailment> {
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
                let _at_work = shared.link.module.enter();
                self.close_inside();
                Ok(Ailment::Session)
            }
            Ckr::TokenNotPresent | Ckr::DeviceRemoved => {
                self.shared.lose_token(failure.into());
                Err(failure.meaning(None))
            }
            Ckr::CryptokiNotInitialized => {
                self.shared.lose_token(failure.into());
                self.wait_for_the_token();
                self.shared.link.check()?;
                Ok(Ailment::Session)
            }
            Ckr::UserNotLoggedIn => self.log_in_again(),
            Ckr::ObjectHandleInvalid | Ckr::KeyHandleInvalid | Ckr::HostMemory if self.login_is_lost() => {
                self.log_in_again()
            }
            Ckr::DeviceError | Ckr::GeneralError | Ckr::FunctionFailed if self.session_is_ill() => {
                let shared = self.shared.clone();
                let _at_work = shared.link.module.enter();
                self.close_inside();
                shared.keeper.suspect();
                // Whatever the code would mean of the data: it is the session that is ill.
                Err(Error::Device(failure.into()))
            }
            _ if quirks::is_dead_handle(&self.shared.link.token(), failure) => Ok(Ailment::Handle),
            _ => Ok(Ailment::Operation),
        }
    }

    fn login_is_lost(&mut self) -> bool {
        let shared = self.shared.clone();
        let _at_work = shared.link.module.enter();
        let session = self.session.as_mut().filter(|_| shared.link.login_is_expected());
        session.is_some_and(|session| matches!(session.logged_in(), Ok(false)))
    }

    /// Whether the token does not even tell how the session fares.
    fn session_is_ill(&mut self) -> bool {
        let shared = self.shared.clone();
        let _at_work = shared.link.module.enter();
        self.session
            .as_mut()
            .is_some_and(|session| session.logged_in().is_err())
    }

    fn log_in_again(&mut self) -> Result<Ailment> {
        let shared = self.shared.clone();
        shared.link.check_login()?;
        let _at_work = shared.link.module.enter();
        let Some(session) = self.session.as_mut() else {
            return Ok(Ailment::Session);
        };
        // Also where another has logged in since.
        shared.index.clear();
        match shared.link.log_in(session.as_mut(), || {}) {
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
    fn wait_for_the_token(&mut self) {
        // The keeper needs the session's place.
        self.let_go();
        let until = self.latest().min(Instant::now() + Duration::from_secs(5));
        while self.shared.link.check().is_err() && Instant::now() < until {
            thread::sleep(Duration::from_millis(5));
        }
    }
}
