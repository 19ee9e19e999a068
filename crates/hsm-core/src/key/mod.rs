//! Keys as values: ids, types, sizes, usages, labels, and what is told of a key.

mod material;
mod parameter_set;
mod spec;
mod usage;
mod wrapped;

use std::fmt;

use crate::error::{Error, Result};

pub use material::{Material, RsaPrivate};
pub use parameter_set::ParameterSet;
pub use spec::KeySpec;
pub use usage::{Usage, Usages};
pub use wrapped::{KeyRef, WrappedKey};

/// The id of a key on a token: `hsm:<CKA_ID in hex>`, or `hsm:<token>:<hex>` on a further token.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HsmKeyId {
    token: Option<TokenName>,
    id: Box<[u8]>,
}

/// The name of a further token: 1 to 64 of `A-Z a-z 0-9 . _ -`, not beginning with a dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenName(Box<str>);

impl TokenName {
    /// Reads a name; `None` if it may not be one.
    pub fn parse(text: &str) -> Option<TokenName> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let fits = (1..=64).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(allowed);
        fits.then(|| TokenName(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TokenName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl HsmKeyId {
    /// What every such id begins with.
    pub const PREFIX: &'static str = "hsm:";
    /// The longest CKA_ID in bytes.
    pub const MAX_BYTES: usize = 255;

    /// The id of the key with this CKA_ID on the default token; `None` unless it has 1 to 255 bytes.
    pub fn from_bytes(id: &[u8]) -> Option<HsmKeyId> {
        HsmKeyId::on(None, id)
    }

    /// The id of the key with this CKA_ID on the token of this name; `None` unless it has 1 to 255 bytes.
    pub fn on(token: Option<&TokenName>, id: &[u8]) -> Option<HsmKeyId> {
        let fits = (1..=Self::MAX_BYTES).contains(&id.len());
        fits.then(|| HsmKeyId {
            token: token.cloned(),
            id: id.into(),
        })
    }

    /// Reads `hsm:<hex>` or `hsm:<token>:<hex>`; upper-case digits are accepted.
    ///
    /// # Errors
    /// [`Error::InvalidKeyId`], saying what is wrong.
    pub fn parse(text: &str) -> Result<HsmKeyId> {
        let invalid = |why: &str| {
            Error::InvalidKeyId(format!(
                "{why}: a key id on the token is `hsm:` and 2 to 510 hexadecimal digits, two a byte"
            ))
        };
        let rest = text
            .strip_prefix(Self::PREFIX)
            .ok_or_else(|| invalid("it does not begin with `hsm:`"))?;
        let (token, hex) = match rest.rsplit_once(':') {
            None => (None, rest),
            Some((token, hex)) => {
                let wrong = || invalid("what stands between the colons names no token");
                (Some(TokenName::parse(token).ok_or_else(wrong)?), hex)
            }
        };
        if hex.is_empty() {
            return Err(invalid("it has no digits"));
        }
        if hex.len() > 2 * Self::MAX_BYTES {
            return Err(invalid("it is longer than 255 bytes"));
        }
        if !hex.len().is_multiple_of(2) {
            return Err(invalid("it has an odd number of digits"));
        }
        let id: Option<Box<[u8]>> = hex
            .as_bytes()
            .chunks_exact(2)
            .map(|pair| Some(nibble(*pair.first()?)? << 4 | nibble(*pair.last()?)?))
            .collect();
        let id = id.ok_or_else(|| invalid("it has a character that is no hexadecimal digit"))?;
        Ok(HsmKeyId { token, id })
    }

    /// The CKA_ID.
    pub fn as_bytes(&self) -> &[u8] {
        &self.id
    }

    /// The name of the further token that the id speaks of; `None` for the default token.
    pub fn token(&self) -> Option<&TokenName> {
        self.token.as_ref()
    }
}

impl fmt::Display for HsmKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::PREFIX)?;
        if let Some(token) = &self.token {
            write!(f, "{token}:")?;
        }
        self.id.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for HsmKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn nibble(digit: u8) -> Option<u8> {
    let value = char::from(digit).to_digit(16)?;
    u8::try_from(value).ok()
}

names! {
    /// The type of a key (CKA_KEY_TYPE).
    KeyType {
        /// RSA, 2048 to 4096 bits.
        Rsa = "RSA",
        /// AES, 128, 192 or 256 bits.
        Aes = "AES",
        /// Elliptic curves of Weierstrass form.
        Ec = "EC",
        /// Edwards curves.
        Ed = "ED",
        /// A generic secret for HMAC.
        Hmac = "HMAC",
        /// ML-DSA (FIPS 204).
        MlDsa = "ML-DSA",
        /// ML-KEM (FIPS 203).
        MlKem = "ML-KEM",
        /// SLH-DSA (FIPS 205).
        SlhDsa = "SLH-DSA",
    }
}

names! {
    /// A named elliptic curve.
    Curve {
        /// NIST P-256 (SP 800-186), secp256r1.
        P256 = "P-256",
        /// NIST P-384.
        P384 = "P-384",
        /// NIST P-521.
        P521 = "P-521",
        /// SEC 2 secp256k1.
        Secp256k1 = "secp256k1",
        /// Ed25519 (RFC 8032).
        Ed25519 = "Ed25519",
        /// Ed448 (RFC 8032).
        Ed448 = "Ed448",
    }
}

impl Curve {
    /// The type of key that lives on the curve.
    pub const fn key_type(self) -> KeyType {
        match self {
            Curve::P256 | Curve::P384 | Curve::P521 | Curve::Secp256k1 => KeyType::Ec,
            Curve::Ed25519 | Curve::Ed448 => KeyType::Ed,
        }
    }

    /// Length in bytes of a field element: a coordinate, or half an ECDSA signature as r‖s (the orders are as long).
    pub const fn field_bytes(self) -> usize {
        match self {
            Curve::P256 | Curve::Secp256k1 | Curve::Ed25519 => 32,
            Curve::P384 => 48,
            Curve::P521 => 66,
            Curve::Ed448 => 57,
        }
    }
}

/// A label (CKA_LABEL): 1 to 255 bytes of UTF-8 without control characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Label(Box<str>);

impl Label {
    /// The longest label in bytes.
    pub const MAX_BYTES: usize = 255;

    /// Takes a label.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] for `key_label`.
    pub fn parse(text: &str) -> Result<Label> {
        if !(1..=Self::MAX_BYTES).contains(&text.len()) {
            return Err(Error::invalid("key_label", "1 to 255 bytes of UTF-8"));
        }
        if text.chars().any(char::is_control) {
            return Err(Error::invalid("key_label", "no control characters"));
        }
        Ok(Label(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A key to be made on the token: always a token object, private, and sensitive.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// The id, which [`Hsm::fresh_id`](crate::Hsm::fresh_id) chose; `None`: one is chosen.
    pub id: Option<HsmKeyId>,
    /// Type and size.
    pub spec: KeySpec,
    /// The label, which no other key of the token may have.
    pub label: Label,
    /// Whether the key may leave the token wrapped (CKA_EXTRACTABLE).
    pub extractable: bool,
    /// Exactly what the key may be used for.
    pub usages: Usages,
}

impl NewKey {
    /// A key that can't leave the token, with the default usages of its type.
    pub fn new(spec: KeySpec, label: Label) -> NewKey {
        NewKey {
            id: None,
            spec,
            label,
            extractable: false,
            usages: Usages::default_for(spec.key_type()),
        }
    }
}

/// What a new key is given, however it comes to be; in any case it is a token object, private, and sensitive.
#[derive(Clone, Debug)]
pub struct KeyAttributes {
    /// The id, which [`Hsm::fresh_id`](crate::Hsm::fresh_id) chose; `None`: one is chosen.
    pub id: Option<HsmKeyId>,
    /// The label, which no other key of the token may have.
    pub label: Label,
    /// Whether the key may leave the token wrapped (CKA_EXTRACTABLE).
    pub extractable: bool,
    /// Exactly what the key may be used for.
    pub usages: Usages,
}

/// How large a key is, in the terms of its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySize {
    /// The length of the modulus or of the secret.
    Bits(u32),
    /// The curve.
    Curve(Curve),
    /// The parameter set.
    ParameterSet(ParameterSet),
    /// The token does not tell, or it is a curve that the gateway does not know.
    Unknown,
}

/// A public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublicKey {
    /// RSA: modulus and public exponent, big-endian without leading zeros.
    Rsa {
        /// The modulus n.
        modulus: Vec<u8>,
        /// The public exponent e.
        exponent: Vec<u8>,
    },
    /// A point on a Weierstrass curve, uncompressed as in SEC 1 §2.3.3 (0x04, x, y), or an Edwards point as in RFC 8032.
    Curve {
        /// The curve.
        curve: Curve,
        /// The point.
        point: Vec<u8>,
    },
    /// A post-quantum key, encoded as FIPS 203, 204 or 205 says.
    PostQuantum {
        /// The parameter set.
        parameter_set: ParameterSet,
        /// The encoded key.
        key: Vec<u8>,
    },
}

impl PublicKey {
    /// The type of the key.
    pub const fn key_type(&self) -> KeyType {
        match self {
            PublicKey::Rsa { .. } => KeyType::Rsa,
            PublicKey::Curve { curve, .. } => curve.key_type(),
            PublicKey::PostQuantum { parameter_set, .. } => parameter_set.key_type(),
        }
    }

    /// How large the key is.
    pub fn size(&self) -> KeySize {
        match self {
            PublicKey::Rsa { modulus, .. } => KeySize::Bits(crate::encoding::bit_length(modulus)),
            PublicKey::Curve { curve, .. } => KeySize::Curve(*curve),
            PublicKey::PostQuantum { parameter_set, .. } => KeySize::ParameterSet(*parameter_set),
        }
    }
}

/// What is told of a key on the token. A key pair is one key.
#[derive(Clone, Debug)]
pub struct KeyInfo {
    /// The id.
    pub id: HsmKeyId,
    /// The type.
    pub key_type: KeyType,
    /// The size.
    pub size: KeySize,
    /// The label; keys made by other programs may have none.
    pub label: String,
    /// CKA_EXTRACTABLE of the secret or private key.
    pub extractable: bool,
    /// CKA_SENSITIVE of the secret or private key.
    pub sensitive: bool,
    /// What it may be used for, both halves together.
    pub usages: Usages,
    /// The public half, where there is one that can be read.
    pub public_key: Option<PublicKey>,
    /// The key's `pkcs11:` URI (RFC 7512).
    pub uri: String,
}
