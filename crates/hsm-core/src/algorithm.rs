//! The table of algorithms: one row each, from which names, JOSE names, operations, mechanisms, the OpenAPI enumeration
//! and the documentation follow.
//!
//! When adding an algorithm: add the variant, its row in [`ROWS`], and the arm of `operation.rs` that says how it is done.

use crate::key::{Curve, KeyType};

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

/// What is done with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Encryption under a secret or public key.
    Encrypt,
    /// Decryption with a secret or private key.
    Decrypt,
    /// A signature or message authentication code.
    Sign,
    /// The check of one.
    Verify,
}

impl Operation {
    /// Every operation.
    pub const ALL: [Operation; 4] = [
        Operation::Encrypt,
        Operation::Decrypt,
        Operation::Sign,
        Operation::Verify,
    ];

    /// The name in the API: `encrypt`, `decrypt`, `sign`, `verify`.
    pub const fn name(self) -> &'static str {
        match self {
            Operation::Encrypt => "encrypt",
            Operation::Decrypt => "decrypt",
            Operation::Sign => "sign",
            Operation::Verify => "verify",
        }
    }
}

/// A `CKM_…` number (PKCS#11 v3.1 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MechanismId(pub u64);

/// The mechanisms that the gateway asks for, with their numbers.
macro_rules! mechanisms {
    ($($name:ident = $value:literal),* $(,)?) => {
        impl MechanismId {
            $(#[doc = concat!("`CKM_", stringify!($name), "`")] pub const $name: MechanismId = MechanismId($value);)*

            /// The name, `CKM_…`, of a mechanism that the gateway uses; `None` for others.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some(concat!("CKM_", stringify!($name))),)*
                    _ => None,
                }
            }
        }
    };
}

mechanisms! {
    RSA_PKCS_KEY_PAIR_GEN = 0x0000,
    RSA_PKCS = 0x0001,
    RSA_PKCS_OAEP = 0x0009,
    RSA_PKCS_PSS = 0x000d,
    ML_KEM_KEY_PAIR_GEN = 0x000f,
    ML_DSA_KEY_PAIR_GEN = 0x001c,
    ML_DSA = 0x001d,
    SLH_DSA_KEY_PAIR_GEN = 0x002d,
    SLH_DSA = 0x002e,
    SHA256_RSA_PKCS = 0x0040,
    SHA384_RSA_PKCS = 0x0041,
    SHA512_RSA_PKCS = 0x0042,
    SHA256_RSA_PKCS_PSS = 0x0043,
    SHA384_RSA_PKCS_PSS = 0x0044,
    SHA512_RSA_PKCS_PSS = 0x0045,
    SHA256_HMAC = 0x0251,
    SHA384_HMAC = 0x0261,
    SHA512_HMAC = 0x0271,
    GENERIC_SECRET_KEY_GEN = 0x0350,
    EC_KEY_PAIR_GEN = 0x1040,
    ECDSA = 0x1041,
    ECDSA_SHA256 = 0x1044,
    ECDSA_SHA384 = 0x1045,
    ECDSA_SHA512 = 0x1046,
    EC_EDWARDS_KEY_PAIR_GEN = 0x1055,
    EDDSA = 0x1057,
    AES_KEY_GEN = 0x1080,
    AES_CBC_PAD = 0x1085,
    AES_CTR = 0x1086,
    AES_GCM = 0x1087,
    AES_CMAC = 0x108a,
}

impl std::fmt::Display for MechanismId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "0x{:08x}", self.0),
        }
    }
}

/// An algorithm as the API names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the rows of the table are the description of each")]
pub enum Algorithm {
    AesGcm,
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
    SlhDsa,
}

/// What a JOSE name (RFC 7518, RFC 8037, RFC 8812, RFC 9864) fixes beyond the algorithm.
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
    /// ML-DSA (FIPS 204) and SLH-DSA (FIPS 205).
    PostQuantum,
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

use Algorithm as A;
use MechanismId as M;
const CRYPT: &[Operation] = &[Operation::Encrypt, Operation::Decrypt];
const SIGN: &[Operation] = &[Operation::Sign, Operation::Verify];

const fn any(name: &'static str) -> Jose {
    Jose {
        name,
        key: JoseKey::Any,
    }
}
const fn on(name: &'static str, curve: Curve) -> Jose {
    Jose {
        name,
        key: JoseKey::Curve(curve),
    }
}
/// RFC 7518 §3.3, §3.5 and §4.3 ask for 2048 bits or more.
const fn rsa(name: &'static str) -> Jose {
    Jose {
        name,
        key: JoseKey::AtLeast(2048),
    }
}
const fn bits(name: &'static str, bits: u32) -> Jose {
    Jose {
        name,
        key: JoseKey::Bits(bits),
    }
}

macro_rules! row {
    ($algorithm:ident, $name:literal, [$($jose:expr),*], $operations:ident, $key_type:ident, $scheme:expr, $native:ident, $bare:expr, $text:literal) => {
        Row {
            algorithm: A::$algorithm,
            name: $name,
            jose: &[$($jose),*],
            operations: $operations,
            key_type: KeyType::$key_type,
            scheme: $scheme,
            native: M::$native,
            bare: $bare,
            text: $text,
        }
    };
}

/// The table, in the order of [`Algorithm`].
#[rustfmt::skip]
pub const ROWS: [Row; 23] = [
    row!(AesGcm, "AES-GCM", [bits("A128GCM", 128), bits("A192GCM", 192), bits("A256GCM", 256)], CRYPT, Aes, Scheme::Gcm, AES_GCM, None, "NIST SP 800-38D; 12-byte IV, 16-byte tag, optional `aad`. The default for AES keys"),
    row!(AesCtr, "AES-CTR", [], CRYPT, Aes, Scheme::Ctr, AES_CTR, None, "NIST SP 800-38A; 16-byte IV, the whole block a big-endian counter. Not authenticated"),
    row!(AesCbc, "AES-CBC", [], CRYPT, Aes, Scheme::Cbc, AES_CBC_PAD, None, "NIST SP 800-38A with PKCS#7 padding; 16-byte IV. A padding oracle over an API: only with `HSM_LEGACY_ALGORITHMS=true`"),
    row!(RsaOaepSha1, "RSA-OAEP-SHA1", [rsa("RSA-OAEP")], CRYPT, Rsa, Scheme::Oaep(Hash::Sha1), RSA_PKCS_OAEP, None, "RFC 8017 §7.1; MGF1 with SHA-1, empty label"),
    row!(RsaOaepSha256, "RSA-OAEP-SHA256", [rsa("RSA-OAEP-256")], CRYPT, Rsa, Scheme::Oaep(Hash::Sha256), RSA_PKCS_OAEP, None, "RFC 8017 §7.1; MGF1 with SHA-256, empty label. The default for RSA keys, where the token has it"),
    row!(RsaOaepSha384, "RSA-OAEP-SHA384", [rsa("RSA-OAEP-384")], CRYPT, Rsa, Scheme::Oaep(Hash::Sha384), RSA_PKCS_OAEP, None, "RFC 8017 §7.1; MGF1 with SHA-384, empty label"),
    row!(RsaOaepSha512, "RSA-OAEP-SHA512", [rsa("RSA-OAEP-512")], CRYPT, Rsa, Scheme::Oaep(Hash::Sha512), RSA_PKCS_OAEP, None, "RFC 8017 §7.1; MGF1 with SHA-512, empty label"),
    row!(RsaPkcs1Sha256, "RSA-PKCS1-SHA256", [rsa("RS256")], SIGN, Rsa, Scheme::Pkcs1(Hash::Sha256), SHA256_RSA_PKCS, Some(M::RSA_PKCS), "RFC 8017 §8.2"),
    row!(RsaPkcs1Sha384, "RSA-PKCS1-SHA384", [rsa("RS384")], SIGN, Rsa, Scheme::Pkcs1(Hash::Sha384), SHA384_RSA_PKCS, Some(M::RSA_PKCS), "RFC 8017 §8.2"),
    row!(RsaPkcs1Sha512, "RSA-PKCS1-SHA512", [rsa("RS512")], SIGN, Rsa, Scheme::Pkcs1(Hash::Sha512), SHA512_RSA_PKCS, Some(M::RSA_PKCS), "RFC 8017 §8.2"),
    row!(RsaPssSha256, "RSA-PSS-SHA256", [rsa("PS256")], SIGN, Rsa, Scheme::Pss(Hash::Sha256), SHA256_RSA_PKCS_PSS, Some(M::RSA_PKCS_PSS), "RFC 8017 §8.1; salt as long as the hash. The default for RSA keys"),
    row!(RsaPssSha384, "RSA-PSS-SHA384", [rsa("PS384")], SIGN, Rsa, Scheme::Pss(Hash::Sha384), SHA384_RSA_PKCS_PSS, Some(M::RSA_PKCS_PSS), "RFC 8017 §8.1; salt as long as the hash"),
    row!(RsaPssSha512, "RSA-PSS-SHA512", [rsa("PS512")], SIGN, Rsa, Scheme::Pss(Hash::Sha512), SHA512_RSA_PKCS_PSS, Some(M::RSA_PKCS_PSS), "RFC 8017 §8.1; salt as long as the hash"),
    row!(EcdsaSha256, "ECDSA-SHA256", [on("ES256", Curve::P256), on("ES256K", Curve::Secp256k1)], SIGN, Ec, Scheme::Ecdsa(Hash::Sha256), ECDSA_SHA256, Some(M::ECDSA), "FIPS 186-5 §6. The default for P-256 and secp256k1"),
    row!(EcdsaSha384, "ECDSA-SHA384", [on("ES384", Curve::P384)], SIGN, Ec, Scheme::Ecdsa(Hash::Sha384), ECDSA_SHA384, Some(M::ECDSA), "FIPS 186-5 §6. The default for P-384"),
    row!(EcdsaSha512, "ECDSA-SHA512", [on("ES512", Curve::P521)], SIGN, Ec, Scheme::Ecdsa(Hash::Sha512), ECDSA_SHA512, Some(M::ECDSA), "FIPS 186-5 §6. The default for P-521"),
    row!(EdDsa, "EdDSA", [on("Ed25519", Curve::Ed25519), on("Ed448", Curve::Ed448)], SIGN, Ed, Scheme::EdDsa, EDDSA, None, "RFC 8032, pure Ed25519 and Ed448"),
    row!(HmacSha256, "HMAC-SHA256", [any("HS256")], SIGN, Hmac, Scheme::Hmac(Hash::Sha256), SHA256_HMAC, None, "FIPS 198-1; the key at least 256 bits (RFC 7518 §3.2)"),
    row!(HmacSha384, "HMAC-SHA384", [any("HS384")], SIGN, Hmac, Scheme::Hmac(Hash::Sha384), SHA384_HMAC, None, "FIPS 198-1; the key at least 384 bits"),
    row!(HmacSha512, "HMAC-SHA512", [any("HS512")], SIGN, Hmac, Scheme::Hmac(Hash::Sha512), SHA512_HMAC, None, "FIPS 198-1; the key at least 512 bits"),
    row!(AesCmac, "AES-CMAC", [], SIGN, Aes, Scheme::Cmac, AES_CMAC, None, "NIST SP 800-38B, 16 bytes. The default for signing with AES keys"),
    row!(MlDsa, "ML-DSA", [], SIGN, MlDsa, Scheme::PostQuantum, ML_DSA, None, "FIPS 204. Not served yet: 501"),
    row!(SlhDsa, "SLH-DSA", [], SIGN, SlhDsa, Scheme::PostQuantum, SLH_DSA, None, "FIPS 205. Not served yet: 501"),
];

#[expect(
    clippy::indexing_slicing,
    reason = "evaluated when compiled, and bounded by the length"
)]
// A row out of its place would answer for another algorithm: such a table does not compile.
const _: () = {
    let mut i = 0;
    while i < ROWS.len() {
        assert!(ROWS[i].algorithm as usize == i);
        i += 1;
    }
};

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
            | Scheme::Ctr
            | Scheme::Cbc
            | Scheme::Oaep(_)
            | Scheme::EdDsa
            | Scheme::Hmac(_)
            | Scheme::Cmac
            | Scheme::PostQuantum => None,
        }
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
        for operation in Operation::ALL {
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
