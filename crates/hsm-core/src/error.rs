//! What can go wrong, told apart by who can mend it. Never a status code: the server maps these.

use std::fmt;

use crate::key::HsmKeyId;

/// The result of this crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, and the return value of PKCS#11 that told it, if one did. It reads as its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    text: String,
    ckr: Option<Ckr>,
}

impl Reason {
    /// A text that a return value is behind.
    pub fn told(text: impl Into<String>, ckr: Ckr) -> Reason {
        Reason {
            text: text.into(),
            ckr: Some(ckr),
        }
    }

    /// The return value.
    pub const fn ckr(&self) -> Option<Ckr> {
        self.ckr
    }
}

impl From<&Failure> for Reason {
    fn from(failure: &Failure) -> Reason {
        Reason {
            text: failure.to_string(),
            ckr: failure.rv,
        }
    }
}

impl From<String> for Reason {
    fn from(text: String) -> Reason {
        Reason { text, ckr: None }
    }
}

impl From<&str> for Reason {
    fn from(text: &str) -> Reason {
        text.to_owned().into()
    }
}

impl std::ops::Deref for Reason {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why an operation was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The caller's: a field is missing, malformed or of a wrong length.
    #[error("{field}: {detail}")]
    InvalidRequest {
        /// The field, as the API names it.
        field: &'static str,
        /// What it has to be.
        detail: Reason,
    },
    /// The caller's: this is no key id.
    #[error("{0}")]
    InvalidKeyId(String),
    /// The caller's: no such algorithm, or not for this operation.
    #[error("{0}")]
    UnsupportedAlgorithm(String),
    /// The caller's: the algorithm does not go with this key.
    #[error("{0}")]
    KeyTypeMismatch(Reason),
    /// The caller's: the key is not made for this use.
    #[error("{0}")]
    UsageNotPermitted(Reason),
    /// The caller's: the key may not leave the token.
    #[error("the key may not leave the token: it is not extractable, or of a kind that the token does not wrap")]
    NotExtractable,
    /// The caller's: the ciphertext does not decrypt. One text for every cause.
    #[error("the ciphertext does not decrypt with this key")]
    DecryptionFailed,
    /// The caller's: no such key.
    #[error("there is no key {0}")]
    KeyNotFound(HsmKeyId),
    /// The caller's: another key is in the way.
    #[error("{0}")]
    Conflict(String),
    /// The operator's: unrelated objects of the token share one CKA_ID.
    #[error("several unrelated objects of the token have the id {0}; give them ids of their own")]
    AmbiguousKey(HsmKeyId),
    /// The token can't do this; the text names the mechanism.
    #[error("{0}")]
    NotSupported(Reason),
    /// All sessions are at work and the queue is full; try again later.
    #[error("all sessions are at work and the queue is full")]
    Busy,
    /// The token or its login is gone.
    #[error("{0}")]
    Unavailable(Reason),
    /// The device is ill, or does what PKCS#11 does not allow.
    #[error("{0}")]
    Device(Reason),
    /// The deadline passed before the token answered.
    #[error("the token did not answer in time")]
    Timeout,
    /// A fault of this crate.
    #[error("{0}")]
    Internal(String),
}

/// Who can mend an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The caller: ask for something else. Doing it again does not help.
    Caller,
    /// The operator: the token's objects are in disorder.
    Operator,
    /// Nobody, with this token: it can't do it.
    TokenCannot,
    /// Time: all is well, and too much is under way.
    Busy,
    /// Time or the operator: the token or its login is gone, and is looked for.
    Unavailable,
    /// Who looks after the device: it is ill, or too slow. Whether the operation was done is not known.
    Device,
    /// Who wrote this crate.
    Internal,
}

impl Error {
    /// Who can mend it.
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Error::InvalidRequest { .. }
            | Error::InvalidKeyId(_)
            | Error::UnsupportedAlgorithm(_)
            | Error::KeyTypeMismatch(_)
            | Error::UsageNotPermitted(_)
            | Error::NotExtractable
            | Error::DecryptionFailed
            | Error::KeyNotFound(_)
            | Error::Conflict(_) => ErrorKind::Caller,
            Error::AmbiguousKey(_) => ErrorKind::Operator,
            Error::NotSupported(_) => ErrorKind::TokenCannot,
            Error::Busy => ErrorKind::Busy,
            Error::Unavailable(_) => ErrorKind::Unavailable,
            Error::Device(_) | Error::Timeout => ErrorKind::Device,
            Error::Internal(_) => ErrorKind::Internal,
        }
    }

    /// The return value of PKCS#11 that the error comes from, where it comes from one.
    pub const fn ckr(&self) -> Option<Ckr> {
        match self {
            Error::InvalidRequest { detail: reason, .. }
            | Error::KeyTypeMismatch(reason)
            | Error::UsageNotPermitted(reason)
            | Error::NotSupported(reason)
            | Error::Unavailable(reason)
            | Error::Device(reason) => reason.ckr(),
            Error::InvalidKeyId(_)
            | Error::UnsupportedAlgorithm(_)
            | Error::NotExtractable
            | Error::DecryptionFailed
            | Error::KeyNotFound(_)
            | Error::Conflict(_)
            | Error::AmbiguousKey(_)
            | Error::Busy
            | Error::Timeout
            | Error::Internal(_) => None,
        }
    }

    /// An [`Error::InvalidRequest`].
    pub fn invalid(field: &'static str, detail: impl Into<Reason>) -> Error {
        Error::InvalidRequest {
            field,
            detail: detail.into(),
        }
    }
}

/// Which PKCS#11 function failed, as far as it matters for what the failure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum During {
    /// A call that starts an operation: `C_EncryptInit`, `C_SignInit`, …
    Start,
    /// `C_Encrypt` and its parts.
    Encrypt,
    /// `C_Decrypt` and its parts.
    Decrypt,
    /// `C_Sign` and its parts.
    Sign,
    /// `C_Verify` and its parts.
    Verify,
    /// `C_GenerateKey`, `C_GenerateKeyPair`, `C_CreateObject`, `C_DeriveKey`, `C_EncapsulateKey`,
    /// `C_DecapsulateKey`.
    Create,
    /// `C_WrapKey`.
    Wrap,
    /// `C_UnwrapKey`.
    Unwrap,
    /// `C_Login`.
    Login,
    /// Anything else.
    Other,
}

/// A failed call of PKCS#11.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The function's name, `C_…`.
    pub function: &'static str,
    /// The kind of call.
    pub during: During,
    /// The return value; `None` where the module answered something that can't be read.
    pub rv: Option<Ckr>,
    /// What to say when there is no return value.
    pub detail: String,
}

impl Failure {
    /// The same failure, of a step that came after the one that made something: its code says nothing of what was asked for.
    pub(crate) fn afterwards(self) -> Failure {
        Failure {
            detail: self.rv.map_or(self.detail, |rv| format!("answered {rv} afterwards")),
            during: During::Other,
            rv: None,
            ..self
        }
    }

    /// What is found out on this side, in the terms of the module.
    pub(crate) fn answered(function: &'static str, during: During, rv: Ckr) -> Failure {
        Failure {
            function,
            during,
            rv: Some(rv),
            detail: String::new(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rv {
            Some(rv) => write!(f, "{} answered {rv}", self.function),
            None => write!(f, "{}: {}", self.function, self.detail),
        }
    }
}

macro_rules! return_values {
    ($($variant:ident $name:ident = $value:literal),* $(,)?) => {
        /// A return value of PKCS#11 (v3.1 §5.1) other than `CKR_OK`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[expect(missing_docs, reason = "the variants are the standard's names")]
        pub enum Ckr { $($variant,)* Other(u64) }

        impl Ckr {
            /// Every named return value.
            pub const NAMED: &'static [Ckr] = &[$(Ckr::$variant),*];

            /// Reads a number.
            pub const fn from_number(number: u64) -> Ckr {
                match number { $($value => Ckr::$variant,)* other => Ckr::Other(other) }
            }

            /// The number.
            pub const fn number(self) -> u64 {
                match self { $(Ckr::$variant => $value,)* Ckr::Other(number) => number }
            }
        }

        impl fmt::Display for Ckr {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Ckr::$variant => f.write_str(concat!("CKR_", stringify!($name))),)*
                    Ckr::Other(number) => write!(f, "0x{number:08x}"),
                }
            }
        }
    };
}

return_values! {
    Cancel CANCEL = 0x01, HostMemory HOST_MEMORY = 0x02, SlotIdInvalid SLOT_ID_INVALID = 0x03, GeneralError GENERAL_ERROR = 0x05,
    FunctionFailed FUNCTION_FAILED = 0x06, ArgumentsBad ARGUMENTS_BAD = 0x07, NoEvent NO_EVENT = 0x08,
    NeedToCreateThreads NEED_TO_CREATE_THREADS = 0x09, CantLock CANT_LOCK = 0x0a, AttributeReadOnly ATTRIBUTE_READ_ONLY = 0x10,
    AttributeSensitive ATTRIBUTE_SENSITIVE = 0x11, AttributeTypeInvalid ATTRIBUTE_TYPE_INVALID = 0x12,
    AttributeValueInvalid ATTRIBUTE_VALUE_INVALID = 0x13, ActionProhibited ACTION_PROHIBITED = 0x1b, DataInvalid DATA_INVALID = 0x20,
    DataLenRange DATA_LEN_RANGE = 0x21, DeviceError DEVICE_ERROR = 0x30, DeviceMemory DEVICE_MEMORY = 0x31,
    DeviceRemoved DEVICE_REMOVED = 0x32, EncryptedDataInvalid ENCRYPTED_DATA_INVALID = 0x40,
    EncryptedDataLenRange ENCRYPTED_DATA_LEN_RANGE = 0x41, AeadDecryptFailed AEAD_DECRYPT_FAILED = 0x42,
    FunctionCanceled FUNCTION_CANCELED = 0x50, FunctionNotParallel FUNCTION_NOT_PARALLEL = 0x51,
    FunctionNotSupported FUNCTION_NOT_SUPPORTED = 0x54, KeyHandleInvalid KEY_HANDLE_INVALID = 0x60, KeySizeRange KEY_SIZE_RANGE = 0x62,
    KeyTypeInconsistent KEY_TYPE_INCONSISTENT = 0x63, KeyNotNeeded KEY_NOT_NEEDED = 0x64, KeyChanged KEY_CHANGED = 0x65,
    KeyNeeded KEY_NEEDED = 0x66, KeyIndigestible KEY_INDIGESTIBLE = 0x67, KeyFunctionNotPermitted KEY_FUNCTION_NOT_PERMITTED = 0x68,
    KeyNotWrappable KEY_NOT_WRAPPABLE = 0x69, KeyUnextractable KEY_UNEXTRACTABLE = 0x6a, MechanismInvalid MECHANISM_INVALID = 0x70,
    MechanismParamInvalid MECHANISM_PARAM_INVALID = 0x71, ObjectHandleInvalid OBJECT_HANDLE_INVALID = 0x82,
    OperationActive OPERATION_ACTIVE = 0x90, OperationNotInitialized OPERATION_NOT_INITIALIZED = 0x91, PinIncorrect PIN_INCORRECT = 0xa0,
    PinInvalid PIN_INVALID = 0xa1, PinLenRange PIN_LEN_RANGE = 0xa2, PinExpired PIN_EXPIRED = 0xa3, PinLocked PIN_LOCKED = 0xa4,
    SessionClosed SESSION_CLOSED = 0xb0, SessionCount SESSION_COUNT = 0xb1,
    SessionHandleInvalid SESSION_HANDLE_INVALID = 0xb3, SessionParallelNotSupported SESSION_PARALLEL_NOT_SUPPORTED = 0xb4,
    SessionReadOnly SESSION_READ_ONLY = 0xb5, SessionExists SESSION_EXISTS = 0xb6, SessionReadOnlyExists SESSION_READ_ONLY_EXISTS = 0xb7,
    SessionReadWriteSoExists SESSION_READ_WRITE_SO_EXISTS = 0xb8, SignatureInvalid SIGNATURE_INVALID = 0xc0,
    SignatureLenRange SIGNATURE_LEN_RANGE = 0xc1, TemplateIncomplete TEMPLATE_INCOMPLETE = 0xd0,
    TemplateInconsistent TEMPLATE_INCONSISTENT = 0xd1, TokenNotPresent TOKEN_NOT_PRESENT = 0xe0,
    TokenNotRecognized TOKEN_NOT_RECOGNIZED = 0xe1, TokenWriteProtected TOKEN_WRITE_PROTECTED = 0xe2,
    UnwrappingKeyHandleInvalid UNWRAPPING_KEY_HANDLE_INVALID = 0xf0, UnwrappingKeySizeRange UNWRAPPING_KEY_SIZE_RANGE = 0xf1,
    UnwrappingKeyTypeInconsistent UNWRAPPING_KEY_TYPE_INCONSISTENT = 0xf2, UserAlreadyLoggedIn USER_ALREADY_LOGGED_IN = 0x100,
    UserNotLoggedIn USER_NOT_LOGGED_IN = 0x101, UserPinNotInitialized USER_PIN_NOT_INITIALIZED = 0x102,
    UserTypeInvalid USER_TYPE_INVALID = 0x103, UserAnotherAlreadyLoggedIn USER_ANOTHER_ALREADY_LOGGED_IN = 0x104,
    UserTooManyTypes USER_TOO_MANY_TYPES = 0x105, WrappedKeyInvalid WRAPPED_KEY_INVALID = 0x110,
    WrappedKeyLenRange WRAPPED_KEY_LEN_RANGE = 0x112, WrappingKeyHandleInvalid WRAPPING_KEY_HANDLE_INVALID = 0x113,
    WrappingKeySizeRange WRAPPING_KEY_SIZE_RANGE = 0x114, WrappingKeyTypeInconsistent WRAPPING_KEY_TYPE_INCONSISTENT = 0x115,
    RandomSeedNotSupported RANDOM_SEED_NOT_SUPPORTED = 0x120, RandomNoRng RANDOM_NO_RNG = 0x121,
    DomainParamsInvalid DOMAIN_PARAMS_INVALID = 0x130, CurveNotSupported CURVE_NOT_SUPPORTED = 0x140,
    BufferTooSmall BUFFER_TOO_SMALL = 0x150, SavedStateInvalid SAVED_STATE_INVALID = 0x160,
    InformationSensitive INFORMATION_SENSITIVE = 0x170, StateUnsaveable STATE_UNSAVEABLE = 0x180,
    CryptokiNotInitialized CRYPTOKI_NOT_INITIALIZED = 0x190, CryptokiAlreadyInitialized CRYPTOKI_ALREADY_INITIALIZED = 0x191,
    MutexBad MUTEX_BAD = 0x1a0, MutexNotLocked MUTEX_NOT_LOCKED = 0x1a1, NewPinMode NEW_PIN_MODE = 0x1b0, NextOtp NEXT_OTP = 0x1b1,
    ExceededMaxIterations EXCEEDED_MAX_ITERATIONS = 0x1b5, FipsSelfTestFailed FIPS_SELF_TEST_FAILED = 0x1b6,
    LibraryLoadFailed LIBRARY_LOAD_FAILED = 0x1b7, PinTooWeak PIN_TOO_WEAK = 0x1b8, PublicKeyInvalid PUBLIC_KEY_INVALID = 0x1b9,
    FunctionRejected FUNCTION_REJECTED = 0x200, TokenResourceExceeded TOKEN_RESOURCE_EXCEEDED = 0x201,
    OperationCancelFailed OPERATION_CANCEL_FAILED = 0x202, KeyExhausted KEY_EXHAUSTED = 0x203,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(rv: Ckr) -> Failure {
        Failure {
            function: "C_Sign",
            during: During::Sign,
            rv: Some(rv),
            detail: String::new(),
        }
    }

    #[test]
    fn the_return_value_behind_an_error_is_told() {
        for rv in Ckr::NAMED.iter().copied().chain([Ckr::Other(0x8000_0042)]) {
            let meaning = failure(rv).meaning(None);
            // One text for every cause, and no code in it.
            let opaque = matches!(meaning, Error::DecryptionFailed | Error::NotExtractable);
            assert_eq!(meaning.ckr(), (!opaque).then_some(rv), "{meaning}");
            assert!(opaque || meaning.to_string().ends_with(&rv.to_string()), "{meaning}");
        }
        for error in [Error::Busy, Error::Timeout, Error::Device("it answered nothing".into())] {
            assert_eq!(error.ckr(), None);
        }
    }
}
