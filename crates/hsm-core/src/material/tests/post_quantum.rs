//! ML-DSA, ML-KEM and SLH-DSA: seeds, expanded keys, and what they have to agree with.

use super::*;

/// The forms of one of the RFCs' keys, built from its seed.
struct Example {
    set: ParameterSet,
    seed: Vec<u8>,
    expanded: Vec<u8>,
    public: PublicKey,
}

impl Example {
    fn new(set: ParameterSet) -> Example {
        let seed: Vec<u8> = (0..if set.key_type() == KeyType::MlDsa { 32 } else { 64 }).collect();
        let key = import(set.key_type(), Format::Pkcs8, &info(set, &tlv(0x80, &seed), None)).unwrap();
        let public = key.public_key().unwrap();
        let Material::PostQuantum {
            seed: Some(kept),
            private: Some(expanded),
            ..
        } = key
        else {
            panic!("a form is missing")
        };
        assert_eq!(*kept, seed);
        let expanded = expanded.to_vec();
        Example {
            set,
            seed,
            expanded,
            public,
        }
    }

    fn both(&self, seed: &[u8], expanded: &[u8]) -> Vec<u8> {
        info(self.set, &sequence(&[&tlv(0x04, seed), &tlv(0x04, expanded)]), None)
    }

    fn import(&self, whole: &[u8]) -> Result<Material> {
        import(self.set.key_type(), Format::Pkcs8, whole)
    }
}

fn info(set: ParameterSet, private: &[u8], public: Option<&[u8]>) -> Vec<u8> {
    let key = PublicKey::PostQuantum {
        parameter_set: set,
        key: Vec::new(),
    };
    private_key_info(&algorithm(&key), private, public)
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn seeds_grow_into_the_keys_of_the_rfcs() {
    for (set, expanded, both, public) in SEEDED {
        let example = Example::new(set);
        let whole = info(set, &tlv(0x04, &example.expanded), None);
        assert_eq!(sha256(&whole), expanded, "{set}");
        assert_eq!(sha256(&example.both(&example.seed, &example.expanded)), both, "{set}");
        assert_eq!(sha256(&encoding::public_key_der(&example.public)), public, "{set}");
        for form in [whole, example.both(&example.seed, &example.expanded)] {
            let key = example.import(&form).unwrap();
            assert_eq!(key.public_key(), Some(example.public.clone()), "{set}");
        }
    }
}

#[test]
fn forms_have_to_agree() {
    for (set, ..) in SEEDED {
        let example = Example::new(set);
        let bare = encoding::bare_public_key(&example.public);
        let seed = tlv(0x80, &example.seed);
        assert!(example.import(&info(set, &seed, Some(&bare))).is_ok(), "{set}");
        let mut other = bare.clone();
        other[0] ^= 1;
        let wrong = example.import(&info(set, &seed, Some(&other)));
        assert!(
            wrong.is_err_and(|why| why.to_string().contains("does not belong")),
            "{set}"
        );

        let mut other = example.seed.clone();
        other[5] ^= 1;
        let wrong = example.import(&example.both(&other, &example.expanded));
        assert!(
            wrong.is_err_and(|why| why.to_string().contains("does not follow")),
            "{set}"
        );
        for length in [0, example.seed.len() - 1, example.seed.len() + 1] {
            let seed = vec![1; length];
            assert!(
                example.import(&info(set, &tlv(0x80, &seed), None)).is_err(),
                "{set}, {length}"
            );
        }
        let zero = vec![0; example.seed.len()];
        let wrong = example.import(&info(set, &tlv(0x80, &zero), None));
        assert!(wrong.is_err_and(|why| why.to_string().contains("zero")), "{set}");
    }
}

#[test]
fn an_expanded_key_has_to_agree_with_itself() {
    for (set, ..) in SEEDED {
        let example = Example::new(set);
        let expanded = |bytes: &[u8]| example.import(&info(set, &tlv(0x04, bytes), None));
        let whole = &example.expanded;
        assert!(expanded(&whole[1..]).is_err() && expanded(&[&whole[..], &[0]].concat()).is_err());
        // ρ, tr and s1 of ML-DSA; s, t, ρ and the hash of ML-KEM. K and z are free; s2 and t0 hide behind a rounding.
        let places: &[usize] = match set {
            ParameterSet::MlDsa44 => &[0, 31, 64, 127, 128, 128 + 4 * 96 - 1],
            ParameterSet::MlDsa65 => &[0, 31, 64, 127, 128, 128 + 5 * 128 - 1],
            ParameterSet::MlDsa87 => &[0, 31, 64, 127, 128, 128 + 7 * 96 - 1],
            ParameterSet::MlKem512 => &[0, 767, 768, 1535, 1536, 1567, 1568, 1599],
            ParameterSet::MlKem768 => &[0, 1151, 1152, 2303, 2304, 2335, 2336, 2367],
            ParameterSet::MlKem1024 => &[0, 1535, 1536, 3071, 3072, 3103, 3104, 3135],
            _ => panic!("no seed"),
        };
        for place in places {
            for change in [1, 0xff] {
                let mut changed = whole.clone();
                changed[*place] ^= change;
                assert!(expanded(&changed).is_err(), "{set}, {place}");
            }
        }
        // Numbers out of range everywhere.
        assert!(expanded(&vec![0xff; whole.len()]).is_err());
    }
}

#[test]
fn slh_dsa_is_that_of_rfc_9909() {
    let key = import(KeyType::SlhDsa, Format::Pkcs8, SLH_DSA.as_bytes()).unwrap();
    assert_eq!(encoding::public_key_pem(&key.public_key().unwrap()), SLH_DSA_PUBLIC);
    assert!(import(KeyType::SlhDsa, Format::Spki, SLH_DSA_PUBLIC.as_bytes()).is_ok());
    for set in ParameterSet::of(KeyType::SlhDsa) {
        let private: Vec<u8> = (0..2 * set.public_key_bytes())
            .map(|n| u8::try_from(n).unwrap() + 1)
            .collect();
        let half = set.public_key_bytes();
        let import = |private: &[u8], public| import(KeyType::SlhDsa, Format::Pkcs8, &info(set, private, public));
        assert!(import(&private, Some(&private[half..])).is_ok(), "{set}");
        assert!(import(&private, Some(&private[..half])).is_err(), "{set}");
        assert!(import(&private[1..], None).is_err(), "{set}");
        assert!(import(&[&private[..], &[0]].concat(), None).is_err(), "{set}");
        assert!(import(&tlv(0x04, &private), None).is_err(), "{set}");
        assert!(
            import(&[&vec![0; half / 2], &private[half / 2..]].concat(), None).is_err(),
            "{set}"
        );
    }
}

#[test]
fn public_keys_have_numbers_in_range() {
    let key = import(KeyType::MlKem, Format::Spki, ML_KEM_PUBLIC.as_bytes()).unwrap();
    let Some(PublicKey::PostQuantum { parameter_set, mut key }) = key.public_key() else {
        panic!("no ML-KEM key")
    };
    key[..2].fill(0xff);
    let wrong = PublicKey::PostQuantum { parameter_set, key };
    is_refused(
        KeyType::MlKem,
        Format::Spki,
        &encoding::public_key_der(&wrong),
        "out of range",
    );
    let short = PublicKey::PostQuantum {
        parameter_set,
        key: vec![1; 799],
    };
    refusal(KeyType::MlKem, Format::Spki, &encoding::public_key_der(&short));
}
