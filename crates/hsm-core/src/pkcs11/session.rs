//! A session of cryptoki as a [`Session`].

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cryptoki::object::{Attribute, ObjectClass};
use cryptoki::session::{SessionState, UserType};
use secrecy::SecretString;

use super::failure::{failed, number, refused};
use super::raw::{Functions, Operation};
use super::{mechanism, object, raw, template};
use crate::backend::{Class, Filter, Handle, Made, Mechanism, Object, Outcome, Session, Template, Used};
use crate::error::{Ckr, During, Failure};
use crate::key::{KeySpec, KeyType, Material, ParameterSet, PublicKey};

/// How many handles one C_FindObjects may give.
const FOUND_AT_ONCE: NonZeroUsize = NonZeroUsize::MIN.saturating_add(99);

/// An open session; it closes when it is dropped, unless the module was finalised since.
pub(super) struct OpenSession {
    /// Taken out by `drop` alone.
    session: Option<cryptoki::session::Session>,
    /// The module's count of C_Finalize now, and when this session was opened.
    generation: Arc<AtomicU64>,
    opened_in: u64,
    functions: Option<Functions>,
    set_usages_only: bool,
}

impl OpenSession {
    pub(super) fn new(
        session: cryptoki::session::Session,
        functions: Option<Functions>,
        set_usages_only: bool,
        generation: &Arc<AtomicU64>,
    ) -> OpenSession {
        OpenSession {
            functions,
            set_usages_only,
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

    fn login(&mut self, pin: Option<&SecretString>) -> Outcome<()> {
        let login = self.live("C_Login")?.login(UserType::User, pin);
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

    fn certified(&mut self, id: Option<&[u8]>) -> Outcome<Vec<(Vec<u8>, PublicKey)>> {
        object::certified(self.live("C_FindObjects")?, id)
    }

    fn generate(&mut self, spec: KeySpec, template: &Template<'_>) -> Outcome<Made> {
        template::generate(self.live("C_GenerateKey")?, spec, template, self.set_usages_only)
    }

    fn import(&mut self, material: &Material, template: &Template<'_>) -> Outcome<Made> {
        template::import(self.live("C_CreateObject")?, material, template)
    }

    fn wrap(&mut self, mechanism: &Mechanism, key: Handle, target: Handle) -> Outcome<Vec<u8>> {
        let session = self.live("C_WrapKey")?;
        let mechanism = &mut mechanism.clone();
        if let Some(functions) = self.functions {
            return mechanism::with_raw(mechanism, 0, |raw| functions.wrap(session, raw, key, target));
        }
        mechanism::with(mechanism, |native| {
            session.wrap_key(native, raw::object(key), raw::object(target))
        })
        .map_err(|why| failed("C_WrapKey", &why))
    }

    fn unwrap(
        &mut self,
        mechanism: &Mechanism,
        key: Handle,
        wrapped: &[u8],
        key_type: KeyType,
        template: &Template<'_>,
    ) -> Outcome<Handle> {
        let session = self.live("C_UnwrapKey")?;
        let mechanism = &mut mechanism.clone();
        let attributes = template::unwrapped(key_type, template);
        let made = match self.functions {
            Some(functions) => mechanism::with_raw(mechanism, 0, |raw| {
                functions.unwrap(session, raw, key, wrapped, &attributes)
            })?,
            None => {
                let made = mechanism::with(mechanism, |native| {
                    session.unwrap_key(native, raw::object(key), wrapped, &attributes)
                });
                made.map(handle).map_err(|why| failed("C_UnwrapKey", &why))?
            }
        };
        // Whatever went wrong there, nothing may pass for not made.
        let kept = template::insist(session, raw::object(made), template)
            .map_err(|_| refused("C_UnwrapKey", Ckr::TemplateInconsistent));
        if kept.is_err() {
            let destroyed = session.destroy_object(raw::object(made));
            destroyed.map_err(|why| failed("C_DestroyObject", &why))?;
        }
        kept.map(|()| made)
    }

    fn derive(
        &mut self,
        mechanism: &Mechanism,
        key: Handle,
        spec: KeySpec,
        template: &Template<'_>,
    ) -> Outcome<Handle> {
        let session = self.live("C_DeriveKey")?;
        let attributes = template::derived(spec, template);
        let made = mechanism::with(&mut mechanism.clone(), |native| {
            session.derive_key(native, raw::object(key), &attributes)
        });
        made.map(handle).map_err(|why| failed("C_DeriveKey", &why))
    }

    fn encapsulate(
        &mut self,
        mechanism: &Mechanism,
        key: Handle,
        spec: KeySpec,
        template: &Template<'_>,
    ) -> Outcome<(Vec<u8>, Handle)> {
        let session = self.live("C_EncapsulateKey")?;
        let attributes = template::derived(spec, template);
        let made = mechanism::with(&mut mechanism.clone(), |native| {
            session.encapsulate_key(native, raw::object(key), &attributes)
        });
        let (ciphertext, made) = made.map_err(|why| failed("C_EncapsulateKey", &why))?;
        Ok((ciphertext, handle(made)))
    }

    fn decapsulate(
        &mut self,
        mechanism: &Mechanism,
        key: Handle,
        ciphertext: &[u8],
        spec: KeySpec,
        template: &Template<'_>,
    ) -> Outcome<Handle> {
        let session = self.live("C_DecapsulateKey")?;
        let attributes = template::derived(spec, template);
        let made = mechanism::with(&mut mechanism.clone(), |native| {
            session.decapsulate_key(native, raw::object(key), &attributes, ciphertext)
        });
        made.map(handle).map_err(|why| failed("C_DecapsulateKey", &why))
    }

    fn relabel(&mut self, object: Handle, label: &str) -> Outcome<()> {
        let session = self.live("C_SetAttributeValue")?;
        let label = [Attribute::Label(label.as_bytes().to_vec())];
        let set = session.update_attributes(raw::object(object), &label);
        set.map_err(|why| failed("C_SetAttributeValue", &why))
    }

    fn destroy(&mut self, object: Handle) -> Outcome<()> {
        let session = self.live("C_DestroyObject")?;
        let destroyed = session.destroy_object(raw::object(object));
        destroyed.map_err(|why| failed("C_DestroyObject", &why))
    }

    fn encrypt(&mut self, mechanism: &mut Mechanism, key: Handle, data: &[u8]) -> Outcome<Vec<u8>> {
        let session = self.live("C_Encrypt")?;
        if let Some(functions) = self.functions {
            let room = room(mechanism, data.len() + MOST_ADDED);
            return mechanism::with_raw(mechanism, data.len(), |raw| {
                functions.operate(Operation::Encrypt, session, raw, key, || Ok(()), (data, room))
            });
        }
        mechanism::with(mechanism, |native| session.encrypt(native, raw::object(key), data))
            .map_err(|why| failed("C_Encrypt", &why))
    }

    fn decrypt(&mut self, mechanism: &Mechanism, key: Used<'_>, data: &[u8]) -> Outcome<Vec<u8>> {
        let session = self.live("C_Decrypt")?;
        let mechanism = &mut mechanism.clone();
        if let Some(functions) = self.functions {
            let length = match mechanism {
                Mechanism::AesCcm { .. } => data.len().saturating_sub(MAC_BYTES),
                _ => data.len(),
            };
            let room = room(mechanism, data.len());
            return mechanism::with_raw(mechanism, length, |raw| {
                let log_in = || context_login(session, key);
                functions.operate(Operation::Decrypt, session, raw, key.handle, log_in, (data, room))
            });
        }
        no_context_login(key)?;
        mechanism::with(mechanism, |native| {
            session.decrypt(native, raw::object(key.handle), data)
        })
        .map_err(|why| failed("C_Decrypt", &why))
    }

    fn sign(&mut self, mechanism: &Mechanism, key: Used<'_>, data: &[u8]) -> Outcome<Vec<u8>> {
        let session = self.live("C_Sign")?;
        let mechanism = &mut mechanism.clone();
        if let Some(functions) = self.functions {
            let room = room(mechanism, MOST_SIGNED);
            return mechanism::with_raw(mechanism, data.len(), |raw| {
                let log_in = || context_login(session, key);
                functions.operate(Operation::Sign, session, raw, key.handle, log_in, (data, room))
            });
        }
        no_context_login(key)?;
        mechanism::with(mechanism, |native| session.sign(native, raw::object(key.handle), data))
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

/// What encryption with a secret key adds at most: a tag, or padding.
const MOST_ADDED: usize = 64;
const MAC_BYTES: usize = 16;
/// Room for a signature of before ML-DSA, in bytes: RSA with 8192 bits.
const MOST_SIGNED: usize = 1024;

/// How many bytes of output there is room for, so that no second call is needed.
fn room(mechanism: &Mechanism, usual: usize) -> usize {
    match mechanism {
        Mechanism::RsaOaep(_) => usual.max(MOST_SIGNED),
        Mechanism::MlDsa { .. } | Mechanism::HashMlDsa { .. } => ParameterSet::MlDsa87.output_bytes(),
        Mechanism::SlhDsa { .. } => ParameterSet::SlhDsaSha2F256.output_bytes(),
        _ => usual,
    }
}

/// Logs in for the operation that was started, where the key asks for it (PKCS#11 v3.1 §5.6.8, CKU_CONTEXT_SPECIFIC).
fn context_login(session: &cryptoki::session::Session, key: Used<'_>) -> Outcome<()> {
    let Some(pin) = key.login else { return Ok(()) };
    let login = session.login(UserType::ContextSpecific, pin);
    login.map_err(|why| failed("C_Login", &why))
}

/// Between two calls that cryptoki makes as one there is no place for a login.
fn no_context_login(key: Used<'_>) -> Outcome<()> {
    match key.login {
        None => Ok(()),
        Some(_) => Err(refused("C_Login", Ckr::FunctionNotSupported)),
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
