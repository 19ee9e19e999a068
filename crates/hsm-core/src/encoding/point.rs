//! Points and the names of their curves.

use p256::elliptic_curve::sec1::ToSec1Point as _;

use super::{BIT_STRING, OCTET_STRING, tlv};
use crate::error::{Error, Result};
use crate::key::{Curve, PublicKey};

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
/// A compressed point (SEC 1 §2.3.3) is answered uncompressed. `None` if it is no point of the curve's length, or a
/// compressed one that the curve does not have.
pub fn point_from_attribute(value: &[u8], curve: Curve) -> Option<Vec<u8>> {
    let unwrapped = |tag: u8, start: &[u8], length: usize| {
        let point = value.get(value.len().checked_sub(length)?..)?;
        (tlv(tag, &[start, point].concat()) == value).then(|| uncompressed(curve, point))?
    };
    // tpm2-pkcs11 writes every length as one byte, that of a P-521 point too.
    let short_length = |length: usize| {
        let (head, point) = value.split_at_checked(2)?;
        let is_told = head == [OCTET_STRING, u8::try_from(length).ok()?] && point.len() == length;
        is_told.then(|| uncompressed(curve, point))?
    };
    let wrapped = |length| {
        unwrapped(OCTET_STRING, &[], length)
            .or_else(|| unwrapped(BIT_STRING, &[0], length))
            .or_else(|| short_length(length))
    };
    uncompressed(curve, value)
        .or_else(|| wrapped(point_bytes(curve)))
        .or_else(|| wrapped(1 + curve.field_bytes()))
}

/// Whether the point of a public key is one: on its curve, encoded as the standard says, and not of small order.
/// Keys of other types pass.
///
/// # Errors
/// [`Error::InvalidRequest`] for `public_key`.
pub fn check_point(key: &PublicKey) -> Result<()> {
    match key {
        PublicKey::Rsa { .. } | PublicKey::PostQuantum { .. } => Ok(()),
        PublicKey::Curve { curve, point } => {
            let fault = point_fault(*curve, point);
            fault.map_or(Ok(()), |fault| Err(Error::invalid("public_key", fault)))
        }
    }
}

/// What is wrong with a point; `None` if nothing is.
pub(crate) fn point_fault(curve: Curve, point: &[u8]) -> Option<String> {
    let off = || format!("the point is not on {curve}");
    let small = || format!("the point has a small order on {curve}: any secret agreed on with it could be guessed");
    let written = || format!("the point of {curve} is not written as RFC 8032 says");
    match curve {
        Curve::P256 | Curve::P384 | Curve::P521 | Curve::Secp256k1 => {
            let known = point.len() == point_bytes(curve) && on_curve(curve, point).is_some();
            (!known).then(off)
        }
        Curve::Ed25519 => {
            let bytes = <&[u8; 32]>::try_from(point);
            let Some(key) = bytes
                .ok()
                .and_then(|bytes| ed25519_dalek::VerifyingKey::from_bytes(bytes).ok())
            else {
                return Some(off());
            };
            if key.to_edwards().compress().as_bytes() != point {
                return Some(written());
            }
            key.is_weak().then(small)
        }
        Curve::Ed448 => {
            let bytes = <[u8; 57]>::try_from(point)
                .ok()
                .map(ed448_goldilocks::CompressedEdwardsY);
            let found = bytes.and_then(|bytes| bytes.decompress_unchecked().into_option());
            let Some(affine) = found.filter(|affine| affine.is_on_curve().into()) else {
                return Some(off());
            };
            if affine.compress().as_bytes() != point {
                return Some(written());
            }
            // The cofactor is 4.
            let multiple = affine.to_edwards().double().double();
            (multiple == ed448_goldilocks::EdwardsPoint::IDENTITY).then(small)
        }
    }
}

/// A point as [`PublicKey::Curve`] has it, from one that may be compressed; `None` for another length or form.
///
/// Only a compressed point is compared with the curve's equation: it has to be solved to be written out.
pub(crate) fn uncompressed(curve: Curve, point: &[u8]) -> Option<Vec<u8>> {
    if is_edwards(curve) {
        return (point.len() == point_bytes(curve)).then(|| point.to_vec());
    }
    match point.first() {
        Some(&UNCOMPRESSED) if point.len() == point_bytes(curve) => Some(point.to_vec()),
        Some(2 | 3) if point.len() == 1 + curve.field_bytes() => on_curve(curve, point),
        _ => None,
    }
}

pub(super) const fn is_edwards(curve: Curve) -> bool {
    matches!(curve, Curve::Ed25519 | Curve::Ed448)
}

pub(super) const fn point_bytes(curve: Curve) -> usize {
    if is_edwards(curve) {
        curve.field_bytes()
    } else {
        1 + 2 * curve.field_bytes()
    }
}

const UNCOMPRESSED: u8 = 0x04;

/// A point of a Weierstrass curve written out; `None` if the curve does not have it, and for infinity.
fn on_curve(curve: Curve, point: &[u8]) -> Option<Vec<u8>> {
    macro_rules! written_out {
        ($curve:ident) => {{
            let key = $curve::PublicKey::from_sec1_bytes(point).ok()?;
            Some(key.to_sec1_point(false).as_bytes().to_vec())
        }};
    }
    match curve {
        Curve::P256 => written_out!(p256),
        Curve::P384 => written_out!(p384),
        Curve::P521 => written_out!(p521),
        Curve::Secp256k1 => written_out!(k256),
        Curve::Ed25519 | Curve::Ed448 => None,
    }
}
