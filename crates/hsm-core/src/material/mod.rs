//! Keys that a caller sends in clear: their bytes become [`Material`], checked, or are refused.
//!
//! What is read is untrusted, and a token may believe all that it is told: so the checks are made here. No error tells
//! anything of the value but what is wrong with it.

mod pkcs8;
mod post_quantum;
mod rsa;

use der::pem;
use zeroize::Zeroizing;

use crate::encoding;
use crate::error::{Error, Reason, Result};
use crate::key::{KeyType, Material, PublicKey};

names! {
    /// How the bytes of a key are written.
    Format {
        /// The bytes of an AES key (16, 24 or 32) or of an HMAC secret (32 to 64).
        Raw = "raw",
        /// A private key as PrivateKeyInfo or OneAsymmetricKey (RFC 5958) in DER, or in PEM as `PRIVATE KEY`.
        Pkcs8 = "pkcs8",
        /// A public key alone, as SubjectPublicKeyInfo (RFC 5280 §4.1.2.7) in DER, or in PEM as `PUBLIC KEY`.
        Spki = "spki",
    }
}

/// The smallest and the largest RSA modulus that may be imported, in bits.
pub const RSA_BITS: (u32, u32) = (2048, 8192);

/// Reads a key of the type `key_type` and checks it.
///
/// - Secrets: the length, and that not every byte is zero.
/// - RSA (RFC 8017, two primes): [`RSA_BITS`], an odd public exponent from 3 to the modulus (up to 33 bits in a private
///   key). e = 3 is accepted, in a private key too where all numbers agree: what is unsafe with it is a padding that
///   does not exist here. A private key's primes are prime and half as long as the modulus, and all eight numbers agree.
/// - Curves: a point on the curve, not of small order, written as the standard says; a scalar from 1 to the order.
/// - ML-DSA, ML-KEM (RFC 9881, 9935): the seed, the expanded key, or both, which then agree. An expanded key alone has
///   to agree with the public key that follows from it. A rounding lies between that and s2 and t0 of ML-DSA, so that a
///   small fault in these shows only in signatures that are wrong: seeds are better.
/// - SLH-DSA (RFC 9909): the length; the root is not computed again.
/// - A public key inside a private key's file is the one that follows from the private key.
///
/// # Errors
/// [`Error::InvalidRequest`] for `format` if it does not go with the type, for `key_material` otherwise.
#[expect(
    clippy::needless_pass_by_value,
    reason = "what is handed over is wiped when it has been read"
)]
pub fn parse(key_type: KeyType, format: Format, bytes: Zeroizing<Vec<u8>>) -> Result<Material> {
    let material = match format {
        Format::Raw => return secret(key_type, &bytes),
        Format::Pkcs8 | Format::Spki if matches!(key_type, KeyType::Aes | KeyType::Hmac) => {
            return Err(Error::invalid(
                "format",
                format!("`raw`: a key of type {key_type} has no other"),
            ));
        }
        Format::Pkcs8 => pkcs8::parse(key_type, &der_of(&bytes, "PRIVATE KEY")?)?,
        Format::Spki => public(key_type, &der_of(&bytes, "PUBLIC KEY")?)?,
    };
    Ok(material)
}

fn secret(key_type: KeyType, bytes: &[u8]) -> Result<Material> {
    let (fits, lengths) = match key_type {
        KeyType::Aes => (matches!(bytes.len(), 16 | 24 | 32), "16, 24 or 32 bytes"),
        KeyType::Hmac => ((32..=64).contains(&bytes.len()), "32 to 64 bytes"),
        KeyType::Rsa | KeyType::Ec | KeyType::Ed | KeyType::MlDsa | KeyType::MlKem | KeyType::SlhDsa => {
            let detail = format!("`pkcs8` or `spki`: `raw` is for AES and HMAC, not for a key of type {key_type}");
            return Err(Error::invalid("format", detail));
        }
    };
    if !fits {
        return Err(refused(format!("a key of type {key_type} has {lengths}")));
    }
    not_all_zero(bytes)?;
    let value = Zeroizing::new(bytes.to_vec());
    Ok(Material::Secret { key_type, value })
}

fn public(key_type: KeyType, der: &[u8]) -> Result<Material> {
    let key = encoding::public_key_from_der(der).ok_or_else(|| {
        refused("a SubjectPublicKeyInfo in DER with nothing after it, of a type of key that the gateway has")
    })?;
    right_type(key_type, key.key_type())?;
    match &key {
        PublicKey::Rsa { modulus, exponent } => rsa::check_public(modulus, exponent)?,
        PublicKey::Curve { curve, point } => {
            encoding::point_fault(*curve, point).map_or(Ok(()), |fault| Err(refused(fault)))?;
        }
        PublicKey::PostQuantum { parameter_set, key } => post_quantum::check_public(*parameter_set, key)?,
    }
    Ok(Material::Public(key))
}

/// The DER in `bytes`, which may be PEM with this label.
fn der_of(bytes: &[u8], label: &str) -> Result<Zeroizing<Vec<u8>>> {
    if !bytes.starts_with(b"-----BEGIN") {
        return Ok(Zeroizing::new(bytes.to_vec()));
    }
    let wrong = || {
        refused(format!(
            "this PEM can't be read: it must be one `{label}`, unencrypted, with nothing around it"
        ))
    };
    let mut decoder = pem::Decoder::new(bytes).map_err(|_| wrong())?;
    if decoder.type_label() != label {
        return Err(wrong());
    }
    let mut der = Zeroizing::new(vec![0; decoder.remaining_len()]);
    decoder.decode(&mut der).map_err(|_| wrong())?;
    Ok(der)
}

fn right_type(asked: KeyType, found: KeyType) -> Result<()> {
    if asked != found {
        return Err(refused(format!("this is a key of type {found}, not {asked}")));
    }
    Ok(())
}

fn not_all_zero(secret: &[u8]) -> Result<()> {
    if secret.iter().fold(0, |all, byte| all | byte) == 0 {
        return Err(refused("every byte is zero: this is no secret"));
    }
    Ok(())
}

fn refused(detail: impl Into<Reason>) -> Error {
    Error::invalid("key_material", detail)
}

#[cfg(test)]
mod tests;
