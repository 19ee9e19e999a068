//! What a token has to offer: [`Backend`] and [`Session`]. `pkcs11` implements them over a PKCS#11 module; nothing above
//! this line knows that crate.

use secrecy::SecretString;

use crate::algorithm::{Hash, MechanismId, Operation};
use crate::error::Failure;
use crate::key::{KeySize, KeySpec, KeyType, Material, PublicKey, Usages};
use crate::uri::TokenNames;

/// The result of a call to the token.
pub type Outcome<T> = Result<T, Failure>;

/// A module that gives access to tokens.
pub trait Backend: Send + Sync + 'static {
    /// The slots, each with what is in it (C_GetSlotList, C_GetSlotInfo, C_GetTokenInfo).
    fn slots(&self) -> Outcome<Vec<Slot>>;
    /// The token in `slot` as it is now (C_GetTokenInfo); `None` if there is none.
    fn token_in(&self, slot: u64) -> Outcome<Option<Token>> {
        let found = self.slots()?.into_iter().find(|found| found.id == slot);
        Ok(found.and_then(|found| found.token))
    }
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
    /// Logs the user in (C_Login), for all sessions of the process. Without a PIN the user enters it at the device
    /// (CKF_PROTECTED_AUTHENTICATION_PATH).
    fn login(&mut self, pin: Option<&SecretString>) -> Outcome<()>;
    /// Logs the user out (C_Logout).
    fn logout(&mut self) -> Outcome<()>;
    /// The objects that match (C_FindObjectsInit, C_FindObjects, C_FindObjectsFinal).
    fn find(&mut self, filter: &Filter<'_>) -> Outcome<Vec<Handle>>;
    /// What the token tells of an object (C_GetAttributeValue); `None` if it is no key of a type that the gateway knows.
    fn read(&mut self, object: Handle) -> Outcome<Option<Object>>;
    /// The public keys that certificates on the token are about, each with the certificate's CKA_ID: all of them, or those
    /// with this id. For private keys that have no public object.
    fn certified(&mut self, id: Option<&[u8]>) -> Outcome<Vec<(Vec<u8>, PublicKey)>>;
    /// Makes a key (C_GenerateKey, C_GenerateKeyPair).
    fn generate(&mut self, spec: KeySpec, template: &Template<'_>) -> Outcome<Made>;
    /// Puts a key from outside on the token (C_CreateObject): a secret, both halves of a pair, or a public key alone.
    fn import(&mut self, material: &Material, template: &Template<'_>) -> Outcome<Made>;
    /// Encrypts the key `target` under `key` (C_WrapKey).
    fn wrap(&mut self, mechanism: &Mechanism, key: Handle, target: Handle) -> Outcome<Vec<u8>>;
    /// Makes the key that is in `wrapped` (C_UnwrapKey): a secret, or a private key without its public half.
    fn unwrap(
        &mut self,
        mechanism: &Mechanism,
        key: Handle,
        wrapped: &[u8],
        key_type: KeyType,
        template: &Template<'_>,
    ) -> Outcome<Handle>;
    /// Makes a secret key of `key` (C_DeriveKey). `spec` is AES or HMAC.
    fn derive(&mut self, mechanism: &Mechanism, key: Handle, spec: KeySpec, template: &Template<'_>)
    -> Outcome<Handle>;
    /// Makes a secret key, and tells it encrypted under the public key `key` (C_EncapsulateKey, PKCS#11 v3.2).
    fn encapsulate(
        &mut self,
        mechanism: &Mechanism,
        key: Handle,
        spec: KeySpec,
        template: &Template<'_>,
    ) -> Outcome<(Vec<u8>, Handle)>;
    /// Makes the secret key that is in `ciphertext` (C_DecapsulateKey).
    fn decapsulate(
        &mut self,
        mechanism: &Mechanism,
        key: Handle,
        ciphertext: &[u8],
        spec: KeySpec,
        template: &Template<'_>,
    ) -> Outcome<Handle>;
    /// Changes CKA_LABEL (C_SetAttributeValue).
    fn relabel(&mut self, object: Handle, label: &str) -> Outcome<()>;
    /// Destroys an object (C_DestroyObject).
    fn destroy(&mut self, object: Handle) -> Outcome<()>;
    /// Encrypts in one step (C_EncryptInit, C_Encrypt). A device that makes the IV itself writes it into `mechanism`.
    fn encrypt(&mut self, mechanism: &mut Mechanism, key: Handle, data: &[u8]) -> Outcome<Vec<u8>>;
    /// Decrypts in one step (C_DecryptInit, C_Decrypt).
    fn decrypt(&mut self, mechanism: &Mechanism, key: Used<'_>, data: &[u8]) -> Outcome<Vec<u8>>;
    /// Signs in one step (C_SignInit, C_Sign).
    fn sign(&mut self, mechanism: &Mechanism, key: Used<'_>, data: &[u8]) -> Outcome<Vec<u8>>;
    /// Checks a signature in one step (C_VerifyInit, C_Verify); `false` if it is wrong or malformed.
    fn verify(&mut self, mechanism: &Mechanism, key: Handle, data: &[u8], signature: &[u8]) -> Outcome<bool>;
    /// Fills `buffer` from the token's generator (C_GenerateRandom).
    fn random(&mut self, buffer: &mut [u8]) -> Outcome<()>;
}

/// The handle of an object (CK_OBJECT_HANDLE). It dies with the login or the sessions on some modules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(pub u64);

/// A private or secret key that is used.
#[derive(Clone, Copy)]
pub struct Used<'a> {
    /// The key.
    pub handle: Handle,
    /// The PIN, for a key that asks for it at each use (CKA_ALWAYS_AUTHENTICATE): between the call that starts the
    /// operation and the one that does it, the user logs in for that one operation (C_Login, CKU_CONTEXT_SPECIFIC).
    /// `Some(None)` where the PIN is entered at the device.
    pub login: Option<Option<&'a SecretString>>,
}

impl Used<'_> {
    /// A key that asks for nothing.
    pub const fn freely(handle: Handle) -> Used<'static> {
        Used { handle, login: None }
    }
}

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
    /// What it does.
    pub flags: MechanismFlags,
}

/// The flags of a mechanism (CK_MECHANISM_INFO, PKCS#11 v3.2 §3.8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MechanismFlags(pub u64);

impl MechanismFlags {
    /// Every flag that says what a mechanism does: its bit, and its name without `CKF_` in lower case.
    pub const NAMED: &'static [(u64, &'static str)] = &[
        (1, "hw"),
        (1 << 1, "message_encrypt"),
        (1 << 2, "message_decrypt"),
        (1 << 3, "message_sign"),
        (1 << 4, "message_verify"),
        (1 << 8, "encrypt"),
        (1 << 9, "decrypt"),
        (1 << 10, "digest"),
        (1 << 11, "sign"),
        (1 << 12, "sign_recover"),
        (1 << 13, "verify"),
        (1 << 14, "verify_recover"),
        (1 << 15, "generate"),
        (1 << 16, "generate_key_pair"),
        (1 << 17, "wrap"),
        (1 << 18, "unwrap"),
        (1 << 19, "derive"),
        (1 << 28, "encapsulate"),
        (1 << 29, "decapsulate"),
    ];

    /// The names of the flags that are set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let set = move |(bit, name): &(u64, &'static str)| (self.0 & bit != 0).then_some(*name);
        Self::NAMED.iter().filter_map(set)
    }

    /// The flags but for the one with this name.
    #[must_use]
    pub(crate) fn without(self, name: &str) -> MechanismFlags {
        let bit = Self::NAMED.iter().find(|(_, flag)| *flag == name);
        MechanismFlags(self.0 & !bit.map_or(0, |(bit, _)| *bit))
    }

    /// Whether the flag with this name is set.
    pub fn has(self, name: &str) -> bool {
        self.names().any(|set| set == name)
    }
}

impl MechanismInfo {
    /// Whether the mechanism serves `operation`.
    pub fn does(&self, operation: Operation) -> bool {
        self.flags.has(operation.name())
    }

    /// Whether it makes keys (CKF_GENERATE, CKF_GENERATE_KEY_PAIR).
    pub fn generates(&self) -> bool {
        self.flags.has("generate") || self.flags.has("generate_key_pair")
    }
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
    /// How large the key is, as far as this object tells (CKA_VALUE_LEN, CKA_MODULUS, CKA_EC_PARAMS, CKA_PARAMETER_SET).
    pub size: KeySize,
    /// CKA_ALWAYS_AUTHENTICATE: the user logs in for each use.
    pub always_authenticate: bool,
    /// The public key, as far as this object tells it: a public one, or a private one (its modulus, CKA_PUBLIC_KEY_INFO).
    pub public_key: Option<PublicKey>,
}

/// What a new key is given, however it is made.
#[derive(Clone, Copy, Debug)]
pub struct Template<'a> {
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
    /// A public key alone.
    Public(Handle),
    /// A private key alone.
    Private(Handle),
    /// A pair.
    Pair {
        /// The public half.
        public: Handle,
        /// The private half.
        private: Handle,
    },
}

impl Made {
    /// The handles of the objects.
    pub fn handles(self) -> impl Iterator<Item = Handle> {
        let (first, second) = match self {
            Made::Secret(handle) | Made::Public(handle) | Made::Private(handle) => (handle, None),
            Made::Pair { public, private } => (public, Some(private)),
        };
        [Some(first), second].into_iter().flatten()
    }
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
    /// CKM_AES_CCM with a 128-bit tag.
    AesCcm {
        /// 12 bytes.
        nonce: Vec<u8>,
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
    /// CKM_ML_DSA, hedged where the token can.
    MlDsa {
        /// At most 255 bytes.
        context: Vec<u8>,
    },
    /// CKM_HASH_ML_DSA_SHA…
    HashMlDsa {
        /// The hash.
        hash: Hash,
        /// At most 255 bytes.
        context: Vec<u8>,
    },
    /// CKM_SLH_DSA, hedged where the token can.
    SlhDsa {
        /// At most 255 bytes.
        context: Vec<u8>,
    },
    /// CKM_AES_KEY_WRAP
    AesKw,
    /// CKM_AES_KEY_WRAP_KWP
    AesKwp,
    /// CKM_AES_KEY_WRAP_PAD, which is RFC 5649 on some modules.
    AesKwPad,
    /// CKM_ECDH1_DERIVE, CKD_NULL.
    Ecdh {
        /// The other side's point, uncompressed.
        point: Vec<u8>,
    },
    /// CKM_HKDF_DERIVE, extract and expand.
    Hkdf {
        /// The hash.
        hash: Hash,
        /// The salt; without one, zeros as long as the hash (RFC 5869 §2.2).
        salt: Option<Vec<u8>>,
        /// The info.
        info: Vec<u8>,
    },
    /// CKM_ML_KEM
    MlKem,
}
