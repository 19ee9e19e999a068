//! Public keys as SubjectPublicKeyInfo, in DER and PEM, and inside certificates.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use der::asn1::ObjectIdentifier;
use der::{Reader as _, SliceReader, TagMode, TagNumber};
use spki::{AlgorithmIdentifierRef, SubjectPublicKeyInfoRef};

use super::point::{is_edwards, uncompressed};
use super::{
    BIT_STRING, SEQUENCE, check_point, curve_from_params, curve_params, integer, tlv, two_integers,
    without_leading_zeros,
};
use crate::error::{Error, Result};
use crate::key::{Curve, KeyType, ParameterSet, PublicKey};

/// `rsaEncryption` (RFC 8017 appendix A.1) with its NULL parameters, as an AlgorithmIdentifier.
const RSA_ALGORITHM: [u8; 15] = [
    0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
];
const RSA_OID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
/// `id-ecPublicKey` (RFC 5480 §2.1.1), with tag and length.
const EC_OID_DER: [u8; 9] = [0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const EC_OID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");

/// Which keys an AlgorithmIdentifier speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyAlgorithm {
    Rsa,
    Curve(Curve),
    PostQuantum(ParameterSet),
}

impl KeyAlgorithm {
    /// Reads an AlgorithmIdentifier; `None` if the gateway has no such keys, or the parameters are not as the standard
    /// of the key type says.
    pub(crate) fn read(algorithm: &AlgorithmIdentifierRef<'_>) -> Option<KeyAlgorithm> {
        if algorithm.oid == RSA_OID {
            algorithm.parameters?.decode_as::<der::asn1::Null>().ok()?;
            return Some(KeyAlgorithm::Rsa);
        }
        if algorithm.oid == EC_OID {
            let name = algorithm.parameters?.decode_as::<ObjectIdentifier>().ok()?;
            let curve = curve_from_params(&tlv(0x06, name.as_bytes()))?;
            return (!is_edwards(curve)).then_some(KeyAlgorithm::Curve(curve));
        }
        if algorithm.parameters.is_some() {
            return None;
        }
        let oid = tlv(0x06, algorithm.oid.as_bytes());
        let edwards = || curve_from_params(&oid).filter(|curve| is_edwards(*curve));
        let mut sets = ParameterSet::ALL.iter().copied();
        let set = sets.find(|set| parameter_set_oid(*set) == *oid);
        set.map(KeyAlgorithm::PostQuantum)
            .or_else(|| edwards().map(KeyAlgorithm::Curve))
    }

    /// The type of the keys.
    pub(crate) const fn key_type(self) -> KeyType {
        match self {
            KeyAlgorithm::Rsa => KeyType::Rsa,
            KeyAlgorithm::Curve(curve) => curve.key_type(),
            KeyAlgorithm::PostQuantum(set) => set.key_type(),
        }
    }
}

/// A public key as SubjectPublicKeyInfo in DER (RFC 5280 §4.1.2.7; RFC 8017, 5480, 8410, 9881, 9909, 9935).
pub fn public_key_der(key: &PublicKey) -> Vec<u8> {
    let algorithm = match key {
        PublicKey::Rsa { .. } => RSA_ALGORITHM.to_vec(),
        PublicKey::Curve { curve, .. } => {
            let start: &[u8] = if is_edwards(*curve) { &[] } else { &EC_OID_DER };
            tlv(SEQUENCE, &[start, curve_params(*curve)].concat())
        }
        PublicKey::PostQuantum { parameter_set, .. } => tlv(SEQUENCE, &parameter_set_oid(*parameter_set)),
    };
    let bits = tlv(BIT_STRING, &[vec![0], bare_public_key(key)].concat());
    tlv(SEQUENCE, &[algorithm, bits].concat())
}

/// What the BIT STRING of a SubjectPublicKeyInfo holds.
pub(crate) fn bare_public_key(key: &PublicKey) -> Vec<u8> {
    match key {
        PublicKey::Rsa { modulus, exponent } => tlv(SEQUENCE, &[integer(modulus), integer(exponent)].concat()),
        PublicKey::Curve { point, .. } => point.clone(),
        PublicKey::PostQuantum { key, .. } => key.clone(),
    }
}

/// A public key as SubjectPublicKeyInfo in PEM (RFC 7468 §13), lines of 64 characters, a newline at the end.
pub fn public_key_pem(key: &PublicKey) -> String {
    pem("PUBLIC KEY", &public_key_der(key))
}

/// DER in PEM (RFC 7468 §2), lines of 64 characters, a newline at the end.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = tail;
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}

/// Reads a SubjectPublicKeyInfo in DER; `None` if it is malformed or of a kind that [`PublicKey`] does not have.
///
/// A compressed point is read, and written out. Whether an uncompressed one is on its curve is for [`check_point`].
pub fn public_key_from_der(der: &[u8]) -> Option<PublicKey> {
    let info = SubjectPublicKeyInfoRef::try_from(der).ok()?;
    let bits = info.subject_public_key.as_bytes()?;
    match KeyAlgorithm::read(&info.algorithm)? {
        KeyAlgorithm::Rsa => rsa_key(bits),
        KeyAlgorithm::Curve(curve) => {
            let point = uncompressed(curve, bits)?;
            Some(PublicKey::Curve { curve, point })
        }
        KeyAlgorithm::PostQuantum(parameter_set) => {
            let key = bits.to_vec();
            let fits = key.len() == parameter_set.public_key_bytes();
            fits.then_some(PublicKey::PostQuantum { parameter_set, key })
        }
    }
}

/// Reads a SubjectPublicKeyInfo in PEM; `None` as for [`public_key_from_der`].
pub fn public_key_from_pem(pem: &str) -> Option<PublicKey> {
    let (label, der) = der::pem::decode_vec(pem.as_bytes()).ok()?;
    (label == "PUBLIC KEY").then(|| public_key_from_der(&der))?
}

/// Reads a SubjectPublicKeyInfo as PEM or as base64 of its DER, and checks its point ([`check_point`]).
///
/// # Errors
/// [`Error::InvalidRequest`] for `public_key`.
pub fn public_key_from_text(text: &str) -> Result<PublicKey> {
    let key = if text.starts_with("-----BEGIN") {
        public_key_from_pem(text)
    } else {
        STANDARD.decode(text).ok().and_then(|der| public_key_from_der(&der))
    };
    let wrong = "a SubjectPublicKeyInfo of a type of key that the gateway has, as PEM (`PUBLIC KEY`) or as base64 of \
                 its DER";
    let key = key.ok_or_else(|| Error::invalid("public_key", wrong))?;
    check_point(&key)?;
    Ok(key)
}

/// The public key that an X.509 certificate (RFC 5280 §4.1) in DER is for; `None` as for [`public_key_from_der`].
///
/// Nothing else of the certificate is looked at: the key is the certificate's word, not yet a proof.
pub fn public_key_from_certificate(der: &[u8]) -> Option<PublicKey> {
    /// Between the version and the key: serialNumber, signature, issuer, validity, subject.
    const FIELDS_BEFORE: usize = 5;
    let mut reader = SliceReader::new(der).ok()?;
    let key = reader.sequence(|certificate| {
        let key = certificate.sequence(|body| {
            body.context_specific::<u8>(TagNumber(0), TagMode::Explicit)?;
            for _ in 0..FIELDS_BEFORE {
                body.tlv_bytes()?;
            }
            let key = body.tlv_bytes()?;
            skip_rest(body)?;
            Ok::<_, der::Error>(key)
        })?;
        skip_rest(certificate)?;
        Ok::<_, der::Error>(key)
    });
    let key = key.ok()?;
    reader.finish().ok()?;
    public_key_from_der(key)
}

/// An RSA public key from its numbers as a token or a certificate gives them; `None` if one is zero.
pub(crate) fn rsa_from_numbers(modulus: &[u8], exponent: &[u8]) -> Option<PublicKey> {
    let [modulus, exponent] = [modulus, exponent].map(|n| without_leading_zeros(n).to_vec());
    (!modulus.is_empty() && !exponent.is_empty()).then_some(PublicKey::Rsa { modulus, exponent })
}

/// An OCTET STRING in DER.
#[cfg(feature = "pkcs11")]
pub(crate) fn octet_string(content: &[u8]) -> Vec<u8> {
    tlv(super::OCTET_STRING, content)
}

/// The object identifier of a parameter set in DER (RFC 9881 §2, RFC 9909 §3, RFC 9935 §3).
const fn parameter_set_oid(set: ParameterSet) -> [u8; 11] {
    use ParameterSet as P;
    const SIGNATURES: u8 = 3;
    const KEMS: u8 = 4;
    let (branch, number) = match set {
        P::MlDsa44 => (SIGNATURES, 17),
        P::MlDsa65 => (SIGNATURES, 18),
        P::MlDsa87 => (SIGNATURES, 19),
        P::SlhDsaSha2S128 => (SIGNATURES, 20),
        P::SlhDsaSha2F128 => (SIGNATURES, 21),
        P::SlhDsaSha2S192 => (SIGNATURES, 22),
        P::SlhDsaSha2F192 => (SIGNATURES, 23),
        P::SlhDsaSha2S256 => (SIGNATURES, 24),
        P::SlhDsaSha2F256 => (SIGNATURES, 25),
        P::SlhDsaShakeS128 => (SIGNATURES, 26),
        P::SlhDsaShakeF128 => (SIGNATURES, 27),
        P::SlhDsaShakeS192 => (SIGNATURES, 28),
        P::SlhDsaShakeF192 => (SIGNATURES, 29),
        P::SlhDsaShakeS256 => (SIGNATURES, 30),
        P::SlhDsaShakeF256 => (SIGNATURES, 31),
        P::MlKem512 => (KEMS, 1),
        P::MlKem768 => (KEMS, 2),
        P::MlKem1024 => (KEMS, 3),
    };
    // 2.16.840.1.101.3.4.<branch>.<number>
    [0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, branch, number]
}

fn rsa_key(der: &[u8]) -> Option<PublicKey> {
    let mut reader = SliceReader::new(der).ok()?;
    let (modulus, exponent) = reader.sequence(two_integers).ok()?;
    reader.finish().ok()?;
    rsa_from_numbers(modulus.as_bytes(), exponent.as_bytes())
}

fn skip_rest(reader: &mut SliceReader<'_>) -> der::Result<()> {
    while !reader.is_finished() {
        reader.tlv_bytes()?;
    }
    Ok(())
}
