//! The checks of a request against a key, in the order that callers rely on: algorithm, key type, usage, lengths.

use super::mechanism::{key_curve, listed};
use super::request::{Choice, MessageType, Sign, SignatureFormat};
use crate::algorithm::{Algorithm, Hash, JoseKey, Named, Operation, Scheme};
use crate::error::{Error, Result};
use crate::index::Key;
use crate::key::{Curve, KeySize, KeyType, Usage};
use crate::shared::Shared;

/// The longest context (FIPS 204 §5.2), in bytes.
const MOST_CONTEXT: usize = 255;

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
        return Err(Error::KeyTypeMismatch(
            format!(
                "{} takes a key of type {}; this one is {}",
                row.name, row.key_type, info.key_type
            )
            .into(),
        ));
    }
    let fixed = match jose.map(|jose| jose.key) {
        // One JOSE name may stand for a curve each; only the named one is right.
        Some(JoseKey::Curve(curve)) => info.size == KeySize::Curve(curve),
        Some(JoseKey::Bits(bits)) => info.size == KeySize::Bits(bits),
        Some(JoseKey::Set(set)) => info.size == KeySize::ParameterSet(set),
        Some(JoseKey::AtLeast(least)) => matches!(info.size, KeySize::Bits(bits) if bits >= least),
        Some(JoseKey::Any) | None => true,
    };
    if !fixed {
        let name = jose.map_or(row.name, |jose| jose.name);
        return Err(Error::KeyTypeMismatch(
            format!("{name} fixes the curve or the size of the key, and this key has another").into(),
        ));
    }
    if row.key_type == KeyType::Ec && key_curve(key).is_none() {
        return Err(unknown_curve());
    }
    if let (Scheme::Hmac(hash), KeySize::Bits(bits)) = (algorithm.scheme(), info.size)
        && (bits as usize) < 8 * hash.len()
    {
        return Err(Error::KeyTypeMismatch(
            format!(
                "{} takes a key of at least {} bits (RFC 7518 §3.2); this one has {bits}",
                row.name,
                8 * hash.len()
            )
            .into(),
        ));
    }
    if let (Scheme::Pss(hash), KeySize::Bits(bits)) = (algorithm.scheme(), info.size)
        && (bits.div_ceil(8) as usize) < 2 * hash.len() + 2
    {
        let text = format!("a key of {bits} bits is too short for {} (RFC 8017 §9.1.1)", row.name);
        return Err(Error::KeyTypeMismatch(text.into()));
    }
    match algorithm.scheme() {
        Scheme::Oaep(hash) if operation.crypts() => Ok(Chosen::Oaep(Some(hash))),
        _ => Ok(Chosen::Algorithm(algorithm)),
    }
}

pub(super) fn default_algorithm(shared: &Shared, key: &Key, operation: Operation) -> Result<Chosen> {
    use Operation as O;
    let none =
        || Error::KeyTypeMismatch(format!("a key of type {} can't {}", key.info.key_type, operation.name()).into());
    let algorithm = match (operation, key.info.key_type) {
        (O::Encrypt | O::Decrypt, KeyType::Aes) => Algorithm::AesGcm,
        (O::Encrypt | O::Decrypt, KeyType::Rsa) => return Ok(Chosen::Oaep(None)),
        (O::Sign | O::Verify, KeyType::Aes) => Algorithm::AesCmac,
        (O::Sign | O::Verify, KeyType::Rsa) => Algorithm::RsaPssSha256,
        (O::Sign | O::Verify, KeyType::Ec) => match key_curve(key).ok_or_else(unknown_curve)? {
            Curve::P384 => Algorithm::EcdsaSha384,
            Curve::P521 => Algorithm::EcdsaSha512,
            Curve::P256 | Curve::Secp256k1 | Curve::Ed25519 | Curve::Ed448 => Algorithm::EcdsaSha256,
        },
        (O::Sign | O::Verify, KeyType::Ed) => Algorithm::EdDsa,
        (O::Sign | O::Verify, KeyType::Hmac) => strongest_hmac(shared, key.info.size, operation)?,
        (O::Sign | O::Verify, KeyType::MlDsa) => Algorithm::MlDsa,
        (O::Sign | O::Verify, KeyType::SlhDsa) => Algorithm::SlhDsa,
        (O::Wrap | O::Unwrap, KeyType::Aes) if super::wrap::kwp(shared, operation).is_ok() => Algorithm::AesKwp,
        (O::Wrap | O::Unwrap, KeyType::Aes) => Algorithm::AesKw,
        (O::Wrap | O::Unwrap, KeyType::Rsa) => Algorithm::RsaAesKeyWrap,
        (O::Derive, KeyType::Ec) => Algorithm::Ecdh,
        (O::Derive, KeyType::Hmac) => Algorithm::HkdfSha256,
        (O::Encapsulate | O::Decapsulate, KeyType::MlKem) => Algorithm::MlKem,
        (
            O::Encrypt
            | O::Decrypt
            | O::Sign
            | O::Verify
            | O::Wrap
            | O::Unwrap
            | O::Derive
            | O::Encapsulate
            | O::Decapsulate,
            KeyType::Rsa
            | KeyType::Aes
            | KeyType::Ec
            | KeyType::Ed
            | KeyType::Hmac
            | KeyType::MlDsa
            | KeyType::MlKem
            | KeyType::SlhDsa,
        ) => return Err(none()),
    };
    Ok(Chosen::Algorithm(algorithm))
}

fn unknown_curve() -> Error {
    Error::KeyTypeMismatch("the key is on a curve that the gateway does not know".into())
}

/// The algorithm of an operation for which the token need not be asked.
pub(crate) fn chosen(shared: &Shared, key: &Key, choice: &Choice, operation: Operation) -> Result<Algorithm> {
    match choose(shared, key, choice, operation)? {
        Chosen::Algorithm(algorithm) => Ok(algorithm),
        Chosen::Oaep(_) => Err(Error::Internal(format!("RSA-OAEP does not {}", operation.name()))),
    }
}

/// The strongest HMAC that the token has and the key is long enough for.
pub(super) fn strongest_hmac(shared: &Shared, size: KeySize, operation: Operation) -> Result<Algorithm> {
    let bits = match size {
        KeySize::Bits(bits) => bits as usize,
        // What is unwrapped is not measured by every token; none of these keys is shorter.
        KeySize::Curve(_) | KeySize::ParameterSet(_) | KeySize::Unknown => 256,
    };
    let candidates = [Algorithm::HmacSha512, Algorithm::HmacSha384, Algorithm::HmacSha256];
    let long_enough =
        |algorithm: &Algorithm| matches!(algorithm.scheme(), Scheme::Hmac(hash) if bits >= 8 * hash.len());
    let has = |algorithm: &Algorithm| listed(shared, algorithm.row().native, operation).is_ok();
    let mut possible = candidates.into_iter().filter(long_enough).peekable();
    let weakest = possible.peek().copied();
    possible.find(has).or(weakest).ok_or_else(|| {
        Error::KeyTypeMismatch("the key is shorter than 256 bits: no HMAC takes it (RFC 7518 §3.2)".into())
    })
}

pub(crate) fn permit(shared: &Shared, key: &Key, usage: Usage) -> Result<()> {
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
    Err(Error::UsageNotPermitted(
        format!("the key may not {usage}; it may {may}").into(),
    ))
}

pub(super) fn refuse_aad(chosen: &Chosen, aad: Option<&[u8]>) -> Result<()> {
    match (chosen, aad) {
        (_, None) => Ok(()),
        (Chosen::Algorithm(algorithm), _) if algorithm.is_aead() => Ok(()),
        (_, Some(_)) => Err(Error::invalid(
            "aad",
            "only AES-GCM and AES-CCM take additional authenticated data",
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
    let algorithm = chosen(shared, key, &request.algorithm, operation)?;
    permit(shared, key, operation.usage())?;
    match &request.context {
        Some(_) if !algorithm.takes_context() => {
            let text = format!("{} takes none: leave it out", algorithm.name());
            return Err(Error::invalid("context", text));
        }
        Some(context) if context.len() > MOST_CONTEXT => {
            return Err(Error::invalid("context", format!("at most {MOST_CONTEXT} bytes")));
        }
        Some(_) | None => {}
    }
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
