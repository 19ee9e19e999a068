//! The parameter sets of the post-quantum algorithms.

use super::KeyType;

names! {
    /// A parameter set of ML-DSA (FIPS 204), ML-KEM (FIPS 203) or SLH-DSA (FIPS 205).
    ParameterSet {
        /// ML-DSA-44, security category 2.
        MlDsa44 = "ML-DSA-44",
        /// ML-DSA-65, security category 3.
        MlDsa65 = "ML-DSA-65",
        /// ML-DSA-87, security category 5.
        MlDsa87 = "ML-DSA-87",
        /// ML-KEM-512, security category 1.
        MlKem512 = "ML-KEM-512",
        /// ML-KEM-768, security category 3.
        MlKem768 = "ML-KEM-768",
        /// ML-KEM-1024, security category 5.
        MlKem1024 = "ML-KEM-1024",
        /// SHA-2, category 1, small signatures.
        SlhDsaSha2S128 = "SLH-DSA-SHA2-128s",
        /// SHA-2, category 1, fast signing.
        SlhDsaSha2F128 = "SLH-DSA-SHA2-128f",
        /// SHA-2, category 3, small signatures.
        SlhDsaSha2S192 = "SLH-DSA-SHA2-192s",
        /// SHA-2, category 3, fast signing.
        SlhDsaSha2F192 = "SLH-DSA-SHA2-192f",
        /// SHA-2, category 5, small signatures.
        SlhDsaSha2S256 = "SLH-DSA-SHA2-256s",
        /// SHA-2, category 5, fast signing.
        SlhDsaSha2F256 = "SLH-DSA-SHA2-256f",
        /// SHAKE, category 1, small signatures.
        SlhDsaShakeS128 = "SLH-DSA-SHAKE-128s",
        /// SHAKE, category 1, fast signing.
        SlhDsaShakeF128 = "SLH-DSA-SHAKE-128f",
        /// SHAKE, category 3, small signatures.
        SlhDsaShakeS192 = "SLH-DSA-SHAKE-192s",
        /// SHAKE, category 3, fast signing.
        SlhDsaShakeF192 = "SLH-DSA-SHAKE-192f",
        /// SHAKE, category 5, small signatures.
        SlhDsaShakeS256 = "SLH-DSA-SHAKE-256s",
        /// SHAKE, category 5, fast signing.
        SlhDsaShakeF256 = "SLH-DSA-SHAKE-256f",
    }
}

impl ParameterSet {
    /// The parameter sets of a key type; none for the types of before.
    pub fn of(key_type: KeyType) -> impl Iterator<Item = ParameterSet> {
        let all = ParameterSet::ALL.iter().copied();
        all.filter(move |set| set.key_type() == key_type)
    }

    /// The type of key that has the set.
    pub const fn key_type(self) -> KeyType {
        use ParameterSet as P;
        match self {
            P::MlDsa44 | P::MlDsa65 | P::MlDsa87 => KeyType::MlDsa,
            P::MlKem512 | P::MlKem768 | P::MlKem1024 => KeyType::MlKem,
            P::SlhDsaSha2S128
            | P::SlhDsaSha2F128
            | P::SlhDsaSha2S192
            | P::SlhDsaSha2F192
            | P::SlhDsaSha2S256
            | P::SlhDsaSha2F256
            | P::SlhDsaShakeS128
            | P::SlhDsaShakeF128
            | P::SlhDsaShakeS192
            | P::SlhDsaShakeF192
            | P::SlhDsaShakeS256
            | P::SlhDsaShakeF256 => KeyType::SlhDsa,
        }
    }

    /// The `CKP_…` number (PKCS#11 v3.2 §6.67.3, §6.68.3, §6.69.3).
    pub const fn number(self) -> u64 {
        use ParameterSet as P;
        match self {
            P::MlDsa44 | P::MlKem512 | P::SlhDsaSha2S128 => 1,
            P::MlDsa65 | P::MlKem768 | P::SlhDsaShakeS128 => 2,
            P::MlDsa87 | P::MlKem1024 | P::SlhDsaSha2F128 => 3,
            P::SlhDsaShakeF128 => 4,
            P::SlhDsaSha2S192 => 5,
            P::SlhDsaShakeS192 => 6,
            P::SlhDsaSha2F192 => 7,
            P::SlhDsaShakeF192 => 8,
            P::SlhDsaSha2S256 => 9,
            P::SlhDsaShakeS256 => 10,
            P::SlhDsaSha2F256 => 11,
            P::SlhDsaShakeF256 => 12,
        }
    }

    /// The set of a key type with this `CKP_…` number.
    pub fn from_number(key_type: KeyType, number: u64) -> Option<ParameterSet> {
        ParameterSet::of(key_type).find(|set| set.number() == number)
    }

    /// Length of a public key in bytes.
    pub const fn public_key_bytes(self) -> usize {
        use ParameterSet as P;
        match self {
            P::MlDsa44 => 1312,
            P::MlDsa65 => 1952,
            P::MlDsa87 => 2592,
            P::MlKem512 => 800,
            P::MlKem768 => 1184,
            P::MlKem1024 => 1568,
            P::SlhDsaSha2S128 | P::SlhDsaSha2F128 | P::SlhDsaShakeS128 | P::SlhDsaShakeF128 => 32,
            P::SlhDsaSha2S192 | P::SlhDsaSha2F192 | P::SlhDsaShakeS192 | P::SlhDsaShakeF192 => 48,
            P::SlhDsaSha2S256 | P::SlhDsaSha2F256 | P::SlhDsaShakeS256 | P::SlhDsaShakeF256 => 64,
        }
    }

    /// Length in bytes of what the algorithm makes: a signature, or the ciphertext of ML-KEM.
    pub const fn output_bytes(self) -> usize {
        use ParameterSet as P;
        match self {
            P::MlDsa44 => 2420,
            P::MlDsa65 => 3309,
            P::MlDsa87 => 4627,
            P::MlKem512 => 768,
            P::MlKem768 => 1088,
            P::MlKem1024 => 1568,
            P::SlhDsaSha2S128 | P::SlhDsaShakeS128 => 7856,
            P::SlhDsaSha2F128 | P::SlhDsaShakeF128 => 17088,
            P::SlhDsaSha2S192 | P::SlhDsaShakeS192 => 16224,
            P::SlhDsaSha2F192 | P::SlhDsaShakeF192 => 35664,
            P::SlhDsaSha2S256 | P::SlhDsaShakeS256 => 29792,
            P::SlhDsaSha2F256 | P::SlhDsaShakeF256 => 49856,
        }
    }
}
