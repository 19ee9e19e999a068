//! What a return value of PKCS#11 means for the caller: the one match from CKR to [`Error`].

use crate::error::{Ckr, During, Error, Failure};
use crate::key::HsmKeyId;

impl Failure {
    /// What the failure means for the caller; `key` is the key that the call used.
    pub(crate) fn meaning(&self, key: Option<&HsmKeyId>) -> Error {
        use Ckr as C;
        let Some(rv) = self.rv else {
            return Error::Device(self.to_string());
        };
        match (rv, self.during) {
            (C::TokenNotPresent | C::DeviceRemoved, _) => Error::Unavailable(format!("the token is not there: {self}")),
            (C::UserNotLoggedIn, _) => Error::Unavailable(format!("the login to the token is lost: {self}")),
            (
                C::MechanismInvalid
                | C::MechanismParamInvalid
                | C::CurveNotSupported
                | C::FunctionNotSupported
                | C::TokenWriteProtected
                | C::SessionReadOnly,
                _,
            )
            | (C::ArgumentsBad, During::Start) => Error::NotSupported(format!("this token cannot do it: {self}")),
            (C::KeyFunctionNotPermitted | C::ActionProhibited, _) => {
                Error::UsageNotPermitted(format!("the token does not permit this use of the key: {self}"))
            }
            (C::KeyUnextractable | C::KeyNotWrappable, _) => Error::NotExtractable,
            (C::KeyHandleInvalid | C::ObjectHandleInvalid, _) if key.is_some() => {
                key.cloned().map_or(Error::Timeout, Error::KeyNotFound)
            }
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
                During::Create,
            ) => Error::invalid("key_type", format!("the token does not make such a key: {self}")),
            (C::DataInvalid | C::DataLenRange, During::Encrypt | During::Sign) => Error::invalid(
                "data",
                format!("the token does not take this much or this little: {self}"),
            ),
            _ => Error::Device(self.to_string()),
        }
    }
}
