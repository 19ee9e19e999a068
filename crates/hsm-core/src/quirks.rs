//! What some modules answer where PKCS#11 has a code of its own for it. `docs/MODULES.md` lists each.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::backend::Token;
use crate::error::{Ckr, During, Failure};
use crate::key::{Curve, KeySpec};

/// `failure` as it would read if the module followed the standard, for a key that could not be made.
pub(crate) fn of_creation(token: &Token, spec: KeySpec, failure: Failure) -> Failure {
    let unknown_curve = matches!(spec, KeySpec::Curve(Curve::Secp256k1)) && failure.rv == Some(Ckr::GeneralError);
    if is_kryoptic(token) && unknown_curve {
        reads(failure, Ckr::CurveNotSupported)
    } else {
        failure
    }
}

/// The same for a ciphertext that could not be decrypted with RSA.
pub(crate) fn of_rsa_decryption(token: &Token, failure: Failure) -> Failure {
    let wrong_padding = failure.during == During::Decrypt && failure.rv == Some(Ckr::DeviceError);
    if is_kryoptic(token) && wrong_padding {
        reads(failure, Ckr::EncryptedDataInvalid)
    } else {
        failure
    }
}

/// Whether `failure` speaks, or may speak, of a handle whose object is gone.
pub(crate) fn is_dead_handle(token: &Token, failure: &Failure) -> bool {
    let said = matches!(failure.rv, Some(Ckr::ObjectHandleInvalid | Ckr::KeyHandleInvalid));
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

fn reads(failure: Failure, rv: Ckr) -> Failure {
    Failure {
        rv: Some(rv),
        ..failure
    }
}

fn is_softhsm(token: &Token) -> bool {
    token.manufacturer.contains("SoftHSM")
}

fn is_kryoptic(token: &Token) -> bool {
    token.manufacturer.contains("Kryoptic")
}
