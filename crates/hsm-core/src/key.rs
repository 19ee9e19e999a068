//! Keys as values: ids, types, sizes, usages, labels, and what is told of a key.

use std::fmt;

use crate::error::{Error, Result};

/// The id of a key on a token: `hsm:<CKA_ID in hex>`, or `hsm:<token>:<hex>` on a further token.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HsmKeyId {
    token: Option<Box<str>>,
    id: Box<[u8]>,
}

impl HsmKeyId {
    /// What every such id begins with.
    pub const PREFIX: &'static str = "hsm:";
    /// The longest CKA_ID in bytes.
    pub const MAX_BYTES: usize = 255;

    /// The id of the key with this CKA_ID on the default token; `None` unless it has 1 to 255 bytes.
    pub fn from_bytes(id: &[u8]) -> Option<HsmKeyId> {
        let fits = (1..=Self::MAX_BYTES).contains(&id.len());
        fits.then(|| HsmKeyId {
            token: None,
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
            Some((token, hex)) if is_name(token) => (Some(token.into()), hex),
            Some(_) => return Err(invalid("what stands between the colons names no token")),
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
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
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

fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && !text.starts_with('.')
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

macro_rules! names {
    ($(#[$doc:meta])* $type:ident { $($(#[$variant_doc:meta])* $variant:ident = $name:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $type { $($(#[$variant_doc])* $variant),* }

        impl $type {
            /// Every value, in the order of the documentation.
            pub const ALL: &'static [$type] = &[$($type::$variant),*];

            /// The name in the API.
            pub const fn name(self) -> &'static str {
                match self { $($type::$variant => $name),* }
            }

            /// Looks a name up.
            pub fn parse(name: &str) -> Option<$type> {
                match name { $($name => Some($type::$variant),)* _ => None }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
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

names! {
    /// What a key may be used for (the CKA_ENCRYPT family of attributes).
    Usage {
        /// CKA_ENCRYPT.
        Encrypt = "encrypt",
        /// CKA_DECRYPT.
        Decrypt = "decrypt",
        /// CKA_SIGN.
        Sign = "sign",
        /// CKA_VERIFY.
        Verify = "verify",
        /// CKA_WRAP.
        Wrap = "wrap",
        /// CKA_UNWRAP.
        Unwrap = "unwrap",
        /// CKA_DERIVE.
        Derive = "derive",
        /// CKA_ENCAPSULATE.
        Encapsulate = "encapsulate",
        /// CKA_DECAPSULATE.
        Decapsulate = "decapsulate",
    }
}

/// A set of usages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usages(u16);

impl Usages {
    /// No usage at all.
    pub const NONE: Usages = Usages(0);

    /// Whether the set has `usage`.
    pub const fn contains(self, usage: Usage) -> bool {
        self.0 & (1 << usage as u16) != 0
    }

    /// The set with `usage` in it.
    #[must_use]
    pub const fn with(self, usage: Usage) -> Usages {
        Usages(self.0 | 1 << usage as u16)
    }

    /// The usages of both sets.
    #[must_use]
    pub const fn union(self, other: Usages) -> Usages {
        Usages(self.0 | other.0)
    }

    /// The usages in the order of [`Usage::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Usage> {
        Usage::ALL.iter().copied().filter(move |usage| self.contains(*usage))
    }

    const fn of(usages: &[Usage]) -> Usages {
        let mut set = Usages::NONE;
        let mut rest = usages;
        while let [first, tail @ ..] = rest {
            set = set.with(*first);
            rest = tail;
        }
        set
    }

    /// What a key of `key_type` can be used for at all.
    pub const fn possible(key_type: KeyType) -> Usages {
        use Usage as U;
        match key_type {
            KeyType::Aes | KeyType::Rsa => {
                Usages::of(&[U::Encrypt, U::Decrypt, U::Sign, U::Verify, U::Wrap, U::Unwrap])
            }
            KeyType::Ec | KeyType::Hmac => Usages::of(&[U::Sign, U::Verify, U::Derive]),
            KeyType::Ed | KeyType::MlDsa | KeyType::SlhDsa => Usages::of(&[U::Sign, U::Verify]),
            KeyType::MlKem => Usages::of(&[U::Encapsulate, U::Decapsulate]),
        }
    }

    /// What a new key of `key_type` is for when its creator does not say.
    pub const fn default_for(key_type: KeyType) -> Usages {
        use Usage as U;
        match key_type {
            KeyType::Aes => Usages::of(&[U::Encrypt, U::Decrypt]),
            KeyType::Rsa => Usages::of(&[U::Encrypt, U::Decrypt, U::Sign, U::Verify]),
            KeyType::Ec | KeyType::Hmac | KeyType::Ed | KeyType::MlDsa | KeyType::SlhDsa => {
                Usages::of(&[U::Sign, U::Verify])
            }
            KeyType::MlKem => Usages::of(&[U::Encapsulate, U::Decapsulate]),
        }
    }

    /// Reads a list of names for a key of `key_type`.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] for an empty list, an unknown or repeated name, or one that the type can't have.
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>, key_type: KeyType) -> Result<Usages> {
        let mut set = Usages::NONE;
        let possible = Usages::possible(key_type);
        for name in names {
            let usage = Usage::parse(name)
                .filter(|usage| possible.contains(*usage))
                .ok_or_else(|| {
                    let can: Vec<_> = possible.iter().map(Usage::name).collect();
                    Error::invalid("usages", format!("a key of type {key_type} takes {}", can.join(", ")))
                })?;
            if set.contains(usage) {
                return Err(Error::invalid("usages", format!("{usage} is there twice")));
            }
            set = set.with(usage);
        }
        if set == Usages::NONE {
            return Err(Error::invalid(
                "usages",
                "the list is empty; leave it out for the default of the key type",
            ));
        }
        Ok(set)
    }
}

impl FromIterator<Usage> for Usages {
    fn from_iter<I: IntoIterator<Item = Usage>>(usages: I) -> Usages {
        usages.into_iter().fold(Usages::NONE, Usages::with)
    }
}

/// What kind of key to make, and how large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySpec {
    /// An RSA pair with the public exponent 65537.
    Rsa {
        /// 2048, 3072 or 4096.
        bits: u32,
    },
    /// An AES key.
    Aes {
        /// 128, 192 or 256.
        bits: u32,
    },
    /// A pair on a curve, of type EC or ED.
    Curve(Curve),
    /// A generic secret for HMAC.
    Hmac {
        /// 256 to 512, a multiple of 8.
        bits: u32,
    },
    /// A post-quantum pair.
    PostQuantum {
        /// ML-DSA, ML-KEM or SLH-DSA.
        key_type: KeyType,
        /// The parameter set, as FIPS 203 to 205 name it.
        parameter_set: &'static str,
    },
}

impl KeySpec {
    /// The RSA sizes in bits.
    pub const RSA_BITS: &'static [u32] = &[2048, 3072, 4096];
    /// The AES sizes in bits.
    pub const AES_BITS: &'static [u32] = &[128, 192, 256];

    /// Puts together what a request says of type and size.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] naming the field that is missing, superfluous or out of range.
    pub fn parse(
        key_type: &str,
        key_size: Option<u32>,
        curve: Option<&str>,
        parameter_set: Option<&str>,
    ) -> Result<KeySpec> {
        let key_type = KeyType::parse(key_type).ok_or_else(|| {
            Error::invalid(
                "key_type",
                format!("one of {}", listed(KeyType::ALL.iter().map(|t| t.name()))),
            )
        })?;
        let unwanted =
            |field: &'static str| Error::invalid(field, format!("a key of type {key_type} is not sized by it"));
        let sized_by = |size: bool, by_curve: bool, set: bool| match () {
            () if key_size.is_some() && !size => Err(unwanted("key_size")),
            () if curve.is_some() && !by_curve => Err(unwanted("curve")),
            () if parameter_set.is_some() && !set => Err(unwanted("parameter_set")),
            () => Ok(()),
        };
        match key_type {
            KeyType::Rsa => {
                sized_by(true, false, false)?;
                Ok(KeySpec::Rsa {
                    bits: one_of(key_size, Self::RSA_BITS)?,
                })
            }
            KeyType::Aes => {
                sized_by(true, false, false)?;
                Ok(KeySpec::Aes {
                    bits: one_of(key_size, Self::AES_BITS)?,
                })
            }
            KeyType::Hmac => {
                sized_by(true, false, false)?;
                let bits = key_size.unwrap_or(256);
                if !(256..=512).contains(&bits) || !bits.is_multiple_of(8) {
                    return Err(Error::invalid("key_size", "256 to 512 bits, a multiple of 8"));
                }
                Ok(KeySpec::Hmac { bits })
            }
            KeyType::Ec => {
                sized_by(true, true, false)?;
                ec_curve(key_size, curve).map(KeySpec::Curve)
            }
            KeyType::Ed => {
                sized_by(false, true, false)?;
                named_curve(curve, KeyType::Ed).map(KeySpec::Curve)
            }
            KeyType::MlDsa | KeyType::MlKem | KeyType::SlhDsa => {
                sized_by(false, false, true)?;
                let sets = parameter_sets(key_type);
                let found = sets.iter().copied().find(|set| parameter_set == Some(set));
                let parameter_set = found.ok_or_else(|| {
                    Error::invalid("parameter_set", format!("one of {}", listed(sets.iter().copied())))
                })?;
                Ok(KeySpec::PostQuantum {
                    key_type,
                    parameter_set,
                })
            }
        }
    }

    /// The type of the key.
    pub const fn key_type(self) -> KeyType {
        match self {
            KeySpec::Rsa { .. } => KeyType::Rsa,
            KeySpec::Aes { .. } => KeyType::Aes,
            KeySpec::Curve(curve) => curve.key_type(),
            KeySpec::Hmac { .. } => KeyType::Hmac,
            KeySpec::PostQuantum { key_type, .. } => key_type,
        }
    }
}

/// The parameter sets of a post-quantum key type (FIPS 203, 204, 205); none for others.
pub const fn parameter_sets(key_type: KeyType) -> &'static [&'static str] {
    match key_type {
        KeyType::MlDsa => &["ML-DSA-44", "ML-DSA-65", "ML-DSA-87"],
        KeyType::MlKem => &["ML-KEM-512", "ML-KEM-768", "ML-KEM-1024"],
        KeyType::SlhDsa => &[
            "SLH-DSA-SHA2-128s",
            "SLH-DSA-SHA2-128f",
            "SLH-DSA-SHA2-192s",
            "SLH-DSA-SHA2-192f",
            "SLH-DSA-SHA2-256s",
            "SLH-DSA-SHA2-256f",
            "SLH-DSA-SHAKE-128s",
            "SLH-DSA-SHAKE-128f",
            "SLH-DSA-SHAKE-192s",
            "SLH-DSA-SHAKE-192f",
            "SLH-DSA-SHAKE-256s",
            "SLH-DSA-SHAKE-256f",
        ],
        KeyType::Rsa | KeyType::Aes | KeyType::Ec | KeyType::Ed | KeyType::Hmac => &[],
    }
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

fn one_of(key_size: Option<u32>, sizes: &[u32]) -> Result<u32> {
    let text = || {
        listed(
            sizes
                .iter()
                .map(u32::to_string)
                .collect::<Vec<_>>()
                .iter()
                .map(String::as_str),
        )
    };
    let size = key_size.ok_or_else(|| Error::invalid("key_size", format!("is missing: {} bits", text())))?;
    if sizes.contains(&size) {
        Ok(size)
    } else {
        Err(Error::invalid("key_size", format!("{} bits", text())))
    }
}

fn named_curve(curve: Option<&str>, key_type: KeyType) -> Result<Curve> {
    let known = || Curve::ALL.iter().copied().filter(move |c| c.key_type() == key_type);
    let wrong = |why: &str| Error::invalid("curve", format!("{why}one of {}", listed(known().map(Curve::name))));
    let name = curve.ok_or_else(|| wrong("is missing: "))?;
    known().find(|c| c.name() == name).ok_or_else(|| wrong(""))
}

fn ec_curve(key_size: Option<u32>, curve: Option<&str>) -> Result<Curve> {
    let Some(bits) = key_size else {
        return named_curve(curve, KeyType::Ec);
    };
    let by_size = match bits {
        256 => Curve::P256,
        384 => Curve::P384,
        521 => Curve::P521,
        _ => {
            return Err(Error::invalid(
                "key_size",
                "256, 384 or 521 for P-256, P-384, P-521; or name the `curve`",
            ));
        }
    };
    match curve.map(|_| named_curve(curve, KeyType::Ec)).transpose()? {
        Some(Curve::Secp256k1) if bits == 256 => Ok(Curve::Secp256k1),
        Some(named) if named != by_size => Err(Error::invalid(
            "key_size",
            format!("{bits} bits is not the size of {named}"),
        )),
        _ => Ok(by_size),
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
            spec,
            label,
            extractable: false,
            usages: Usages::default_for(spec.key_type()),
        }
    }
}

/// How large a key is, in the terms of its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySize {
    /// The length of the modulus or of the secret.
    Bits(u32),
    /// The curve.
    Curve(Curve),
    /// The parameter set.
    ParameterSet(&'static str),
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
