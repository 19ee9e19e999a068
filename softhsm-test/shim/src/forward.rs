//! The table of functions that programs see; each of them goes through [`around`].

#![allow(non_snake_case, reason = "the names that the standard gives them")]

use std::ffi::{CString, c_void};
use std::{env, ptr};

use cryptoki_sys::{
    CK_ATTRIBUTE, CK_BBOOL, CK_BYTE, CK_C_INITIALIZE_ARGS, CK_FLAGS, CK_FUNCTION_LIST, CK_INFO, CK_MECHANISM,
    CK_MECHANISM_INFO, CK_MECHANISM_TYPE, CK_NOTIFY, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_SESSION_INFO,
    CK_SLOT_ID, CK_SLOT_INFO, CK_TOKEN_INFO, CK_ULONG, CK_USER_TYPE, CK_UTF8CHAR, CK_VERSION, CKR_ARGUMENTS_BAD,
    CKR_OK,
};

use crate::effect::{Call, Output, around};

const NONE: *const CK_MECHANISM = ptr::null();

/// The table, for `C_GetFunctionList`.
pub(crate) fn functions() -> *mut CK_FUNCTION_LIST {
    ptr::from_ref(&FUNCTIONS).cast_mut()
}

/// Its own pointer to `C_GetFunctionList` goes to a function that is not exported: the program may have a symbol of
/// the same name, and the reference would end there.
unsafe extern "C" fn function_list(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    // SAFETY: the caller passes null or a place that may be written to.
    if let Some(list) = unsafe { list.as_mut() } {
        *list = functions();
        return CKR_OK;
    }
    CKR_ARGUMENTS_BAD
}

/// The first argument, which is a session's handle wherever a session matters.
trait First {
    fn session(self) -> CK_SESSION_HANDLE;
}

impl First for CK_ULONG {
    fn session(self) -> CK_SESSION_HANDLE {
        self
    }
}

impl First for CK_BBOOL {
    fn session(self) -> CK_SESSION_HANDLE {
        0
    }
}

impl<T> First for *mut T {
    fn session(self) -> CK_SESSION_HANDLE {
        0
    }
}

/// C_Initialize, with `FAULT_INIT_ARGS` as reserved argument if the program gives none.
unsafe extern "C" fn C_Initialize(args: *mut c_void) -> CK_RV {
    let call = Call {
        function: "C_Initialize",
        session: 0,
        mechanism: NONE,
        output: Output::Elsewhere,
    };
    // SAFETY: the caller passes null or a pointer to such arguments.
    let given = unsafe { args.cast::<CK_C_INITIALIZE_ARGS>().as_ref() };
    let mut own = given.copied().unwrap_or_default();
    let reserved = env::var("FAULT_INIT_ARGS")
        .ok()
        .and_then(|text| CString::new(text).ok());
    let handed = match &reserved {
        Some(text) if own.pReserved.is_null() => {
            own.pReserved = text.as_ptr().cast_mut().cast();
            ptr::from_mut(&mut own).cast()
        }
        Some(_) | None => args,
    };
    around(call, |real| {
        // SAFETY: the arguments are the caller's, or a copy of them, and live until the call's end.
        real.C_Initialize.map(|function| unsafe { function(handed) })
    })
}

/// One line a function: its arguments, the one that is a mechanism, and where it leaves its answer.
macro_rules! forward {
    ($($name:ident($first:ident: $first_kind:ty $(, $arg:ident: $kind:ty)*), $mechanism:expr, $output:expr;)*) => {
        static FUNCTIONS: CK_FUNCTION_LIST = CK_FUNCTION_LIST {
            version: CK_VERSION { major: 2, minor: 40 },
            C_GetFunctionList: Some(function_list),
            C_Initialize: Some(C_Initialize),
            $($name: Some($name),)*
        };

        $(
            unsafe extern "C" fn $name($first: $first_kind $(, $arg: $kind)*) -> CK_RV {
                let call = Call {
                    function: stringify!($name),
                    session: $first.session(),
                    mechanism: $mechanism,
                    output: $output,
                };
                around(call, |real| {
                    // SAFETY: the arguments are handed on as they came.
                    real.$name.map(|function| unsafe { function($first $(, $arg)*) })
                })
            }
        )*
    };
}

forward! {
    C_Finalize(a: *mut c_void), NONE, Output::Elsewhere;
    C_GetInfo(a: *mut CK_INFO), NONE, Output::Elsewhere;
    C_GetSlotList(a: CK_BBOOL, b: *mut CK_SLOT_ID, c: *mut CK_ULONG), NONE, Output::Elsewhere;
    C_GetSlotInfo(a: CK_SLOT_ID, b: *mut CK_SLOT_INFO), NONE, Output::Elsewhere;
    C_GetTokenInfo(a: CK_SLOT_ID, b: *mut CK_TOKEN_INFO), NONE, Output::TokenInfo(b);
    C_GetMechanismList(a: CK_SLOT_ID, b: *mut CK_MECHANISM_TYPE, c: *mut CK_ULONG), NONE, Output::Mechanisms(b, c);
    C_GetMechanismInfo(a: CK_SLOT_ID, b: CK_MECHANISM_TYPE, c: *mut CK_MECHANISM_INFO), NONE, Output::Elsewhere;
    C_InitToken(a: CK_SLOT_ID, b: *mut CK_UTF8CHAR, c: CK_ULONG, d: *mut CK_UTF8CHAR), NONE, Output::Elsewhere;
    C_InitPIN(a: CK_SESSION_HANDLE, b: *mut CK_UTF8CHAR, c: CK_ULONG), NONE, Output::Elsewhere;
    C_SetPIN(a: CK_SESSION_HANDLE, b: *mut CK_UTF8CHAR, c: CK_ULONG, d: *mut CK_UTF8CHAR, e: CK_ULONG), NONE, Output::Elsewhere;
    C_OpenSession(a: CK_SLOT_ID, b: CK_FLAGS, c: *mut c_void, d: CK_NOTIFY, e: *mut CK_SESSION_HANDLE), NONE, Output::Elsewhere;
    C_CloseSession(a: CK_SESSION_HANDLE), NONE, Output::Elsewhere;
    C_CloseAllSessions(a: CK_SLOT_ID), NONE, Output::Elsewhere;
    C_GetSessionInfo(a: CK_SESSION_HANDLE, b: *mut CK_SESSION_INFO), NONE, Output::Elsewhere;
    C_GetOperationState(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: *mut CK_ULONG), NONE, Output::Bytes(b, c);
    C_SetOperationState(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG, d: CK_OBJECT_HANDLE, e: CK_OBJECT_HANDLE), NONE, Output::Elsewhere;
    C_Login(a: CK_SESSION_HANDLE, b: CK_USER_TYPE, c: *mut CK_UTF8CHAR, d: CK_ULONG), NONE, Output::Elsewhere;
    C_Logout(a: CK_SESSION_HANDLE), NONE, Output::Elsewhere;
    C_CreateObject(a: CK_SESSION_HANDLE, b: *mut CK_ATTRIBUTE, c: CK_ULONG, d: *mut CK_OBJECT_HANDLE), NONE, Output::Elsewhere;
    C_CopyObject(a: CK_SESSION_HANDLE, b: CK_OBJECT_HANDLE, c: *mut CK_ATTRIBUTE, d: CK_ULONG, e: *mut CK_OBJECT_HANDLE), NONE, Output::Elsewhere;
    C_DestroyObject(a: CK_SESSION_HANDLE, b: CK_OBJECT_HANDLE), NONE, Output::Elsewhere;
    C_GetObjectSize(a: CK_SESSION_HANDLE, b: CK_OBJECT_HANDLE, c: *mut CK_ULONG), NONE, Output::Elsewhere;
    C_GetAttributeValue(a: CK_SESSION_HANDLE, b: CK_OBJECT_HANDLE, c: *mut CK_ATTRIBUTE, d: CK_ULONG), NONE, Output::Elsewhere;
    C_SetAttributeValue(a: CK_SESSION_HANDLE, b: CK_OBJECT_HANDLE, c: *mut CK_ATTRIBUTE, d: CK_ULONG), NONE, Output::Elsewhere;
    C_FindObjectsInit(a: CK_SESSION_HANDLE, b: *mut CK_ATTRIBUTE, c: CK_ULONG), NONE, Output::Elsewhere;
    C_FindObjects(a: CK_SESSION_HANDLE, b: *mut CK_OBJECT_HANDLE, c: CK_ULONG, d: *mut CK_ULONG), NONE, Output::Elsewhere;
    C_FindObjectsFinal(a: CK_SESSION_HANDLE), NONE, Output::Elsewhere;
    C_EncryptInit(a: CK_SESSION_HANDLE, b: *mut CK_MECHANISM, c: CK_OBJECT_HANDLE), b, Output::Elsewhere;
    C_Encrypt(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG, d: *mut CK_BYTE, e: *mut CK_ULONG), NONE, Output::Bytes(d, e);
    C_EncryptUpdate(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG, d: *mut CK_BYTE, e: *mut CK_ULONG), NONE, Output::Bytes(d, e);
    C_EncryptFinal(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: *mut CK_ULONG), NONE, Output::Bytes(b, c);
    C_DecryptInit(a: CK_SESSION_HANDLE, b: *mut CK_MECHANISM, c: CK_OBJECT_HANDLE), b, Output::Elsewhere;
    C_Decrypt(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG, d: *mut CK_BYTE, e: *mut CK_ULONG), NONE, Output::Bytes(d, e);
    C_DecryptUpdate(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG, d: *mut CK_BYTE, e: *mut CK_ULONG), NONE, Output::Bytes(d, e);
    C_DecryptFinal(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: *mut CK_ULONG), NONE, Output::Bytes(b, c);
    C_DigestInit(a: CK_SESSION_HANDLE, b: *mut CK_MECHANISM), b, Output::Elsewhere;
    C_Digest(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG, d: *mut CK_BYTE, e: *mut CK_ULONG), NONE, Output::Bytes(d, e);
    C_DigestUpdate(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG), NONE, Output::Elsewhere;
    C_DigestKey(a: CK_SESSION_HANDLE, b: CK_OBJECT_HANDLE), NONE, Output::Elsewhere;
    C_DigestFinal(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: *mut CK_ULONG), NONE, Output::Bytes(b, c);
    C_SignInit(a: CK_SESSION_HANDLE, b: *mut CK_MECHANISM, c: CK_OBJECT_HANDLE), b, Output::Elsewhere;
    C_Sign(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG, d: *mut CK_BYTE, e: *mut CK_ULONG), NONE, Output::Bytes(d, e);
    C_SignUpdate(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG), NONE, Output::Elsewhere;
    C_SignFinal(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: *mut CK_ULONG), NONE, Output::Bytes(b, c);
    C_SignRecoverInit(a: CK_SESSION_HANDLE, b: *mut CK_MECHANISM, c: CK_OBJECT_HANDLE), b, Output::Elsewhere;
    C_SignRecover(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG, d: *mut CK_BYTE, e: *mut CK_ULONG), NONE, Output::Bytes(d, e);
    C_VerifyInit(a: CK_SESSION_HANDLE, b: *mut CK_MECHANISM, c: CK_OBJECT_HANDLE), b, Output::Elsewhere;
    C_Verify(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG, d: *mut CK_BYTE, e: CK_ULONG), NONE, Output::Elsewhere;
    C_VerifyUpdate(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG), NONE, Output::Elsewhere;
    C_VerifyFinal(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG), NONE, Output::Elsewhere;
    C_VerifyRecoverInit(a: CK_SESSION_HANDLE, b: *mut CK_MECHANISM, c: CK_OBJECT_HANDLE), b, Output::Elsewhere;
    C_VerifyRecover(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG, d: *mut CK_BYTE, e: *mut CK_ULONG), NONE, Output::Bytes(d, e);
    C_DigestEncryptUpdate(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG, d: *mut CK_BYTE, e: *mut CK_ULONG), NONE, Output::Bytes(d, e);
    C_DecryptDigestUpdate(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG, d: *mut CK_BYTE, e: *mut CK_ULONG), NONE, Output::Bytes(d, e);
    C_SignEncryptUpdate(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG, d: *mut CK_BYTE, e: *mut CK_ULONG), NONE, Output::Bytes(d, e);
    C_DecryptVerifyUpdate(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG, d: *mut CK_BYTE, e: *mut CK_ULONG), NONE, Output::Bytes(d, e);
    C_GenerateKey(a: CK_SESSION_HANDLE, b: *mut CK_MECHANISM, c: *mut CK_ATTRIBUTE, d: CK_ULONG, e: *mut CK_OBJECT_HANDLE), b, Output::Elsewhere;
    C_GenerateKeyPair(a: CK_SESSION_HANDLE, b: *mut CK_MECHANISM, c: *mut CK_ATTRIBUTE, d: CK_ULONG, e: *mut CK_ATTRIBUTE, f: CK_ULONG, g: *mut CK_OBJECT_HANDLE, h: *mut CK_OBJECT_HANDLE), b, Output::Elsewhere;
    C_WrapKey(a: CK_SESSION_HANDLE, b: *mut CK_MECHANISM, c: CK_OBJECT_HANDLE, d: CK_OBJECT_HANDLE, e: *mut CK_BYTE, f: *mut CK_ULONG), b, Output::Bytes(e, f);
    C_UnwrapKey(a: CK_SESSION_HANDLE, b: *mut CK_MECHANISM, c: CK_OBJECT_HANDLE, d: *mut CK_BYTE, e: CK_ULONG, f: *mut CK_ATTRIBUTE, g: CK_ULONG, h: *mut CK_OBJECT_HANDLE), b, Output::Elsewhere;
    C_DeriveKey(a: CK_SESSION_HANDLE, b: *mut CK_MECHANISM, c: CK_OBJECT_HANDLE, d: *mut CK_ATTRIBUTE, e: CK_ULONG, f: *mut CK_OBJECT_HANDLE), b, Output::Elsewhere;
    C_SeedRandom(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG), NONE, Output::Elsewhere;
    C_GenerateRandom(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG), NONE, Output::Filled(b, c);
    C_GetFunctionStatus(a: CK_SESSION_HANDLE), NONE, Output::Elsewhere;
    C_CancelFunction(a: CK_SESSION_HANDLE), NONE, Output::Elsewhere;
    C_WaitForSlotEvent(a: CK_FLAGS, b: *mut CK_SLOT_ID, c: *mut c_void), NONE, Output::Elsewhere;
}
