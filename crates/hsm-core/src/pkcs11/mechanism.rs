//! Mechanisms with their parameters, as cryptoki takes them.

use std::ffi::c_ulong;
use std::ptr;

use cryptoki::error::{Error, Result};
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::mechanism::dsa::{HedgeType, SignAdditionalContext};
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::mechanism::elliptic_curve::{EcKdf, Ecdh1DeriveParams};
use cryptoki::mechanism::hkdf::{HkdfParams, HkdfSalt};
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource, PkcsPssParams};
use cryptoki::mechanism::vendor_defined::VendorDefinedMechanism;
use cryptoki::mechanism::{Mechanism as Native, MechanismType};
use cryptoki_sys as sys;

use super::failure::{failed, refused};
use crate::algorithm::Hash;
use crate::backend::{Mechanism, Outcome};
use crate::error::Ckr;

const GCM_TAG_BITS: c_ulong = 128;
const CCM_MAC_BYTES: c_ulong = 16;

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
        Mechanism::AesCcm { .. } | Mechanism::AesKwp => Err(Error::NotSupported),
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
        Mechanism::MlDsa { context } => act(&Native::MlDsa(additional(context))),
        Mechanism::SlhDsa { context } => act(&Native::SlhDsa(additional(context))),
        Mechanism::HashMlDsa { hash, context } => act(&match hash {
            Hash::Sha1 => return Err(Error::NotSupported),
            Hash::Sha256 => Native::HashMlDsaSha256(additional(context)),
            Hash::Sha384 => Native::HashMlDsaSha384(additional(context)),
            Hash::Sha512 => Native::HashMlDsaSha512(additional(context)),
        }),
        Mechanism::AesKw => act(&Native::AesKeyWrap),
        Mechanism::AesKwPad => act(&Native::AesKeyWrapPad),
        Mechanism::Ecdh { point } => act(&Native::Ecdh1Derive(Ecdh1DeriveParams::new(EcKdf::null(), point))),
        Mechanism::Hkdf { hash, salt, info } => {
            let salt = salt.as_ref().map_or(HkdfSalt::Null, |salt| HkdfSalt::Data(salt));
            let params = HkdfParams::new(hash_and_mgf(*hash).0, Some(salt), Some(info));
            act(&Native::HkdfDerive(params))
        }
        Mechanism::MlKem => act(&Native::MlKem),
    }
}

/// The same as the structure that PKCS#11 has for it, with what cryptoki does not know.
pub(super) fn with_raw<T>(
    mechanism: &mut Mechanism,
    data: usize,
    act: impl FnOnce(&mut sys::CK_MECHANISM) -> Outcome<T>,
) -> Outcome<T> {
    match mechanism {
        Mechanism::AesCcm { nonce, aad } => {
            let too_long = |_| refused("C_EncryptInit", Ckr::DataLenRange);
            let mut params = sys::CK_CCM_PARAMS {
                ulDataLen: data.try_into().map_err(too_long)?,
                pNonce: nonce.as_mut_ptr(),
                ulNonceLen: nonce.len().try_into().map_err(too_long)?,
                pAAD: aad.as_mut_ptr(),
                ulAADLen: aad.len().try_into().map_err(too_long)?,
                ulMACLen: CCM_MAC_BYTES,
            };
            act(&mut sys::CK_MECHANISM {
                mechanism: sys::CKM_AES_CCM,
                pParameter: ptr::from_mut(&mut params).cast(),
                ulParameterLen: size_of::<sys::CK_CCM_PARAMS>() as c_ulong,
            })
        }
        Mechanism::AesKwp => act(&mut sys::CK_MECHANISM {
            mechanism: sys::CKM_AES_KEY_WRAP_KWP,
            pParameter: ptr::null_mut(),
            ulParameterLen: 0,
        }),
        known => {
            let mut outcome = None;
            let made = with(known, |native| {
                outcome = Some(act(&mut native.into()));
                Ok(())
            });
            made.map_err(|why| failed("C_EncryptInit", &why))?;
            outcome.unwrap_or_else(|| Err(refused("C_EncryptInit", Ckr::MechanismInvalid)))
        }
    }
}

fn additional(context: &[u8]) -> SignAdditionalContext<'_> {
    // Without a context no parameters at all: modules differ in what they make of empty ones.
    SignAdditionalContext::new(HedgeType::Preferred, (!context.is_empty()).then_some(context))
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
    use crate::algorithm::{Algorithm, MechanismId, ROWS};

    /// Where the module's own list can't be asked, one that cryptoki drops passes for missing: these three do.
    #[test]
    fn cryptoki_knows_every_mechanism_of_the_table_but_three() {
        let unknown = [Algorithm::AesCcm, Algorithm::AesKwp, Algorithm::RsaAesKeyWrap];
        for row in ROWS.iter().filter(|row| !unknown.contains(&row.algorithm)) {
            for MechanismId(number) in [Some(row.native), row.bare].into_iter().flatten() {
                let number = std::ffi::c_ulong::try_from(number).unwrap();
                let known = cryptoki::mechanism::MechanismType::try_from(number);
                assert_eq!(known.map(|known| *known).ok(), Some(number), "{}", row.name);
            }
        }
    }
}
