//! What cryptoki leaves to unsafe code, and the calls that it does not make: mechanisms that it does not know, a key that
//! asks for a login between two calls, one call where it makes two.
#![allow(
    unsafe_code,
    reason = "cryptoki takes reserved arguments and handles as bare values, hides C_GetTokenInfo's answer behind a clock \
              that it can't read, and refuses mechanisms whose numbers it does not know"
)]

use std::ffi::CStr;
use std::path::Path;
use std::ptr::{self, NonNull};

use cryptoki::context::{CInitializeArgs, CInitializeFlags};
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::Session;
use cryptoki_sys as sys;
use zeroize::Zeroizing;

use super::failure::{answered, number, refused};
use super::{trimmed, version};
use crate::algorithm::MechanismId;
use crate::backend::{Handle, MechanismFlags, MechanismInfo, Outcome, Token};
use crate::error::Ckr;

/// Arguments of C_Initialize with a text in the reserved field.
pub(super) fn with_reserved(flags: CInitializeFlags, text: &'static CStr) -> CInitializeArgs {
    let start = NonNull::from(text).cast();
    // SAFETY: the text ends with NUL and is there for ever; modules that look at the field take it for a C string that
    // they may read. That an operator gives it only to such a module is what the setting says.
    unsafe { CInitializeArgs::new_with_reserved(flags, start) }
}

/// Ends the process at once, without the exit handlers that modules have registered: with a thread inside of the module
/// they may wait for it for ever, or meet it half-way.
pub(super) fn leave(code: i32) -> ! {
    unsafe extern "C" {
        fn _exit(code: i32) -> !;
    }
    // SAFETY: _exit (POSIX) takes any number and touches nothing of the process's memory.
    unsafe { _exit(code) }
}

/// The handle as cryptoki has it.
pub(super) fn object(handle: Handle) -> ObjectHandle {
    // SAFETY: the function is marked for what a caller could do to keys with made-up numbers; for memory any number is
    // safe, since the module looks it up.
    unsafe { ObjectHandle::new_from_raw(raw(handle)) }
}

/// The module's functions, as it gives them to everybody who asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Functions(sys::CK_FUNCTION_LIST);

/// C_EncryptInit and its like.
type Start = unsafe extern "C" fn(sys::CK_SESSION_HANDLE, *mut sys::CK_MECHANISM, sys::CK_OBJECT_HANDLE) -> sys::CK_RV;
/// C_Encrypt and its like.
type Step =
    unsafe extern "C" fn(sys::CK_SESSION_HANDLE, *mut u8, sys::CK_ULONG, *mut u8, *mut sys::CK_ULONG) -> sys::CK_RV;

/// An operation of two calls: one that starts it, and one that does it.
#[derive(Clone, Copy)]
pub(super) enum Operation {
    Encrypt,
    Decrypt,
    Sign,
}

impl Functions {
    /// Finds the functions of the initialized module in `path`, or of this program's own; `None` for a module that gives
    /// them anew to each who asks, uninitialized (p11-kit's client does).
    pub(super) fn of(path: Option<&Path>) -> Option<Functions> {
        let library = match path {
            // SAFETY: the module is loaded already, so that no foreign code runs when it is opened again.
            Some(path) => unsafe { libloading::Library::new(path) }.ok()?,
            None => libloading::os::unix::Library::this().into(),
        };
        // SAFETY: PKCS#11 v3.1 §5.4 gives the function this type.
        let found = unsafe {
            library.get::<unsafe extern "C" fn(*mut sys::CK_FUNCTION_LIST_PTR) -> sys::CK_RV>(b"C_GetFunctionList\0")
        };
        let mut list: sys::CK_FUNCTION_LIST_PTR = ptr::null_mut();
        // SAFETY: the call writes one pointer.
        let answer = unsafe { found.ok()?(&mut list) };
        if answer != sys::CKR_OK || list.is_null() {
            return None;
        }
        // Loaded for ever, as the module itself is.
        std::mem::forget(library);
        // SAFETY: the module keeps its list as long as it is loaded.
        let functions = unsafe { *list };
        let mut info = sys::CK_INFO::default();
        // SAFETY: the call writes one CK_INFO.
        let known = unsafe { functions.C_GetInfo?(&mut info) };
        (known == sys::CKR_OK).then_some(Functions(functions))
    }

    /// C_GetTokenInfo without a look at the clock, for modules whose time cryptoki can't read. `None` if it fails.
    pub(super) fn token_info(&self, slot: u64) -> Option<Token> {
        let slot = sys::CK_SLOT_ID::try_from(slot).ok()?;
        let mut info = sys::CK_TOKEN_INFO::default();
        // SAFETY: the call writes one CK_TOKEN_INFO.
        let answer = unsafe { self.0.C_GetTokenInfo?(slot, &mut info) };
        (answer == sys::CKR_OK).then(|| token(&info))
    }

    /// C_GetMechanismList, with what cryptoki does not know.
    pub(super) fn mechanisms(&self, slot: u64) -> Outcome<Vec<u64>> {
        let list = function("C_GetMechanismList", self.0.C_GetMechanismList)?;
        let slot = sys::CK_SLOT_ID::try_from(slot).map_err(|_| refused("C_GetMechanismList", Ckr::SlotIdInvalid))?;
        let mut count = 0;
        // SAFETY: without a buffer the call writes the count alone.
        answered("C_GetMechanismList", unsafe { list(slot, ptr::null_mut(), &mut count) })?;
        let mut mechanisms = vec![0; usize::try_from(count).unwrap_or(0)];
        // SAFETY: the buffer has room for `count` numbers.
        answered("C_GetMechanismList", unsafe {
            list(slot, mechanisms.as_mut_ptr(), &mut count)
        })?;
        mechanisms.truncate(usize::try_from(count).unwrap_or(0));
        Ok(mechanisms.into_iter().map(number).collect())
    }

    /// C_GetMechanismInfo.
    pub(super) fn mechanism_info(&self, slot: u64, mechanism: u64) -> Outcome<MechanismInfo> {
        let info = function("C_GetMechanismInfo", self.0.C_GetMechanismInfo)?;
        let wrong = || refused("C_GetMechanismInfo", Ckr::MechanismInvalid);
        let slot = sys::CK_SLOT_ID::try_from(slot).map_err(|_| wrong())?;
        let id = sys::CK_MECHANISM_TYPE::try_from(mechanism).map_err(|_| wrong())?;
        let mut told = sys::CK_MECHANISM_INFO::default();
        // SAFETY: the call writes one CK_MECHANISM_INFO.
        answered("C_GetMechanismInfo", unsafe { info(slot, id, &mut told) })?;
        Ok(MechanismInfo {
            id: MechanismId(mechanism),
            min_key_size: number(told.ulMinKeySize),
            max_key_size: number(told.ulMaxKeySize),
            flags: MechanismFlags(number(told.flags)),
        })
    }

    /// Starts an operation, has `between` called, and does it in one call with room for `room` bytes; once more if the
    /// module asks for more.
    pub(super) fn operate(
        &self,
        operation: Operation,
        session: &Session,
        mechanism: &mut sys::CK_MECHANISM,
        key: Handle,
        between: impl FnOnce() -> Outcome<()>,
        (data, room): (&[u8], usize),
    ) -> Outcome<Vec<u8>> {
        let (starts, start, does, step): (_, Option<Start>, _, Option<Step>) = match operation {
            Operation::Encrypt => ("C_EncryptInit", self.0.C_EncryptInit, "C_Encrypt", self.0.C_Encrypt),
            Operation::Decrypt => ("C_DecryptInit", self.0.C_DecryptInit, "C_Decrypt", self.0.C_Decrypt),
            Operation::Sign => ("C_SignInit", self.0.C_SignInit, "C_Sign", self.0.C_Sign),
        };
        let (start, step) = (function(starts, start)?, function(does, step)?);
        let length = sys::CK_ULONG::try_from(data.len()).map_err(|_| refused(does, Ckr::DataLenRange))?;
        // SAFETY: the mechanism's parameters live in the caller.
        answered(starts, unsafe { start(session.handle(), mechanism, raw(key)) })?;
        between()?;
        let mut output = Zeroizing::new(vec![0; room]);
        let mut asked = false;
        loop {
            let mut written = sys::CK_ULONG::try_from(output.len()).map_err(|_| refused(does, Ckr::DataLenRange))?;
            // SAFETY: the data is only read, whatever the type says; the output has room for `written` bytes.
            let answer = unsafe {
                step(
                    session.handle(),
                    data.as_ptr().cast_mut(),
                    length,
                    output.as_mut_ptr(),
                    &mut written,
                )
            };
            let written = usize::try_from(written).unwrap_or(usize::MAX);
            match answered(does, answer) {
                Ok(()) if written <= output.len() => {
                    output.truncate(written);
                    return Ok(std::mem::take(&mut *output));
                }
                Err(failure)
                    if failure.rv == Some(Ckr::BufferTooSmall)
                        && !asked
                        && (output.len() + 1..MOST_OUTPUT).contains(&written) =>
                {
                    asked = true;
                    output = Zeroizing::new(vec![0; written]);
                }
                Ok(()) => return Err(refused(does, Ckr::BufferTooSmall)),
                Err(failure) => return Err(failure),
            }
        }
    }

    /// C_WrapKey. Modules overstate the length when they are asked for it: what counts is what they have written.
    pub(super) fn wrap(
        &self,
        session: &Session,
        mechanism: &mut sys::CK_MECHANISM,
        key: Handle,
        target: Handle,
    ) -> Outcome<Vec<u8>> {
        let wrap = function("C_WrapKey", self.0.C_WrapKey)?;
        let mut wrapped = vec![0; MOST_WRAPPED];
        let mut written = MOST_WRAPPED as sys::CK_ULONG;
        // SAFETY: the mechanism's parameters live in the caller; the output has room for `written` bytes.
        let answer = unsafe {
            wrap(
                session.handle(),
                mechanism,
                raw(key),
                raw(target),
                wrapped.as_mut_ptr(),
                &mut written,
            )
        };
        answered("C_WrapKey", answer)?;
        match usize::try_from(written) {
            Ok(written) if written <= MOST_WRAPPED => {
                wrapped.truncate(written);
                Ok(wrapped)
            }
            _ => Err(refused("C_WrapKey", Ckr::BufferTooSmall)),
        }
    }

    /// C_UnwrapKey.
    pub(super) fn unwrap(
        &self,
        session: &Session,
        mechanism: &mut sys::CK_MECHANISM,
        key: Handle,
        wrapped: &[u8],
        template: &[Attribute],
    ) -> Outcome<Handle> {
        let unwrap = function("C_UnwrapKey", self.0.C_UnwrapKey)?;
        let wrong = || refused("C_UnwrapKey", Ckr::WrappedKeyLenRange);
        let mut template: Vec<sys::CK_ATTRIBUTE> = template.iter().map(Into::into).collect();
        let mut made = sys::CK_INVALID_HANDLE;
        // SAFETY: mechanism and template point into what the caller holds; the blob is only read; one handle is written.
        let answer = unsafe {
            unwrap(
                session.handle(),
                mechanism,
                raw(key),
                wrapped.as_ptr().cast_mut(),
                wrapped.len().try_into().map_err(|_| wrong())?,
                template.as_mut_ptr(),
                template.len().try_into().map_err(|_| wrong())?,
                &mut made,
            )
        };
        answered("C_UnwrapKey", answer)?;
        Ok(Handle(number(made)))
    }
}

/// The longest wrapped key that is taken from a module: an ML-DSA-87 or RSA-8192 private key with room to spare.
const MOST_WRAPPED: usize = 16 * 1024;
/// The longest output that a module may ask a buffer for, in bytes.
const MOST_OUTPUT: usize = 64 * 1024 * 1024;

fn function<F>(name: &'static str, function: Option<F>) -> Outcome<F> {
    function.ok_or_else(|| refused(name, Ckr::FunctionNotSupported))
}

#[allow(clippy::useless_conversion, reason = "CK_ULONG is as wide as the system's long")]
fn raw(handle: Handle) -> sys::CK_OBJECT_HANDLE {
    handle.0.try_into().unwrap_or(sys::CK_INVALID_HANDLE)
}

fn token(info: &sys::CK_TOKEN_INFO) -> Token {
    let flag = |flag: sys::CK_FLAGS| info.flags & flag != 0;
    let text = |field: &[u8]| trimmed(&String::from_utf8_lossy(field));
    Token {
        label: text(&info.label),
        manufacturer: text(&info.manufacturerID),
        model: text(&info.model),
        serial: text(&info.serialNumber),
        firmware_version: version(info.firmwareVersion.major, info.firmwareVersion.minor),
        initialized: flag(sys::CKF_TOKEN_INITIALIZED),
        login_required: flag(sys::CKF_LOGIN_REQUIRED),
        user_pin_initialized: flag(sys::CKF_USER_PIN_INITIALIZED),
        user_pin_final_try: flag(sys::CKF_USER_PIN_FINAL_TRY),
        user_pin_locked: flag(sys::CKF_USER_PIN_LOCKED),
        write_protected: flag(sys::CKF_WRITE_PROTECTED),
        protected_authentication_path: flag(sys::CKF_PROTECTED_AUTHENTICATION_PATH),
        max_sessions: match info.ulMaxSessionCount {
            sys::CK_EFFECTIVELY_INFINITE | sys::CK_UNAVAILABLE_INFORMATION => None,
            count => Some(number(count)),
        },
    }
}

#[cfg(test)]
mod tests {
    use crate::backend::Backend as _;
    use crate::pkcs11::Module;

    #[test]
    fn the_raw_reading_is_the_same_as_cryptokis() {
        let token = softhsm_test::Token::softhsm();
        token.apply_env();
        let module = Module::load(token.module(), token.init_args()).unwrap();
        let functions = super::Functions::of(Some(token.module())).unwrap();
        let slots = module.slots().unwrap();
        assert!(slots.len() > 1);
        for slot in slots {
            let raw = functions.token_info(slot.id);
            assert_eq!(format!("{raw:?}"), format!("{:?}", slot.token));
        }
        assert!(functions.token_info(12345).is_none());
    }
}
