//! How keys, digests and signatures are written: DER, PEM, JWK, fixed-length integers.
//!
//! Readers take untrusted bytes: what is not exactly the one right encoding is refused.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use der::asn1::{ObjectIdentifier, UintRef};
use der::{Reader as _, SliceReader};
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use spki::SubjectPublicKeyInfoRef;

use crate::algorithm::Hash;
use crate::key::{Curve, PublicKey};

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;

/// `rsaEncryption` (RFC 8017 appendix A.1) with its NULL parameters, as an AlgorithmIdentifier.
const RSA_ALGORITHM: [u8; 15] = [
    0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
];
const RSA_OID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
/// `id-ecPublicKey` (RFC 5480 §2.1.1), with tag and length.
const EC_OID_DER: [u8; 9] = [0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const EC_OID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");

/// The names of curves that CKA_EC_PARAMS may hold beside [`curve_params`]: PKCS#11 v3.1 §6.3.5 allows a
/// PrintableString for Edwards curves, and modules older than RFC 8410 use GnuPG's identifier.
const OTHER_CURVE_NAMES: [(&[u8], Curve); 3] = [
    (b"\x13\x0cedwards25519", Curve::Ed25519),
    (b"\x13\x0aedwards448", Curve::Ed448),
    (
        &[0x06, 0x09, 0x2b, 0x06, 0x01, 0x04, 0x01, 0xda, 0x47, 0x0f, 0x01],
        Curve::Ed25519,
    ),
];

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

/// The name of a curve as CKA_EC_PARAMS takes it: its object identifier in DER.
pub const fn curve_params(curve: Curve) -> &'static [u8] {
    match curve {
        Curve::P256 => &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
        Curve::P384 => &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22],
        Curve::P521 => &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23],
        Curve::Secp256k1 => &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a],
        Curve::Ed25519 => &[0x06, 0x03, 0x2b, 0x65, 0x70],
        Curve::Ed448 => &[0x06, 0x03, 0x2b, 0x65, 0x71],
    }
}

/// The curve that CKA_EC_PARAMS names; `None` for others and for parameters written out.
pub fn curve_from_params(params: &[u8]) -> Option<Curve> {
    let by_oid = Curve::ALL.iter().copied().find(|curve| curve_params(*curve) == params);
    by_oid.or_else(|| {
        let mut others = OTHER_CURVE_NAMES.iter();
        others.find(|(name, _)| *name == params).map(|(_, curve)| *curve)
    })
}

/// The point in CKA_EC_POINT: modules wrap it in an OCTET STRING, in a BIT STRING, or not at all.
///
/// `None` if it is not an uncompressed point of the curve's length, or of an Edwards key's.
pub fn point_from_attribute(value: &[u8], curve: Curve) -> Option<Vec<u8>> {
    let length = point_bytes(curve);
    let fits = |point: &[u8]| point.len() == length && (is_edwards(curve) || point.first() == Some(&UNCOMPRESSED));
    if fits(value) {
        return Some(value.to_vec());
    }
    let wrapped = |tag: u8, start: &[u8]| {
        let point = value.get(value.len().checked_sub(length)?..)?;
        let whole = tlv(tag, &[start, point].concat());
        (whole == value && fits(point)).then(|| point.to_vec())
    };
    wrapped(OCTET_STRING, &[]).or_else(|| wrapped(BIT_STRING, &[0]))
}

/// A public key as SubjectPublicKeyInfo in DER (RFC 5280 §4.1.2.7; RFC 8017, 5480, 8410).
pub fn public_key_der(key: &PublicKey) -> Vec<u8> {
    let (algorithm, bits) = match key {
        PublicKey::Rsa { modulus, exponent } => {
            let numbers = [integer(modulus), integer(exponent)].concat();
            (RSA_ALGORITHM.to_vec(), tlv(SEQUENCE, &numbers))
        }
        PublicKey::Curve { curve, point } => {
            let start: &[u8] = if is_edwards(*curve) { &[] } else { &EC_OID_DER };
            let algorithm = [start, curve_params(*curve)].concat();
            (tlv(SEQUENCE, &algorithm), point.clone())
        }
    };
    let bits = tlv(BIT_STRING, &[vec![0], bits].concat());
    tlv(SEQUENCE, &[algorithm, bits].concat())
}

/// A public key as SubjectPublicKeyInfo in PEM (RFC 7468 §13), lines of 64 characters, a newline at the end.
pub fn public_key_pem(key: &PublicKey) -> String {
    let body = base64::engine::general_purpose::STANDARD.encode(public_key_der(key));
    let mut pem = String::from("-----BEGIN PUBLIC KEY-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = tail;
    }
    pem.push_str("-----END PUBLIC KEY-----\n");
    pem
}

/// Reads a SubjectPublicKeyInfo in DER; `None` if it is malformed or of a kind that [`PublicKey`] does not have.
pub fn public_key_from_der(der: &[u8]) -> Option<PublicKey> {
    let info = SubjectPublicKeyInfoRef::try_from(der).ok()?;
    let bits = info.subject_public_key.as_bytes()?;
    if info.algorithm.oid == RSA_OID {
        info.algorithm.parameters?.decode_as::<der::asn1::Null>().ok()?;
        return rsa_key(bits);
    }
    let curve = if info.algorithm.oid == EC_OID {
        let name = info.algorithm.parameters?.decode_as::<ObjectIdentifier>().ok()?;
        curve_from_params(&tlv(0x06, name.as_bytes())).filter(|curve| !is_edwards(*curve))?
    } else {
        let named = curve_from_params(&tlv(0x06, info.algorithm.oid.as_bytes()))?;
        (is_edwards(named) && info.algorithm.parameters.is_none()).then_some(named)?
    };
    let fits = bits.len() == point_bytes(curve) && (is_edwards(curve) || bits.first() == Some(&UNCOMPRESSED));
    fits.then(|| PublicKey::Curve {
        curve,
        point: bits.to_vec(),
    })
}

/// Reads a SubjectPublicKeyInfo in PEM; `None` as for [`public_key_from_der`].
pub fn public_key_from_pem(pem: &str) -> Option<PublicKey> {
    let (label, der) = der::pem::decode_vec(pem.as_bytes()).ok()?;
    (label == "PUBLIC KEY").then(|| public_key_from_der(&der))?
}

/// The members of a public key as a JSON Web Key (RFC 7517; RFC 7518 §6, RFC 8037 §2, RFC 8812 §3.1). Texts are
/// base64url without padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jwk {
    /// `RSA`, `EC` or `OKP`.
    pub kty: &'static str,
    /// The curve, of `EC` and `OKP`.
    pub crv: Option<&'static str>,
    /// The modulus, of `RSA`.
    pub n: Option<String>,
    /// The public exponent, of `RSA`.
    pub e: Option<String>,
    /// The x coordinate of `EC`, the public key of `OKP`.
    pub x: Option<String>,
    /// The y coordinate, of `EC`.
    pub y: Option<String>,
}

/// A public key as a JSON Web Key.
pub fn jwk(key: &PublicKey) -> Jwk {
    let text = |bytes: &[u8]| Some(URL_SAFE_NO_PAD.encode(bytes));
    let empty = Jwk {
        kty: "RSA",
        crv: None,
        n: None,
        e: None,
        x: None,
        y: None,
    };
    match key {
        PublicKey::Rsa { modulus, exponent } => Jwk {
            n: text(without_leading_zeros(modulus)),
            e: text(without_leading_zeros(exponent)),
            ..empty
        },
        PublicKey::Curve { curve, point } if is_edwards(*curve) => Jwk {
            kty: "OKP",
            crv: Some(curve.name()),
            x: text(point),
            ..empty
        },
        PublicKey::Curve { curve, point } => {
            let coordinates = point.get(1..).unwrap_or_default();
            let middle = curve.field_bytes().min(coordinates.len());
            let (x, y) = coordinates.split_at(middle);
            Jwk {
                kty: "EC",
                crv: Some(curve.name()),
                x: text(x),
                y: text(y),
                ..empty
            }
        }
    }
}

/// An RSA public key from its numbers as a token or a certificate gives them; `None` if one is zero.
pub(crate) fn rsa_from_numbers(modulus: &[u8], exponent: &[u8]) -> Option<PublicKey> {
    let [modulus, exponent] = [modulus, exponent].map(|n| without_leading_zeros(n).to_vec());
    (!modulus.is_empty() && !exponent.is_empty()).then_some(PublicKey::Rsa { modulus, exponent })
}

/// How many bits a number has, without leading zeros.
#[cfg(any(test, feature = "pkcs11"))]
pub(crate) fn bit_length(number: &[u8]) -> u32 {
    let number = without_leading_zeros(number);
    let Some(first) = number.first() else { return 0 };
    let whole = u32::try_from(number.len()).unwrap_or(u32::MAX).saturating_mul(8);
    whole.saturating_sub(first.leading_zeros())
}

const UNCOMPRESSED: u8 = 0x04;

const fn is_edwards(curve: Curve) -> bool {
    matches!(curve, Curve::Ed25519 | Curve::Ed448)
}

const fn point_bytes(curve: Curve) -> usize {
    if is_edwards(curve) {
        curve.field_bytes()
    } else {
        1 + 2 * curve.field_bytes()
    }
}

fn rsa_key(der: &[u8]) -> Option<PublicKey> {
    let mut reader = SliceReader::new(der).ok()?;
    let (modulus, exponent) = reader.sequence(two_integers).ok()?;
    reader.finish().ok()?;
    rsa_from_numbers(modulus.as_bytes(), exponent.as_bytes())
}

fn two_integers<'a>(reader: &mut SliceReader<'a>) -> der::Result<(UintRef<'a>, UintRef<'a>)> {
    Ok((reader.decode()?, reader.decode()?))
}

fn without_leading_zeros(number: &[u8]) -> &[u8] {
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
