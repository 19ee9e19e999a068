//! PKCS#10 certification requests (RFC 2986) for keys of the token.
//!
//! [`Hsm::csr`] does it in one call. Who wants to decide or record in between takes the two halves apart: [`prepare`]
//! checks what is asked for and says what is to be signed, [`Prepared::finish`] puts the signature in its place.

mod alt_name;
mod subject;

use x509_cert::der::asn1::BitString;
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::ext::ToExtension as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::name::Name;
use x509_cert::request::{CertReq, CertReqInfo, ExtensionReq, Version};
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

use crate::adapter::identifier::{algorithm_identifier, check, default_algorithm};
use crate::adapter::public_half;
use crate::algorithm::{Algorithm, Named, Operation, Scheme};
use crate::call::Call;
use crate::encoding;
use crate::error::{Error, Result};
use crate::hsm::Hsm;
use crate::key::{HsmKeyId, KeyInfo, Usage};
use crate::operation::{self, Choice, Sign, SignatureFormat};

/// The longest subject in bytes.
pub const MAX_SUBJECT_BYTES: usize = 1024;
/// How many subject alternative names there may be.
pub const MAX_ALT_NAMES: usize = 64;

/// Whom a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    subject: Name,
    alt_names: Vec<GeneralName>,
}

/// What a certificate is asked for.
#[derive(Clone, Debug)]
pub struct CertificateRequest {
    /// The key, one that signs.
    pub key: HsmKeyId,
    /// Whom it is for.
    pub names: Names,
    /// The algorithm; that of the key's type and curve if not said, for RSA keys RSA-PKCS1-SHA256.
    pub algorithm: Choice,
}

/// A request that wants its signature.
#[derive(Clone, Debug)]
pub struct Prepared {
    info: CertReqInfo,
    signed_bytes: Vec<u8>,
    identifier: AlgorithmIdentifierOwned,
    key: HsmKeyId,
    choice: Choice,
    algorithm: Algorithm,
}

/// A certification request, signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Csr(Vec<u8>);

impl Names {
    /// Reads a subject as RFC 4514 writes it, `CN=host.example,O=Example`, and alternative names: host names
    /// (`host.example`, `*.host.example`), IP addresses, e-mail addresses (`a@b.example`), URIs (`https://…`).
    /// Only one of the two may be empty.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] naming `subject` or `subject_alt_names`.
    pub fn parse(subject: &str, subject_alt_names: &[impl AsRef<str>]) -> Result<Names> {
        let subject = subject::parse(subject)?;
        let alt_names = alt_name::parse_all(subject_alt_names)?;
        if subject.is_empty() && alt_names.is_empty() {
            return Err(Error::invalid(
                "subject",
                "may be empty only where there are `subject_alt_names`",
            ));
        }
        Ok(Names { subject, alt_names })
    }
}

/// Checks what is asked for against the key, and makes of it what is to be signed.
///
/// # Errors
/// [`Error::UnsupportedAlgorithm`] and [`Error::KeyTypeMismatch`] for an algorithm that is none or not of this key, or a
/// key that makes no signatures; [`Error::NotSupported`] if the public half is not known or certificates have no name
/// for the algorithm.
pub fn prepare(key: &KeyInfo, request: &CertificateRequest) -> Result<Prepared> {
    let (algorithm, choice) = if request.algorithm == Choice::BY_KEY {
        let default = default_algorithm(key)?;
        (default, Choice::from(default))
    } else {
        let algorithm = named(&request.algorithm)?;
        check(algorithm, key)?;
        // An HMAC signs, and certifies nothing.
        default_algorithm(key)?;
        (algorithm, request.algorithm.clone())
    };
    let public = public_half(key)?;
    let identifier = algorithm_identifier(algorithm, public)?;
    let Names { subject, alt_names } = request.names.clone();

    let mut attributes = x509_cert::attr::Attributes::new();
    if !alt_names.is_empty() {
        let extension = SubjectAltName(alt_names)
            .to_extension(&subject, &[])
            .map_err(internal)?;
        let wanted = ExtensionReq(vec![extension]).try_into().map_err(internal)?;
        attributes.insert(wanted).map_err(internal)?;
    }
    let public = encoding::public_key_der(public);
    let info = CertReqInfo {
        version: Version::V1,
        subject,
        public_key: SubjectPublicKeyInfoOwned::from_der(&public).map_err(internal)?,
        attributes,
    };
    Ok(Prepared {
        signed_bytes: info.to_der().map_err(internal)?,
        info,
        identifier,
        key: key.id.clone(),
        choice,
        algorithm,
    })
}

impl Prepared {
    /// What is to be signed.
    pub fn to_sign(&self) -> Sign {
        let ecdsa = matches!(self.algorithm.scheme(), Scheme::Ecdsa(_));
        Sign {
            algorithm: self.choice.clone(),
            format: ecdsa.then_some(SignatureFormat::Der),
            ..Sign::new(self.key.clone(), self.signed_bytes.clone())
        }
    }

    /// The request with the signature that [`Prepared::to_sign`] gave.
    ///
    /// # Errors
    /// [`Error::Internal`] if what comes out can't be written, which no signature brings about.
    pub fn finish(self, signature: &[u8]) -> Result<Csr> {
        let request = CertReq {
            info: self.info,
            algorithm: self.identifier,
            signature: BitString::from_bytes(signature).map_err(internal)?,
        };
        request.to_der().map(Csr).map_err(internal)
    }
}

impl Csr {
    /// In DER.
    pub fn as_der(&self) -> &[u8] {
        &self.0
    }

    /// In PEM (RFC 7468 §7), lines of 64 characters, a newline at the end.
    pub fn to_pem(&self) -> String {
        encoding::pem("CERTIFICATE REQUEST", &self.0)
    }
}

impl Hsm {
    /// Makes a PKCS#10 certification request, signed by the key.
    ///
    /// # Errors
    /// Those of [`prepare`] and of [`Hsm::sign`].
    pub fn csr(&self, request: CertificateRequest) -> Call<Csr> {
        let id = request.key.clone();
        self.with_key(&id.into(), Usage::Sign, move |shared, key| {
            let prepared = prepare(&key.info, &request)?;
            let plan = operation::sign(shared, key, prepared.to_sign())?;
            Ok(Box::new(move |worker, key| {
                let signed = plan(worker, key)?;
                prepared.finish(&signed.signature)
            }))
        })
    }
}

fn named(choice: &Choice) -> Result<Algorithm> {
    let found = choice.name().and_then(|name| Named::parse(name, Operation::Sign));
    found.map(|named| named.algorithm).ok_or_else(|| {
        let known = Named::names(Operation::Sign).join(", ");
        Error::UnsupportedAlgorithm(format!("no such algorithm to sign with; there are {known}"))
    })
}

fn internal(why: impl std::fmt::Display) -> Error {
    Error::Internal(format!("the certification request could not be written: {why}"))
}
