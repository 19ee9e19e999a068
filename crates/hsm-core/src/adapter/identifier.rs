//! How certificates name signature algorithms.

use rsa::pkcs1::RsaPssParamsRef;
use sha2::{Sha256, Sha384, Sha512};
use spki::der::asn1::Any;
use spki::{AlgorithmIdentifierOwned, ObjectIdentifier, SubjectPublicKeyInfoRef};

use crate::algorithm::{Algorithm, Hash, Scheme};
use crate::encoding;
use crate::error::{Error, Result};
use crate::key::{Curve, KeyInfo, KeySize, KeyType, PublicKey};

const PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");

/// The AlgorithmIdentifier that says how a signature by `key` was made: RFC 4055 §5 and §3.1 (RSA; PSS with all its
/// parameters), RFC 5758 §3.2 (ECDSA), RFC 8410 §3 (EdDSA), RFC 9881 §2 (ML-DSA), RFC 9909 §3 (SLH-DSA).
///
/// # Errors
/// [`Error::NotSupported`] if certificates have no name for it, as for HMAC, or may not be signed so, as by HashML-DSA
/// (RFC 9881).
pub fn algorithm_identifier(algorithm: Algorithm, key: &PublicKey) -> Result<AlgorithmIdentifierOwned> {
    let unnamed = || Error::NotSupported(format!("certificates have no name for {}", algorithm.name()).into());
    let named = |oid: &str, parameters: Option<Any>| {
        let oid = ObjectIdentifier::new(oid).map_err(|_| unnamed())?;
        Ok(AlgorithmIdentifierOwned { oid, parameters })
    };
    match algorithm.scheme() {
        Scheme::Pkcs1(hash) => {
            let oid = match hash {
                Hash::Sha1 => return Err(unnamed()),
                Hash::Sha256 => "1.2.840.113549.1.1.11",
                Hash::Sha384 => "1.2.840.113549.1.1.12",
                Hash::Sha512 => "1.2.840.113549.1.1.13",
            };
            named(oid, Some(Any::null()))
        }
        Scheme::Pss(hash) => {
            let salt = u8::try_from(hash.len()).map_err(|_| unnamed())?;
            let parameters = match hash {
                Hash::Sha1 => return Err(unnamed()),
                Hash::Sha256 => RsaPssParamsRef::new::<Sha256>(salt),
                Hash::Sha384 => RsaPssParamsRef::new::<Sha384>(salt),
                Hash::Sha512 => RsaPssParamsRef::new::<Sha512>(salt),
            };
            Ok(AlgorithmIdentifierOwned {
                oid: PSS,
                parameters: Some(Any::encode_from(&parameters).map_err(|_| unnamed())?),
            })
        }
        Scheme::Ecdsa(hash) => match hash {
            Hash::Sha1 => Err(unnamed()),
            Hash::Sha256 => named("1.2.840.10045.4.3.2", None),
            Hash::Sha384 => named("1.2.840.10045.4.3.3", None),
            Hash::Sha512 => named("1.2.840.10045.4.3.4", None),
        },
        // Key and signature have one name.
        Scheme::EdDsa | Scheme::PostQuantum => {
            let der = encoding::public_key_der(key);
            let info = SubjectPublicKeyInfoRef::try_from(der.as_slice()).map_err(|_| unnamed())?;
            Ok(AlgorithmIdentifierOwned {
                oid: info.algorithm.oid,
                parameters: None,
            })
        }
        Scheme::Gcm
        | Scheme::Ccm
        | Scheme::Ctr
        | Scheme::Cbc
        | Scheme::Oaep(_)
        | Scheme::Hmac(_)
        | Scheme::Cmac
        | Scheme::HashMlDsa(_)
        | Scheme::Kw
        | Scheme::Kwp
        | Scheme::RsaAesKeyWrap
        | Scheme::Ecdh
        | Scheme::Hkdf(_)
        | Scheme::Kem => Err(unnamed()),
    }
}

/// The algorithm that certificates of this key are signed with unless another is asked for: what most software reads.
///
/// # Errors
/// [`Error::KeyTypeMismatch`] if the key signs no certificates.
pub fn default_algorithm(key: &KeyInfo) -> Result<Algorithm> {
    match (key.key_type, key.size) {
        (KeyType::Rsa, _) => Ok(Algorithm::RsaPkcs1Sha256),
        (KeyType::Ec, KeySize::Curve(Curve::P256 | Curve::Secp256k1)) => Ok(Algorithm::EcdsaSha256),
        (KeyType::Ec, KeySize::Curve(Curve::P384)) => Ok(Algorithm::EcdsaSha384),
        (KeyType::Ec, KeySize::Curve(Curve::P521)) => Ok(Algorithm::EcdsaSha512),
        (KeyType::Ec, _) => Err(Error::KeyTypeMismatch(
            "the key is on a curve that the gateway does not know".into(),
        )),
        (KeyType::Ed, _) => Ok(Algorithm::EdDsa),
        (KeyType::MlDsa, _) => Ok(Algorithm::MlDsa),
        (KeyType::SlhDsa, _) => Ok(Algorithm::SlhDsa),
        (KeyType::Aes | KeyType::Hmac | KeyType::MlKem, _) => Err(Error::KeyTypeMismatch(
            format!("a key of type {} makes no signatures", key.key_type).into(),
        )),
    }
}

/// Whether the algorithm signs with keys of this type.
///
/// # Errors
/// [`Error::UnsupportedAlgorithm`], [`Error::KeyTypeMismatch`]
#[cfg(any(feature = "csr", feature = "signature"))]
pub(crate) fn check(algorithm: Algorithm, key: &KeyInfo) -> Result<()> {
    let row = algorithm.row();
    if !row.operations.contains(&crate::Operation::Sign) {
        return Err(Error::UnsupportedAlgorithm(format!("{} does not sign", row.name)));
    }
    if row.key_type != key.key_type {
        return Err(Error::KeyTypeMismatch(
            format!(
                "{} takes a key of type {}; this one is {}",
                row.name, row.key_type, key.key_type
            )
            .into(),
        ));
    }
    Ok(())
}
