//! The value of a key that comes from outside of the token.

use zeroize::Zeroizing;

use super::{Curve, KeySize, KeyType, ParameterSet, PublicKey};

/// The value of a key, checked: numbers fit together, points lie on their curves. What is secret is wiped when dropped.
#[derive(Clone)]
pub enum Material {
    /// An AES key, or a secret for HMAC.
    Secret {
        /// [`KeyType::Aes`] or [`KeyType::Hmac`].
        key_type: KeyType,
        /// The value.
        value: Zeroizing<Vec<u8>>,
    },
    /// An RSA private key.
    Rsa(Box<RsaPrivate>),
    /// A private key on a curve.
    Curve {
        /// The curve.
        curve: Curve,
        /// The scalar, as long as the curve's order; for Edwards curves the seed (RFC 8032).
        private: Zeroizing<Vec<u8>>,
        /// The public point, as [`PublicKey::Curve`] has it.
        point: Vec<u8>,
    },
    /// A post-quantum private key: its seed, its expanded form, or both.
    PostQuantum {
        /// The parameter set.
        parameter_set: ParameterSet,
        /// The seed that the key is made from.
        seed: Option<Zeroizing<Vec<u8>>>,
        /// The expanded private key.
        private: Option<Zeroizing<Vec<u8>>>,
        /// The public key.
        public: Vec<u8>,
    },
    /// A public key alone.
    Public(PublicKey),
}

/// An RSA private key (RFC 8017 §3.2): numbers in big-endian order without leading zeros.
#[derive(Clone)]
#[expect(missing_docs, reason = "the names are those of RFC 8017 and of PKCS#11's attributes")]
pub struct RsaPrivate {
    pub modulus: Vec<u8>,
    pub public_exponent: Vec<u8>,
    pub private_exponent: Zeroizing<Vec<u8>>,
    pub prime_1: Zeroizing<Vec<u8>>,
    pub prime_2: Zeroizing<Vec<u8>>,
    pub exponent_1: Zeroizing<Vec<u8>>,
    pub exponent_2: Zeroizing<Vec<u8>>,
    pub coefficient: Zeroizing<Vec<u8>>,
}

impl Material {
    /// The type of the key.
    pub const fn key_type(&self) -> KeyType {
        match self {
            Material::Secret { key_type, .. } => *key_type,
            Material::Rsa(_) => KeyType::Rsa,
            Material::Curve { curve, .. } => curve.key_type(),
            Material::PostQuantum { parameter_set, .. } => parameter_set.key_type(),
            Material::Public(key) => key.key_type(),
        }
    }

    /// The public half; none of a secret.
    pub fn public_key(&self) -> Option<PublicKey> {
        match self {
            Material::Secret { .. } => None,
            Material::Rsa(key) => Some(PublicKey::Rsa {
                modulus: key.modulus.clone(),
                exponent: key.public_exponent.clone(),
            }),
            Material::Curve { curve, point, .. } => Some(PublicKey::Curve {
                curve: *curve,
                point: point.clone(),
            }),
            Material::PostQuantum {
                parameter_set, public, ..
            } => Some(PublicKey::PostQuantum {
                parameter_set: *parameter_set,
                key: public.clone(),
            }),
            Material::Public(key) => Some(key.clone()),
        }
    }

    /// How large the key is.
    pub fn size(&self) -> KeySize {
        match self {
            Material::Secret { value, .. } => u32::try_from(8 * value.len()).map_or(KeySize::Unknown, KeySize::Bits),
            Material::Rsa(_) | Material::Curve { .. } | Material::PostQuantum { .. } | Material::Public(_) => {
                self.public_key().map_or(KeySize::Unknown, |key| key.size())
            }
        }
    }
}
