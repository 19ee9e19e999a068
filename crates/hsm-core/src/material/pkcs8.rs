//! Private keys as PrivateKeyInfo (RFC 5958), of every type.

use ::pkcs8::PrivateKeyInfoRef;
use der::Decode as _;
use der::asn1::OctetStringRef;
use p256::elliptic_curve::sec1::ToSec1Point as _;
use sec1::{EcParameters, EcPrivateKey};
use zeroize::Zeroizing;

use super::{not_all_zero, post_quantum, refused, right_type, rsa};
use crate::encoding::{self, KeyAlgorithm};
use crate::error::Result;
use crate::key::{Curve, KeyType, Material, PublicKey};

pub(super) fn parse(key_type: KeyType, der: &[u8]) -> Result<Material> {
    let info = PrivateKeyInfoRef::try_from(der)
        .map_err(|_| refused("a PrivateKeyInfo in DER (RFC 5958), unencrypted, with nothing after it"))?;
    let algorithm = KeyAlgorithm::read(&info.algorithm)
        .ok_or_else(|| refused("a private key of a type that the gateway has, with the parameters of its standard"))?;
    right_type(key_type, algorithm.key_type())?;
    let private = info.private_key.as_bytes();
    let material = match algorithm {
        KeyAlgorithm::Rsa => rsa::parse(private)?,
        KeyAlgorithm::Curve(curve) => match curve {
            Curve::P256 | Curve::P384 | Curve::P521 | Curve::Secp256k1 => weierstrass(curve, private)?,
            Curve::Ed25519 | Curve::Ed448 => edwards(curve, private)?,
        },
        KeyAlgorithm::PostQuantum(parameter_set) => post_quantum::parse(parameter_set, private)?,
    };
    if let Some(bits) = &info.public_key {
        let same = |key: &PublicKey| bits.as_bytes().is_some_and(|bits| is_key(bits, key));
        same_public(material.public_key().as_ref().is_some_and(same))?;
    }
    Ok(material)
}

/// ECPrivateKey (RFC 5915 §3).
fn weierstrass(curve: Curve, der: &[u8]) -> Result<Material> {
    let key =
        EcPrivateKey::from_der(der).map_err(|_| refused("no ECPrivateKey (RFC 5915) is inside the PrivateKeyInfo"))?;
    if let Some(EcParameters::NamedCurve(name)) = &key.parameters {
        let named = [
            &[0x06, u8::try_from(name.as_bytes().len()).unwrap_or(0)],
            name.as_bytes(),
        ]
        .concat();
        if encoding::curve_from_params(&named) != Some(curve) {
            return Err(refused(
                "the curve inside the ECPrivateKey is another than the one outside",
            ));
        }
    }
    if key.private_key.len() != curve.field_bytes() {
        return Err(refused(format!(
            "the private key of {curve} has {} bytes",
            curve.field_bytes()
        )));
    }
    let point = scalar_point(curve, key.private_key)
        .ok_or_else(|| refused("the private key is zero, or not less than the order of the curve"))?;
    if let Some(public) = key.public_key {
        same_public(encoding::uncompressed(curve, public).is_some_and(|public| public == point))?;
    }
    let private = Zeroizing::new(key.private_key.to_vec());
    Ok(Material::Curve { curve, private, point })
}

/// CurvePrivateKey (RFC 8410 §7).
fn edwards(curve: Curve, der: &[u8]) -> Result<Material> {
    let seed = <&OctetStringRef>::from_der(der).ok().map(OctetStringRef::as_bytes);
    let seed = seed.filter(|seed| seed.len() == curve.field_bytes()).ok_or_else(|| {
        let bytes = curve.field_bytes();
        refused(format!(
            "the private key of {curve} is an OCTET STRING of {bytes} bytes in another (RFC 8410)"
        ))
    })?;
    not_all_zero(seed)?;
    let point = seed_point(curve, seed).ok_or_else(|| refused(format!("this is no private key of {curve}")))?;
    let private = Zeroizing::new(seed.to_vec());
    Ok(Material::Curve { curve, private, point })
}

/// The public point of a scalar; `None` if the scalar is zero or not less than the curve's order.
fn scalar_point(curve: Curve, scalar: &[u8]) -> Option<Vec<u8>> {
    macro_rules! point {
        ($curve:ident) => {{
            let key = $curve::SecretKey::from_slice(scalar).ok()?;
            Some(key.public_key().to_sec1_point(false).as_bytes().to_vec())
        }};
    }
    match curve {
        Curve::P256 => point!(p256),
        Curve::P384 => point!(p384),
        Curve::P521 => point!(p521),
        Curve::Secp256k1 => point!(k256),
        Curve::Ed25519 | Curve::Ed448 => None,
    }
}

/// The public key of an Edwards seed (RFC 8032 §5.1.5, §5.2.5).
fn seed_point(curve: Curve, seed: &[u8]) -> Option<Vec<u8>> {
    match curve {
        Curve::Ed25519 => {
            let key = ed25519_dalek::SigningKey::try_from(seed).ok()?;
            Some(key.verifying_key().to_bytes().to_vec())
        }
        Curve::Ed448 => {
            let key = ed448_goldilocks::SigningKey::try_from(seed).ok()?;
            Some(key.verifying_key().to_bytes().to_vec())
        }
        Curve::P256 | Curve::P384 | Curve::P521 | Curve::Secp256k1 => None,
    }
}

/// Whether the content of a BIT STRING is this key.
fn is_key(bits: &[u8], key: &PublicKey) -> bool {
    match key {
        PublicKey::Curve { curve, point } => encoding::uncompressed(*curve, bits).is_some_and(|bits| bits == *point),
        PublicKey::Rsa { .. } | PublicKey::PostQuantum { .. } => encoding::bare_public_key(key) == bits,
    }
}

fn same_public(same: bool) -> Result<()> {
    same.then_some(())
        .ok_or_else(|| refused("the public key inside does not belong to the private one"))
}
