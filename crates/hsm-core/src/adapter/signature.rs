//! The traits of the crate `signature`: [`Signer`] signs with a key of the token, [`VerifyingKey`] is its public half.
//!
//! Both take the signature types of the curves' and RSA's crates, and [`AnySignature`] for every algorithm. With them a
//! key of the token is a signer for the builders of `x509-cert`.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let token = softhsm_test::Token::softhsm();
//! # token.apply_env();
//! # let hsm = hsm_core::Hsm::builder().module(token.module()).pin(token.pin()).open()?;
//! # use hsm_core::{Algorithm, Curve, KeySpec, Label, NewKey};
//! # let key = hsm.generate(NewKey::new(KeySpec::Curve(Curve::P256), Label::parse("host.example")?)).wait()?;
//! use std::str::FromStr as _;
//! use std::time::Duration;
//!
//! use hsm_core::adapter::signature::AnySignature;
//! use signature::{Keypair as _, Signer as _, Verifier as _};
//! use x509_cert::builder::{Builder as _, CertificateBuilder, profile::cabf};
//! use x509_cert::spki::SubjectPublicKeyInfoOwned;
//! use x509_cert::{name::Name, serial_number::SerialNumber, time::Validity};
//!
//! let signer = hsm.signer(&key, Algorithm::EcdsaSha256)?;
//! let signature: p256::ecdsa::Signature = signer.try_sign(b"100 apples")?;
//! signer.verifying_key().verify(b"100 apples", &signature)?;
//!
//! let builder = CertificateBuilder::new(
//!     cabf::Root::new(false, Name::from_str("CN=Example CA,O=Example,C=AT")?)?,
//!     SerialNumber::from(1_u32),
//!     Validity::from_now(Duration::from_secs(365 * 86_400))?,
//!     SubjectPublicKeyInfoOwned::from_key(&signer.verifying_key())?,
//! )?;
//! let certificate = builder.build::<_, AnySignature>(&signer)?;
//! # assert_eq!(certificate.tbs_certificate().subject().to_string(), "CN=Example CA,O=Example,C=AT");
//! # Ok(())
//! # }
//! ```

use std::sync::Arc;

use ::signature::{Error as SignatureError, Keypair, SignatureEncoding, Verifier};
use spki::der::Document;
use spki::der::asn1::BitString;
use spki::{AlgorithmIdentifierOwned, DynSignatureAlgorithmIdentifier, EncodePublicKey, SignatureBitStringEncoding};

use super::identifier::{algorithm_identifier, check};
use super::signing_half;
use crate::algorithm::{Algorithm, Scheme};
use crate::encoding;
use crate::error::{Error, Result};
use crate::hsm::Hsm;
use crate::key::{Curve, KeyInfo, KeySize, PublicKey};
use crate::operation::{Sign, SignatureFormat, Verify};
use crate::software::{Message, PreparedKey};

/// Signs with a key of the token, by one algorithm. Its errors have the [`Error`] as their source.
///
/// [`Signer::try_sign`](::signature::Signer::try_sign) waits on this thread; `sign` panics where it would return an error, as the trait says.
#[derive(Clone)]
pub struct Signer {
    verifying: VerifyingKey,
}

/// The public half of a [`Signer`]. Signatures are checked here where that can be, else by the token.
#[derive(Clone)]
pub struct VerifyingKey {
    hsm: Hsm,
    key: Arc<KeyInfo>,
    public: PublicKey,
    prepared: Option<PreparedKey>,
    algorithm: Algorithm,
}

/// A signature by any algorithm, as certificates have it: an ECDSA signature in DER.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnySignature(Box<[u8]>);

impl Hsm {
    /// A signer of the crate `signature`. `key` is what [`Hsm::key`], [`Hsm::keys`] or [`Hsm::generate`] told of it.
    ///
    /// # Errors
    /// [`Error::UnsupportedAlgorithm`], [`Error::KeyTypeMismatch`] or [`Error::UsageNotPermitted`] if the key does not
    /// sign so; [`Error::NotSupported`] if its public half is not known.
    pub fn signer(&self, key: &KeyInfo, algorithm: Algorithm) -> Result<Signer> {
        check(algorithm, key)?;
        let public = signing_half(key)?.clone();
        Ok(Signer {
            verifying: VerifyingKey {
                hsm: self.clone(),
                key: Arc::new(key.clone()),
                prepared: PreparedKey::new(&public).ok(),
                public,
                algorithm,
            },
        })
    }
}

impl Signer {
    /// What is signed with.
    pub fn key(&self) -> &KeyInfo {
        &self.verifying.key
    }

    /// How it is signed.
    pub fn algorithm(&self) -> Algorithm {
        self.verifying.algorithm
    }

    fn signature(&self, message: &[u8], format: Option<SignatureFormat>) -> Result<Vec<u8>> {
        let request = self.verifying.request(message, format);
        self.verifying.hsm.sign(request).wait().map(|signed| signed.signature)
    }
}

impl VerifyingKey {
    /// The public key.
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn request(&self, message: &[u8], format: Option<SignatureFormat>) -> Sign {
        Sign {
            algorithm: self.algorithm.into(),
            format,
            ..Sign::new(self.key.id.clone(), message)
        }
    }

    /// ECDSA signatures are in DER.
    fn check(&self, message: &[u8], signature: &[u8]) -> Result<bool> {
        let scheme = self.algorithm.scheme();
        let ecdsa = matches!(scheme, Scheme::Ecdsa(_));
        if let Some(prepared) = &self.prepared {
            return match (&self.public, ecdsa) {
                (PublicKey::Curve { curve, .. }, true) => encoding::ecdsa_from_der(signature, *curve)
                    .map_or(Ok(false), |fixed| {
                        prepared.verify(scheme, Message::Raw(message), &fixed)
                    }),
                _ => prepared.verify(scheme, Message::Raw(message), signature),
            };
        }
        let request = Verify {
            signed: self.request(message, ecdsa.then_some(SignatureFormat::Der)),
            signature: signature.to_vec(),
        };
        self.hsm.verify(request).wait()
    }

    fn fits(&self, wanted: Wanted) -> Result<()> {
        let size = self.key.size;
        let fits = match (wanted, self.algorithm.scheme()) {
            (Wanted::Ecdsa(curve), Scheme::Ecdsa(_)) => size == KeySize::Curve(curve),
            (Wanted::Ed25519, Scheme::EdDsa) => size == KeySize::Curve(Curve::Ed25519),
            (Wanted::Pkcs1, Scheme::Pkcs1(_)) | (Wanted::Pss, Scheme::Pss(_)) => true,
            (Wanted::Ecdsa(_) | Wanted::Ed25519 | Wanted::Pkcs1 | Wanted::Pss, _) => false,
        };
        if fits {
            return Ok(());
        }
        Err(Error::KeyTypeMismatch(
            format!(
                "this type of signature is not the one that {} gives with this key",
                self.algorithm.name()
            )
            .into(),
        ))
    }
}

/// What a type of signature is of.
#[derive(Clone, Copy)]
enum Wanted {
    Ecdsa(Curve),
    Ed25519,
    Pkcs1,
    Pss,
}

macro_rules! signatures {
    ($($signature:ty: $wanted:expr, $format:expr, |$bytes:ident| $read:expr, |$written:ident| $der:expr;)*) => {
        $(
            impl ::signature::Signer<$signature> for Signer {
                fn try_sign(&self, message: &[u8]) -> Result<$signature, SignatureError> {
                    self.verifying.fits($wanted).map_err(SignatureError::from_source)?;
                    let signature = self.signature(message, $format).map_err(SignatureError::from_source)?;
                    let $bytes = signature.as_slice();
                    $read.map_err(SignatureError::from_source)
                }
            }

            impl Verifier<$signature> for VerifyingKey {
                fn verify(&self, message: &[u8], signature: &$signature) -> Result<(), SignatureError> {
                    self.fits($wanted).map_err(SignatureError::from_source)?;
                    let $written = signature;
                    verified(self.check(message, $der.as_ref()))
                }
            }
        )*
    };
}

const R_S: Option<SignatureFormat> = Some(SignatureFormat::P1363);
const DER: Option<SignatureFormat> = Some(SignatureFormat::Der);

signatures! {
    p256::ecdsa::Signature: Wanted::Ecdsa(Curve::P256), R_S, |b| p256::ecdsa::Signature::from_slice(b), |s| s.to_der();
    p256::ecdsa::DerSignature: Wanted::Ecdsa(Curve::P256), DER, |b| p256::ecdsa::DerSignature::from_bytes(b), |s| s;
    p384::ecdsa::Signature: Wanted::Ecdsa(Curve::P384), R_S, |b| p384::ecdsa::Signature::from_slice(b), |s| s.to_der();
    p384::ecdsa::DerSignature: Wanted::Ecdsa(Curve::P384), DER, |b| p384::ecdsa::DerSignature::from_bytes(b), |s| s;
    p521::ecdsa::Signature: Wanted::Ecdsa(Curve::P521), R_S, |b| p521::ecdsa::Signature::from_slice(b), |s| s.to_der();
    p521::ecdsa::DerSignature: Wanted::Ecdsa(Curve::P521), DER, |b| p521::ecdsa::DerSignature::from_bytes(b), |s| s;
    k256::ecdsa::Signature: Wanted::Ecdsa(Curve::Secp256k1), R_S, |b| k256::ecdsa::Signature::from_slice(b), |s| s.to_der();
    k256::ecdsa::DerSignature: Wanted::Ecdsa(Curve::Secp256k1), DER, |b| k256::ecdsa::DerSignature::from_bytes(b), |s| s;
    ed25519_dalek::Signature: Wanted::Ed25519, None, |b| ed25519_dalek::Signature::from_slice(b), |s| s.to_bytes();
    rsa::pkcs1v15::Signature: Wanted::Pkcs1, None, |b| rsa::pkcs1v15::Signature::try_from(b), |s| s.to_bytes();
    rsa::pss::Signature: Wanted::Pss, None, |b| rsa::pss::Signature::try_from(b), |s| s.to_bytes();
}

impl ::signature::Signer<AnySignature> for Signer {
    fn try_sign(&self, message: &[u8]) -> Result<AnySignature, SignatureError> {
        let ecdsa = matches!(self.algorithm().scheme(), Scheme::Ecdsa(_));
        let signature = self.signature(message, ecdsa.then_some(SignatureFormat::Der));
        signature
            .map(|bytes| AnySignature(bytes.into()))
            .map_err(SignatureError::from_source)
    }
}

impl Verifier<AnySignature> for VerifyingKey {
    fn verify(&self, message: &[u8], signature: &AnySignature) -> Result<(), SignatureError> {
        verified(self.check(message, &signature.0))
    }
}

/// Checks with the public half.
impl<S> Verifier<S> for Signer
where
    VerifyingKey: Verifier<S>,
{
    fn verify(&self, message: &[u8], signature: &S) -> Result<(), SignatureError> {
        self.verifying.verify(message, signature)
    }
}

fn verified(outcome: Result<bool>) -> Result<(), SignatureError> {
    match outcome {
        Ok(true) => Ok(()),
        Ok(false) => Err(SignatureError::new()),
        Err(error) => Err(SignatureError::from_source(error)),
    }
}

impl Keypair for Signer {
    type VerifyingKey = VerifyingKey;

    fn verifying_key(&self) -> VerifyingKey {
        self.verifying.clone()
    }
}

impl DynSignatureAlgorithmIdentifier for Signer {
    fn signature_algorithm_identifier(&self) -> spki::Result<AlgorithmIdentifierOwned> {
        self.verifying.signature_algorithm_identifier()
    }
}

impl DynSignatureAlgorithmIdentifier for VerifyingKey {
    fn signature_algorithm_identifier(&self) -> spki::Result<AlgorithmIdentifierOwned> {
        algorithm_identifier(self.algorithm, &self.public).map_err(|_| spki::Error::KeyMalformed)
    }
}

impl EncodePublicKey for VerifyingKey {
    fn to_public_key_der(&self) -> spki::Result<Document> {
        Ok(Document::try_from(encoding::public_key_der(&self.public))?)
    }
}

impl AsRef<[u8]> for AnySignature {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<&[u8]> for AnySignature {
    type Error = SignatureError;

    /// Takes all bytes; whether they are a signature is for the key to say.
    fn try_from(bytes: &[u8]) -> Result<AnySignature, SignatureError> {
        Ok(AnySignature(bytes.into()))
    }
}

impl From<AnySignature> for Box<[u8]> {
    fn from(signature: AnySignature) -> Box<[u8]> {
        signature.0
    }
}

impl SignatureEncoding for AnySignature {
    type Repr = Box<[u8]>;
}

impl SignatureBitStringEncoding for AnySignature {
    fn to_bitstring(&self) -> spki::der::Result<BitString> {
        BitString::from_bytes(&self.0)
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Signer");
        shown.field("key", &self.key().id).field("algorithm", &self.algorithm());
        shown.finish_non_exhaustive()
    }
}

impl std::fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("VerifyingKey");
        shown.field("key", &self.key.id).field("algorithm", &self.algorithm);
        shown.finish_non_exhaustive()
    }
}
