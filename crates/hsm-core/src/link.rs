//! The link to the token: which slot it is in, whether the user is logged in, and whether it is there at all.
//!
//! Invariants: a PIN that the token refused is never tried again by this process; a token that says that the next wrong PIN
//! locks it is not logged in to; a session is used, and a PIN tried, only where the token that was chosen is still the one in
//! the slot; while the link is down, operations fail at once and only the keeper touches the token.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use secrecy::SecretString;

use crate::backend::{MechanismInfo, Outcome, Session, Slot, Token};
use crate::choice::{OpenError, choose, pin_in_danger};
use crate::error::{Ckr, During, Error, Failure, Reason, Result};
use crate::module::{Claim, Module};
use crate::quirks;
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

/// Since when a session has been good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Epoch {
    pub(crate) sessions: u64,
    pub(crate) module: u64,
}

pub(crate) struct Link {
    pub(crate) module: Arc<Module>,
    pub(crate) claim: Claim,
    selector: TokenSelector,
    pin: Option<SecretString>,
    /// Counts up when all sessions must be opened anew.
    sessions: AtomicU64,
    down: AtomicBool,
    state: Mutex<State>,
    /// Held while C_Login is called, so that one login serves all sessions.
    login: Mutex<()>,
    /// Held while a key is used that asks for a login at each use.
    context: Mutex<()>,
    mechanisms: RwLock<Arc<[MechanismInfo]>>,
}

struct State {
    /// None while it is not known where the token is.
    slot: Option<u64>,
    token: Token,
    login: Login,
    /// The token accepted the PIN before, so a failure that does not speak of the PIN says nothing about it.
    accepted: bool,
    /// Why operations are refused, while the link is down.
    reason: Reason,
}

impl Link {
    /// Finds the token, opens a session and logs in: one attempt.
    pub(crate) fn open(
        module: &Arc<Module>,
        selector: TokenSelector,
        pin: Option<SecretString>,
    ) -> Result<(Link, Box<dyn Session>), OpenError> {
        let _at_work = module.enter();
        let failed = |failure: Failure| OpenError::Failed(failure.to_string());
        let slots = module.backend.slots().map_err(failed)?;
        let (slot, token) = choose(&slots, &selector)?;
        let claim = module.claim(slot).ok_or_else(|| OpenError::InUse {
            label: token.label.clone(),
            slot,
        })?;
        let mechanisms = module.backend.mechanisms(slot).map_err(failed)?;
        let mechanisms = quirks::of_mechanisms(&token, mechanisms);
        let login = match (token.login_required, &pin) {
            (false, _) => Login::NotNeeded,
            (true, None) if !token.protected_authentication_path => Login::NoPin,
            (true, None | Some(_)) => Login::LoggedOut,
        };
        let mut session = module.backend.open(slot).map_err(failed)?;
        let link = Link {
            module: module.clone(),
            claim,
            selector,
            pin,
            sessions: AtomicU64::new(0),
            down: AtomicBool::new(false),
            state: Mutex::new(State {
                slot: Some(slot),
                token,
                login,
                accepted: false,
                reason: "".into(),
            }),
            login: Mutex::new(()),
            context: Mutex::new(()),
            mechanisms: RwLock::new(mechanisms.into()),
        };
        link.log_in_with(session.as_mut(), Some(slot), || {})
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
            module: self.module.epoch(),
        }
    }

    /// Has every session opened anew before its next use.
    pub(crate) fn renew_sessions(&self) {
        self.sessions.fetch_add(1, Ordering::AcqRel);
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

    /// # Errors
    /// [`Error::NotSupported`] if nothing can be made, changed or destroyed on the token; as [`check_login`](Self::check_login).
    pub(crate) fn check_change(&self) -> Result<()> {
        if self.state().token.write_protected {
            return Err(Error::NotSupported(
                "this token is write-protected (CKF_WRITE_PROTECTED): keys cannot be made, changed or deleted on it"
                    .into(),
            ));
        }
        self.check_login()
    }

    /// The PIN for a login that one use of a key asks for (CKA_ALWAYS_AUTHENTICATE, CKU_CONTEXT_SPECIFIC); `None` where it
    /// is entered at the device. To be asked for anew for each try.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if a login was refused before, or no PIN is configured.
    pub(crate) fn context_pin(&self) -> Result<Option<&SecretString>> {
        let state = self.state();
        match state.login {
            Login::Refused => Err(Error::Unavailable(state.reason.clone())),
            _ if self.pin.is_none() && !state.token.protected_authentication_path => Err(no_pin()),
            Login::NoPin | Login::NotNeeded | Login::LoggedIn | Login::LoggedOut => Ok(self.pin.as_ref()),
        }
    }

    /// That the PIN may be tried for one use of a key; the token is asked afresh, so the [lock](Self::context_login) is held.
    ///
    /// # Errors
    /// As [`context_pin`](Self::context_pin); [`Error::Unavailable`] if the token is not there, or a wrong PIN would lock it.
    pub(crate) fn check_context_login(&self) -> Result<()> {
        self.context_pin()?;
        self.check_pin_is_safe(&self.ask_token(self.slot())?)
    }

    /// Logins for one use of a key one after another, so that a PIN that turns out to be wrong is not tried by several
    /// threads at once.
    pub(crate) fn context_login(&self) -> MutexGuard<'_, ()> {
        self.context.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a login that failed for one use of a key; the error if it spoke of the PIN, which is not tried again.
    pub(crate) fn context_login_failed(&self, failure: &Failure) -> Option<Error> {
        let accepted = self.state().accepted;
        if failure.during != During::Login || !self.means_the_pin(failure, accepted) {
            return None;
        }
        Some(self.refuse_pin(failure))
    }

    /// Opens the circuit: operations fail with `reason` until the keeper finds the token again.
    pub(crate) fn go_down(&self, reason: impl Into<Reason>) {
        let reason = reason.into();
        let mut state = self.state();
        if state.accepted || state.login != Login::Refused {
            tracing::warn!(%reason, "the token is not available");
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

    /// Opens a session on the token, and logs in if the login is gone, which ends with the last session.
    pub(crate) fn open_session(&self, before_login: impl Fn()) -> Result<Box<dyn Session>, Trouble> {
        let slot = self
            .slot()
            .ok_or_else(|| Trouble::Refused(self.away(NOT_IN_ITS_SLOT.into())))?;
        let mut session = self.module.backend.open(slot).map_err(Trouble::Failed)?;
        if let Err(error) = self.log_in_with(session.as_mut(), Some(slot), &before_login) {
            if !is_gone(session.as_mut()) {
                return Err(Trouble::Refused(error));
            }
            // All sessions were closed just after this one was opened: the login says nothing.
            std::mem::forget(session);
            session = self.module.backend.open(slot).map_err(Trouble::Failed)?;
            self.log_in_with(session.as_mut(), Some(slot), before_login)
                .map_err(Trouble::Refused)?;
        }
        Ok(session)
    }

    /// Sees to it that the user is logged in; asks the token first, and tries the PIN once at most. Tells whether it had to;
    /// `before_login` is called then, since a login may give new handles to objects, and nobody may use an old one after it.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub(crate) fn log_in(&self, session: &mut dyn Session, before_login: impl Fn()) -> Result<bool> {
        self.log_in_with(session, None, before_login)
    }

    /// `opened_on`: the slot of a session that is new. Whether it is the right token's is asked before anything else is believed.
    fn log_in_with(&self, session: &mut dyn Session, opened_on: Option<u64>, before_login: impl Fn()) -> Result<bool> {
        let _one_at_a_time = self.login.lock().unwrap_or_else(PoisonError::into_inner);
        let (login, accepted, slot) = {
            let state = self.state();
            (state.login, state.accepted, state.slot)
        };
        if login == Login::Refused {
            return Err(Error::Unavailable(self.state().reason.clone()));
        }
        let told = opened_on.map(|slot| self.ask_token(Some(slot))).transpose()?;
        match login {
            Login::NotNeeded | Login::NoPin => return Ok(false),
            Login::LoggedIn | Login::LoggedOut | Login::Refused => {}
        }
        if session.logged_in().unwrap_or(false) {
            self.state().login = Login::LoggedIn;
            return Ok(false);
        }
        // Without knowing, the PIN is not tried.
        let token = told.map_or_else(|| self.ask_token(slot), Ok)?;
        self.check_pin_is_safe(&token)?;
        before_login();
        match session.login(self.pin.as_ref()) {
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
            Err(failure) if self.means_the_pin(&failure, accepted) => Err(self.refuse_pin(&failure)),
            Err(failure) => {
                self.state().login = Login::LoggedOut;
                let why = failure.reason("the login to the token is lost");
                let session_is_gone = matches!(failure.rv, Some(Ckr::SessionHandleInvalid | Ckr::SessionClosed));
                if !session_is_gone {
                    // It is for the keeper to try again, with pauses.
                    self.go_down(why.clone());
                }
                Err(Error::Unavailable(why))
            }
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
    pub(crate) fn reconnect(&self, before_login: impl Fn()) -> Result<Box<dyn Session>, Trouble> {
        let _at_work = self.module.enter();
        let slots = self.module.backend.slots().map_err(Trouble::Failed)?;
        if slots.is_empty() {
            return Err(Trouble::NoSlots);
        }
        let slot = self
            .find_slot_again(&slots)
            .map_err(|why| Trouble::Refused(Error::Unavailable(why.into())))?;
        let session = self.open_session(before_login)?;
        if let Ok(mechanisms) = self.module.backend.mechanisms(slot) {
            let mechanisms = quirks::of_mechanisms(&self.token(), mechanisms);
            *self.mechanisms.write().unwrap_or_else(PoisonError::into_inner) = mechanisms.into();
        }
        Ok(session)
    }

    /// Finds the token among `slots`, where it may have another number than before.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn find_slot_again(&self, slots: &[Slot]) -> Result<u64, String> {
        let chosen = choose(slots, &self.selector).map_err(|error| error.to_string());
        let free = chosen.and_then(|(slot, token)| match self.claim.move_to(slot) {
            true => Ok((slot, token)),
            false => Err(format!("the token in slot {slot} is in use under another name")),
        });
        // The slot that it had may be another token's by now.
        let (slot, token) = free.inspect_err(|_| self.lose_slot())?;
        let mut state = self.state();
        state.slot = Some(slot);
        state.token = token;
        Ok(slot)
    }

    /// It is not known any more where the token is.
    pub(crate) fn lose_slot(&self) {
        self.state().slot = None;
        self.claim.give_up();
    }

    /// Closes the circuit again.
    pub(crate) fn come_up(&self) {
        if self.down.swap(false, Ordering::AcqRel) {
            tracing::info!("the token is available again");
        }
    }

    /// Whether a login's failure is, or may be, the PIN's fault. One that was accepted before is only doubted where the
    /// failure speaks of it.
    fn means_the_pin(&self, failure: &Failure, accepted: bool) -> bool {
        !says_nothing_of_the_pin(failure) && (!accepted || speaks_of_the_pin(failure))
    }

    fn refuse_pin(&self, failure: &Failure) -> Error {
        let what_to_do = match self.pin {
            Some(_) => "check HSM_PIN",
            None => {
                "no PIN is configured, so it is entered at the device (CKF_PROTECTED_AUTHENTICATION_PATH): enter it there after a restart, or set HSM_PIN"
            }
        };
        self.refuse(format!(
            "the token refused the PIN ({failure}); it is not tried again before a restart: {what_to_do}"
        ))
    }

    fn refuse(&self, why: String) -> Error {
        self.state().login = Login::Refused;
        self.go_down(why.clone());
        Error::Unavailable(why.into())
    }

    /// What the token in the slot tells of itself now. If it is not the one that was chosen, that one is away.
    fn ask_token(&self, slot: Option<u64>) -> Result<Token> {
        match slot.map(|slot| self.module.backend.token_in(slot)) {
            Some(Ok(Some(token))) if token.names() == self.token().names() => Ok(token),
            Some(Err(failure)) if failure.rv != Some(Ckr::SlotIdInvalid) => Err(self.away(failure.to_string())),
            Some(Ok(_) | Err(_)) | None => Err(self.away(NOT_IN_ITS_SLOT.into())),
        }
    }

    /// It is for the keeper to look for the token.
    fn away(&self, why: String) -> Error {
        self.go_down(why.clone());
        Error::Unavailable(why.into())
    }

    fn check_pin_is_safe(&self, token: &Token) -> Result<()> {
        pin_in_danger(token).map_or(Ok(()), |why| Err(self.refuse(why.to_owned())))
    }

    fn slot(&self) -> Option<u64> {
        self.state().slot
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const NOT_IN_ITS_SLOT: &str =
    "the token is not in its slot any more; it is looked for again: put it back if it was taken out";

/// Whether the token knows nothing of the session any more.
pub(crate) fn is_gone(session: &mut dyn Session) -> bool {
    let state = session.logged_in();
    state.is_err_and(|failure| matches!(failure.rv, Some(Ckr::SessionHandleInvalid | Ckr::SessionClosed)))
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    /// A call failed.
    #[error("{0}")]
    Failed(Failure),
    /// The module has no slots at all.
    #[error("the module has no slots")]
    NoSlots,
    /// The login is refused, or the token is not found.
    #[error("{0}")]
    Refused(Error),
}

pub(crate) fn no_pin() -> Error {
    Error::Unavailable("this needs a login to the token, and no PIN is configured: set HSM_PIN or HSM_PIN_FILE".into())
}

/// The token or the session went away under the call.
pub(crate) fn says_nothing_of_the_pin(failure: &Failure) -> bool {
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
