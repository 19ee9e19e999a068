//! How keys, digests and signatures are written: DER, PEM, JWK, fixed-length integers.
//!
//! Readers take untrusted bytes: what is not exactly the one right encoding is refused.

mod jwk;
mod point;
mod public_key;

use der::asn1::UintRef;
use der::{Reader as _, SliceReader};
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha384, Sha512};

use crate::algorithm::Hash;
use crate::key::Curve;

pub use jwk::{Jwk, jwk};
pub use point::{check_point, curve_from_params, curve_params, point_from_attribute};
pub(crate) use point::{point_fault, uncompressed};
#[cfg(feature = "csr")]
pub(crate) use public_key::pem;
pub(crate) use public_key::{KeyAlgorithm, bare_public_key};
#[cfg(feature = "pkcs11")]
pub(crate) use public_key::{octet_string, rsa_from_numbers};
pub use public_key::{
    public_key_der, public_key_from_certificate, public_key_from_der, public_key_from_pem, public_key_from_text,
    public_key_pem,
};

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;

/// The digest of `data`.
pub fn digest(hash: Hash, data: &[u8]) -> Vec<u8> {
    match hash {
        Hash::Sha1 => Sha1::digest(data).to_vec(),
        Hash::Sha256 => Sha256::digest(data).to_vec(),
        Hash::Sha384 => Sha384::digest(data).to_vec(),
        Hash::Sha512 => Sha512::digest(data).to_vec(),
    }
}

/// The DigestInfo of RSASSA-PKCS1-v1_5 (RFC 8017 §9.2) for a digest that `hash` made.
pub fn digest_info(hash: Hash, digest: &[u8]) -> Vec<u8> {
    let prefix: &[u8] = match hash {
        Hash::Sha1 => &[
            0x30, 0x21, 0x30, 0x09, 0x06, 0x05, 0x2b, 0x0e, 0x03, 0x02, 0x1a, 0x05, 0x00, 0x04, 0x14,
        ],
        Hash::Sha256 => &[
            0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04,
            0x20,
        ],
        Hash::Sha384 => &[
            0x30, 0x41, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05, 0x00, 0x04,
            0x30,
        ],
        Hash::Sha512 => &[
            0x30, 0x51, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03, 0x05, 0x00, 0x04,
            0x40,
        ],
    };
    [prefix, digest].concat()
}

/// `number` without leading zeros, filled up with zeros on the left to `length` bytes; `None` if it is longer.
pub fn left_padded(number: &[u8], length: usize) -> Option<Vec<u8>> {
    let number = without_leading_zeros(number);
    let zeros = length.checked_sub(number.len())?;
    let mut padded = vec![0; zeros];
    padded.extend_from_slice(number);
    Some(padded)
}

/// An ECDSA signature as r‖s (IEEE P1363), from `ECDSA-Sig-Value` in DER (RFC 3279 §2.2.3).
///
/// `None` unless the bytes are exactly one such value: shortest integers, positive, no longer than the curve's order,
/// nothing after them.
pub fn ecdsa_from_der(der: &[u8], curve: Curve) -> Option<Vec<u8>> {
    let mut reader = SliceReader::new(der).ok()?;
    let (r, s) = reader.sequence(two_integers).ok()?;
    reader.finish().ok()?;
    let half = |number: UintRef<'_>| {
        let number = without_leading_zeros(number.as_bytes());
        (!number.is_empty()).then(|| left_padded(number, curve.field_bytes()))?
    };
    Some([half(r)?, half(s)?].concat())
}

/// An ECDSA signature as `ECDSA-Sig-Value` in DER, from r‖s.
///
/// `None` unless both halves are as long as the curve's order and not zero.
pub fn ecdsa_to_der(fixed: &[u8], curve: Curve) -> Option<Vec<u8>> {
    if fixed.len() != 2 * curve.field_bytes() {
        return None;
    }
    let (r, s) = fixed.split_at(curve.field_bytes());
    if [r, s].iter().any(|half| without_leading_zeros(half).is_empty()) {
        return None;
    }
    Some(tlv(SEQUENCE, &[integer(r), integer(s)].concat()))
}

/// How many bits a number has, without leading zeros.
pub(crate) fn bit_length(number: &[u8]) -> u32 {
    let number = without_leading_zeros(number);
    let Some(first) = number.first() else { return 0 };
    let whole = u32::try_from(number.len()).unwrap_or(u32::MAX).saturating_mul(8);
    whole.saturating_sub(first.leading_zeros())
}

fn two_integers<'a>(reader: &mut SliceReader<'a>) -> der::Result<(UintRef<'a>, UintRef<'a>)> {
    Ok((reader.decode()?, reader.decode()?))
}

pub(crate) fn without_leading_zeros(number: &[u8]) -> &[u8] {
    let start = number.iter().position(|byte| *byte != 0);
    start.and_then(|at| number.get(at..)).unwrap_or_default()
}

/// A non-negative INTEGER in DER.
fn integer(number: &[u8]) -> Vec<u8> {
    let number = without_leading_zeros(number);
    let sign: &[u8] = match number.first() {
        Some(first) if first & 0x80 == 0 => &[],
        _ => &[0],
    };
    tlv(INTEGER, &[sign, number].concat())
}

/// One value in DER: tag, length, content.
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length = without_leading_zeros(&length);
    let mut value = vec![tag];
    match length {
        [] => value.push(0),
        [short] if *short < 0x80 => value.push(*short),
        long => {
            value.push(0x80 | u8::try_from(long.len()).unwrap_or(0));
            value.extend_from_slice(long);
        }
    }
    value.extend_from_slice(content);
    value
}

#[cfg(test)]
mod tests;
