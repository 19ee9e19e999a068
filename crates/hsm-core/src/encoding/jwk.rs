//! Public keys as JSON Web Keys.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::point::is_edwards;
use super::without_leading_zeros;
use crate::key::PublicKey;

/// The members of a public key as a JSON Web Key (RFC 7517; RFC 7518 §6, RFC 8037 §2, RFC 8812 §3.1, RFC 9964 §3).
/// Texts are base64url without padding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Jwk {
    /// `RSA`, `EC`, `OKP` or `AKP`.
    pub kty: &'static str,
    /// The curve, of `EC` and `OKP`.
    pub crv: Option<&'static str>,
    /// The modulus, of `RSA`.
    pub n: Option<String>,
    /// The public exponent, of `RSA`.
    pub e: Option<String>,
    /// The x coordinate of `EC`, the public key of `OKP`.
    pub x: Option<String>,
    /// The y coordinate, of `EC`.
    pub y: Option<String>,
    /// The parameter set, of `AKP`. RFC 9964 gives ML-DSA's names; ML-KEM's and SLH-DSA's are those of FIPS 203 and 205.
    pub alg: Option<&'static str>,
    /// The public key, of `AKP`: the member `pub`.
    pub public: Option<String>,
}

/// A public key as a JSON Web Key.
pub fn jwk(key: &PublicKey) -> Jwk {
    let text = |bytes: &[u8]| Some(URL_SAFE_NO_PAD.encode(bytes));
    let empty = Jwk::default();
    match key {
        PublicKey::Rsa { modulus, exponent } => Jwk {
            kty: "RSA",
            n: text(without_leading_zeros(modulus)),
            e: text(without_leading_zeros(exponent)),
            ..empty
        },
        PublicKey::Curve { curve, point } if is_edwards(*curve) => Jwk {
            kty: "OKP",
            crv: Some(curve.name()),
            x: text(point),
            ..empty
        },
        PublicKey::Curve { curve, point } => {
            let coordinates = point.get(1..).unwrap_or_default();
            let middle = curve.field_bytes().min(coordinates.len());
            let (x, y) = coordinates.split_at(middle);
            Jwk {
                kty: "EC",
                crv: Some(curve.name()),
                x: text(x),
                y: text(y),
                ..empty
            }
        }
        PublicKey::PostQuantum { parameter_set, key } => Jwk {
            kty: "AKP",
            alg: Some(parameter_set.name()),
            public: text(key),
            ..empty
        },
    }
}
