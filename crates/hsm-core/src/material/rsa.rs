//! RSA keys: whether their numbers are right, and go together.

use ::rsa::traits::PrivateKeyParts as _;
use ::rsa::{BoxedUint, PrivateKey};
use der::asn1::UintRef;
use der::{Reader as _, SliceReader};
use zeroize::Zeroizing;

use super::{RSA_BITS, refused};
use crate::encoding::{bit_length, without_leading_zeros};
use crate::error::Result;
use crate::key::{Material, RsaPrivate};

/// The longest public exponent of a private key, in bits.
const PRIVATE_EXPONENT_BITS: u32 = 33;

/// Whether modulus and exponent (big-endian, without leading zeros) may be those of a public key.
pub(super) fn check_public(modulus: &[u8], exponent: &[u8]) -> Result<()> {
    let (smallest, largest) = RSA_BITS;
    let bits = bit_length(modulus);
    if !(smallest..=largest).contains(&bits) {
        return Err(refused(format!(
            "the RSA modulus has {bits} bits; {smallest} to {largest} are taken"
        )));
    }
    if is_even(modulus) {
        return Err(refused("the RSA modulus is even"));
    }
    if is_even(exponent) || *exponent == [1] {
        return Err(refused("the public exponent is even or 1"));
    }
    if (exponent.len(), exponent) >= (modulus.len(), modulus) {
        return Err(refused("the public exponent is not less than the modulus"));
    }
    Ok(())
}

/// RSAPrivateKey (RFC 8017 appendix A.1.2).
pub(super) fn parse(der: &[u8]) -> Result<Material> {
    let malformed = || refused("no RSAPrivateKey (RFC 8017) is inside the PrivateKeyInfo");
    let mut reader = SliceReader::new(der).map_err(|_| malformed())?;
    let (version, numbers, more) = reader.sequence(eight_numbers).map_err(|_| malformed())?;
    reader.finish().map_err(|_| malformed())?;
    match (version, more) {
        (0, false) => {}
        (1, true) => return Err(refused("an RSA key of more than two primes is not taken")),
        _ => return Err(malformed()),
    }
    let [n, e, d, p, q, dp, dq, q_inverse] = numbers.map(|number| without_leading_zeros(number.as_bytes()));
    check_public(n, e)?;
    if bit_length(e) > PRIVATE_EXPONENT_BITS {
        return Err(refused(format!(
            "the public exponent has more than {PRIVATE_EXPONENT_BITS} bits, which a private key's may not"
        )));
    }
    let key = consistent(n, e, d, p, q).ok_or_else(|| refused("the numbers of the RSA key do not go together"))?;
    let [same_dp, same_dq, same_inverse] = [
        (dp, key.dp().cloned()),
        (dq, key.dq().cloned()),
        (q_inverse, key.crt_coefficient()),
    ]
    .map(|(given, computed)| computed.is_some_and(|computed| *number(&Zeroizing::new(computed)) == given));
    if !(same_dp && same_dq && same_inverse) {
        return Err(refused(
            "the CRT exponents or coefficient of the RSA key do not go with its primes",
        ));
    }
    if !key
        .primes()
        .iter()
        .all(|prime| crypto_primes::is_prime(crypto_primes::Flavor::Any, prime.as_ref()))
    {
        return Err(refused("a factor of the RSA modulus is not prime"));
    }
    let secret = |number: &[u8]| Zeroizing::new(number.to_vec());
    Ok(Material::Rsa(Box::new(RsaPrivate {
        modulus: n.to_vec(),
        public_exponent: e.to_vec(),
        private_exponent: secret(d),
        prime_1: secret(p),
        prime_2: secret(q),
        exponent_1: secret(dp),
        exponent_2: secret(dq),
        coefficient: secret(q_inverse),
    })))
}

/// The key if n = p·q, e·d = 1 for both primes, and both primes are half as long as the modulus.
fn consistent(n: &[u8], e: &[u8], d: &[u8], p: &[u8], q: &[u8]) -> Option<PrivateKey> {
    let [d_bits, n_bits] = [d, n].map(bit_length);
    let half = n_bits.div_ceil(2);
    if d_bits > n_bits
        || [p, q]
            .into_iter()
            .any(|prime| is_even(prime) || bit_length(prime) > half)
    {
        return None;
    }
    let bits = n_bits.next_multiple_of(64);
    let [n, e, d, p, q] = [n, e, d, p, q].map(|number| BoxedUint::from_be_slice(number, bits).ok());
    PrivateKey::from_components(n?, e?, d?, vec![p?, q?]).ok()
}

/// A number in big-endian order without leading zeros.
fn number(number: &BoxedUint) -> Zeroizing<Vec<u8>> {
    let bytes = Zeroizing::new(number.to_be_bytes());
    Zeroizing::new(without_leading_zeros(&bytes).to_vec())
}

fn is_even(number: &[u8]) -> bool {
    number.last().is_none_or(|last| last & 1 == 0)
}

/// The version, the eight numbers of a key of two primes, and whether something follows.
fn eight_numbers<'a>(reader: &mut SliceReader<'a>) -> der::Result<(u8, [UintRef<'a>; 8], bool)> {
    let version = reader.decode()?;
    let [n, e, d] = [reader.decode()?, reader.decode()?, reader.decode()?];
    let [p, q] = [reader.decode()?, reader.decode()?];
    let [dp, dq, q_inverse] = [reader.decode()?, reader.decode()?, reader.decode()?];
    let more = !reader.is_finished();
    while !reader.is_finished() {
        reader.tlv_bytes()?;
    }
    Ok((version, [n, e, d, p, q, dp, dq, q_inverse], more))
}
