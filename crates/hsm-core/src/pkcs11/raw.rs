//! The few things that cryptoki leaves to unsafe code.
#![allow(
    unsafe_code,
    reason = "cryptoki takes reserved arguments and handles as bare values, and hides C_GetTokenInfo's answer behind \
              a clock that it can't read"
)]

use std::ffi::CStr;
use std::path::Path;
use std::ptr::{self, NonNull};

use cryptoki::context::{CInitializeArgs, CInitializeFlags};
use cryptoki::object::ObjectHandle;
use cryptoki_sys as sys;

use super::failure::number;
use super::{trimmed, version};
use crate::backend::{Handle, Token};

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
    #[allow(clippy::useless_conversion, reason = "CK_ULONG is as wide as the system's long")]
    let raw = handle.0.try_into().unwrap_or(sys::CK_INVALID_HANDLE);
    // SAFETY: the function is marked for what a caller could do to keys with made-up numbers; for memory any number is
    // safe, since the module looks it up.
    unsafe { ObjectHandle::new_from_raw(raw) }
}

/// C_GetTokenInfo without a look at the clock, for modules whose time cryptoki can't read. `None` if it fails.
///
/// It finds the module's functions a second time, and there are modules that hand out new, uninitialised ones then:
/// only for when there is no other way.
pub(super) fn token_info(module: &Path, slot: u64) -> Option<Token> {
    let slot = sys::CK_SLOT_ID::try_from(slot).ok()?;
    // SAFETY: the module is loaded already, so that no foreign code runs when it is opened again.
    let library = unsafe { sys::Pkcs11::new(module) }.ok()?;
    let mut functions: sys::CK_FUNCTION_LIST_PTR = ptr::null_mut();
    library.C_GetFunctionList.as_ref().ok()?;
    // SAFETY: the symbol is there, and the call writes one pointer.
    let found = unsafe { library.C_GetFunctionList(&mut functions) };
    if found != sys::CKR_OK || functions.is_null() {
        return None;
    }
    let mut info = sys::CK_TOKEN_INFO::default();
    // SAFETY: the list is the module's own and lives as long as it is loaded, which `library` sees to; the call writes
    // one CK_TOKEN_INFO.
    let answer = unsafe { ((*functions).C_GetTokenInfo?)(slot, &mut info) };
    (answer == sys::CKR_OK).then(|| token(&info))
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
        let slots = module.slots().unwrap();
        assert!(slots.len() > 1);
        for slot in slots {
            let raw = super::token_info(token.module(), slot.id);
            assert_eq!(format!("{raw:?}"), format!("{:?}", slot.token));
        }
        assert!(super::token_info(token.module(), 12345).is_none());
    }
}
