//! [`ROWS`]: one row an algorithm, from which names, JOSE names, operations, mechanisms, the OpenAPI enumerations, what the
//! token can do, and the documentation follow.
//!
//! When adding an algorithm: add the variant, its row here, and the arm of `pkcs11/mechanism.rs` if its mechanism is new.

use super::{Algorithm as A, Hash, Jose, JoseKey, MechanismId as M, Operation, Row, Scheme};
use crate::key::{Curve, KeyType, ParameterSet};

const CRYPT: &[Operation] = &[Operation::Encrypt, Operation::Decrypt];
const CRYPT_AND_WRAP: &[Operation] = &[
    Operation::Encrypt,
    Operation::Decrypt,
    Operation::Wrap,
    Operation::Unwrap,
];
const SIGN: &[Operation] = &[Operation::Sign, Operation::Verify];
const WRAP: &[Operation] = &[Operation::Wrap, Operation::Unwrap];
const DERIVE: &[Operation] = &[Operation::Derive];
const KEM: &[Operation] = &[Operation::Encapsulate, Operation::Decapsulate];

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
const fn set(name: &'static str, parameter_set: ParameterSet) -> Jose {
    Jose {
        name,
        key: JoseKey::Set(parameter_set),
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

/// The table, in the order of [`Algorithm`](super::Algorithm).
#[rustfmt::skip]
pub const ROWS: [Row; 33] = [
    row!(AesGcm, "AES-GCM", [bits("A128GCM", 128), bits("A192GCM", 192), bits("A256GCM", 256)], CRYPT, Aes, Scheme::Gcm, AES_GCM, None, "NIST SP 800-38D; 12-byte IV, 16-byte tag, optional `aad`. The default for AES keys"),
    row!(AesCcm, "AES-CCM", [], CRYPT, Aes, Scheme::Ccm, AES_CCM, None, "NIST SP 800-38C; 12-byte nonce, 16-byte tag, optional `aad`"),
    row!(AesCtr, "AES-CTR", [], CRYPT, Aes, Scheme::Ctr, AES_CTR, None, "NIST SP 800-38A; 16-byte IV, the whole block a big-endian counter. Not authenticated"),
    row!(AesCbc, "AES-CBC", [], CRYPT, Aes, Scheme::Cbc, AES_CBC_PAD, None, "NIST SP 800-38A with PKCS#7 padding; 16-byte IV. A padding oracle over an API: only with `HSM_LEGACY_ALGORITHMS=true`"),
    row!(RsaOaepSha1, "RSA-OAEP-SHA1", [rsa("RSA-OAEP")], CRYPT_AND_WRAP, Rsa, Scheme::Oaep(Hash::Sha1), RSA_PKCS_OAEP, None, "RFC 8017 §7.1; MGF1 with SHA-1, empty label"),
    row!(RsaOaepSha256, "RSA-OAEP-SHA256", [rsa("RSA-OAEP-256")], CRYPT_AND_WRAP, Rsa, Scheme::Oaep(Hash::Sha256), RSA_PKCS_OAEP, None, "RFC 8017 §7.1; MGF1 with SHA-256, empty label. The default for RSA keys, where the token has it"),
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
    row!(MlDsa, "ML-DSA", [set("ML-DSA-44", ParameterSet::MlDsa44), set("ML-DSA-65", ParameterSet::MlDsa65), set("ML-DSA-87", ParameterSet::MlDsa87)], SIGN, MlDsa, Scheme::PostQuantum, ML_DSA, None, "FIPS 204 §5.2, pure; optional `context`. The default for ML-DSA keys"),
    row!(HashMlDsaSha256, "HashML-DSA-SHA256", [], SIGN, MlDsa, Scheme::HashMlDsa(Hash::Sha256), HASH_ML_DSA_SHA256, None, "FIPS 204 §5.4, the message hashed first; optional `context`"),
    row!(HashMlDsaSha384, "HashML-DSA-SHA384", [], SIGN, MlDsa, Scheme::HashMlDsa(Hash::Sha384), HASH_ML_DSA_SHA384, None, "FIPS 204 §5.4, the message hashed first; optional `context`"),
    row!(HashMlDsaSha512, "HashML-DSA-SHA512", [], SIGN, MlDsa, Scheme::HashMlDsa(Hash::Sha512), HASH_ML_DSA_SHA512, None, "FIPS 204 §5.4, the message hashed first; optional `context`"),
    row!(SlhDsa, "SLH-DSA", [], SIGN, SlhDsa, Scheme::PostQuantum, SLH_DSA, None, "FIPS 205 §10.2, pure; optional `context`. The default for SLH-DSA keys"),
    row!(AesKwp, "AES-KWP", [], WRAP, Aes, Scheme::Kwp, AES_KEY_WRAP_KWP, None, "RFC 5649, NIST SP 800-38F: keys of any length. The default for AES keys, where the token has it"),
    row!(AesKw, "AES-KW", [bits("A128KW", 128), bits("A192KW", 192), bits("A256KW", 256)], WRAP, Aes, Scheme::Kw, AES_KEY_WRAP, None, "RFC 3394, NIST SP 800-38F: keys whose encoding is a multiple of 8 bytes long. The default for AES keys on a token without AES-KWP"),
    row!(RsaAesKeyWrap, "RSA-AES-KEY-WRAP", [], WRAP, Rsa, Scheme::RsaAesKeyWrap, RSA_AES_KEY_WRAP, None, "PKCS#11 v3.1 §6.1.13: a fresh AES-256 key under RSA-OAEP (SHA-256 where the token has it, else SHA-1), the key under that with AES-KWP. Any key, private ones too. The default for RSA keys"),
    row!(Ecdh, "ECDH", [], DERIVE, Ec, Scheme::Ecdh, ECDH1_DERIVE, None, "NIST SP 800-56A §5.7.1.2, the last `key_size` bits of the shared x coordinate, no key derivation function"),
    row!(HkdfSha256, "HKDF-SHA256", [], DERIVE, Hmac, Scheme::Hkdf(Hash::Sha256), HKDF_DERIVE, None, "RFC 5869, extract and expand; `salt` and `info` optional"),
    row!(MlKem, "ML-KEM", [], KEM, MlKem, Scheme::Kem, ML_KEM, None, "FIPS 203; the 32-byte shared secret becomes a key of the token"),
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
