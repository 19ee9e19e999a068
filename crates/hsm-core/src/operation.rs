//! Encrypt, decrypt, sign, verify: what a request asks of a key is checked first, then planned as one call of the token, or
//! as what is done beside it where the token lacks the mechanism and no secret is needed.

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::algorithm::{Algorithm, Hash, JoseKey, MechanismId, Named, Operation, Scheme};
use crate::backend::{Handle, Mechanism, MechanismInfo, Outcome};
use crate::encoding;
use crate::error::{Ckr, During, Error, Failure, Result};
use crate::hsm::{Shared, VerifyAfterSign};
use crate::index::Key;
use crate::key::{Curve, HsmKeyId, KeySize, KeyType, Usage};
use crate::oaep;
use crate::quirks;
use crate::software::Message;
use crate::workers::Worker;

/// What is left to do of a request that has been checked.
pub(crate) type Plan<T> = Box<dyn FnOnce(&mut Worker, Arc<Key>) -> Result<T> + Send>;

const GCM_IV: usize = 12;
const GCM_TAG: usize = 16;
const BLOCK: usize = 16;

/// Which algorithm a request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice(Option<Result<Named, Box<str>>>);

impl Choice {
    /// The one that fits the key best.
    pub const BY_KEY: Choice = Choice(None);

    /// Reads a name, ours or JOSE's. A name that nobody knows is answered once the key is known to be there.
    pub fn parse(name: &str, operation: Operation) -> Choice {
        Choice(Some(Named::parse(name, operation).ok_or_else(|| name.into())))
    }

    /// The algorithm's name, as far as it is known before the key is.
    pub fn name(&self) -> Option<&'static str> {
        let named = self.0.as_ref()?.as_ref().ok()?;
        Some(named.algorithm.name())
    }
}

impl From<Algorithm> for Choice {
    fn from(algorithm: Algorithm) -> Choice {
        Choice(Some(Ok(algorithm.into())))
    }
}

/// Data to encrypt.
#[derive(Clone)]
pub struct Encrypt {
    /// The key.
    pub key: HsmKeyId,
    /// The algorithm.
    pub algorithm: Choice,
    /// The plaintext.
    pub data: Zeroizing<Vec<u8>>,
    /// Additional authenticated data, for AES-GCM.
    pub aad: Option<Vec<u8>>,
}

/// What encryption gave.
#[derive(Clone, Debug)]
pub struct Encrypted {
    /// The algorithm that was used.
    pub algorithm: Algorithm,
    /// The ciphertext.
    pub ciphertext: Vec<u8>,
    /// The IV, 12 bytes (AES-GCM) or 16 (AES-CTR, AES-CBC); none for RSA.
    pub iv: Option<Vec<u8>>,
    /// The tag, 16 bytes, of AES-GCM.
    pub tag: Option<Vec<u8>>,
}

/// A ciphertext to decrypt.
#[derive(Clone)]
pub struct Decrypt {
    /// The key.
    pub key: HsmKeyId,
    /// The algorithm.
    pub algorithm: Choice,
    /// The ciphertext.
    pub ciphertext: Vec<u8>,
    /// The IV that encryption answered.
    pub iv: Option<Vec<u8>>,
    /// The tag that encryption answered.
    pub tag: Option<Vec<u8>>,
    /// The additional authenticated data that encryption took.
    pub aad: Option<Vec<u8>>,
}

/// What is signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MessageType {
    /// The data.
    #[default]
    Raw,
    /// Its digest by the algorithm's hash; for RSA and ECDSA.
    Digest,
}

/// How an ECDSA signature is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureFormat {
    /// ECDSA-Sig-Value in DER (RFC 3279 §2.2.3).
    Der,
    /// r‖s, each as long as the order (IEEE P1363).
    P1363,
}

/// Data to sign.
#[derive(Clone)]
pub struct Sign {
    /// The key.
    pub key: HsmKeyId,
    /// The algorithm.
    pub algorithm: Choice,
    /// The data, or its digest.
    pub data: Vec<u8>,
    /// Which of the two.
    pub message_type: MessageType,
    /// How an ECDSA signature is written: DER if not said, r‖s if not said and the algorithm has a JOSE name.
    pub format: Option<SignatureFormat>,
}

/// A signature.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The algorithm that was used.
    pub algorithm: Algorithm,
    /// The signature.
    pub signature: Vec<u8>,
    /// How an ECDSA signature is written.
    pub format: Option<SignatureFormat>,
}

/// A signature to check.
#[derive(Clone)]
pub struct Verify {
    /// What was signed, as it was asked for.
    pub signed: Sign,
    /// The signature.
    pub signature: Vec<u8>,
}

impl Encrypt {
    /// Encrypts `data` with the algorithm that fits the key.
    pub fn new(key: HsmKeyId, data: impl Into<Vec<u8>>) -> Encrypt {
        Encrypt {
            key,
            algorithm: Choice::BY_KEY,
            data: Zeroizing::new(data.into()),
            aad: None,
        }
    }
}

impl Decrypt {
    /// Decrypts what [`Hsm::encrypt`](crate::Hsm::encrypt) answered for `key`.
    pub fn new(key: HsmKeyId, encrypted: Encrypted) -> Decrypt {
        let Encrypted {
            algorithm,
            ciphertext,
            iv,
            tag,
        } = encrypted;
        Decrypt {
            key,
            algorithm: algorithm.into(),
            ciphertext,
            iv,
            tag,
            aad: None,
        }
    }
}

impl Sign {
    /// Signs `data` with the algorithm that fits the key.
    pub fn new(key: HsmKeyId, data: impl Into<Vec<u8>>) -> Sign {
        Sign {
            key,
            algorithm: Choice::BY_KEY,
            data: data.into(),
            message_type: MessageType::Raw,
            format: None,
        }
    }
}

// What each operation checks and plans ------------------------------------------------------------------------------------

pub(crate) fn encrypt(shared: &Shared, key: &Key, request: Encrypt) -> Result<Plan<Encrypted>> {
    let Encrypt {
        key: _,
        algorithm,
        data,
        aad,
    } = request;
    let chosen = choose(shared, key, &algorithm, Operation::Encrypt)?;
    permit(shared, key, Usage::Encrypt)?;
    refuse_aad(&chosen, aad.as_deref())?;
    match chosen {
        Chosen::Oaep(hash) => {
            if let (Some(hash), Some(prepared)) = (hash, key.prepared()) {
                fits_oaep(prepared.oaep_capacity(hash), &data)?;
            }
            Ok(Box::new(move |worker, key| encrypt_oaep(worker, &key, hash, &data)))
        }
        Chosen::Algorithm(algorithm) => {
            listed(shared, algorithm.row().native, |info| info.encrypt)?;
            Ok(Box::new(move |worker, key| {
                encrypt_aes(worker, &key, algorithm, &data, aad.unwrap_or_default())
            }))
        }
    }
}

pub(crate) fn decrypt(shared: &Shared, key: &Key, request: Decrypt) -> Result<Plan<Zeroizing<Vec<u8>>>> {
    let Decrypt {
        key: _,
        algorithm,
        ciphertext,
        iv,
        tag,
        aad,
    } = request;
    let chosen = choose(shared, key, &algorithm, Operation::Decrypt)?;
    permit(shared, key, Usage::Decrypt)?;
    refuse_aad(&chosen, aad.as_deref())?;
    let (needs_iv, needs_tag) = match chosen {
        Chosen::Algorithm(Algorithm::AesGcm) => (true, true),
        Chosen::Algorithm(_) => (true, false),
        Chosen::Oaep(_) => (false, false),
    };
    let iv = given("iv", needs_iv, iv)?;
    let tag = given("tag", needs_tag, tag)?;
    match chosen {
        Chosen::Oaep(hash) => {
            if !oaep::listed(shared) {
                return Err(no_mechanism(MechanismId::RSA_PKCS_OAEP));
            }
            if let KeySize::Bits(bits) = key.info.size
                && ciphertext.len() != bits.div_ceil(8) as usize
            {
                return Err(Error::DecryptionFailed);
            }
            Ok(Box::new(move |worker, key| {
                let hash = hash_or_default(worker, hash)?;
                oaep::check(worker, hash)?;
                decrypted(worker, &key, &Mechanism::RsaOaep(hash), &ciphertext)
            }))
        }
        Chosen::Algorithm(algorithm) => {
            let mut ciphertext = ciphertext;
            let mechanism = match algorithm.scheme() {
                Scheme::Gcm if iv.len() == GCM_IV && tag.len() == GCM_TAG => Mechanism::AesGcm {
                    iv,
                    aad: aad.unwrap_or_default(),
                },
                Scheme::Ctr => Mechanism::AesCtr {
                    counter: iv.try_into().map_err(|_| Error::DecryptionFailed)?,
                },
                Scheme::Cbc if !ciphertext.is_empty() && ciphertext.len().is_multiple_of(BLOCK) => {
                    Mechanism::AesCbcPad {
                        iv: iv.try_into().map_err(|_| Error::DecryptionFailed)?,
                    }
                }
                _ => return Err(Error::DecryptionFailed),
            };
            ciphertext.extend_from_slice(&tag);
            listed(shared, algorithm.row().native, |info| info.decrypt)?;
            Ok(Box::new(move |worker, key| {
                decrypted(worker, &key, &mechanism, &ciphertext)
            }))
        }
    }
}

pub(crate) fn sign(shared: &Shared, key: &Key, request: Sign) -> Result<Plan<Signed>> {
    let (algorithm, format) = check_signing(shared, key, &request, Operation::Sign)?;
    let mechanism = signing_mechanism(shared, key, algorithm, request.message_type, |info| info.sign)?;
    let check_after = match shared.options.verify_after_sign {
        VerifyAfterSign::Rsa => key.info.key_type == KeyType::Rsa,
        VerifyAfterSign::All => true,
        VerifyAfterSign::None => false,
    };
    let Sign { data, message_type, .. } = request;
    Ok(Box::new(move |worker, key| {
        let input = signing_input(&mechanism, algorithm, message_type, &data);
        let signature = worker.run_with_key(&key, |session, key| session.sign(&mechanism, private(key)?, &input))?;
        if check_after {
            check_own_signature(worker, &key, algorithm, message_type, &data, &signature)?;
        }
        let signature = match (format, key_curve(&key)) {
            (Some(SignatureFormat::Der), Some(curve)) => encoding::ecdsa_to_der(&signature, curve)
                .ok_or_else(|| Error::Device("the token answered an ECDSA signature of a wrong length".into()))?,
            _ => signature,
        };
        Ok(Signed {
            algorithm,
            signature,
            format,
        })
    }))
}

pub(crate) fn verify(shared: &Shared, key: &Key, request: Verify) -> Result<Plan<bool>> {
    let (algorithm, format) = check_signing(shared, key, &request.signed, Operation::Verify)?;
    let Verify {
        signed: Sign { data, message_type, .. },
        signature,
    } = request;
    let signature = match (format, key_curve(key)) {
        (Some(SignatureFormat::Der), Some(curve)) => encoding::ecdsa_from_der(&signature, curve),
        _ => Some(signature).filter(|signature| has_right_length(key, algorithm, signature.len())),
    };
    let Some(signature) = signature else {
        return Ok(Box::new(|_, _| Ok(false)));
    };
    let on_token = key
        .public()
        .map(|_| signing_mechanism(shared, key, algorithm, message_type, |info| info.verify));
    match (on_token, key.prepared().is_some()) {
        (Some(Ok(mechanism)), _) => Ok(Box::new(move |worker, key| {
            let input = signing_input(&mechanism, algorithm, message_type, &data);
            worker.run_with_key(&key, |session, key| {
                session.verify(&mechanism, public(key)?, &input, &signature)
            })
        })),
        (_, true) => Ok(Box::new(move |_, key| match key.prepared() {
            Some(prepared) => prepared.verify(algorithm.scheme(), message(message_type, &data), &signature),
            None => Err(Error::Internal("the public key is gone".into())),
        })),
        (Some(Err(error)), false) => Err(error),
        (None, false) => Err(Error::NotSupported(
            "there is no public key to verify with on the token".into(),
        )),
    }
}

// The checks, in the order of the contract --------------------------------------------------------------------------------

enum Chosen {
    /// The algorithm is known.
    Algorithm(Algorithm),
    /// RSA-OAEP; without a hash it is for the token to say which.
    Oaep(Option<Hash>),
}

fn choose(shared: &Shared, key: &Key, choice: &Choice, operation: Operation) -> Result<Chosen> {
    let named = match &choice.0 {
        Some(Ok(named)) => Some(*named),
        Some(Err(name)) => {
            let known = Named::names(operation).join(", ");
            return Err(Error::UnsupportedAlgorithm(format!(
                "`{}` is no algorithm to {} with; there are {known}",
                name.escape_debug(),
                operation.name()
            )));
        }
        None => None,
    };
    let Some(named) = named else {
        return default_algorithm(shared, key, operation);
    };
    let Named { algorithm, jose } = named;
    if algorithm == Algorithm::AesCbc && !shared.options.legacy_algorithms {
        return Err(Error::UnsupportedAlgorithm("AES-CBC is a padding oracle over an API: HSM_LEGACY_ALGORITHMS=true allows it; AES-GCM is the better choice".into()));
    }
    let row = algorithm.row();
    let info = &key.info;
    if row.key_type != info.key_type {
        return Err(Error::KeyTypeMismatch(format!(
            "{} takes a key of type {}; this one is {}",
            row.name, row.key_type, info.key_type
        )));
    }
    let fixed = match jose.map(|jose| jose.key) {
        // One JOSE name may stand for a curve each; only the named one is right.
        Some(JoseKey::Curve(curve)) => info.size == KeySize::Curve(curve),
        Some(JoseKey::Bits(bits)) => info.size == KeySize::Bits(bits),
        Some(JoseKey::Any) | None => true,
    };
    if !fixed {
        let name = jose.map_or(row.name, |jose| jose.name);
        return Err(Error::KeyTypeMismatch(format!(
            "{name} fixes the curve or the size of the key, and this key has another"
        )));
    }
    if row.key_type == KeyType::Ec && key_curve(key).is_none() {
        return Err(Error::KeyTypeMismatch(
            "the key is on a curve that the gateway does not know".into(),
        ));
    }
    if let (Scheme::Hmac(hash), KeySize::Bits(bits)) = (algorithm.scheme(), info.size)
        && (bits as usize) < 8 * hash.len()
    {
        return Err(Error::KeyTypeMismatch(format!(
            "{} takes a key of at least {} bits (RFC 7518 §3.2); this one has {bits}",
            row.name,
            8 * hash.len()
        )));
    }
    match algorithm.scheme() {
        Scheme::Oaep(hash) => Ok(Chosen::Oaep(Some(hash))),
        Scheme::PostQuantum => Err(Error::NotSupported(format!("{} is not served yet", row.name))),
        _ => Ok(Chosen::Algorithm(algorithm)),
    }
}

fn default_algorithm(shared: &Shared, key: &Key, operation: Operation) -> Result<Chosen> {
    let crypts = matches!(operation, Operation::Encrypt | Operation::Decrypt);
    let none = || {
        Error::KeyTypeMismatch(format!(
            "a key of type {} can't {}",
            key.info.key_type,
            operation.name()
        ))
    };
    let algorithm = match (key.info.key_type, crypts, key.info.size) {
        (KeyType::Aes, true, _) => Algorithm::AesGcm,
        (KeyType::Aes, false, _) => Algorithm::AesCmac,
        (KeyType::Rsa, true, _) => return Ok(Chosen::Oaep(None)),
        (KeyType::Rsa, false, _) => Algorithm::RsaPssSha256,
        (KeyType::Ec, false, KeySize::Curve(Curve::P384)) => Algorithm::EcdsaSha384,
        (KeyType::Ec, false, KeySize::Curve(Curve::P521)) => Algorithm::EcdsaSha512,
        (KeyType::Ec, false, KeySize::Curve(_)) => Algorithm::EcdsaSha256,
        (KeyType::Ec, false, _) => {
            return Err(Error::KeyTypeMismatch(
                "the key is on a curve that the gateway does not know".into(),
            ));
        }
        (KeyType::Ed, false, _) => Algorithm::EdDsa,
        (KeyType::Hmac, false, size) => strongest_hmac(shared, size, operation)?,
        (KeyType::MlDsa | KeyType::SlhDsa, false, _) => {
            return Err(Error::NotSupported(format!("{} is not served yet", key.info.key_type)));
        }
        (KeyType::Ec | KeyType::Ed | KeyType::Hmac | KeyType::MlDsa | KeyType::MlKem | KeyType::SlhDsa, _, _) => {
            return Err(none());
        }
    };
    Ok(Chosen::Algorithm(algorithm))
}

/// The strongest HMAC that the token has and the key is long enough for.
fn strongest_hmac(shared: &Shared, size: KeySize, operation: Operation) -> Result<Algorithm> {
    let bits = match size {
        KeySize::Bits(bits) => bits as usize,
        KeySize::Curve(_) | KeySize::ParameterSet(_) | KeySize::Unknown => usize::MAX,
    };
    let candidates = [Algorithm::HmacSha512, Algorithm::HmacSha384, Algorithm::HmacSha256];
    let long_enough =
        |algorithm: &Algorithm| matches!(algorithm.scheme(), Scheme::Hmac(hash) if bits >= 8 * hash.len());
    let has = |algorithm: &Algorithm| {
        let does = |info: &MechanismInfo| {
            if operation == Operation::Sign {
                info.sign
            } else {
                info.verify
            }
        };
        listed(shared, algorithm.row().native, does).is_ok()
    };
    let mut possible = candidates.into_iter().filter(long_enough).peekable();
    let weakest = possible.peek().copied();
    possible.find(has).or(weakest).ok_or_else(|| {
        Error::KeyTypeMismatch("the key is shorter than 256 bits: no HMAC takes it (RFC 7518 §3.2)".into())
    })
}

fn permit(shared: &Shared, key: &Key, usage: Usage) -> Result<()> {
    if key.info.usages.contains(usage) {
        return Ok(());
    }
    // Without a login the private half is not seen, and with it what it may be used for.
    shared.link.check_login()?;
    let may: Vec<_> = key.info.usages.iter().map(Usage::name).collect();
    let may = if may.is_empty() {
        "nothing".to_owned()
    } else {
        may.join(", ")
    };
    Err(Error::UsageNotPermitted(format!(
        "the key may not {usage}; it may {may}"
    )))
}

fn refuse_aad(chosen: &Chosen, aad: Option<&[u8]>) -> Result<()> {
    match (chosen, aad) {
        (Chosen::Algorithm(Algorithm::AesGcm), _) | (_, None) => Ok(()),
        (_, Some(_)) => Err(Error::invalid(
            "aad",
            "only AES-GCM takes additional authenticated data",
        )),
    }
}

/// A field that the algorithm has or has not. One that is there without need, or missing, is the caller's error.
fn given(field: &'static str, needed: bool, value: Option<Vec<u8>>) -> Result<Vec<u8>> {
    match (needed, value) {
        (true, Some(value)) => Ok(value),
        (false, None) => Ok(Vec::new()),
        (true, None) => Err(Error::invalid(
            field,
            "is missing: the algorithm needs what encryption answered",
        )),
        (false, Some(_)) => Err(Error::invalid(field, "the algorithm has none: leave it out or null")),
    }
}

fn fits_oaep(capacity: Option<usize>, data: &[u8]) -> Result<()> {
    match capacity {
        Some(most) if data.len() > most => Err(Error::invalid(
            "data",
            format!("at most {most} bytes with this key and algorithm; encrypt longer data with an AES key"),
        )),
        _ => Ok(()),
    }
}

/// The algorithm, and the format of an ECDSA signature.
fn check_signing(
    shared: &Shared,
    key: &Key,
    request: &Sign,
    operation: Operation,
) -> Result<(Algorithm, Option<SignatureFormat>)> {
    let Chosen::Algorithm(algorithm) = choose(shared, key, &request.algorithm, operation)? else {
        return Err(Error::Internal("RSA-OAEP does not sign".into()));
    };
    permit(
        shared,
        key,
        if operation == Operation::Sign {
            Usage::Sign
        } else {
            Usage::Verify
        },
    )?;
    if request.message_type == MessageType::Digest {
        let hash = algorithm.digest().ok_or_else(|| {
            Error::invalid(
                "message_type",
                format!("{} takes the data itself: `raw`", algorithm.name()),
            )
        })?;
        if request.data.len() != hash.len() {
            return Err(Error::invalid(
                "data",
                format!("a {} digest has {} bytes", hash.name(), hash.len()),
            ));
        }
    }
    let by_jose = matches!(&request.algorithm.0, Some(Ok(Named { jose: Some(_), .. })));
    let format = match (algorithm.scheme(), request.format) {
        (Scheme::Ecdsa(_), Some(format)) => Some(format),
        (Scheme::Ecdsa(_), None) => Some(if by_jose {
            SignatureFormat::P1363
        } else {
            SignatureFormat::Der
        }),
        (_, None) => None,
        (_, Some(_)) => {
            return Err(Error::invalid(
                "signature_format",
                format!("{} has one form only: leave it out or null", algorithm.name()),
            ));
        }
    };
    Ok((algorithm, format))
}

// What the token has ------------------------------------------------------------------------------------------------------

fn listed(shared: &Shared, mechanism: MechanismId, does: impl Fn(&MechanismInfo) -> bool) -> Result<()> {
    let has = shared
        .link
        .mechanisms()
        .iter()
        .any(|info| info.id == mechanism && does(info));
    if has { Ok(()) } else { Err(no_mechanism(mechanism)) }
}

fn no_mechanism(mechanism: MechanismId) -> Error {
    Error::NotSupported(format!("this token has no {mechanism}"))
}

/// The mechanism that signs or verifies: the one that hashes too where the token has it and gets the data, else the bare one.
fn signing_mechanism(
    shared: &Shared,
    key: &Key,
    algorithm: Algorithm,
    message_type: MessageType,
    does: impl Fn(&MechanismInfo) -> bool,
) -> Result<Mechanism> {
    let row = algorithm.row();
    let native = if message_type == MessageType::Raw {
        listed(shared, row.native, &does)
    } else {
        Err(no_mechanism(row.native))
    };
    let hashed_here = match (&native, row.bare) {
        (Ok(()), _) => false,
        (Err(_), Some(bare)) => {
            listed(shared, bare, &does)?;
            true
        }
        (Err(error), None) => return Err(error.clone()),
    };
    Ok(match algorithm.scheme() {
        Scheme::Pkcs1(hash) => Mechanism::RsaPkcs1((!hashed_here).then_some(hash)),
        Scheme::Pss(hash) if hashed_here => Mechanism::RsaPssDigest(hash),
        Scheme::Pss(hash) => Mechanism::RsaPss(hash),
        Scheme::Ecdsa(hash) => Mechanism::Ecdsa((!hashed_here).then_some(hash)),
        Scheme::EdDsa => Mechanism::Eddsa {
            ed448: key.info.size == KeySize::Curve(Curve::Ed448),
        },
        Scheme::Hmac(hash) => Mechanism::Hmac(hash),
        Scheme::Cmac => Mechanism::AesCmac,
        Scheme::Gcm | Scheme::Ctr | Scheme::Cbc | Scheme::Oaep(_) | Scheme::PostQuantum => {
            return Err(Error::Internal(format!("{} does not sign", row.name)));
        }
    })
}

/// What the mechanism is given: the data, its digest, or that in a DigestInfo.
fn signing_input<'a>(
    mechanism: &Mechanism,
    algorithm: Algorithm,
    message_type: MessageType,
    data: &'a [u8],
) -> std::borrow::Cow<'a, [u8]> {
    let digest = |hash: Hash| match message_type {
        MessageType::Raw => encoding::digest(hash, data).into(),
        MessageType::Digest => std::borrow::Cow::Borrowed(data),
    };
    match (mechanism, algorithm.scheme()) {
        (Mechanism::RsaPkcs1(None), Scheme::Pkcs1(hash)) => encoding::digest_info(hash, &digest(hash)).into(),
        (Mechanism::RsaPssDigest(_), Scheme::Pss(hash)) | (Mechanism::Ecdsa(None), Scheme::Ecdsa(hash)) => digest(hash),
        _ => data.into(),
    }
}

fn message(message_type: MessageType, data: &[u8]) -> Message<'_> {
    match message_type {
        MessageType::Raw => Message::Raw(data),
        MessageType::Digest => Message::Digest(data),
    }
}

fn key_curve(key: &Key) -> Option<Curve> {
    match key.info.size {
        KeySize::Curve(curve) => Some(curve),
        KeySize::Bits(_) | KeySize::ParameterSet(_) | KeySize::Unknown => None,
    }
}

/// Whether a signature that is no DER is as long as the algorithm's are. Tokens differ in what they take.
fn has_right_length(key: &Key, algorithm: Algorithm, length: usize) -> bool {
    let expected = match (algorithm.scheme(), key.info.size) {
        (Scheme::Hmac(hash), _) => Some(hash.len()),
        (Scheme::Cmac, _) => Some(BLOCK),
        (Scheme::Pkcs1(_) | Scheme::Pss(_), KeySize::Bits(bits)) => Some(bits.div_ceil(8) as usize),
        (Scheme::Ecdsa(_) | Scheme::EdDsa, KeySize::Curve(curve)) => Some(2 * curve.field_bytes()),
        _ => None,
    };
    expected.is_none_or(|expected| expected == length)
}

fn private(key: &Key) -> Outcome<Handle> {
    key.private().ok_or_else(|| no_half("private"))
}

fn public(key: &Key) -> Outcome<Handle> {
    key.public().ok_or_else(|| no_half("public"))
}

/// The key lost a half between the check and the use: to be looked up again like a dead handle.
fn no_half(half: &str) -> Failure {
    Failure {
        function: "C_FindObjects",
        during: During::Other,
        rv: Some(Ckr::KeyHandleInvalid),
        detail: format!("the key has no {half} half"),
    }
}

// Doing it ----------------------------------------------------------------------------------------------------------------

fn encrypt_aes(
    worker: &mut Worker,
    key: &Arc<Key>,
    algorithm: Algorithm,
    data: &[u8],
    aad: Vec<u8>,
) -> Result<Encrypted> {
    let shared = worker.shared.clone();
    let mut iv = [0; BLOCK];
    let gcm = algorithm.scheme() == Scheme::Gcm;
    let fresh = if gcm { iv.get_mut(..GCM_IV) } else { iv.get_mut(..) };
    shared.entropy.fill(worker, fresh.unwrap_or_default())?;
    let mut mechanism = match algorithm.scheme() {
        Scheme::Gcm => Mechanism::AesGcm {
            iv: iv.iter().copied().take(GCM_IV).collect(),
            aad,
        },
        Scheme::Ctr => Mechanism::AesCtr { counter: iv },
        _ => Mechanism::AesCbcPad { iv },
    };
    let mut ciphertext =
        worker.run_with_key(key, |session, key| session.encrypt(&mut mechanism, public(key)?, data))?;
    let (iv, tag) = match mechanism {
        Mechanism::AesGcm { iv, .. } => {
            let length = ciphertext
                .len()
                .checked_sub(GCM_TAG)
                .filter(|length| *length == data.len());
            let length =
                length.ok_or_else(|| Error::Device("the token answered a ciphertext of a wrong length".into()))?;
            (iv, Some(ciphertext.split_off(length)))
        }
        _ => (iv.to_vec(), None),
    };
    Ok(Encrypted {
        algorithm,
        ciphertext,
        iv: Some(iv),
        tag,
    })
}

fn encrypt_oaep(worker: &mut Worker, key: &Arc<Key>, hash: Option<Hash>, data: &[u8]) -> Result<Encrypted> {
    // With the public half alone nobody decrypts on this token, and any hash will do.
    let alone = key.private().is_none();
    let hash = match hash {
        None if alone => Hash::Sha256,
        hash => hash_or_default(worker, hash)?,
    };
    if !alone {
        oaep::check(worker, hash)?;
    }
    let prepared = key
        .prepared()
        .ok_or_else(|| Error::NotSupported("the token does not tell the public key, which encryption needs".into()))?;
    fits_oaep(prepared.oaep_capacity(hash), data)?;
    let ciphertext = prepared.encrypt_oaep(hash, data)?;
    let algorithm = match hash {
        Hash::Sha1 => Algorithm::RsaOaepSha1,
        Hash::Sha256 => Algorithm::RsaOaepSha256,
        Hash::Sha384 => Algorithm::RsaOaepSha384,
        Hash::Sha512 => Algorithm::RsaOaepSha512,
    };
    Ok(Encrypted {
        algorithm,
        ciphertext,
        iv: None,
        tag: None,
    })
}

fn hash_or_default(worker: &mut Worker, hash: Option<Hash>) -> Result<Hash> {
    let shared = worker.shared.clone();
    match hash {
        Some(hash) => Ok(hash),
        None if shared.oaep.has(worker, Hash::Sha256)? => Ok(Hash::Sha256),
        None => Ok(Hash::Sha1),
    }
}

fn decrypted(
    worker: &mut Worker,
    key: &Arc<Key>,
    mechanism: &Mechanism,
    ciphertext: &[u8],
) -> Result<Zeroizing<Vec<u8>>> {
    let shared = worker.shared.clone();
    worker.run_with_key(key, |session, key| {
        let data = session
            .decrypt(mechanism, private(key)?, ciphertext)
            .map(Zeroizing::new);
        data.map_err(|failure| match mechanism {
            Mechanism::RsaOaep(_) => quirks::of_rsa_decryption(&shared.link.token(), failure),
            _ => failure,
        })
    })
}

fn check_own_signature(
    worker: &mut Worker,
    key: &Arc<Key>,
    algorithm: Algorithm,
    message_type: MessageType,
    data: &[u8],
    signature: &[u8],
) -> Result<()> {
    let right = if let Some(prepared) = key.prepared() {
        prepared.verify(algorithm.scheme(), message(message_type, data), signature)?
    } else if algorithm.scheme() == Scheme::EdDsa && key.public().is_some() {
        let mechanism = Mechanism::Eddsa {
            ed448: key.info.size == KeySize::Curve(Curve::Ed448),
        };
        worker.run_with_key(key, |session, key| {
            session.verify(&mechanism, public(key)?, data, signature)
        })?
    } else {
        return Ok(());
    };
    if right {
        Ok(())
    } else {
        Err(Error::Device(
            "the token answered a signature that does not verify; it was not given out".into(),
        ))
    }
}
