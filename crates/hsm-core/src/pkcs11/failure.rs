//! What cryptoki says when a call fails, in the terms of this crate.

use cryptoki::context::Function;
use cryptoki::error::{Error, RvError};

use crate::error::{Ckr, During, Failure};

/// The failure of a call to `function`, unless the error itself names another.
pub(super) fn failed(function: &'static str, error: &Error) -> Failure {
    let (function, rv) = match error {
        Error::Pkcs11(rv, during) => (name(*during).unwrap_or(function), Some(ckr(*rv))),
        Error::NullFunctionPointer => (function, Some(Ckr::FunctionNotSupported)),
        _ => (function, None),
    };
    Failure {
        function,
        during: during(function),
        rv,
        detail: error.to_string(),
    }
}

/// A failure that this side finds, before the module is asked.
pub(super) fn refused(function: &'static str, rv: Ckr) -> Failure {
    Failure {
        function,
        during: during(function),
        rv: Some(rv),
        detail: String::new(),
    }
}

/// What a call of the module's own function answered.
pub(super) fn answered(function: &'static str, rv: cryptoki_sys::CK_RV) -> Result<(), Failure> {
    match number(rv) {
        0 => Ok(()),
        rv => Err(refused(function, Ckr::from_number(rv))),
    }
}

/// A CK_ULONG, which has 32 bits on some systems.
#[allow(clippy::useless_conversion, reason = "CK_ULONG is as wide as the system's long")]
pub(super) fn number(ulong: std::ffi::c_ulong) -> u64 {
    u64::from(ulong)
}

fn during(function: &str) -> During {
    match function {
        "C_EncryptInit" | "C_DecryptInit" | "C_SignInit" | "C_VerifyInit" => During::Start,
        "C_WrapKey" => During::Wrap,
        "C_Encrypt" => During::Encrypt,
        "C_Decrypt" => During::Decrypt,
        "C_Sign" => During::Sign,
        "C_Verify" => During::Verify,
        "C_GenerateKey" | "C_GenerateKeyPair" | "C_CreateObject" | "C_DeriveKey" | "C_EncapsulateKey"
        | "C_DecapsulateKey" => During::Create,
        "C_UnwrapKey" => During::Unwrap,
        "C_Login" => During::Login,
        _ => During::Other,
    }
}

macro_rules! functions {
    ($($name:ident),* $(,)?) => {
        /// The name of a function that this crate calls.
        fn name(function: Function) -> Option<&'static str> {
            match function {
                $(Function::$name => Some(concat!("C_", stringify!($name))),)*
                _ => None,
            }
        }
    };
}

functions! {
    Initialize, Finalize, GetFunctionList, GetInterface, GetSlotList, GetSlotInfo, GetTokenInfo, GetMechanismList,
    GetMechanismInfo, InitToken, InitPIN, OpenSession, CloseSession, GetSessionInfo, Login, Logout, CreateObject,
    DestroyObject, GetAttributeValue, SetAttributeValue, FindObjectsInit, FindObjects, FindObjectsFinal, EncryptInit,
    Encrypt, DecryptInit, Decrypt, SignInit, Sign, VerifyInit, Verify, GenerateKey, GenerateKeyPair, GenerateRandom,
    WrapKey, UnwrapKey, DeriveKey, EncapsulateKey, DecapsulateKey,
}

macro_rules! return_values {
    ($($name:ident),* $(,)?) => {
        fn ckr(rv: RvError) -> Ckr {
            match rv {
                $(RvError::$name => Ckr::$name,)*
                // Among them those that PKCS#11 has and cryptoki does not know.
                RvError::VendorDefined(other) | RvError::UnknownErrorCode(other) => Ckr::from_number(number(other)),
            }
        }

        #[cfg(test)]
        const KNOWN_TO_CRYPTOKI: &[(RvError, Ckr)] = &[$((RvError::$name, Ckr::$name)),*];
    };
}

return_values! {
    Cancel, HostMemory, SlotIdInvalid, GeneralError, FunctionFailed, ArgumentsBad, NoEvent, NeedToCreateThreads,
    CantLock, AttributeReadOnly, AttributeSensitive, AttributeTypeInvalid, AttributeValueInvalid, ActionProhibited,
    DataInvalid, DataLenRange, DeviceError, DeviceMemory, DeviceRemoved, EncryptedDataInvalid, EncryptedDataLenRange,
    FunctionCanceled, FunctionNotParallel, FunctionNotSupported, CurveNotSupported, KeyHandleInvalid, KeySizeRange,
    KeyTypeInconsistent, KeyNotNeeded, KeyChanged, KeyNeeded, KeyIndigestible, KeyFunctionNotPermitted, KeyNotWrappable,
    KeyUnextractable, MechanismInvalid, MechanismParamInvalid, ObjectHandleInvalid, OperationActive,
    OperationNotInitialized, PinIncorrect, PinInvalid, PinLenRange, PinExpired, PinLocked, SessionClosed, SessionCount,
    SessionHandleInvalid, SessionParallelNotSupported, SessionReadOnly, SessionExists, SessionReadOnlyExists,
    SessionReadWriteSoExists, SignatureInvalid, SignatureLenRange, TemplateIncomplete, TemplateInconsistent,
    TokenNotPresent, TokenNotRecognized, TokenWriteProtected, UnwrappingKeyHandleInvalid, UnwrappingKeySizeRange,
    UnwrappingKeyTypeInconsistent, UserAlreadyLoggedIn, UserNotLoggedIn, UserPinNotInitialized, UserTypeInvalid,
    UserAnotherAlreadyLoggedIn, UserTooManyTypes, WrappedKeyInvalid, WrappedKeyLenRange, WrappingKeyHandleInvalid,
    WrappingKeySizeRange, WrappingKeyTypeInconsistent, RandomSeedNotSupported, RandomNoRng, DomainParamsInvalid,
    BufferTooSmall, SavedStateInvalid, InformationSensitive, StateUnsaveable, CryptokiNotInitialized,
    CryptokiAlreadyInitialized, MutexBad, MutexNotLocked, NewPinMode, NextOtp, ExceededMaxIterations, FipsSelfTestFailed,
    LibraryLoadFailed, PinTooWeak, PublicKeyInvalid, FunctionRejected,
}

#[cfg(test)]
mod tests {
    use cryptoki::error::Rv;

    use super::*;

    macro_rules! header {
        ($($name:ident),* $(,)?) => {
            [$((stringify!($name), number(cryptoki_sys::$name))),*]
        };
    }

    #[test]
    fn every_named_return_value_is_that_of_the_standards_header() {
        #[rustfmt::skip]
        let header = header![
            CKR_CANCEL, CKR_HOST_MEMORY, CKR_SLOT_ID_INVALID, CKR_GENERAL_ERROR,
            CKR_FUNCTION_FAILED, CKR_ARGUMENTS_BAD, CKR_NO_EVENT, CKR_NEED_TO_CREATE_THREADS,
            CKR_CANT_LOCK, CKR_ATTRIBUTE_READ_ONLY, CKR_ATTRIBUTE_SENSITIVE,
            CKR_ATTRIBUTE_TYPE_INVALID, CKR_ATTRIBUTE_VALUE_INVALID, CKR_ACTION_PROHIBITED,
            CKR_DATA_INVALID, CKR_DATA_LEN_RANGE, CKR_DEVICE_ERROR, CKR_DEVICE_MEMORY,
            CKR_DEVICE_REMOVED, CKR_ENCRYPTED_DATA_INVALID, CKR_ENCRYPTED_DATA_LEN_RANGE,
            CKR_AEAD_DECRYPT_FAILED, CKR_FUNCTION_CANCELED, CKR_FUNCTION_NOT_PARALLEL,
            CKR_FUNCTION_NOT_SUPPORTED, CKR_KEY_HANDLE_INVALID, CKR_KEY_SIZE_RANGE,
            CKR_KEY_TYPE_INCONSISTENT, CKR_KEY_NOT_NEEDED, CKR_KEY_CHANGED, CKR_KEY_NEEDED,
            CKR_KEY_INDIGESTIBLE, CKR_KEY_FUNCTION_NOT_PERMITTED, CKR_KEY_NOT_WRAPPABLE,
            CKR_KEY_UNEXTRACTABLE, CKR_MECHANISM_INVALID, CKR_MECHANISM_PARAM_INVALID,
            CKR_OBJECT_HANDLE_INVALID, CKR_OPERATION_ACTIVE, CKR_OPERATION_NOT_INITIALIZED,
            CKR_PIN_INCORRECT, CKR_PIN_INVALID, CKR_PIN_LEN_RANGE, CKR_PIN_EXPIRED,
            CKR_PIN_LOCKED, CKR_SESSION_CLOSED, CKR_SESSION_COUNT, CKR_SESSION_HANDLE_INVALID,
            CKR_SESSION_PARALLEL_NOT_SUPPORTED, CKR_SESSION_READ_ONLY, CKR_SESSION_EXISTS,
            CKR_SESSION_READ_ONLY_EXISTS, CKR_SESSION_READ_WRITE_SO_EXISTS,
            CKR_SIGNATURE_INVALID, CKR_SIGNATURE_LEN_RANGE, CKR_TEMPLATE_INCOMPLETE,
            CKR_TEMPLATE_INCONSISTENT, CKR_TOKEN_NOT_PRESENT, CKR_TOKEN_NOT_RECOGNIZED,
            CKR_TOKEN_WRITE_PROTECTED, CKR_UNWRAPPING_KEY_HANDLE_INVALID,
            CKR_UNWRAPPING_KEY_SIZE_RANGE, CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT,
            CKR_USER_ALREADY_LOGGED_IN, CKR_USER_NOT_LOGGED_IN, CKR_USER_PIN_NOT_INITIALIZED,
            CKR_USER_TYPE_INVALID, CKR_USER_ANOTHER_ALREADY_LOGGED_IN, CKR_USER_TOO_MANY_TYPES,
            CKR_WRAPPED_KEY_INVALID, CKR_WRAPPED_KEY_LEN_RANGE, CKR_WRAPPING_KEY_HANDLE_INVALID,
            CKR_WRAPPING_KEY_SIZE_RANGE, CKR_WRAPPING_KEY_TYPE_INCONSISTENT,
            CKR_RANDOM_SEED_NOT_SUPPORTED, CKR_RANDOM_NO_RNG, CKR_DOMAIN_PARAMS_INVALID,
            CKR_CURVE_NOT_SUPPORTED, CKR_BUFFER_TOO_SMALL, CKR_SAVED_STATE_INVALID,
            CKR_INFORMATION_SENSITIVE, CKR_STATE_UNSAVEABLE, CKR_CRYPTOKI_NOT_INITIALIZED,
            CKR_CRYPTOKI_ALREADY_INITIALIZED, CKR_MUTEX_BAD, CKR_MUTEX_NOT_LOCKED,
            CKR_NEW_PIN_MODE, CKR_NEXT_OTP, CKR_EXCEEDED_MAX_ITERATIONS,
            CKR_FIPS_SELF_TEST_FAILED, CKR_LIBRARY_LOAD_FAILED, CKR_PIN_TOO_WEAK,
            CKR_PUBLIC_KEY_INVALID, CKR_FUNCTION_REJECTED, CKR_TOKEN_RESOURCE_EXCEEDED,
            CKR_OPERATION_CANCEL_FAILED, CKR_KEY_EXHAUSTED,
        ];
        for ckr in Ckr::NAMED {
            let ours = (ckr.to_string(), ckr.number());
            let found = header.iter().any(|(name, number)| *name == ours.0 && *number == ours.1);
            assert!(found, "{ours:?}");
        }
    }

    #[test]
    fn every_error_of_cryptoki_keeps_its_number() {
        for (rv, ours) in KNOWN_TO_CRYPTOKI {
            assert_eq!(ckr(*rv), *ours);
            let number = cryptoki_sys::CK_RV::try_from(ours.number()).unwrap();
            assert_eq!(Rv::from(number), Rv::Error(*rv), "{ours}");
        }
    }

    #[test]
    fn numbers_that_nobody_knows_are_kept_too() {
        for number in [0x42, 0x201, 0x9999, 0x8000_0001, cryptoki_sys::CK_RV::MAX] {
            let Rv::Error(rv) = Rv::from(number) else {
                panic!("{number} is an error");
            };
            assert_eq!(ckr(rv).number(), super::number(number));
        }
        assert_eq!(ckr(RvError::UnknownErrorCode(0x42)), Ckr::AeadDecryptFailed);
    }

    #[test]
    fn a_failure_names_the_function_that_failed() {
        let failure = failed("C_Sign", &Error::Pkcs11(RvError::KeyHandleInvalid, Function::SignInit));
        assert_eq!(failure.during, During::Start);
        assert_eq!(failure.to_string(), "C_SignInit answered CKR_KEY_HANDLE_INVALID");
        let failure = failed("C_Sign", &Error::InvalidValue);
        assert_eq!((failure.during, failure.rv), (During::Sign, None));
    }
}
