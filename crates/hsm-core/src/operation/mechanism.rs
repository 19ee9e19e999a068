//! What the token has for an algorithm, and what it is given.

use super::BLOCK;
use super::request::MessageType;
use crate::algorithm::{Algorithm, Hash, MechanismId, Operation, Scheme};
use crate::backend::{Handle, Mechanism, Outcome, Used};
use crate::encoding;
use crate::error::{Ckr, During, Error, Failure, Result};
use crate::index::Key;
use crate::key::{Curve, KeySize, KeyType};
use crate::shared::Shared;
use crate::software::Message;

/// That the token has the mechanism for the operation.
pub(crate) fn listed(shared: &Shared, mechanism: MechanismId, operation: Operation) -> Result<()> {
    let mechanisms = shared.link.mechanisms();
    if mechanisms
        .iter()
        .any(|info| info.id == mechanism && info.does(operation))
    {
        Ok(())
    } else {
        Err(no_mechanism(mechanism))
    }
}

pub(crate) fn no_mechanism(mechanism: MechanismId) -> Error {
    Error::NotSupported(format!("this token has no {mechanism}").into())
}

/// The mechanism that signs or verifies: the one that hashes too where the token has it and gets the data, else the bare one.
pub(super) fn signing_mechanism(
    shared: &Shared,
    key: &Key,
    algorithm: Algorithm,
    message_type: MessageType,
    context: &[u8],
    operation: Operation,
) -> Result<Mechanism> {
    let row = algorithm.row();
    let native = if message_type == MessageType::Raw {
        listed(shared, row.native, operation)
    } else {
        Err(no_mechanism(row.native))
    };
    let hashed_here = match (&native, row.bare) {
        (Ok(()), _) => false,
        (Err(_), Some(bare)) => {
            listed(shared, bare, operation)?;
            true
        }
        (Err(error), None) => return Err(error.clone()),
    };
    Ok(match algorithm.scheme() {
        Scheme::Pkcs1(hash) => Mechanism::RsaPkcs1((!hashed_here).then_some(hash)),
        Scheme::Pss(hash) if hashed_here => Mechanism::RsaPssDigest(hash),
        Scheme::Pss(hash) => Mechanism::RsaPss(hash),
        Scheme::Ecdsa(hash) => Mechanism::Ecdsa((!hashed_here).then_some(hash)),
        Scheme::EdDsa => Mechanism::Eddsa {
            ed448: key.info.size == KeySize::Curve(Curve::Ed448),
        },
        Scheme::Hmac(hash) => Mechanism::Hmac(hash),
        Scheme::Cmac => Mechanism::AesCmac,
        Scheme::PostQuantum if row.key_type == KeyType::SlhDsa => Mechanism::SlhDsa {
            context: context.to_vec(),
        },
        Scheme::PostQuantum => Mechanism::MlDsa {
            context: context.to_vec(),
        },
        Scheme::HashMlDsa(hash) => Mechanism::HashMlDsa {
            hash,
            context: context.to_vec(),
        },
        Scheme::Gcm
        | Scheme::Ccm
        | Scheme::Ctr
        | Scheme::Cbc
        | Scheme::Oaep(_)
        | Scheme::Kw
        | Scheme::Kwp
        | Scheme::RsaAesKeyWrap
        | Scheme::Ecdh
        | Scheme::Hkdf(_)
        | Scheme::Kem => {
            return Err(Error::Internal(format!("{} does not sign", row.name)));
        }
    })
}

/// What the mechanism is given: the data, its digest, or that in a DigestInfo.
pub(super) fn signing_input<'a>(
    mechanism: &Mechanism,
    algorithm: Algorithm,
    message_type: MessageType,
    data: &'a [u8],
) -> std::borrow::Cow<'a, [u8]> {
    let digest = |hash: Hash| match message_type {
        MessageType::Raw => encoding::digest(hash, data).into(),
        MessageType::Digest => std::borrow::Cow::Borrowed(data),
    };
    match (mechanism, algorithm.scheme()) {
        (Mechanism::RsaPkcs1(None), Scheme::Pkcs1(hash)) => encoding::digest_info(hash, &digest(hash)).into(),
        (Mechanism::RsaPssDigest(_), Scheme::Pss(hash)) | (Mechanism::Ecdsa(None), Scheme::Ecdsa(hash)) => digest(hash),
        _ => data.into(),
    }
}

pub(super) fn message(message_type: MessageType, data: &[u8]) -> Message<'_> {
    match message_type {
        MessageType::Raw => Message::Raw(data),
        MessageType::Digest => Message::Digest(data),
    }
}

pub(super) fn key_curve(key: &Key) -> Option<Curve> {
    match key.info.size {
        KeySize::Curve(curve) => Some(curve),
        KeySize::Bits(_) | KeySize::ParameterSet(_) | KeySize::Unknown => None,
    }
}

/// Whether a signature that is no DER is as long as the algorithm's are. Tokens differ in what they take.
pub(super) fn has_right_length(key: &Key, algorithm: Algorithm, length: usize) -> bool {
    let expected = match (algorithm.scheme(), key.info.size) {
        (Scheme::Hmac(hash), _) => Some(hash.len()),
        (Scheme::Cmac, _) => Some(BLOCK),
        (Scheme::Pkcs1(_) | Scheme::Pss(_), KeySize::Bits(bits)) => Some(bits.div_ceil(8) as usize),
        (Scheme::Ecdsa(_) | Scheme::EdDsa, KeySize::Curve(curve)) => Some(2 * curve.field_bytes()),
        (Scheme::PostQuantum | Scheme::HashMlDsa(_), KeySize::ParameterSet(set)) => Some(set.output_bytes()),
        _ => None,
    };
    expected.is_none_or(|expected| expected == length)
}

/// The private half, with the PIN if it asks for that at each use.
pub(super) fn private<'a>(shared: &'a Shared, key: &Key) -> Outcome<Used<'a>> {
    let handle = key.private().ok_or_else(|| no_half("private"))?;
    if !key.always_authenticate {
        return Ok(Used::freely(handle));
    }
    let pin = shared.link.context_pin().map_err(|error| Failure {
        function: "C_Login",
        during: During::Other,
        rv: Some(Ckr::UserNotLoggedIn),
        detail: error.to_string(),
    })?;
    Ok(Used {
        handle,
        login: Some(pin),
    })
}

pub(super) fn public(key: &Key) -> Outcome<Handle> {
    key.public().ok_or_else(|| no_half("public"))
}

/// The key lost a half between the check and the use.
pub(crate) fn no_half(half: &str) -> Failure {
    Failure {
        function: "C_FindObjects",
        during: During::Other,
        rv: Some(Ckr::KeyFunctionNotPermitted),
        detail: format!("the key has no {half} half"),
    }
}
