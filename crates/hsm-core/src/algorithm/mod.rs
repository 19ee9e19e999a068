//! Algorithms as the API names them, what each serves, and how it is done. `table.rs` has one row each.

mod mechanism_id;
mod mechanism_names;
mod table;

use crate::key::{Curve, KeyType, ParameterSet, Usage};

pub use mechanism_id::MechanismId;
pub use table::ROWS;

/// A hash function (FIPS 180-4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hash {
    /// SHA-1, 20 bytes: in RSA-OAEP only, where collisions do not matter.
    Sha1,
    /// SHA-256, 32 bytes.
    Sha256,
    /// SHA-384, 48 bytes.
    Sha384,
    /// SHA-512, 64 bytes.
    Sha512,
}

impl Hash {
    /// Length of the digest in bytes.
    #[allow(clippy::len_without_is_empty, reason = "no digest is empty")]
    pub const fn len(self) -> usize {
        match self {
            Hash::Sha1 => 20,
            Hash::Sha256 => 32,
            Hash::Sha384 => 48,
            Hash::Sha512 => 64,
        }
    }

    /// The name as FIPS 180-4 spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Hash::Sha1 => "SHA-1",
            Hash::Sha256 => "SHA-256",
            Hash::Sha384 => "SHA-384",
            Hash::Sha512 => "SHA-512",
        }
    }
}

names! {
    /// What is done with a key.
    Operation {
        /// Encryption under a secret or public key.
        Encrypt = "encrypt",
        /// Decryption with a secret or private key.
        Decrypt = "decrypt",
        /// A signature or message authentication code.
        Sign = "sign",
        /// The check of one.
        Verify = "verify",
        /// A key leaves the token, encrypted under another.
        Wrap = "wrap",
        /// A wrapped key becomes a key of the token.
        Unwrap = "unwrap",
        /// A key is made of another one.
        Derive = "derive",
        /// A secret is made, and encrypted under a public key.
        Encapsulate = "encapsulate",
        /// That secret is made again with the private key.
        Decapsulate = "decapsulate",
    }
}

impl Operation {
    /// Whether it encrypts or decrypts data.
    pub const fn crypts(self) -> bool {
        matches!(self, Operation::Encrypt | Operation::Decrypt)
    }

    /// What the key must be permitted to be used for.
    pub const fn usage(self) -> Usage {
        match self {
            Operation::Encrypt => Usage::Encrypt,
            Operation::Decrypt => Usage::Decrypt,
            Operation::Sign => Usage::Sign,
            Operation::Verify => Usage::Verify,
            Operation::Wrap => Usage::Wrap,
            Operation::Unwrap => Usage::Unwrap,
            Operation::Derive => Usage::Derive,
            Operation::Encapsulate => Usage::Encapsulate,
            Operation::Decapsulate => Usage::Decapsulate,
        }
    }
}

/// An algorithm as the API names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the rows of the table are the description of each")]
pub enum Algorithm {
    AesGcm,
    AesCcm,
    AesCtr,
    AesCbc,
    RsaOaepSha1,
    RsaOaepSha256,
    RsaOaepSha384,
    RsaOaepSha512,
    RsaPkcs1Sha256,
    RsaPkcs1Sha384,
    RsaPkcs1Sha512,
    RsaPssSha256,
    RsaPssSha384,
    RsaPssSha512,
    EcdsaSha256,
    EcdsaSha384,
    EcdsaSha512,
    EdDsa,
    HmacSha256,
    HmacSha384,
    HmacSha512,
    AesCmac,
    MlDsa,
    HashMlDsaSha256,
    HashMlDsaSha384,
    HashMlDsaSha512,
    SlhDsa,
    AesKwp,
    AesKw,
    RsaAesKeyWrap,
    Ecdh,
    HkdfSha256,
    MlKem,
}

/// What a JOSE name (RFC 7518, RFC 8037, RFC 8812, RFC 9864, RFC 9964) fixes beyond the algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoseKey {
    /// Nothing: any key of the algorithm.
    Any,
    /// The curve.
    Curve(Curve),
    /// The size of the key in bits.
    Bits(u32),
    /// The least size of the key in bits.
    AtLeast(u32),
    /// The parameter set.
    Set(ParameterSet),
}

/// A JOSE name and what it fixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jose {
    /// The `alg` or `enc` name.
    pub name: &'static str,
    /// What the key must be.
    pub key: JoseKey,
}

/// The family that an algorithm belongs to: how it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// AES-GCM (NIST SP 800-38D), 12-byte IV, 16-byte tag.
    Gcm,
    /// AES-CCM (NIST SP 800-38C), 12-byte nonce, 16-byte tag.
    Ccm,
    /// AES-CTR (NIST SP 800-38A), the whole block a big-endian counter.
    Ctr,
    /// AES-CBC with PKCS#7 padding.
    Cbc,
    /// RSAES-OAEP (RFC 8017 §7.1), MGF1 with the same hash, empty label.
    Oaep(Hash),
    /// RSASSA-PKCS1-v1_5 (RFC 8017 §8.2).
    Pkcs1(Hash),
    /// RSASSA-PSS (RFC 8017 §8.1), salt as long as the hash.
    Pss(Hash),
    /// ECDSA (FIPS 186-5 §6).
    Ecdsa(Hash),
    /// EdDSA (RFC 8032), pure.
    EdDsa,
    /// HMAC (FIPS 198-1).
    Hmac(Hash),
    /// AES-CMAC (NIST SP 800-38B).
    Cmac,
    /// ML-DSA (FIPS 204 §5.2) and SLH-DSA (FIPS 205 §10.2), pure, with an optional context.
    PostQuantum,
    /// HashML-DSA (FIPS 204 §5.4), with an optional context.
    HashMlDsa(Hash),
    /// AES key wrap (RFC 3394, NIST SP 800-38F KW): keys of whole blocks of 8 bytes.
    Kw,
    /// AES key wrap with padding (RFC 5649, NIST SP 800-38F KWP).
    Kwp,
    /// A fresh AES-256 key under RSA-OAEP, and the target under it with KWP (PKCS#11 v3.1 §6.1.13).
    RsaAesKeyWrap,
    /// ECDH (NIST SP 800-56A §5.7.1.2), the x coordinate without a key derivation function.
    Ecdh,
    /// HKDF (RFC 5869), extract and expand.
    Hkdf(Hash),
    /// ML-KEM (FIPS 203).
    Kem,
}

impl Scheme {
    /// Whether signatures are verified beside a token that can't, with the public key alone.
    pub const fn is_verified_here(self) -> bool {
        matches!(self, Scheme::Pkcs1(_) | Scheme::Pss(_) | Scheme::Ecdsa(_))
    }
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The algorithm of this row.
    pub algorithm: Algorithm,
    /// Its name in requests and answers.
    pub name: &'static str,
    /// JOSE names that are accepted for it.
    pub jose: &'static [Jose],
    /// The operations that it serves.
    pub operations: &'static [Operation],
    /// The type of key that it takes.
    pub key_type: KeyType,
    /// How it is done.
    pub scheme: Scheme,
    /// The mechanism that does all of it.
    pub native: MechanismId,
    /// The mechanism that does it once the data is hashed here (also used for `message_type` `digest`).
    pub bare: Option<MechanismId>,
    /// One line for the documentation.
    pub text: &'static str,
}

impl Algorithm {
    /// Every algorithm, in the order of the table.
    pub fn all() -> impl Iterator<Item = Algorithm> {
        ROWS.iter().map(|row| row.algorithm)
    }

    /// The algorithm's row of the table.
    #[expect(
        clippy::indexing_slicing,
        reason = "there is a row for each, as is checked when compiled"
    )]
    pub const fn row(self) -> &'static Row {
        &ROWS[self as usize]
    }

    /// The name in answers.
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// How it is done.
    pub const fn scheme(self) -> Scheme {
        self.row().scheme
    }

    /// The hash that signatures are made over, for those that take a digest (`message_type` `digest`).
    pub const fn digest(self) -> Option<Hash> {
        match self.scheme() {
            Scheme::Pkcs1(hash) | Scheme::Pss(hash) | Scheme::Ecdsa(hash) => Some(hash),
            Scheme::Gcm
            | Scheme::Ccm
            | Scheme::Ctr
            | Scheme::Cbc
            | Scheme::Oaep(_)
            | Scheme::EdDsa
            | Scheme::Hmac(_)
            | Scheme::Cmac
            | Scheme::PostQuantum
            | Scheme::HashMlDsa(_)
            | Scheme::Kw
            | Scheme::Kwp
            | Scheme::RsaAesKeyWrap
            | Scheme::Ecdh
            | Scheme::Hkdf(_)
            | Scheme::Kem => None,
        }
    }

    /// Whether encryption takes additional authenticated data and answers a tag.
    pub const fn is_aead(self) -> bool {
        matches!(self.scheme(), Scheme::Gcm | Scheme::Ccm)
    }

    /// Whether signing takes a context (FIPS 204 §5.2, FIPS 205 §10.2), at most 255 bytes.
    pub const fn takes_context(self) -> bool {
        matches!(self.scheme(), Scheme::PostQuantum | Scheme::HashMlDsa(_))
    }
}

/// An algorithm as a request names it: one of ours or a JOSE name, which fixes more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// What the JOSE name fixes of the key; `None` for our own names.
    pub jose: Option<Jose>,
}

impl Named {
    /// Looks a name up, ours or JOSE's; `None` if the table has it not or it does not serve `operation`.
    pub fn parse(name: &str, operation: Operation) -> Option<Named> {
        let mut found = ROWS.iter().filter(|row| row.operations.contains(&operation));
        found.find_map(|row| {
            if row.name == name {
                return Some(Named {
                    algorithm: row.algorithm,
                    jose: None,
                });
            }
            let jose = row.jose.iter().find(|jose| jose.name == name)?;
            Some(Named {
                algorithm: row.algorithm,
                jose: Some(*jose),
            })
        })
    }

    /// The names that `operation` takes: ours, then JOSE's.
    pub fn names(operation: Operation) -> Vec<&'static str> {
        let rows = || ROWS.iter().filter(move |row| row.operations.contains(&operation));
        rows()
            .map(|row| row.name)
            .chain(rows().flat_map(|row| row.jose.iter().map(|jose| jose.name)))
            .collect()
    }
}

impl From<Algorithm> for Named {
    fn from(algorithm: Algorithm) -> Named {
        Named { algorithm, jose: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_told_apart() {
        for operation in Operation::ALL.iter().copied() {
            let names = Named::names(operation);
            let unique: std::collections::BTreeSet<_> = names.iter().collect();
            assert_eq!(unique.len(), names.len(), "{operation:?}");
            assert!(names.iter().all(|name| Named::parse(name, operation).is_some()));
        }
    }

    #[test]
    fn a_name_serves_its_operations_only() {
        assert_eq!(
            Named::parse("RS256", Operation::Sign).map(|n| n.algorithm),
            Some(Algorithm::RsaPkcs1Sha256)
        );
        assert_eq!(Named::parse("RS256", Operation::Encrypt), None);
        assert_eq!(Named::parse("aes-gcm", Operation::Encrypt), None);
    }
}
