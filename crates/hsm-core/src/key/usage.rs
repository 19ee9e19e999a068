//! What keys may be used for.

use super::KeyType;
use crate::error::{Error, Result};

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

    /// The usages that are in both sets.
    #[must_use]
    pub const fn intersection(self, other: Usages) -> Usages {
        Usages(self.0 & other.0)
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

    /// What a public key of `key_type` can be used for without its private half.
    pub const fn of_public_half(key_type: KeyType) -> Usages {
        use Usage as U;
        Usages::possible(key_type).intersection(Usages::of(&[U::Encrypt, U::Verify, U::Wrap, U::Encapsulate]))
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
