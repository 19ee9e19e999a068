//! A session of cryptoki as a [`Session`].

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cryptoki::object::{Attribute, ObjectClass};
use cryptoki::session::{SessionState, UserType};
use secrecy::SecretString;

use super::failure::{failed, number, refused};
use super::{mechanism, object, raw};
use crate::backend::{Class, Filter, Handle, Made, Mechanism, Object, Outcome, Session, Template};
use crate::error::{Ckr, During, Failure};

/// How many handles one C_FindObjects may give.
const FOUND_AT_ONCE: NonZeroUsize = NonZeroUsize::MIN.saturating_add(99);

/// An open session; it closes when it is dropped, unless the module was finalised since.
#[derive(Debug)]
pub(super) struct OpenSession {
    /// Taken out by `drop` alone.
    session: Option<cryptoki::session::Session>,
    /// The module's count of C_Finalize now, and when this session was opened.
    generation: Arc<AtomicU64>,
    opened_in: u64,
}

impl OpenSession {
    pub(super) fn new(session: cryptoki::session::Session, generation: &Arc<AtomicU64>) -> OpenSession {
        OpenSession {
            session: Some(session),
            generation: Arc::clone(generation),
            opened_in: generation.load(Ordering::SeqCst),
        }
    }

    /// The session, while its number is still its own.
    fn live(&self, function: &'static str) -> Outcome<&cryptoki::session::Session> {
        let live = self.opened_in == self.generation.load(Ordering::SeqCst);
        let session = self.session.as_ref().filter(|_| live);
        session.ok_or_else(|| refused(function, Ckr::SessionHandleInvalid))
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        if self.live("C_CloseSession").is_err() {
            return;
        }
        if let Some(Err(why)) = self.session.take().map(cryptoki::session::Session::close) {
            tracing::debug!(failure = %failed("C_CloseSession", &why), "a session was not closed");
        }
    }
}

impl Session for OpenSession {
    fn logged_in(&mut self) -> Outcome<bool> {
        let info = self.live("C_GetSessionInfo")?.get_session_info();
        let info = info.map_err(|why| failed("C_GetSessionInfo", &why))?;
        Ok(match info.session_state() {
            SessionState::RoUser | SessionState::RwUser => true,
            SessionState::RoPublic | SessionState::RwPublic | SessionState::RwSecurityOfficer => false,
        })
    }

    fn login(&mut self, pin: &SecretString) -> Outcome<()> {
        let login = self.live("C_Login")?.login(UserType::User, Some(pin));
        unless(Ckr::UserAlreadyLoggedIn, login.map_err(|why| failed("C_Login", &why)))
    }

    fn logout(&mut self) -> Outcome<()> {
        let logout = self.live("C_Logout")?.logout();
        unless(Ckr::UserNotLoggedIn, logout.map_err(|why| failed("C_Logout", &why)))
    }

    fn find(&mut self, filter: &Filter<'_>) -> Outcome<Vec<Handle>> {
        let what = match filter {
            Filter::Class(Class::Secret) => Attribute::Class(ObjectClass::SECRET_KEY),
            Filter::Class(Class::Private) => Attribute::Class(ObjectClass::PRIVATE_KEY),
            Filter::Class(Class::Public) => Attribute::Class(ObjectClass::PUBLIC_KEY),
            Filter::Id(id) => Attribute::Id(id.to_vec()),
            Filter::Label(label) => Attribute::Label(label.as_bytes().to_vec()),
        };
        let template = [Attribute::Token(true), what];
        let session = self.live("C_FindObjects")?;
        let found = session
            .iter_objects_with_cache_size(&template, FOUND_AT_ONCE)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let found = found.map_err(|why| failed("C_FindObjects", &why))?;
        Ok(found.into_iter().map(handle).collect())
    }

    fn read(&mut self, object: Handle) -> Outcome<Option<Object>> {
        object::read(self.live("C_GetAttributeValue")?, raw::object(object))
    }

    fn generate(&mut self, template: &Template<'_>) -> Outcome<Made> {
        object::generate(self.live("C_GenerateKey")?, template)
    }

    fn destroy(&mut self, object: Handle) -> Outcome<()> {
        let session = self.live("C_DestroyObject")?;
        let destroyed = session.destroy_object(raw::object(object));
        destroyed.map_err(|why| failed("C_DestroyObject", &why))
    }

    fn encrypt(&mut self, mechanism: &mut Mechanism, key: Handle, data: &[u8]) -> Outcome<Vec<u8>> {
        let session = self.live("C_Encrypt")?;
        let key = raw::object(key);
        mechanism::with(mechanism, |native| session.encrypt(native, key, data)).map_err(|why| failed("C_Encrypt", &why))
    }

    fn decrypt(&mut self, mechanism: &Mechanism, key: Handle, data: &[u8]) -> Outcome<Vec<u8>> {
        let session = self.live("C_Decrypt")?;
        let key = raw::object(key);
        mechanism::with(&mut mechanism.clone(), |native| session.decrypt(native, key, data))
            .map_err(|why| failed("C_Decrypt", &why))
    }

    fn sign(&mut self, mechanism: &Mechanism, key: Handle, data: &[u8]) -> Outcome<Vec<u8>> {
        let session = self.live("C_Sign")?;
        let key = raw::object(key);
        mechanism::with(&mut mechanism.clone(), |native| session.sign(native, key, data))
            .map_err(|why| failed("C_Sign", &why))
    }

    fn verify(&mut self, mechanism: &Mechanism, key: Handle, data: &[u8], signature: &[u8]) -> Outcome<bool> {
        let session = self.live("C_Verify")?;
        let key = raw::object(key);
        let verified = mechanism::with(&mut mechanism.clone(), |native| {
            session.verify(native, key, data, signature)
        });
        match verified.map_err(|why| failed("C_Verify", &why)) {
            Ok(()) => Ok(true),
            Err(Failure {
                during: During::Verify,
                rv: Some(Ckr::SignatureInvalid | Ckr::SignatureLenRange | Ckr::DataLenRange),
                ..
            }) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    fn random(&mut self, buffer: &mut [u8]) -> Outcome<()> {
        let filled = self.live("C_GenerateRandom")?.generate_random_slice(buffer);
        filled.map_err(|why| failed("C_GenerateRandom", &why))
    }
}

/// The handle as this crate has it.
pub(super) fn handle(object: cryptoki::object::ObjectHandle) -> Handle {
    Handle(number(object.handle()))
}

/// Takes `harmless` for success.
fn unless(harmless: Ckr, outcome: Outcome<()>) -> Outcome<()> {
    match outcome {
        Err(failure) if failure.rv == Some(harmless) => Ok(()),
        other => other,
    }
}
