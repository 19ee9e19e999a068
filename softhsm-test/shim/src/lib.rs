//! A PKCS#11 module that forwards every call to a real module, and fails, waits, hangs or lies when it is told to.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `FAULT_MODULE` | absolute path of the real module |
//! | `FAULT_CONTROL` | file of rules, read again at each call; `src/control.rs` tells its language |
//! | `FAULT_CALLS` | file that gets a line with the name of each call |
//! | `FAULT_INIT_ARGS` | text for C_Initialize's reserved argument, for programs that give none |
//!
//! It offers the functions of PKCS#11 2.40. `softhsm_test::FaultyToken` drives it.

#![allow(unsafe_code, reason = "a PKCS#11 module is a C interface, on both of its sides")]

mod control;
mod effect;
mod forward;
mod state;

use cryptoki_sys::{CK_FUNCTION_LIST, CK_RV, CKR_ARGUMENTS_BAD};

/// The one symbol of the module: PKCS#11 2.40 §5.4.
///
/// # Safety
///
/// `list` is null or may be written to.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the name that the standard gives it")]
pub unsafe extern "C" fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    if list.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    // SAFETY: not null, and the caller answers for the rest.
    unsafe { *list = forward::functions() };
    cryptoki_sys::CKR_OK
}
