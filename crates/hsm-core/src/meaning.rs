//! What a return value of PKCS#11 means for the caller: the one match from CKR to [`Error`].

use crate::error::{Ckr, During, Error, Failure, Reason};
use crate::key::HsmKeyId;

impl Failure {
    /// What is to be said of the failure, which is named behind it.
    pub(crate) fn reason(&self, said: &str) -> Reason {
        let text = format!("{said}: {self}");
        match self.rv {
            Some(rv) => Reason::told(text, rv),
            None => text.into(),
        }
    }

    /// What the failure means for the caller; `key` is the key that the call used.
    pub(crate) fn meaning(&self, key: Option<&HsmKeyId>) -> Error {
        use Ckr as C;
        let Some(rv) = self.rv else {
            return Error::Device(self.into());
        };
        match (rv, self.during) {
            (C::TokenNotPresent | C::DeviceRemoved, _) => Error::Unavailable(self.reason("the token is not there")),
            (C::UserNotLoggedIn, _) => Error::Unavailable(self.reason("the login to the token is lost")),
            (
                C::MechanismInvalid
                | C::MechanismParamInvalid
                | C::CurveNotSupported
                | C::FunctionNotSupported
                | C::TokenWriteProtected
                | C::SessionReadOnly,
                _,
            )
            | (C::ArgumentsBad, During::Start | During::Wrap) => {
                Error::NotSupported(self.reason("this token cannot do it"))
            }
            (C::KeyFunctionNotPermitted | C::ActionProhibited, _) => {
                Error::UsageNotPermitted(self.reason("the token does not permit this use of the key"))
            }
            (C::KeyUnextractable | C::KeyNotWrappable, _) => Error::NotExtractable,
            (
                C::KeyHandleInvalid
                | C::ObjectHandleInvalid
                | C::WrappingKeyHandleInvalid
                | C::UnwrappingKeyHandleInvalid,
                _,
            ) if key.is_some() => key.cloned().map_or(Error::Timeout, Error::KeyNotFound),
            (
                C::EncryptedDataInvalid
                | C::EncryptedDataLenRange
                | C::AeadDecryptFailed
                | C::DataInvalid
                | C::DataLenRange
                | C::GeneralError
                | C::FunctionFailed,
                During::Decrypt,
            ) => Error::DecryptionFailed,
            (
                C::KeySizeRange
                | C::AttributeTypeInvalid
                | C::AttributeValueInvalid
                | C::TemplateIncomplete
                | C::TemplateInconsistent
                | C::DomainParamsInvalid,
                During::Create | During::Unwrap,
            ) => Error::invalid("key_type", self.reason("the token does not make such a key")),
            (C::KeySizeRange, During::Start) => {
                Error::KeyTypeMismatch(self.reason("the key is too short or too long for this algorithm"))
            }
            (C::KeySizeRange | C::DataInvalid | C::DataLenRange, During::Wrap) => Error::invalid(
                "target_key_id",
                self.reason("the key is not as long as the algorithm takes, AES-KWP takes any length"),
            ),
            (
                C::WrappedKeyInvalid
                | C::WrappedKeyLenRange
                | C::EncryptedDataInvalid
                | C::EncryptedDataLenRange
                | C::AeadDecryptFailed
                | C::DataInvalid
                | C::DataLenRange
                | C::GeneralError
                | C::FunctionFailed,
                During::Unwrap,
            ) => Error::invalid(
                "key_material",
                self.reason("does not unwrap to such a key with this wrapping key and algorithm"),
            ),
            (C::DataInvalid | C::DataLenRange, During::Encrypt | During::Sign) => {
                Error::invalid("data", self.reason("the token does not take this much or this little"))
            }
            _ => Error::Device(self.into()),
        }
    }
}
