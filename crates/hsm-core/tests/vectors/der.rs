//! The DER that vectors leave out: private keys as PrivateKeyInfo, public keys as SubjectPublicKeyInfo.

use hsm_core::key::ParameterSet;
use hsm_core::{Curve, encoding};

/// One value.
pub(crate) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
    let header = match content.len() {
        0..0x80 => vec![tag, low],
        0x80..0x100 => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    [&header, content].concat()
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

/// id-ecPublicKey.
const EC: [u8; 9] = [0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];

/// A private key of a Weierstrass curve (RFC 5915 in RFC 5958).
pub(crate) fn ec_private(curve: Curve, scalar: &[u8]) -> Vec<u8> {
    let algorithm = sequence(&[&EC, encoding::curve_params(curve)]);
    let key = sequence(&[&[0x02, 0x01, 0x01], &tlv(0x04, scalar)]);
    sequence(&[&[0x02, 0x01, 0x00], &algorithm, &tlv(0x04, &key)])
}

/// A public key of a Weierstrass curve (RFC 5480).
pub(crate) fn ec_public(curve: Curve, point: &[u8]) -> Vec<u8> {
    let algorithm = sequence(&[&EC, encoding::curve_params(curve)]);
    sequence(&[&algorithm, &tlv(0x03, &[&[0], point].concat())])
}

/// How a private key of ML-DSA or ML-KEM is written.
pub(crate) enum Form<'a> {
    Seed(&'a [u8]),
    Expanded(&'a [u8]),
    Both(&'a [u8], &'a [u8]),
}

/// A private key of ML-DSA (RFC 9881) or ML-KEM (RFC 9935).
pub(crate) fn lattice_private(set: ParameterSet, form: &Form<'_>) -> Vec<u8> {
    let key = match form {
        Form::Seed(seed) => tlv(0x80, seed),
        Form::Expanded(key) => tlv(0x04, key),
        Form::Both(seed, key) => sequence(&[&tlv(0x04, seed), &tlv(0x04, key)]),
    };
    sequence(&[&[0x02, 0x01, 0x00], &lattice(set), &tlv(0x04, &key)])
}

/// A public key of ML-DSA or ML-KEM.
pub(crate) fn lattice_public(set: ParameterSet, key: &[u8]) -> Vec<u8> {
    sequence(&[&lattice(set), &tlv(0x03, &[&[0], key].concat())])
}

fn lattice(set: ParameterSet) -> Vec<u8> {
    let (branch, number) = match set {
        ParameterSet::MlDsa44 => (3, 17),
        ParameterSet::MlDsa65 => (3, 18),
        ParameterSet::MlDsa87 => (3, 19),
        ParameterSet::MlKem512 => (4, 1),
        ParameterSet::MlKem768 => (4, 2),
        ParameterSet::MlKem1024 => (4, 3),
        other => panic!("{other} has no seed"),
    };
    sequence(&[&[0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, branch, number]])
}
