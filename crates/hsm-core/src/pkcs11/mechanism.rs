//! Mechanisms with their parameters, as cryptoki takes them.

use std::ffi::c_ulong;

use cryptoki::error::{Error, Result};
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource, PkcsPssParams};
use cryptoki::mechanism::vendor_defined::VendorDefinedMechanism;
use cryptoki::mechanism::{Mechanism as Native, MechanismType};

use crate::algorithm::Hash;
use crate::backend::Mechanism;

const GCM_TAG_BITS: c_ulong = 128;

/// CK_AES_CTR_PARAMS (PKCS#11 v3.1 §6.13.3), which cryptoki has only without its mechanism.
#[repr(C)]
#[cfg_attr(windows, repr(packed))]
struct CtrParams {
    counter_bits: c_ulong,
    block: [u8; 16],
}

/// Calls `act` with the mechanism. What a device writes into the parameters is in `mechanism` afterwards.
pub(super) fn with<T>(mechanism: &mut Mechanism, act: impl FnOnce(&Native<'_>) -> Result<T>) -> Result<T> {
    match mechanism {
        Mechanism::AesGcm { iv, aad } => {
            let params = GcmParams::new(iv, aad, GCM_TAG_BITS.into())?;
            act(&Native::AesGcm(params))
        }
        Mechanism::AesCtr { counter } => {
            let params = CtrParams {
                counter_bits: 128,
                block: *counter,
            };
            let native = VendorDefinedMechanism::new(MechanismType::AES_CTR, Some(&params));
            act(&Native::VendorDefined(native))
        }
        Mechanism::AesCbcPad { iv } => act(&Native::AesCbcPad(*iv)),
        Mechanism::AesCmac => act(&Native::AesCMac),
        Mechanism::RsaOaep(hash) => {
            let (hash, mgf) = hash_and_mgf(*hash);
            let params = PkcsOaepParams::new(hash, mgf, PkcsOaepSource::empty());
            act(&Native::RsaPkcsOaep(params))
        }
        Mechanism::RsaPkcs1(None) => act(&Native::RsaPkcs),
        Mechanism::RsaPkcs1(Some(hash)) => act(&match hash {
            Hash::Sha1 => return Err(Error::NotSupported),
            Hash::Sha256 => Native::Sha256RsaPkcs,
            Hash::Sha384 => Native::Sha384RsaPkcs,
            Hash::Sha512 => Native::Sha512RsaPkcs,
        }),
        Mechanism::RsaPss(hash) => {
            let params = pss_params(*hash)?;
            act(&match hash {
                Hash::Sha1 => return Err(Error::NotSupported),
                Hash::Sha256 => Native::Sha256RsaPkcsPss(params),
                Hash::Sha384 => Native::Sha384RsaPkcsPss(params),
                Hash::Sha512 => Native::Sha512RsaPkcsPss(params),
            })
        }
        Mechanism::RsaPssDigest(hash) => act(&Native::RsaPkcsPss(pss_params(*hash)?)),
        Mechanism::Ecdsa(None) => act(&Native::Ecdsa),
        Mechanism::Ecdsa(Some(hash)) => act(&match hash {
            Hash::Sha1 => return Err(Error::NotSupported),
            Hash::Sha256 => Native::EcdsaSha256,
            Hash::Sha384 => Native::EcdsaSha384,
            Hash::Sha512 => Native::EcdsaSha512,
        }),
        Mechanism::Eddsa { ed448 } => {
            let scheme = match ed448 {
                true => EddsaSignatureScheme::Ed448(&[]),
                false => EddsaSignatureScheme::Ed25519,
            };
            act(&Native::Eddsa(EddsaParams::new(scheme)))
        }
        Mechanism::Hmac(hash) => act(&match hash {
            Hash::Sha1 => return Err(Error::NotSupported),
            Hash::Sha256 => Native::Sha256Hmac,
            Hash::Sha384 => Native::Sha384Hmac,
            Hash::Sha512 => Native::Sha512Hmac,
        }),
    }
}

fn pss_params(hash: Hash) -> Result<PkcsPssParams> {
    let salt = hash.len();
    let (hash_alg, mgf) = hash_and_mgf(hash);
    Ok(PkcsPssParams {
        hash_alg,
        mgf,
        s_len: salt.try_into()?,
    })
}

fn hash_and_mgf(hash: Hash) -> (MechanismType, PkcsMgfType) {
    match hash {
        Hash::Sha1 => (MechanismType::SHA1, PkcsMgfType::MGF1_SHA1),
        Hash::Sha256 => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256),
        Hash::Sha384 => (MechanismType::SHA384, PkcsMgfType::MGF1_SHA384),
        Hash::Sha512 => (MechanismType::SHA512, PkcsMgfType::MGF1_SHA512),
    }
}

#[cfg(test)]
mod tests {
    use crate::algorithm::{MechanismId, ROWS};

    /// One that cryptoki drops from a token's list would pass for missing.
    #[test]
    fn cryptoki_knows_every_mechanism_of_the_table() {
        for row in ROWS {
            for MechanismId(number) in [Some(row.native), row.bare].into_iter().flatten() {
                let number = std::ffi::c_ulong::try_from(number).unwrap();
                let known = cryptoki::mechanism::MechanismType::try_from(number);
                assert_eq!(known.map(|known| *known).ok(), Some(number), "{}", row.name);
            }
        }
    }
}
