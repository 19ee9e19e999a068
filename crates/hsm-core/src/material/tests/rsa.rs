//! RSA: every number has to fit the others.

use super::*;
use crate::key::RsaPrivate;

const NAMES: [&str; 8] = ["n", "e", "d", "p", "q", "dp", "dq", "qinv"];

fn numbers() -> [Vec<u8>; 8] {
    let Material::Rsa(key) = import(KeyType::Rsa, Format::Pkcs8, RSA.as_bytes()).unwrap() else {
        panic!("no RSA key")
    };
    let RsaPrivate {
        modulus,
        public_exponent,
        private_exponent,
        prime_1,
        prime_2,
        exponent_1,
        exponent_2,
        coefficient,
    } = *key;
    let secret = [private_exponent, prime_1, prime_2, exponent_1, exponent_2, coefficient];
    let [d, p, q, dp, dq, qinv] = secret.map(|number| number.to_vec());
    [modulus, public_exponent, d, p, q, dp, dq, qinv]
}

fn written(numbers: &[Vec<u8>; 8]) -> Vec<u8> {
    let integer = |n: &Vec<u8>| {
        let sign: &[u8] = if n[0] & 0x80 == 0 { &[] } else { &[0] };
        tlv(0x02, &[sign, n].concat())
    };
    let integers: Vec<u8> = numbers.iter().flat_map(integer).collect();
    let key = sequence(&[&[0x02, 0x01, 0x00], &integers]);
    private_key_info(
        &algorithm(&encoding::public_key_from_pem(RSA_PUBLIC).unwrap()),
        &key,
        None,
    )
}

#[test]
fn written_again_they_are_openssls_key() {
    assert_eq!(written(&numbers()), der(RSA));
}

#[test]
fn each_of_them_has_to_fit() {
    for (at, name) in NAMES.iter().enumerate() {
        for change in [2, 1] {
            let mut numbers = numbers();
            let last = numbers[at].len() - 1;
            numbers[at][last] ^= change;
            let result = import(KeyType::Rsa, Format::Pkcs8, &written(&numbers));
            assert!(result.is_err(), "{name} ^ {change}");
        }
        let mut numbers = numbers();
        numbers[at] = vec![0];
        assert!(
            import(KeyType::Rsa, Format::Pkcs8, &written(&numbers)).is_err(),
            "{name} = 0"
        );
        numbers[at] = vec![1];
        assert!(
            import(KeyType::Rsa, Format::Pkcs8, &written(&numbers)).is_err(),
            "{name} = 1"
        );
    }
}

#[test]
fn primes_that_change_places_need_their_own_coefficient() {
    let [n, e, d, p, q, dp, dq, qinv] = numbers();
    is_refused(
        KeyType::Rsa,
        Format::Pkcs8,
        &written(&[n, e, d, q, p, dq, dp, qinv]),
        "CRT",
    );
}

#[test]
fn two_primes_of_half_the_length_and_no_others() {
    is_refused(
        KeyType::Rsa,
        Format::Pkcs8,
        RSA_THREE_PRIMES.as_bytes(),
        "more than two primes",
    );
    is_refused(
        KeyType::Rsa,
        Format::Pkcs8,
        RSA_1024.as_bytes(),
        "1024 bits; 2048 to 8192",
    );
    let [n, e, d, _, _, dp, dq, qinv] = numbers();
    // 1 · n = n
    let one = written(&[n.clone(), e, d, n, vec![1], dp, dq, qinv]);
    is_refused(KeyType::Rsa, Format::Pkcs8, &one, "do not go together");
}

#[test]
fn public_keys_have_limits() {
    let public = |modulus: Vec<u8>, exponent: &[u8]| {
        encoding::public_key_der(&PublicKey::Rsa {
            modulus,
            exponent: exponent.to_vec(),
        })
    };
    let odd = |bytes: usize| [vec![0x80], vec![1; bytes - 1]].concat();
    let taken = |der: &[u8]| import(KeyType::Rsa, Format::Spki, der).is_ok();
    assert!(taken(&public(odd(256), &[3])) && taken(&public(odd(1024), &[1, 0, 1])));
    // 2047 and 8193 bits.
    let mut small = odd(256);
    small[0] = 0x7f;
    is_refused(KeyType::Rsa, Format::Spki, &public(small, &[3]), "2047 bits");
    let large = [vec![1], odd(1024)].concat();
    is_refused(KeyType::Rsa, Format::Spki, &public(large, &[3]), "8193 bits");
    is_refused(
        KeyType::Rsa,
        Format::Spki,
        &public([odd(255), vec![2]].concat(), &[3]),
        "even",
    );
    for exponent in [&[1][..], &[2], &[1, 0, 0]] {
        is_refused(KeyType::Rsa, Format::Spki, &public(odd(256), exponent), "even or 1");
    }
    refusal(KeyType::Rsa, Format::Spki, &public(odd(256), &[0]));
    is_refused(KeyType::Rsa, Format::Spki, &public(odd(256), &odd(256)), "not less");
    is_refused(KeyType::Rsa, Format::Spki, &public(odd(256), &odd(257)), "not less");
}

#[test]
fn composite_factors_are_refused() {
    is_refused(KeyType::Rsa, Format::Pkcs8, RSA_COMPOSITE.as_bytes(), "not prime");
}

#[test]
fn a_public_key_beside_it_has_to_be_its_own() {
    let [own, other] = [RSA_PUBLIC, RSA_E3_PUBLIC].map(|pem| encoding::public_key_from_pem(pem).unwrap());
    let whole = der(RSA);
    let private = &whole[26..];
    let with = |key: &PublicKey| private_key_info(&algorithm(key), private, Some(&encoding::bare_public_key(key)));
    assert!(import(KeyType::Rsa, Format::Pkcs8, &with(&own)).is_ok());
    is_refused(KeyType::Rsa, Format::Pkcs8, &with(&other), "does not belong");
}
