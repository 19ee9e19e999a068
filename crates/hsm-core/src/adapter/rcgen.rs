//! Certificates and requests by rcgen, signed in the token: [`CertificateKey`] is a `SigningKey` of rcgen.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let token = softhsm_test::Token::softhsm();
//! # token.apply_env();
//! # let hsm = hsm_core::Hsm::builder().module(token.module()).pin(token.pin()).open()?;
//! # use hsm_core::{Curve, KeySpec, Label, NewKey};
//! # let key = hsm.generate(NewKey::new(KeySpec::Curve(Curve::P256), Label::parse("host.example")?)).wait()?;
//! let signing = hsm.certificate_key(&key)?;
//! let wanted = rcgen::CertificateParams::new(vec!["host.example".to_owned()])?;
//! let certificate = wanted.self_signed(&signing)?;
//! let request = wanted.serialize_request(&signing)?;
//! # assert!(!certificate.der().is_empty() && !request.der().is_empty());
//! # Ok(())
//! # }
//! ```

use ::rcgen::{PublicKeyData, SignatureAlgorithm, SigningKey};
use spki::SubjectPublicKeyInfoRef;

use super::signing_half;
use crate::algorithm::Algorithm;
use crate::encoding;
use crate::error::{Error, Result};
use crate::hsm::Hsm;
#[cfg(feature = "rcgen-aws-lc-rs")]
use crate::key::ParameterSet;
use crate::key::{Curve, HsmKeyId, KeyInfo, KeySize, KeyType};
use crate::operation::{Sign, SignatureFormat};

/// A key of the token for rcgen: RSA (PKCS#1), ECDSA on P-256 and P-384, Ed25519; with the feature `rcgen-aws-lc-rs`
/// also P-521 and ML-DSA. For others, and for RSA-PSS, there are [`Hsm::csr`] and the builders of `x509-cert`.
#[derive(Clone)]
pub struct CertificateKey {
    hsm: Hsm,
    id: HsmKeyId,
    /// The content of the BIT STRING in SubjectPublicKeyInfo.
    public: Vec<u8>,
    algorithm: Algorithm,
    named: &'static SignatureAlgorithm,
}

impl Hsm {
    /// A key for rcgen, signing by the algorithm that fits its type and curve. `key` is what [`Hsm::key`], [`Hsm::keys`]
    /// or [`Hsm::generate`] told of it.
    ///
    /// # Errors
    /// [`Error::KeyTypeMismatch`] if rcgen knows no such key, [`Error::UsageNotPermitted`] if it may not sign,
    /// [`Error::NotSupported`] if its public half is not known.
    pub fn certificate_key(&self, key: &KeyInfo) -> Result<CertificateKey> {
        let (algorithm, named) = algorithm_of(key)?;
        let der = encoding::public_key_der(signing_half(key)?);
        let malformed = || Error::Internal("the public key could not be written".into());
        let info = SubjectPublicKeyInfoRef::try_from(der.as_slice()).map_err(|_| malformed())?;
        Ok(CertificateKey {
            hsm: self.clone(),
            id: key.id.clone(),
            public: info.subject_public_key.as_bytes().ok_or_else(malformed)?.to_vec(),
            algorithm,
            named,
        })
    }
}

fn algorithm_of(key: &KeyInfo) -> Result<(Algorithm, &'static SignatureAlgorithm)> {
    match (key.key_type, key.size) {
        (KeyType::Rsa, _) => Ok((Algorithm::RsaPkcs1Sha256, &::rcgen::PKCS_RSA_SHA256)),
        (KeyType::Ec, KeySize::Curve(Curve::P256)) => Ok((Algorithm::EcdsaSha256, &::rcgen::PKCS_ECDSA_P256_SHA256)),
        (KeyType::Ec, KeySize::Curve(Curve::P384)) => Ok((Algorithm::EcdsaSha384, &::rcgen::PKCS_ECDSA_P384_SHA384)),
        #[cfg(feature = "rcgen-aws-lc-rs")]
        (KeyType::Ec, KeySize::Curve(Curve::P521)) => Ok((Algorithm::EcdsaSha512, &::rcgen::PKCS_ECDSA_P521_SHA512)),
        (KeyType::Ed, KeySize::Curve(Curve::Ed25519)) => Ok((Algorithm::EdDsa, &::rcgen::PKCS_ED25519)),
        #[cfg(feature = "rcgen-aws-lc-rs")]
        (KeyType::MlDsa, KeySize::ParameterSet(ParameterSet::MlDsa44)) => {
            Ok((Algorithm::MlDsa, &::rcgen::PKCS_ML_DSA_44))
        }
        #[cfg(feature = "rcgen-aws-lc-rs")]
        (KeyType::MlDsa, KeySize::ParameterSet(ParameterSet::MlDsa65)) => {
            Ok((Algorithm::MlDsa, &::rcgen::PKCS_ML_DSA_65))
        }
        #[cfg(feature = "rcgen-aws-lc-rs")]
        (KeyType::MlDsa, KeySize::ParameterSet(ParameterSet::MlDsa87)) => {
            Ok((Algorithm::MlDsa, &::rcgen::PKCS_ML_DSA_87))
        }
        (
            KeyType::Ec
            | KeyType::Ed
            | KeyType::Aes
            | KeyType::Hmac
            | KeyType::MlDsa
            | KeyType::MlKem
            | KeyType::SlhDsa,
            _,
        ) => Err(Error::KeyTypeMismatch(
            format!(
                "rcgen takes RSA keys, EC keys on P-256 and P-384 (P-521 and ML-DSA with the feature rcgen-aws-lc-rs) \
             and Ed25519; {} is none of these",
                key.id
            )
            .into(),
        )),
    }
}

impl PublicKeyData for CertificateKey {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.named
    }
}

impl SigningKey for CertificateKey {
    /// The cause of a failure goes to the log: rcgen's error has no place for it.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, ::rcgen::Error> {
        let ecdsa = matches!(self.algorithm.scheme(), crate::algorithm::Scheme::Ecdsa(_));
        let request = Sign {
            algorithm: self.algorithm.into(),
            format: ecdsa.then_some(SignatureFormat::Der),
            ..Sign::new(self.id.clone(), message)
        };
        self.hsm
            .sign(request)
            .wait()
            .map(|signed| signed.signature)
            .map_err(|error| {
                tracing::warn!(key = %self.id, %error, "a certificate could not be signed");
                ::rcgen::Error::RemoteKeyError
            })
    }
}

impl std::fmt::Debug for CertificateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("CertificateKey");
        shown.field("key", &self.id).field("algorithm", &self.algorithm);
        shown.finish_non_exhaustive()
    }
}
