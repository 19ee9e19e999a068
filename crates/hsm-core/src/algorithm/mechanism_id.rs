//! The mechanisms of PKCS#11 by their numbers.

use super::mechanism_names::NAMES;

/// A `CKM_…` number (PKCS#11 v3.1 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MechanismId(pub u64);

/// The mechanisms that the gateway asks for, with their numbers.
macro_rules! mechanisms {
    ($($name:ident = $value:literal),* $(,)?) => {
        impl MechanismId {
            $(#[doc = concat!("`CKM_", stringify!($name), "`")] pub const $name: MechanismId = MechanismId($value);)*

            #[cfg(test)]
            const ALL: &'static [(MechanismId, &'static str)] = &[$((MechanismId::$name, stringify!($name))),*];
        }
    };
}

mechanisms! {
    RSA_PKCS_KEY_PAIR_GEN = 0x0000,
    RSA_PKCS = 0x0001,
    RSA_PKCS_OAEP = 0x0009,
    RSA_PKCS_PSS = 0x000d,
    ML_KEM_KEY_PAIR_GEN = 0x000f,
    ML_KEM = 0x0017,
    ML_DSA_KEY_PAIR_GEN = 0x001c,
    ML_DSA = 0x001d,
    HASH_ML_DSA_SHA256 = 0x0024,
    HASH_ML_DSA_SHA384 = 0x0025,
    HASH_ML_DSA_SHA512 = 0x0026,
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
    ECDH1_DERIVE = 0x1050,
    RSA_AES_KEY_WRAP = 0x1054,
    EC_EDWARDS_KEY_PAIR_GEN = 0x1055,
    EDDSA = 0x1057,
    AES_KEY_GEN = 0x1080,
    AES_CBC_PAD = 0x1085,
    AES_CTR = 0x1086,
    AES_GCM = 0x1087,
    AES_CCM = 0x1088,
    AES_CMAC = 0x108a,
    AES_KEY_WRAP = 0x2109,
    AES_KEY_WRAP_PAD = 0x210a,
    AES_KEY_WRAP_KWP = 0x210b,
    HKDF_DERIVE = 0x402a,
}

impl MechanismId {
    /// The name without `CKM_`; `None` for numbers that are not the standard's.
    pub fn name(self) -> Option<&'static str> {
        let at = NAMES.binary_search_by_key(&self.0, |(number, _)| *number).ok()?;
        NAMES.get(at).map(|(_, name)| *name)
    }
}

/// `CKM_…`, or the number as `0x` and 8 hexadecimal digits.
impl std::fmt::Display for MechanismId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name() {
            Some(name) => write!(f, "CKM_{name}"),
            None => write!(f, "0x{:08x}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_order_and_those_that_are_used_are_right() {
        assert!(NAMES.is_sorted_by(|before, after| before.0 < after.0));
        for (id, name) in MechanismId::ALL {
            assert_eq!(id.name(), Some(*name));
        }
        assert_eq!(MechanismId::AES_GCM.to_string(), "CKM_AES_GCM");
        assert_eq!(MechanismId(0x8000_0a01).to_string(), "0x80000a01");
        assert_eq!(MechanismId(0x7fff_0001).to_string(), "0x7fff0001");
    }
}
