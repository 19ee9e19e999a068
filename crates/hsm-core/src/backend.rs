//! What a token has to offer: [`Backend`] and [`Session`]. `pkcs11` implements them over a PKCS#11 module; nothing above
//! this line knows that crate.

use secrecy::SecretString;

use crate::algorithm::{Hash, MechanismId};
use crate::error::Failure;
use crate::key::{KeySpec, KeyType, PublicKey, Usages};
use crate::uri::TokenNames;

/// The result of a call to the token.
pub type Outcome<T> = Result<T, Failure>;

/// A module that gives access to tokens.
pub trait Backend: Send + Sync + 'static {
    /// The slots, each with what is in it (C_GetSlotList, C_GetSlotInfo, C_GetTokenInfo).
    fn slots(&self) -> Outcome<Vec<Slot>>;
    /// What the token in `slot` can do (C_GetMechanismList, C_GetMechanismInfo).
    fn mechanisms(&self, slot: u64) -> Outcome<Vec<MechanismInfo>>;
    /// Opens a read-write session on the token in `slot`, or a read-only one where the token is write-protected (C_OpenSession).
    fn open(&self, slot: u64) -> Outcome<Box<dyn Session>>;
    /// Begins anew (C_Finalize, C_Initialize). Every session must be gone before.
    fn restart(&self) -> Outcome<()>;
    /// Ends the use of the module (C_Finalize), once. Every session must be gone before.
    fn finish(&self) -> Outcome<()>;
}

/// A session with a token. It closes when it is dropped.
pub trait Session: Send {
    /// Whether the user is logged in (C_GetSessionInfo).
    fn logged_in(&mut self) -> Outcome<bool>;
    /// Logs the user in (C_Login), for all sessions of the process.
    fn login(&mut self, pin: &SecretString) -> Outcome<()>;
    /// Logs the user out (C_Logout).
    fn logout(&mut self) -> Outcome<()>;
    /// The objects that match (C_FindObjectsInit, C_FindObjects, C_FindObjectsFinal).
    fn find(&mut self, filter: &Filter<'_>) -> Outcome<Vec<Handle>>;
    /// What the token tells of an object (C_GetAttributeValue); `None` if it is no key of a type that the gateway knows.
    fn read(&mut self, object: Handle) -> Outcome<Option<Object>>;
    /// Makes a key on the token (C_GenerateKey, C_GenerateKeyPair): a token object unless `template.session_only`.
    fn generate(&mut self, template: &Template<'_>) -> Outcome<Made>;
    /// Destroys an object (C_DestroyObject).
    fn destroy(&mut self, object: Handle) -> Outcome<()>;
    /// Encrypts in one step (C_EncryptInit, C_Encrypt). A device that makes the IV itself writes it into `mechanism`.
    fn encrypt(&mut self, mechanism: &mut Mechanism, key: Handle, data: &[u8]) -> Outcome<Vec<u8>>;
    /// Decrypts in one step (C_DecryptInit, C_Decrypt).
    fn decrypt(&mut self, mechanism: &Mechanism, key: Handle, data: &[u8]) -> Outcome<Vec<u8>>;
    /// Signs in one step (C_SignInit, C_Sign).
    fn sign(&mut self, mechanism: &Mechanism, key: Handle, data: &[u8]) -> Outcome<Vec<u8>>;
    /// Checks a signature in one step (C_VerifyInit, C_Verify); `false` if it is wrong or malformed.
    fn verify(&mut self, mechanism: &Mechanism, key: Handle, data: &[u8], signature: &[u8]) -> Outcome<bool>;
    /// Fills `buffer` from the token's generator (C_GenerateRandom).
    fn random(&mut self, buffer: &mut [u8]) -> Outcome<()>;
}

/// The handle of an object (CK_OBJECT_HANDLE). It dies with the login or the sessions on some modules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(pub u64);

/// A slot and the token in it (CK_SLOT_INFO, CK_TOKEN_INFO). Text is trimmed.
#[derive(Clone, Debug)]
pub struct Slot {
    /// The slot's number.
    pub id: u64,
    /// The slot's description.
    pub description: String,
    /// The slot's manufacturer.
    pub manufacturer: String,
    /// The token, if one is present.
    pub token: Option<Token>,
}

/// A token (CK_TOKEN_INFO).
#[derive(Clone, Debug)]
pub struct Token {
    /// The label.
    pub label: String,
    /// The manufacturer.
    pub manufacturer: String,
    /// The model.
    pub model: String,
    /// The serial number; some modules give every token the same.
    pub serial: String,
    /// The firmware's version, `major.minor`.
    pub firmware_version: String,
    /// CKF_TOKEN_INITIALIZED.
    pub initialized: bool,
    /// CKF_LOGIN_REQUIRED.
    pub login_required: bool,
    /// CKF_USER_PIN_INITIALIZED.
    pub user_pin_initialized: bool,
    /// CKF_USER_PIN_FINAL_TRY: the next wrong PIN locks the token.
    pub user_pin_final_try: bool,
    /// CKF_USER_PIN_LOCKED.
    pub user_pin_locked: bool,
    /// CKF_WRITE_PROTECTED.
    pub write_protected: bool,
    /// CKF_PROTECTED_AUTHENTICATION_PATH: the PIN is entered at the device.
    pub protected_authentication_path: bool,
    /// How many sessions the token allows; `None` if it states no limit.
    pub max_sessions: Option<u64>,
}

impl Token {
    /// What a selector or a URI names the token by.
    pub(crate) fn names(&self) -> TokenNames<'_> {
        TokenNames {
            label: &self.label,
            serial: &self.serial,
            manufacturer: &self.manufacturer,
            model: &self.model,
        }
    }
}

/// A mechanism of a token (CK_MECHANISM_INFO).
#[derive(Clone, Copy, Debug)]
pub struct MechanismInfo {
    /// The mechanism.
    pub id: MechanismId,
    /// The smallest key, in the mechanism's own unit (bits or bytes).
    pub min_key_size: u64,
    /// The largest key.
    pub max_key_size: u64,
    /// CKF_ENCRYPT.
    pub encrypt: bool,
    /// CKF_DECRYPT.
    pub decrypt: bool,
    /// CKF_SIGN.
    pub sign: bool,
    /// CKF_VERIFY.
    pub verify: bool,
    /// CKF_GENERATE or CKF_GENERATE_KEY_PAIR.
    pub generate: bool,
}

/// The class of a key object (CKA_CLASS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// CKO_SECRET_KEY
    Secret,
    /// CKO_PRIVATE_KEY
    Private,
    /// CKO_PUBLIC_KEY
    Public,
}

impl Class {
    /// Every class of keys.
    pub const ALL: [Class; 3] = [Class::Secret, Class::Private, Class::Public];

    /// The class as a `pkcs11:` URI names it (RFC 7512 §2.3).
    pub(crate) const fn uri_type(self) -> &'static str {
        match self {
            Class::Secret => "secret-key",
            Class::Private => "private",
            Class::Public => "public",
        }
    }
}

/// Which token objects to find (CKA_TOKEN is true in every search).
#[derive(Clone, Copy, Debug)]
pub enum Filter<'a> {
    /// All keys of a class.
    Class(Class),
    /// Those with this CKA_ID, of any class.
    Id(&'a [u8]),
    /// Those with this CKA_LABEL, of any class.
    Label(&'a str),
}

/// What the token tells of a key object.
#[derive(Clone, Debug)]
pub struct Object {
    /// CKA_CLASS
    pub class: Class,
    /// CKA_KEY_TYPE, where the gateway knows it.
    pub key_type: KeyType,
    /// CKA_ID; empty if there is none.
    pub id: Vec<u8>,
    /// CKA_LABEL, trimmed of trailing zeros; invalid UTF-8 is replaced.
    pub label: String,
    /// CKA_EXTRACTABLE; a public key is.
    pub extractable: bool,
    /// CKA_SENSITIVE; a public key is not.
    pub sensitive: bool,
    /// The usages that are set on this object.
    pub usages: Usages,
    /// Length in bits of a secret's value or of the modulus, where it is told (CKA_VALUE_LEN, CKA_MODULUS).
    pub bits: Option<u32>,
    /// The curve (CKA_EC_PARAMS), where the gateway knows it.
    pub curve: Option<crate::key::Curve>,
    /// The public key, as far as this object tells it: a public object, or an RSA private one.
    pub public_key: Option<PublicKey>,
}

/// A key to generate.
#[derive(Clone, Copy, Debug)]
pub struct Template<'a> {
    /// Type and size.
    pub spec: KeySpec,
    /// CKA_ID
    pub id: &'a [u8],
    /// CKA_LABEL
    pub label: &'a str,
    /// CKA_EXTRACTABLE of the secret or private key, which is CKA_PRIVATE and CKA_SENSITIVE in any case.
    pub extractable: bool,
    /// Exactly these usages, each on the half that it belongs to.
    pub usages: Usages,
    /// A session object (CKA_TOKEN false), gone with its session.
    pub session_only: bool,
}

/// The objects of a new key.
#[derive(Clone, Copy, Debug)]
pub enum Made {
    /// A secret key.
    Secret(Handle),
    /// A pair.
    Pair {
        /// The public half.
        public: Handle,
        /// The private half.
        private: Handle,
    },
}

/// A mechanism with its parameters (CK_MECHANISM).
#[derive(Clone, Debug)]
pub enum Mechanism {
    /// CKM_AES_GCM with a 128-bit tag.
    AesGcm {
        /// 12 bytes.
        iv: Vec<u8>,
        /// Additional authenticated data.
        aad: Vec<u8>,
    },
    /// CKM_AES_CTR, all 128 bits counted.
    AesCtr {
        /// The first counter block.
        counter: [u8; 16],
    },
    /// CKM_AES_CBC_PAD
    AesCbcPad {
        /// The IV.
        iv: [u8; 16],
    },
    /// CKM_AES_CMAC
    AesCmac,
    /// CKM_RSA_PKCS_OAEP, MGF1 with the same hash, empty label.
    RsaOaep(Hash),
    /// CKM_SHA…_RSA_PKCS over data, or CKM_RSA_PKCS over a DigestInfo (`None`).
    RsaPkcs1(Option<Hash>),
    /// CKM_SHA…_RSA_PKCS_PSS over data, salt as long as the hash.
    RsaPss(Hash),
    /// CKM_RSA_PKCS_PSS over a digest, salt as long as the hash.
    RsaPssDigest(Hash),
    /// CKM_ECDSA_SHA… over data, or CKM_ECDSA over a digest (`None`); signatures are r‖s.
    Ecdsa(Option<Hash>),
    /// CKM_EDDSA, pure.
    Eddsa {
        /// Ed448 takes parameters (PKCS#11 v3.1 §6.3.15) where Ed25519 takes none.
        ed448: bool,
    },
    /// CKM_SHA…_HMAC
    Hmac(Hash),
}
