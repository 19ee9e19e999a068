//! Private keys of ML-DSA, ML-KEM and SLH-DSA: their seeds and expanded forms, and the public key that follows.

use der::asn1::{AnyRef, OctetStringRef};
use der::{Decode as _, Reader as _, SliceReader, Tag, TagNumber};
use ml_dsa::{ExpandedSigningKey, MlDsa44, MlDsa65, MlDsa87};
use ml_kem::kem::{Decapsulate as _, KeyExport as _};
use ml_kem::{DecapsulationKey, EncapsulationKey, MlKem512, MlKem768, MlKem1024};
use shake::{ExtendableOutput as _, Shake256, Update as _, XofReader as _};
use zeroize::Zeroizing;

use super::{not_all_zero, refused};
use crate::error::Result;
use crate::key::{Material, ParameterSet};

/// Reads the content of `privateKey`: of ML-DSA and ML-KEM a choice of forms, of SLH-DSA the bare key.
pub(super) fn parse(parameter_set: ParameterSet, bytes: &[u8]) -> Result<Material> {
    let Some(family) = Family::of(parameter_set) else {
        return slh_dsa(parameter_set, bytes);
    };
    let forms = Forms::read(bytes).ok_or_else(|| {
        refused(format!(
            "no seed, expanded key, or both, of {parameter_set} is inside (RFC 9881 §6, RFC 9935 §6)"
        ))
    })?;
    let Forms { seed, expanded } = forms;
    let Keys { private, public } = match seed {
        Some(seed) => {
            not_all_zero(seed)?;
            let length = || refused(format!("the seed of {parameter_set} has a wrong length"));
            let keys = family.grown(seed).ok_or_else(length)?;
            if expanded.is_some_and(|expanded| expanded != keys.private.as_slice()) {
                return Err(refused("the expanded key does not follow from the seed"));
            }
            keys
        }
        None => {
            let wrong = || {
                refused(format!(
                    "the expanded key of {parameter_set} has a wrong length or disagrees with itself"
                ))
            };
            family.checked(expanded.unwrap_or_default()).ok_or_else(wrong)?
        }
    };
    Ok(Material::PostQuantum {
        parameter_set,
        seed: seed.map(|seed| Zeroizing::new(seed.to_vec())),
        private: Some(private),
        public,
    })
}

/// The modulus check of FIPS 203 §7.2; other public keys may be any bytes of their length.
pub(super) fn check_public(parameter_set: ParameterSet, key: &[u8]) -> Result<()> {
    macro_rules! in_range {
        ($set:ident) => {
            key.try_into()
                .is_ok_and(|key| EncapsulationKey::<$set>::new(key).is_ok())
        };
    }
    let right = match Family::of(parameter_set) {
        Some(Family::Kem512) => in_range!(MlKem512),
        Some(Family::Kem768) => in_range!(MlKem768),
        Some(Family::Kem1024) => in_range!(MlKem1024),
        Some(Family::Dsa44 | Family::Dsa65 | Family::Dsa87) | None => true,
    };
    right
        .then_some(())
        .ok_or_else(|| refused(format!("a number in the key of {parameter_set} is out of range")))
}

/// SK.seed ‖ SK.prf ‖ PK.seed ‖ PK.root (FIPS 205 §9.1): the second half is the public key.
fn slh_dsa(parameter_set: ParameterSet, bytes: &[u8]) -> Result<Material> {
    let half = parameter_set.public_key_bytes();
    let Some((secret, public)) = bytes.split_at_checked(half).filter(|(_, public)| public.len() == half) else {
        return Err(refused(format!(
            "the private key of {parameter_set} has {} bytes",
            2 * half
        )));
    };
    let (seed, prf) = secret.split_at(half / 2);
    not_all_zero(seed)?;
    not_all_zero(prf)?;
    Ok(Material::PostQuantum {
        parameter_set,
        seed: None,
        private: Some(Zeroizing::new(bytes.to_vec())),
        public: public.to_vec(),
    })
}

/// `ML-DSA-…-PrivateKey` and `ML-KEM-…-PrivateKey`: the seed as `[0]`, the expanded key, or both in a SEQUENCE.
struct Forms<'a> {
    seed: Option<&'a [u8]>,
    expanded: Option<&'a [u8]>,
}

impl<'a> Forms<'a> {
    const SEED: Tag = Tag::ContextSpecific {
        constructed: false,
        number: TagNumber(0),
    };

    fn read(der: &'a [u8]) -> Option<Forms<'a>> {
        let value = AnyRef::from_der(der).ok()?;
        let (seed, expanded) = match value.header().tag() {
            Self::SEED => (Some(value.value()), None),
            Tag::OctetString => (None, Some(value.value())),
            Tag::Sequence => {
                let (seed, expanded) = value.sequence(two_strings).ok()?;
                (Some(seed), Some(expanded))
            }
            _ => return None,
        };
        Some(Forms { seed, expanded })
    }
}

/// The parameter sets whose keys grow from a seed.
#[derive(Clone, Copy)]
enum Family {
    Dsa44,
    Dsa65,
    Dsa87,
    Kem512,
    Kem768,
    Kem1024,
}

/// An expanded private key and its public one.
struct Keys {
    private: Zeroizing<Vec<u8>>,
    public: Vec<u8>,
}

impl Family {
    const fn of(parameter_set: ParameterSet) -> Option<Family> {
        use ParameterSet as P;
        match parameter_set {
            P::MlDsa44 => Some(Family::Dsa44),
            P::MlDsa65 => Some(Family::Dsa65),
            P::MlDsa87 => Some(Family::Dsa87),
            P::MlKem512 => Some(Family::Kem512),
            P::MlKem768 => Some(Family::Kem768),
            P::MlKem1024 => Some(Family::Kem1024),
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
            | P::SlhDsaShakeF256 => None,
        }
    }

    /// The keys that grow from a seed; `None` if it has a wrong length.
    #[expect(
        deprecated,
        reason = "tokens take the expanded form, which the crates would rather not write"
    )]
    fn grown(self, seed: &[u8]) -> Option<Keys> {
        macro_rules! dsa {
            ($set:ident) => {{
                let key = ExpandedSigningKey::<$set>::from_seed(seed.try_into().ok()?);
                Some(Keys {
                    private: secret(&Zeroizing::new(key.to_expanded())),
                    public: key.verifying_key().encode().to_vec(),
                })
            }};
        }
        macro_rules! kem {
            ($set:ident) => {{
                let key = DecapsulationKey::<$set>::from_seed(*Zeroizing::new(ml_kem::Seed::try_from(seed).ok()?));
                Some(Keys {
                    private: secret(&Zeroizing::new(ml_kem::ExpandedKeyEncoding::to_expanded_bytes(
                        &key,
                    ))),
                    public: key.encapsulation_key().to_bytes().to_vec(),
                })
            }};
        }
        match self {
            Family::Dsa44 => dsa!(MlDsa44),
            Family::Dsa65 => dsa!(MlDsa65),
            Family::Dsa87 => dsa!(MlDsa87),
            Family::Kem512 => kem!(MlKem512),
            Family::Kem768 => kem!(MlKem768),
            Family::Kem1024 => kem!(MlKem1024),
        }
    }

    /// The public key of an expanded one, if all that can be compared agrees.
    #[expect(deprecated, reason = "the expanded form is what some programs export")]
    fn checked(self, expanded: &[u8]) -> Option<Keys> {
        macro_rules! dsa {
            ($set:ident, $small:expr) => {{
                let encoded = expanded.try_into().ok()?;
                // The crate's reader must not see numbers out of range.
                if !$small.in_range(expanded) {
                    return None;
                }
                let key = ExpandedSigningKey::<$set>::from_expanded(encoded);
                let public = key.verifying_key().encode().to_vec();
                let mut hash = [0; PUBLIC_KEY_HASH.end - PUBLIC_KEY_HASH.start];
                let mut shake = Shake256::default();
                shake.update(&public);
                shake.finalize_xof().read(&mut hash);
                (expanded.get(PUBLIC_KEY_HASH) == Some(&hash)).then_some(public)
            }};
        }
        macro_rules! kem {
            ($set:ident) => {{
                let encoded = expanded.try_into().ok()?;
                let key: DecapsulationKey<$set> = ml_kem::ExpandedKeyEncoding::from_expanded_bytes(encoded).ok()?;
                let again = Zeroizing::new(ml_kem::ExpandedKeyEncoding::to_expanded_bytes(&key));
                // A secret to nobody: it shows only that both halves belong together.
                let (ciphertext, shared) = key.encapsulation_key().encapsulate_deterministic(&[7; 32].into());
                let right = again.as_slice() == expanded && key.decapsulate(&ciphertext) == shared;
                right.then(|| key.encapsulation_key().to_bytes().to_vec())
            }};
        }
        let public = match self {
            Family::Dsa44 => dsa!(MlDsa44, SmallNumbers { eta: 2, polynomials: 8 }),
            Family::Dsa65 => dsa!(
                MlDsa65,
                SmallNumbers {
                    eta: 4,
                    polynomials: 11
                }
            ),
            Family::Dsa87 => dsa!(
                MlDsa87,
                SmallNumbers {
                    eta: 2,
                    polynomials: 15
                }
            ),
            Family::Kem512 => kem!(MlKem512),
            Family::Kem768 => kem!(MlKem768),
            Family::Kem1024 => kem!(MlKem1024),
        }?;
        Some(Keys {
            private: Zeroizing::new(expanded.to_vec()),
            public,
        })
    }
}

/// Where tr, the hash of the public key, lies in an expanded key of ML-DSA (FIPS 204 algorithm 24): after ρ and K.
const PUBLIC_KEY_HASH: std::ops::Range<usize> = 64..128;

/// s1 and s2 of an expanded key of ML-DSA, which follow tr: numbers from -η to η, written as η less the number.
struct SmallNumbers {
    eta: u8,
    polynomials: usize,
}

impl SmallNumbers {
    fn in_range(&self, expanded: &[u8]) -> bool {
        let bits = (2 * self.eta).ilog2() + 1;
        let length = self.polynomials * 256 * bits as usize / 8;
        let Some(packed) = expanded.get(PUBLIC_KEY_HASH.end..).and_then(|rest| rest.get(..length)) else {
            return false;
        };
        // Three bytes hold eight numbers of three bits, or six of four.
        packed.chunks(3).all(|chunk| {
            let group = chunk
                .iter()
                .rev()
                .fold(0_u32, |group, byte| group << 8 | u32::from(*byte));
            (0..24 / bits).all(|at| group >> (at * bits) & ((1 << bits) - 1) <= u32::from(2 * self.eta))
        })
    }
}

fn two_strings<'a>(reader: &mut SliceReader<'a>) -> der::Result<(&'a [u8], &'a [u8])> {
    let [seed, expanded] = [reader.decode::<&OctetStringRef>()?, reader.decode()?];
    Ok((seed.as_bytes(), expanded.as_bytes()))
}

fn secret(bytes: &Zeroizing<impl AsRef<[u8]> + zeroize::Zeroize>) -> Zeroizing<Vec<u8>> {
    Zeroizing::new((**bytes).as_ref().to_vec())
}
