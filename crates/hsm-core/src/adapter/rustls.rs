//! A TLS server's or client's key in the token: [`TlsKey`] is a `SigningKey` of rustls.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let token = softhsm_test::Token::softhsm();
//! # token.apply_env();
//! # let hsm = hsm_core::Hsm::builder().module(token.module()).pin(token.pin()).open()?;
//! # use hsm_core::{Curve, KeySpec, Label, NewKey};
//! # let key = hsm.generate(NewKey::new(KeySpec::Curve(Curve::P256), Label::parse("host.example")?)).wait()?;
//! use std::sync::Arc;
//!
//! use rustls::ServerConfig;
//! use rustls::server::ResolvesServerCert;
//! use rustls::sign::{CertifiedKey, SingleCertAndKey};
//!
//! # let wanted = rcgen::CertificateParams::new(vec!["host.example".to_owned()])?;
//! # let chain = vec![wanted.self_signed(&hsm.certificate_key(&key)?)?.der().clone()];
//! // chain: the certificate for the key and those above it
//! let certified = CertifiedKey::new(chain, Arc::new(hsm.tls_key(&key)?));
//! certified.keys_match()?;
//! let resolver: Arc<dyn ResolvesServerCert> = Arc::new(SingleCertAndKey::from(certified));
//! let config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(resolver);
//! # Ok(())
//! # }
//! ```

use std::sync::Arc;

use ::rustls::pki_types::SubjectPublicKeyInfoDer;
use ::rustls::sign;
use ::rustls::{Error as TlsError, OtherError, SignatureAlgorithm, SignatureScheme};

use super::signing_half;
use crate::algorithm::{Algorithm, Operation};
use crate::encoding;
use crate::error::{Error, Result};
use crate::hsm::Hsm;
use crate::key::{Curve, HsmKeyId, KeyInfo, KeySize, KeyType};
use crate::operation::{Sign, SignatureFormat};

/// A key of the token for rustls: RSA, ECDSA on P-256, P-384 and P-521, Ed25519, Ed448.
///
/// A handshake signs once and waits for it on its thread. A failure of the token ends the handshake; its cause is in the
/// error ([`OtherError`]) as an [`Error`].
#[derive(Clone)]
pub struct TlsKey(Arc<Inner>);

struct Inner {
    hsm: Hsm,
    id: HsmKeyId,
    public: SubjectPublicKeyInfoDer<'static>,
    algorithm: SignatureAlgorithm,
    /// What the token can do with the key, best first.
    schemes: Vec<(SignatureScheme, Algorithm)>,
}

/// RSA-PSS first, which TLS 1.3 asks for; then what TLS 1.2 also takes.
const RSA: [(SignatureScheme, Algorithm); 6] = [
    (SignatureScheme::RSA_PSS_SHA256, Algorithm::RsaPssSha256),
    (SignatureScheme::RSA_PSS_SHA384, Algorithm::RsaPssSha384),
    (SignatureScheme::RSA_PSS_SHA512, Algorithm::RsaPssSha512),
    (SignatureScheme::RSA_PKCS1_SHA256, Algorithm::RsaPkcs1Sha256),
    (SignatureScheme::RSA_PKCS1_SHA384, Algorithm::RsaPkcs1Sha384),
    (SignatureScheme::RSA_PKCS1_SHA512, Algorithm::RsaPkcs1Sha512),
];

impl Hsm {
    /// A key for rustls. `key` is what [`Hsm::key`], [`Hsm::keys`] or [`Hsm::generate`] told of it.
    ///
    /// # Errors
    /// [`Error::KeyTypeMismatch`] if TLS knows no such key, [`Error::UsageNotPermitted`] if it may not sign,
    /// [`Error::NotSupported`] if its public half is not known or the token has no mechanism to sign with it.
    pub fn tls_key(&self, key: &KeyInfo) -> Result<TlsKey> {
        let (algorithm, known) = schemes(key)?;
        let public = encoding::public_key_der(signing_half(key)?).into();
        let mechanisms = self.mechanisms();
        let can = |algorithm: &Algorithm| {
            let row = algorithm.row();
            mechanisms
                .iter()
                .any(|info| info.does(Operation::Sign) && (info.id == row.native || Some(info.id) == row.bare))
        };
        let schemes: Vec<_> = known.iter().filter(|(_, algorithm)| can(algorithm)).copied().collect();
        if schemes.is_empty() {
            let names: Vec<_> = known.iter().map(|(_, algorithm)| algorithm.name()).collect();
            return Err(Error::NotSupported(
                format!("this token signs by none of {}", names.join(", ")).into(),
            ));
        }
        Ok(TlsKey(Arc::new(Inner {
            hsm: self.clone(),
            id: key.id.clone(),
            public,
            algorithm,
            schemes,
        })))
    }
}

fn schemes(key: &KeyInfo) -> Result<(SignatureAlgorithm, &'static [(SignatureScheme, Algorithm)])> {
    match (key.key_type, key.size) {
        (KeyType::Rsa, _) => Ok((SignatureAlgorithm::RSA, &RSA)),
        (KeyType::Ec, KeySize::Curve(Curve::P256)) => Ok((
            SignatureAlgorithm::ECDSA,
            &[(SignatureScheme::ECDSA_NISTP256_SHA256, Algorithm::EcdsaSha256)],
        )),
        (KeyType::Ec, KeySize::Curve(Curve::P384)) => Ok((
            SignatureAlgorithm::ECDSA,
            &[(SignatureScheme::ECDSA_NISTP384_SHA384, Algorithm::EcdsaSha384)],
        )),
        (KeyType::Ec, KeySize::Curve(Curve::P521)) => Ok((
            SignatureAlgorithm::ECDSA,
            &[(SignatureScheme::ECDSA_NISTP521_SHA512, Algorithm::EcdsaSha512)],
        )),
        (KeyType::Ed, KeySize::Curve(Curve::Ed25519)) => Ok((
            SignatureAlgorithm::ED25519,
            &[(SignatureScheme::ED25519, Algorithm::EdDsa)],
        )),
        (KeyType::Ed, KeySize::Curve(Curve::Ed448)) => {
            Ok((SignatureAlgorithm::ED448, &[(SignatureScheme::ED448, Algorithm::EdDsa)]))
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
                "TLS takes RSA keys, EC keys on P-256, P-384 or P-521, and ED keys; {} is none of these",
                key.id
            )
            .into(),
        )),
    }
}

impl sign::SigningKey for TlsKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn sign::Signer>> {
        let mut ours = self.0.schemes.iter();
        let (scheme, algorithm) = ours.find(|(scheme, _)| offered.contains(scheme)).copied()?;
        Some(Box::new(OneScheme {
            key: self.clone(),
            scheme,
            algorithm,
        }))
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(self.0.public.clone())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm
    }
}

#[derive(Debug)]
struct OneScheme {
    key: TlsKey,
    scheme: SignatureScheme,
    algorithm: Algorithm,
}

impl sign::Signer for OneScheme {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, TlsError> {
        let ecdsa = self.key.0.algorithm == SignatureAlgorithm::ECDSA;
        let request = Sign {
            algorithm: self.algorithm.into(),
            format: ecdsa.then_some(SignatureFormat::Der),
            ..Sign::new(self.key.0.id.clone(), message)
        };
        let signed = self.key.0.hsm.sign(request).wait();
        signed
            .map(|signed| signed.signature)
            .map_err(|error| TlsError::Other(OtherError(Arc::new(error))))
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}

impl std::fmt::Debug for TlsKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("TlsKey");
        shown.field("key", &self.0.id).field("algorithm", &self.0.algorithm);
        shown.finish_non_exhaustive()
    }
}
