//! What kind of key to make, and how large.

use std::ops::RangeInclusive;

use super::{Curve, KeySize, KeyType, ParameterSet};
use crate::error::{Error, Result};

/// What kind of key to make, and how large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySpec {
    /// An RSA pair with the public exponent 65537.
    Rsa {
        /// 2048, 3072 or 4096.
        bits: u32,
    },
    /// An AES key.
    Aes {
        /// 128, 192 or 256.
        bits: u32,
    },
    /// A pair on a curve, of type EC or ED.
    Curve(Curve),
    /// A generic secret for HMAC.
    Hmac {
        /// 256 to 512, a multiple of 8.
        bits: u32,
    },
    /// A post-quantum pair.
    PostQuantum(ParameterSet),
}

impl KeySpec {
    /// The RSA sizes in bits.
    pub const RSA_BITS: &'static [u32] = &[2048, 3072, 4096];
    /// The AES sizes in bits.
    pub const AES_BITS: &'static [u32] = &[128, 192, 256];

    /// The HMAC key sizes in bits; multiples of 8 alone.
    pub const HMAC_BITS: RangeInclusive<u32> = 256..=512;

    /// Puts together what a request says of type and size.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] naming the field that is missing, superfluous or out of range.
    pub fn parse(
        key_type: &str,
        key_size: Option<u32>,
        curve: Option<&str>,
        parameter_set: Option<&str>,
    ) -> Result<KeySpec> {
        let key_type = KeyType::parse(key_type).ok_or_else(|| {
            Error::invalid(
                "key_type",
                format!("one of {}", listed(KeyType::ALL.iter().map(|t| t.name()))),
            )
        })?;
        let unwanted =
            |field: &'static str| Error::invalid(field, format!("a key of type {key_type} is not sized by it"));
        let sized_by = |size: bool, by_curve: bool, set: bool| match () {
            () if key_size.is_some() && !size => Err(unwanted("key_size")),
            () if curve.is_some() && !by_curve => Err(unwanted("curve")),
            () if parameter_set.is_some() && !set => Err(unwanted("parameter_set")),
            () => Ok(()),
        };
        match key_type {
            KeyType::Rsa => {
                sized_by(true, false, false)?;
                Ok(KeySpec::Rsa {
                    bits: one_of(key_size, Self::RSA_BITS)?,
                })
            }
            KeyType::Aes => {
                sized_by(true, false, false)?;
                Ok(KeySpec::Aes {
                    bits: one_of(key_size, Self::AES_BITS)?,
                })
            }
            KeyType::Hmac => {
                sized_by(true, false, false)?;
                let bits = key_size.unwrap_or(256);
                if !Self::HMAC_BITS.contains(&bits) || !bits.is_multiple_of(8) {
                    return Err(Error::invalid("key_size", "256 to 512 bits, a multiple of 8"));
                }
                Ok(KeySpec::Hmac { bits })
            }
            KeyType::Ec => {
                sized_by(true, true, false)?;
                ec_curve(key_size, curve).map(KeySpec::Curve)
            }
            KeyType::Ed => {
                sized_by(false, true, false)?;
                named_curve(curve, KeyType::Ed).map(KeySpec::Curve)
            }
            KeyType::MlDsa | KeyType::MlKem | KeyType::SlhDsa => {
                sized_by(false, false, true)?;
                let found = parameter_set.and_then(ParameterSet::parse);
                let known = || listed(ParameterSet::of(key_type).map(ParameterSet::name));
                found
                    .filter(|set| set.key_type() == key_type)
                    .map(KeySpec::PostQuantum)
                    .ok_or_else(|| Error::invalid("parameter_set", format!("one of {}", known())))
            }
        }
    }

    /// The type of the key.
    pub const fn key_type(self) -> KeyType {
        match self {
            KeySpec::Rsa { .. } => KeyType::Rsa,
            KeySpec::Aes { .. } => KeyType::Aes,
            KeySpec::Curve(curve) => curve.key_type(),
            KeySpec::Hmac { .. } => KeyType::Hmac,
            KeySpec::PostQuantum(parameter_set) => parameter_set.key_type(),
        }
    }

    /// How large the key is.
    pub const fn size(self) -> KeySize {
        match self {
            KeySpec::Rsa { bits } | KeySpec::Aes { bits } | KeySpec::Hmac { bits } => KeySize::Bits(bits),
            KeySpec::Curve(curve) => KeySize::Curve(curve),
            KeySpec::PostQuantum(parameter_set) => KeySize::ParameterSet(parameter_set),
        }
    }
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

fn one_of(key_size: Option<u32>, sizes: &[u32]) -> Result<u32> {
    let text = || {
        listed(
            sizes
                .iter()
                .map(u32::to_string)
                .collect::<Vec<_>>()
                .iter()
                .map(String::as_str),
        )
    };
    let size = key_size.ok_or_else(|| Error::invalid("key_size", format!("is missing: {} bits", text())))?;
    if sizes.contains(&size) {
        Ok(size)
    } else {
        Err(Error::invalid("key_size", format!("{} bits", text())))
    }
}

fn named_curve(curve: Option<&str>, key_type: KeyType) -> Result<Curve> {
    let known = || Curve::ALL.iter().copied().filter(move |c| c.key_type() == key_type);
    let wrong = |why: &str| Error::invalid("curve", format!("{why}one of {}", listed(known().map(Curve::name))));
    let name = curve.ok_or_else(|| wrong("is missing: "))?;
    known().find(|c| c.name() == name).ok_or_else(|| wrong(""))
}

fn ec_curve(key_size: Option<u32>, curve: Option<&str>) -> Result<Curve> {
    let Some(bits) = key_size else {
        return named_curve(curve, KeyType::Ec);
    };
    let by_size = match bits {
        256 => Curve::P256,
        384 => Curve::P384,
        521 => Curve::P521,
        _ => {
            return Err(Error::invalid(
                "key_size",
                "256, 384 or 521 for P-256, P-384, P-521; or name the `curve`",
            ));
        }
    };
    match curve.map(|_| named_curve(curve, KeyType::Ec)).transpose()? {
        Some(Curve::Secp256k1) if bits == 256 => Ok(Curve::Secp256k1),
        Some(named) if named != by_size => Err(Error::invalid(
            "key_size",
            format!("{bits} bits is not the size of {named}"),
        )),
        _ => Ok(by_size),
    }
}
