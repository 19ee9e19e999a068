//! What some modules answer where PKCS#11 has a code of its own for it. `docs/MODULES.md` lists each.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::algorithm::{MechanismId, Operation};
use crate::backend::{Mechanism, MechanismInfo, Token};
use crate::error::{Ckr, During, Failure};
use crate::key::{Curve, KeySize, KeySpec, Material};

/// `failure` as it would read if the module followed the standard, for a key that could not be made.
pub(crate) fn of_creation(token: &Token, spec: KeySpec, failure: Failure) -> Failure {
    let unknown_curve = matches!(spec, KeySpec::Curve(Curve::Secp256k1)) && failure.rv == Some(Ckr::GeneralError);
    if is_kryoptic(token) && unknown_curve {
        reads(failure, Ckr::CurveNotSupported)
    } else {
        failure
    }
}

/// The same for a key from outside.
pub(crate) fn of_import(token: &Token, material: &Material, failure: Failure) -> Failure {
    let says_so = matches!(failure.rv, Some(Ckr::GeneralError | Ckr::AttributeValueInvalid));
    let unknown_curve = material.size() == KeySize::Curve(Curve::Secp256k1) && says_so;
    if is_kryoptic(token) && unknown_curve {
        reads(failure, Ckr::CurveNotSupported)
    } else {
        failure
    }
}

/// The same for a ciphertext that could not be decrypted.
pub(crate) fn of_decryption(token: &Token, mechanism: &Mechanism, failure: Failure) -> Failure {
    let wrong = failure.during == During::Decrypt && failure.rv == Some(Ckr::DeviceError);
    let says_so = matches!(mechanism, Mechanism::RsaOaep(_) | Mechanism::AesCcm { .. });
    if is_kryoptic(token) && wrong && says_so {
        reads(failure, Ckr::EncryptedDataInvalid)
    } else {
        failure
    }
}

/// Whether `failure` says that a signature is wrong where the standard has a code for that: NSS answers a wrong message
/// authentication code with whatever the error before was.
pub(crate) fn is_wrong_signature(token: &Token, mechanism: &Mechanism, failure: &Failure) -> bool {
    let authenticates = matches!(mechanism, Mechanism::Hmac(_) | Mechanism::AesCmac);
    let of_the_session = matches!(
        failure.rv,
        Some(
            Ckr::SessionHandleInvalid
                | Ckr::SessionClosed
                | Ckr::UserNotLoggedIn
                | Ckr::TokenNotPresent
                | Ckr::DeviceRemoved
                | Ckr::CryptokiNotInitialized
        )
    );
    is_nss(token) && authenticates && failure.during == During::Verify && !of_the_session
}

/// Whether `failure` speaks, or may speak, of a handle whose object is gone.
pub(crate) fn is_dead_handle(token: &Token, failure: &Failure) -> bool {
    let said = matches!(
        failure.rv,
        Some(
            Ckr::ObjectHandleInvalid
                | Ckr::KeyHandleInvalid
                | Ckr::WrappingKeyHandleInvalid
                | Ckr::UnwrappingKeyHandleInvalid
        )
    );
    // What another program destroyed is a failed look into the database.
    let meant = failure.rv == Some(Ckr::GeneralError) && matches!(failure.during, During::Start | During::Other);
    said || (meant && is_kryoptic(token))
}

/// Keeps searches apart from what makes and destroys objects, for modules that can't do both at once: SoftHSM refuses a
/// good template now and then (CKR_TEMPLATE_INCONSISTENT) while another thread searches.
#[derive(Default)]
pub(crate) struct Catalogue(RwLock<()>);

/// For as long as it is held, the catalogue is one's own, or shared with other searches.
pub(crate) enum Hold<'a> {
    Free,
    Search { _guard: RwLockReadGuard<'a, ()> },
    Change { _guard: RwLockWriteGuard<'a, ()> },
}

impl Catalogue {
    /// Before a search.
    pub(crate) fn search(&self, token: &Token) -> Hold<'_> {
        if !is_softhsm(token) {
            return Hold::Free;
        }
        Hold::Search {
            _guard: self.0.read().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Before an object is made or destroyed.
    pub(crate) fn change(&self, token: &Token) -> Hold<'_> {
        if !is_softhsm(token) {
            return Hold::Free;
        }
        Hold::Change {
            _guard: self.0.write().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

/// Whether a module, by the manufacturer of its library, refuses key pairs that are told what they may not be used for:
/// tpm2-pkcs11 takes a false CKA_DECRYPT of the private half for a false CKA_VERIFY of the public one.
#[cfg(feature = "pkcs11")]
pub(crate) fn takes_set_usages_only(library_manufacturer: &str) -> bool {
    library_manufacturer.contains("tpm2-software")
}

/// The failure of a key that could not be unwrapped, as it would read if the module followed the standard.
pub(crate) fn of_unwrapping(token: &Token, failure: Failure) -> Failure {
    match failure.rv {
        Some(Ckr::DeviceError) if is_kryoptic(token) && failure.during == During::Unwrap => {
            reads(failure, Ckr::WrappedKeyInvalid)
        }
        // It asks for the public point of an EC key, which nobody knows yet.
        Some(Ckr::TemplateIncomplete) if is_nss(token) && failure.during == During::Unwrap => {
            reads(failure, Ckr::FunctionNotSupported)
        }
        _ => failure,
    }
}

/// The mechanism list without what is in it and refused all the same: NSS has no C_VerifyInit for AES-CMAC.
pub(crate) fn of_mechanisms(token: &Token, mut listed: Vec<MechanismInfo>) -> Vec<MechanismInfo> {
    for info in &mut listed {
        if is_nss(token) && info.id == MechanismId::AES_CMAC {
            info.flags = info.flags.without(Operation::Verify.name());
        }
    }
    listed
}

/// Whether the module's CKM_AES_KEY_WRAP_PAD is RFC 5649. The standard leaves it open, and makes differ.
pub(crate) fn pads_as_kwp(token: &Token) -> bool {
    is_softhsm(token)
}

fn reads(failure: Failure, rv: Ckr) -> Failure {
    Failure {
        rv: Some(rv),
        ..failure
    }
}

fn is_softhsm(token: &Token) -> bool {
    token.manufacturer.contains("SoftHSM")
}

fn is_nss(token: &Token) -> bool {
    token.manufacturer.contains("Mozilla")
}

fn is_kryoptic(token: &Token) -> bool {
    token.manufacturer.contains("Kryoptic")
}
