//! The link to the token: which slot it is in, whether the user is logged in, and whether it is there at all.
//!
//! Invariants: a PIN that the token refused is never tried again by this process; a token that says that the next wrong PIN
//! locks it is not logged in to; while the link is down, operations fail at once and only the keeper touches the token.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use secrecy::SecretString;

use crate::backend::{Backend, MechanismInfo, Outcome, Session, Slot, Token};
use crate::error::{Ckr, During, Error, Failure, Result};
use crate::uri::TokenSelector;

/// Whether the user is logged in to the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    /// The token asks for no login.
    NotNeeded,
    /// No PIN was given: only what needs no login is done.
    NoPin,
    /// Logged in.
    LoggedIn,
    /// Lost; it is tried again when the token is back.
    LoggedOut,
    /// The token refused the PIN, or may not be asked: only a new process tries again.
    Refused,
}

/// Why a token can't be used from the start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// No token fits.
    #[error("{wanted} was not found; the module has {}", list(.present))]
    TokenNotFound {
        /// What was looked for.
        wanted: String,
        /// The labels of the tokens that are there.
        present: Vec<String>,
    },
    /// Several tokens fit.
    #[error("several tokens fit: {}; name one by its label, or by a pkcs11: URI with serial or slot-id", .0.join("; "))]
    SeveralTokens(Vec<String>),
    /// The PIN was refused, or may not be tried.
    #[error("{0}")]
    Pin(String),
    /// The module or the token failed.
    #[error("{0}")]
    Failed(String),
}

fn list(labels: &[String]) -> String {
    if labels.is_empty() {
        "no initialised token".into()
    } else {
        labels
            .iter()
            .map(|label| format!("`{label}`"))
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// Since when a session has been good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Epoch {
    pub(crate) sessions: u64,
    pub(crate) module: u64,
}

pub(crate) struct Link {
    pub(crate) backend: Arc<dyn Backend>,
    selector: TokenSelector,
    pin: Option<SecretString>,
    /// Counts up when all sessions must be opened anew.
    sessions: AtomicU64,
    /// Counts up when the module has begun anew.
    module: AtomicU64,
    down: AtomicBool,
    state: Mutex<State>,
    /// Held while C_Login is called, so that one login serves all sessions.
    login: Mutex<()>,
    mechanisms: RwLock<Arc<[MechanismInfo]>>,
}

struct State {
    slot: u64,
    token: Token,
    login: Login,
    /// The token accepted the PIN before, so a failure that does not speak of the PIN says nothing about it.
    accepted: bool,
    /// Why operations are refused, while the link is down.
    reason: String,
}

impl Link {
    /// Finds the token, opens a session and logs in: one attempt.
    pub(crate) fn open(
        backend: Arc<dyn Backend>,
        selector: TokenSelector,
        pin: Option<SecretString>,
    ) -> Result<(Link, Box<dyn Session>), OpenError> {
        let failed = |failure: Failure| OpenError::Failed(failure.to_string());
        let slots = backend.slots().map_err(failed)?;
        let (slot, token) = choose(&slots, &selector)?;
        let mechanisms = backend.mechanisms(slot).map_err(failed)?;
        let login = match (token.login_required, &pin) {
            (false, _) => Login::NotNeeded,
            (true, None) => Login::NoPin,
            (true, Some(_)) => Login::LoggedOut,
        };
        let mut session = backend.open(slot).map_err(failed)?;
        let link = Link {
            backend,
            selector,
            pin,
            sessions: AtomicU64::new(0),
            module: AtomicU64::new(0),
            down: AtomicBool::new(false),
            state: Mutex::new(State {
                slot,
                token,
                login,
                accepted: false,
                reason: String::new(),
            }),
            login: Mutex::new(()),
            mechanisms: RwLock::new(mechanisms.into()),
        };
        link.log_in(session.as_mut())
            .map_err(|error| match link.state().login {
                Login::Refused => OpenError::Pin(error.to_string()),
                _ => OpenError::Failed(error.to_string()),
            })?;
        Ok((link, session))
    }

    pub(crate) fn token(&self) -> Token {
        self.state().token.clone()
    }

    pub(crate) fn login(&self) -> Login {
        self.state().login
    }

    pub(crate) fn epoch(&self) -> Epoch {
        Epoch {
            sessions: self.sessions.load(Ordering::Acquire),
            module: self.module.load(Ordering::Acquire),
        }
    }

    /// Has every session opened anew before its next use.
    pub(crate) fn renew_sessions(&self) {
        self.sessions.fetch_add(1, Ordering::AcqRel);
    }

    /// Finalizes the module and initializes it again. No session may be in a call.
    pub(crate) fn restart(&self) -> Outcome<()> {
        self.module.fetch_add(1, Ordering::AcqRel);
        self.backend.restart()
    }

    /// The token's mechanisms.
    pub(crate) fn mechanisms(&self) -> Arc<[MechanismInfo]> {
        self.mechanisms.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// # Errors
    /// [`Error::Unavailable`] while the link is down.
    pub(crate) fn check(&self) -> Result<()> {
        if !self.down.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(Error::Unavailable(self.state().reason.clone()))
    }

    /// # Errors
    /// [`Error::Unavailable`] where the user's login is needed and no PIN was given.
    pub(crate) fn check_login(&self) -> Result<()> {
        match self.state().login {
            Login::NoPin => Err(no_pin()),
            Login::NotNeeded | Login::LoggedIn | Login::LoggedOut | Login::Refused => Ok(()),
        }
    }

    /// Opens the circuit: operations fail with `reason` until the keeper finds the token again.
    pub(crate) fn go_down(&self, reason: impl Into<String>) {
        let reason = reason.into();
        let mut state = self.state();
        if state.accepted || state.login != Login::Refused {
            tracing::warn!(reason, "the token is not available");
        }
        state.reason = reason;
        if state.login == Login::LoggedIn {
            state.login = Login::LoggedOut;
        }
        drop(state);
        self.down.store(true, Ordering::Release);
    }

    /// Whether looking for the token again may help.
    pub(crate) fn may_come_back(&self) -> bool {
        self.down.load(Ordering::Acquire) && self.state().login != Login::Refused
    }

    /// Opens a session on the token, and logs in if the login is gone.
    pub(crate) fn open_session(&self) -> Result<Box<dyn Session>, Trouble> {
        let slot = self.state().slot;
        let mut session = self.backend.open(slot).map_err(Trouble::Failed)?;
        if let Err(error) = self.log_in(session.as_mut()) {
            if !is_gone(session.as_mut()) {
                return Err(Trouble::Refused(error));
            }
            // All sessions were closed just after this one was opened: the login says nothing.
            session = self.backend.open(slot).map_err(Trouble::Failed)?;
            self.log_in(session.as_mut()).map_err(Trouble::Refused)?;
        }
        Ok(session)
    }

    /// Sees to it that the user is logged in; asks the token first, and tries the PIN once at most. Tells whether it had to.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub(crate) fn log_in(&self, session: &mut dyn Session) -> Result<bool> {
        let _one_at_a_time = self.login.lock().unwrap_or_else(PoisonError::into_inner);
        let (login, accepted, slot) = {
            let state = self.state();
            (state.login, state.accepted, state.slot)
        };
        let pin = match (login, &self.pin) {
            (Login::NotNeeded | Login::NoPin, _) | (_, None) => return Ok(false),
            (Login::Refused, _) => return Err(Error::Unavailable(self.state().reason.clone())),
            (Login::LoggedIn | Login::LoggedOut, Some(pin)) => pin,
        };
        if session.logged_in().unwrap_or(false) {
            self.state().login = Login::LoggedIn;
            return Ok(false);
        }
        match self.pin_in_danger(slot) {
            Ok(None) => {}
            Ok(Some(why)) => return Err(self.refuse(why)),
            // Without knowing, the PIN is not tried.
            Err(why) => {
                self.state().login = Login::LoggedOut;
                self.go_down(why.clone());
                return Err(Error::Unavailable(why));
            }
        }
        match session.login(pin) {
            Ok(()) => {
                let mut state = self.state();
                state.login = Login::LoggedIn;
                state.accepted = true;
                Ok(true)
            }
            Err(failure) if failure.rv == Some(Ckr::UserAlreadyLoggedIn) => {
                self.state().login = Login::LoggedIn;
                Ok(false)
            }
            Err(failure) if says_nothing_of_the_pin(&failure) || (accepted && !speaks_of_the_pin(&failure)) => {
                self.state().login = Login::LoggedOut;
                let why = format!("the login to the token is lost: {failure}");
                let session_is_gone = matches!(failure.rv, Some(Ckr::SessionHandleInvalid | Ckr::SessionClosed));
                if !session_is_gone {
                    // It is for the keeper to try again, with pauses.
                    self.go_down(why.clone());
                }
                Err(Error::Unavailable(why))
            }
            Err(failure) => Err(self.refuse(format!(
                "the token refused the PIN ({failure}); it is not tried again before a restart: check HSM_PIN"
            ))),
        }
    }

    /// Whether the user should be logged in.
    pub(crate) fn login_is_expected(&self) -> bool {
        match self.login() {
            Login::LoggedIn | Login::LoggedOut | Login::Refused => true,
            Login::NotNeeded | Login::NoPin => false,
        }
    }

    /// Runs a search. A token that nobody is logged in to hides its private objects, and a search that misses them says
    /// nothing: so the login is asked for before and after. (One that was lost and found again in between has dropped the
    /// index meanwhile, and with it what this search was for.)
    ///
    /// # Errors
    /// `CKR_USER_NOT_LOGGED_IN` if the login is lost.
    pub(crate) fn while_logged_in<T>(
        &self,
        session: &mut dyn Session,
        search: impl FnOnce(&mut dyn Session) -> Outcome<T>,
    ) -> Outcome<T> {
        self.still_logged_in(session)?;
        let found = search(session)?;
        self.still_logged_in(session)?;
        Ok(found)
    }

    fn still_logged_in(&self, session: &mut dyn Session) -> Outcome<()> {
        if !self.login_is_expected() || session.logged_in()? {
            return Ok(());
        }
        Err(Failure {
            function: "C_GetSessionInfo",
            during: During::Other,
            rv: Some(Ckr::UserNotLoggedIn),
            detail: String::new(),
        })
    }

    /// Looks for the token again, opens a session and logs in; brings the link up.
    pub(crate) fn reconnect(&self) -> Result<Box<dyn Session>, Trouble> {
        let slots = self.backend.slots().map_err(Trouble::Failed)?;
        if slots.is_empty() {
            return Err(Trouble::NoSlots);
        }
        let (slot, token) =
            choose(&slots, &self.selector).map_err(|error| Trouble::Refused(Error::Unavailable(error.to_string())))?;
        {
            let mut state = self.state();
            state.slot = slot;
            state.token = token;
        }
        let session = self.open_session()?;
        if let Ok(mechanisms) = self.backend.mechanisms(slot) {
            *self.mechanisms.write().unwrap_or_else(PoisonError::into_inner) = mechanisms.into();
        }
        Ok(session)
    }

    /// Closes the circuit again.
    pub(crate) fn come_up(&self) {
        if self.down.swap(false, Ordering::AcqRel) {
            tracing::info!("the token is available again");
        }
    }

    fn refuse(&self, why: String) -> Error {
        self.state().login = Login::Refused;
        self.go_down(why.clone());
        Error::Unavailable(why)
    }

    /// Asks the token afresh whether a wrong PIN would lock it, or has.
    ///
    /// # Errors
    /// Why the token does not tell.
    fn pin_in_danger(&self, slot: u64) -> Result<Option<String>, String> {
        let slots = self.backend.slots().map_err(|failure| failure.to_string())?;
        let token = slots.into_iter().find(|s| s.id == slot).and_then(|slot| slot.token);
        let token = token.ok_or_else(|| "the token is not in its slot any more".to_owned())?;
        Ok(match (token.user_pin_locked, token.user_pin_final_try) {
            (true, _) => Some("the token says that its PIN is locked (CKF_USER_PIN_LOCKED); have it unlocked by its security officer".into()),
            (_, true) => Some("the token says that one more wrong PIN locks it (CKF_USER_PIN_FINAL_TRY); the PIN is not tried: log in once by hand".into()),
            (false, false) => None,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the token knows nothing of the session any more.
pub(crate) fn is_gone(session: &mut dyn Session) -> bool {
    let state = session.logged_in();
    state.is_err_and(|failure| matches!(failure.rv, Some(Ckr::SessionHandleInvalid | Ckr::SessionClosed)))
}

/// Why there is no session.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// A call failed.
    Failed(Failure),
    /// The module has no slots at all.
    NoSlots,
    /// The login is refused, or the token is not found.
    Refused(Error),
}

pub(crate) fn no_pin() -> Error {
    Error::Unavailable("this needs a login to the token, and no PIN is configured: set HSM_PIN or HSM_PIN_FILE".into())
}

/// The token or the session went away under the call.
fn says_nothing_of_the_pin(failure: &Failure) -> bool {
    matches!(
        failure.rv,
        Some(
            Ckr::TokenNotPresent
                | Ckr::DeviceRemoved
                | Ckr::SessionHandleInvalid
                | Ckr::SessionClosed
                | Ckr::CryptokiNotInitialized
        )
    )
}

fn speaks_of_the_pin(failure: &Failure) -> bool {
    matches!(
        failure.rv,
        Some(
            Ckr::PinIncorrect
                | Ckr::PinInvalid
                | Ckr::PinLenRange
                | Ckr::PinExpired
                | Ckr::PinLocked
                | Ckr::PinTooWeak
                | Ckr::UserPinNotInitialized
                | Ckr::Other(_)
        )
    )
}

fn choose(slots: &[Slot], selector: &TokenSelector) -> Result<(u64, Token), OpenError> {
    let initialised: Vec<(&Slot, &Token)> = slots
        .iter()
        .filter_map(|slot| Some((slot, slot.token.as_ref()?)))
        .filter(|(_, token)| token.initialized)
        .collect();
    let fits = |(slot, token): &&(&Slot, &Token)| selector.matches(slot.id, token.names());
    let fitting: Vec<_> = initialised.iter().filter(fits).collect();
    match fitting.as_slice() {
        [(slot, token)] => Ok((slot.id, (*token).clone())),
        [] => Err(OpenError::TokenNotFound {
            wanted: selector.to_string(),
            present: initialised.iter().map(|(_, token)| token.label.clone()).collect(),
        }),
        several => Err(OpenError::SeveralTokens(
            several
                .iter()
                .map(|(slot, token)| format!("`{}` (serial {}, slot {})", token.label, token.serial, slot.id))
                .collect(),
        )),
    }
}
