//! The checks of a request against a key, in the order that callers rely on: algorithm, key type, usage, lengths.

use super::mechanism::{key_curve, listed};
use super::request::{Choice, MessageType, Sign, SignatureFormat};
use crate::algorithm::{Algorithm, Hash, JoseKey, Named, Operation, Scheme};
use crate::backend::MechanismInfo;
use crate::error::{Error, Result};
use crate::index::Key;
use crate::key::{Curve, KeySize, KeyType, Usage};
use crate::shared::Shared;

pub(super) enum Chosen {
    /// The algorithm is known.
    Algorithm(Algorithm),
    /// RSA-OAEP; without a hash it is for the token to say which.
    Oaep(Option<Hash>),
}

pub(super) fn choose(shared: &Shared, key: &Key, choice: &Choice, operation: Operation) -> Result<Chosen> {
    let named = match &choice.0 {
        Some(Ok(named)) => Some(*named),
        Some(Err(name)) => {
            let known = Named::names(operation).join(", ");
            return Err(Error::UnsupportedAlgorithm(format!(
                "`{}` is no algorithm to {} with; there are {known}",
                name.escape_debug(),
                operation.name()
            )));
        }
        None => None,
    };
    let Some(named) = named else {
        return default_algorithm(shared, key, operation);
    };
    let Named { algorithm, jose } = named;
    if algorithm == Algorithm::AesCbc && !shared.options.legacy_algorithms {
        return Err(Error::UnsupportedAlgorithm("AES-CBC is a padding oracle over an API: HSM_LEGACY_ALGORITHMS=true allows it; AES-GCM is the better choice".into()));
    }
    let row = algorithm.row();
    let info = &key.info;
    if row.key_type != info.key_type {
        return Err(Error::KeyTypeMismatch(format!(
            "{} takes a key of type {}; this one is {}",
            row.name, row.key_type, info.key_type
        )));
    }
    let fixed = match jose.map(|jose| jose.key) {
        // One JOSE name may stand for a curve each; only the named one is right.
        Some(JoseKey::Curve(curve)) => info.size == KeySize::Curve(curve),
        Some(JoseKey::Bits(bits)) => info.size == KeySize::Bits(bits),
        Some(JoseKey::AtLeast(least)) => matches!(info.size, KeySize::Bits(bits) if bits >= least),
        Some(JoseKey::Any) | None => true,
    };
    if !fixed {
        let name = jose.map_or(row.name, |jose| jose.name);
        return Err(Error::KeyTypeMismatch(format!(
            "{name} fixes the curve or the size of the key, and this key has another"
        )));
    }
    if row.key_type == KeyType::Ec && key_curve(key).is_none() {
        return Err(Error::KeyTypeMismatch(
            "the key is on a curve that the gateway does not know".into(),
        ));
    }
    if let (Scheme::Hmac(hash), KeySize::Bits(bits)) = (algorithm.scheme(), info.size)
        && (bits as usize) < 8 * hash.len()
    {
        return Err(Error::KeyTypeMismatch(format!(
            "{} takes a key of at least {} bits (RFC 7518 §3.2); this one has {bits}",
            row.name,
            8 * hash.len()
        )));
    }
    if let (Scheme::Pss(hash), KeySize::Bits(bits)) = (algorithm.scheme(), info.size)
        && (bits.div_ceil(8) as usize) < 2 * hash.len() + 2
    {
        let text = format!("a key of {bits} bits is too short for {} (RFC 8017 §9.1.1)", row.name);
        return Err(Error::KeyTypeMismatch(text));
    }
    match algorithm.scheme() {
        Scheme::Oaep(hash) => Ok(Chosen::Oaep(Some(hash))),
        Scheme::PostQuantum => Err(Error::NotSupported(format!("{} is not served yet", row.name))),
        _ => Ok(Chosen::Algorithm(algorithm)),
    }
}

pub(super) fn default_algorithm(shared: &Shared, key: &Key, operation: Operation) -> Result<Chosen> {
    let crypts = matches!(operation, Operation::Encrypt | Operation::Decrypt);
    let none = || {
        Error::KeyTypeMismatch(format!(
            "a key of type {} can't {}",
            key.info.key_type,
            operation.name()
        ))
    };
    let algorithm = match (key.info.key_type, crypts, key.info.size) {
        (KeyType::Aes, true, _) => Algorithm::AesGcm,
        (KeyType::Aes, false, _) => Algorithm::AesCmac,
        (KeyType::Rsa, true, _) => return Ok(Chosen::Oaep(None)),
        (KeyType::Rsa, false, _) => Algorithm::RsaPssSha256,
        (KeyType::Ec, false, KeySize::Curve(Curve::P384)) => Algorithm::EcdsaSha384,
        (KeyType::Ec, false, KeySize::Curve(Curve::P521)) => Algorithm::EcdsaSha512,
        (KeyType::Ec, false, KeySize::Curve(_)) => Algorithm::EcdsaSha256,
        (KeyType::Ec, false, _) => {
            return Err(Error::KeyTypeMismatch(
                "the key is on a curve that the gateway does not know".into(),
            ));
        }
        (KeyType::Ed, false, _) => Algorithm::EdDsa,
        (KeyType::Hmac, false, size) => strongest_hmac(shared, size, operation)?,
        (KeyType::MlDsa | KeyType::SlhDsa, false, _) => {
            return Err(Error::NotSupported(format!("{} is not served yet", key.info.key_type)));
        }
        (KeyType::Ec | KeyType::Ed | KeyType::Hmac | KeyType::MlDsa | KeyType::MlKem | KeyType::SlhDsa, _, _) => {
            return Err(none());
        }
    };
    Ok(Chosen::Algorithm(algorithm))
}

/// The strongest HMAC that the token has and the key is long enough for.
pub(super) fn strongest_hmac(shared: &Shared, size: KeySize, operation: Operation) -> Result<Algorithm> {
    let bits = match size {
        KeySize::Bits(bits) => bits as usize,
        KeySize::Curve(_) | KeySize::ParameterSet(_) | KeySize::Unknown => usize::MAX,
    };
    let candidates = [Algorithm::HmacSha512, Algorithm::HmacSha384, Algorithm::HmacSha256];
    let long_enough =
        |algorithm: &Algorithm| matches!(algorithm.scheme(), Scheme::Hmac(hash) if bits >= 8 * hash.len());
    let has = |algorithm: &Algorithm| {
        let does = |info: &MechanismInfo| {
            if operation == Operation::Sign {
                info.sign
            } else {
                info.verify
            }
        };
        listed(shared, algorithm.row().native, does).is_ok()
    };
    let mut possible = candidates.into_iter().filter(long_enough).peekable();
    let weakest = possible.peek().copied();
    possible.find(has).or(weakest).ok_or_else(|| {
        Error::KeyTypeMismatch("the key is shorter than 256 bits: no HMAC takes it (RFC 7518 §3.2)".into())
    })
}

pub(super) fn permit(shared: &Shared, key: &Key, usage: Usage) -> Result<()> {
    if key.info.usages.contains(usage) {
        return Ok(());
    }
    // Without a login the private half is not seen, and with it what it may be used for.
    shared.link.check_login()?;
    let may: Vec<_> = key.info.usages.iter().map(Usage::name).collect();
    let may = if may.is_empty() {
        "nothing".to_owned()
    } else {
        may.join(", ")
    };
    Err(Error::UsageNotPermitted(format!(
        "the key may not {usage}; it may {may}"
    )))
}

pub(super) fn refuse_aad(chosen: &Chosen, aad: Option<&[u8]>) -> Result<()> {
    match (chosen, aad) {
        (Chosen::Algorithm(Algorithm::AesGcm), _) | (_, None) => Ok(()),
        (_, Some(_)) => Err(Error::invalid(
            "aad",
            "only AES-GCM takes additional authenticated data",
        )),
    }
}

/// A field that the algorithm has or has not. One that is there without need, or missing, is the caller's error.
pub(super) fn given(field: &'static str, needed: bool, value: Option<Vec<u8>>) -> Result<Vec<u8>> {
    match (needed, value) {
        (true, Some(value)) => Ok(value),
        (false, None) => Ok(Vec::new()),
        (true, None) => Err(Error::invalid(
            field,
            "is missing: the algorithm needs what encryption answered",
        )),
        (false, Some(_)) => Err(Error::invalid(field, "the algorithm has none: leave it out or null")),
    }
}

pub(super) fn fits_oaep(capacity: Option<usize>, data: &[u8]) -> Result<()> {
    match capacity {
        Some(most) if data.len() > most => Err(Error::invalid(
            "data",
            format!("at most {most} bytes with this key and algorithm; encrypt longer data with an AES key"),
        )),
        _ => Ok(()),
    }
}

/// The algorithm, and the format of an ECDSA signature.
pub(super) fn check_signing(
    shared: &Shared,
    key: &Key,
    request: &Sign,
    operation: Operation,
) -> Result<(Algorithm, Option<SignatureFormat>)> {
    let Chosen::Algorithm(algorithm) = choose(shared, key, &request.algorithm, operation)? else {
        return Err(Error::Internal("RSA-OAEP does not sign".into()));
    };
    permit(
        shared,
        key,
        if operation == Operation::Sign {
            Usage::Sign
        } else {
            Usage::Verify
        },
    )?;
    if request.message_type == MessageType::Digest {
        let hash = algorithm.digest().ok_or_else(|| {
            Error::invalid(
                "message_type",
                format!("{} takes the data itself: `raw`", algorithm.name()),
            )
        })?;
        if request.data.len() != hash.len() {
            return Err(Error::invalid(
                "data",
                format!("a {} digest has {} bytes", hash.name(), hash.len()),
            ));
        }
    }
    let by_jose = matches!(&request.algorithm.0, Some(Ok(Named { jose: Some(_), .. })));
    let format = match (algorithm.scheme(), request.format) {
        (Scheme::Ecdsa(_), Some(format)) => Some(format),
        (Scheme::Ecdsa(_), None) => Some(if by_jose {
            SignatureFormat::P1363
        } else {
            SignatureFormat::Der
        }),
        (_, None) => None,
        (_, Some(_)) => {
            return Err(Error::invalid(
                "signature_format",
                format!("{} has one form only: leave it out or null", algorithm.name()),
            ));
        }
    };
    Ok((algorithm, format))
}
