//! Keys: made exactly as asked, found, read, destroyed.

use hsm_core::backend::{Class, Filter, Made, Template};
use hsm_core::encoding;
use hsm_core::key::ParameterSet;
use hsm_core::{Ckr, Curve, KeySize, KeySpec, KeyType, PublicKey, Usage, Usages};

use crate::{Fixture, on_both};

/// How many handles one C_FindObjects gives.
const FOUND_AT_ONCE: usize = 100;

on_both!(
    every_kind_of_key_is_made_and_read,
    keys_have_the_usages_that_were_asked_for_and_no_others,
    attributes_on_the_token_are_as_asked,
    keys_are_found_and_destroyed,
    session_keys_are_not_found_among_the_tokens,
    what_the_token_lacks_is_told,
    other_programs_keys_are_read,
);

fn every_kind_of_key_is_made_and_read(fixture: &mut Fixture) {
    for bits in [128, 192, 256] {
        let key = fixture.make_secret(KeySpec::Aes { bits }, &[Usage::Encrypt]);
        let key = fixture.read(key);
        assert_eq!((key.class, key.key_type), (Class::Secret, KeyType::Aes));
        assert_eq!((key.size, key.public_key), (KeySize::Bits(bits), None));
        assert_eq!((&key.id[..], &key.label[..]), (&b"secret"[..], "key secret"));
    }
    for bits in [256, 264, 384, 512] {
        let key = fixture.make_secret(KeySpec::Hmac { bits }, &[Usage::Sign]);
        let key = fixture.read(key);
        assert_eq!((key.key_type, key.size), (KeyType::Hmac, KeySize::Bits(bits)));
    }
    let spec = KeySpec::Rsa { bits: 2048 };
    let (public, private) = fixture.make_pair("rsa", spec, &[Usage::Sign, Usage::Verify]);
    let [public, private] = [public, private].map(|half| fixture.read(half));
    assert_eq!((public.class, private.class), (Class::Public, Class::Private));
    assert_eq!((public.size, private.size), (KeySize::Bits(2048), KeySize::Bits(2048)));
    assert_eq!(public.public_key, private.public_key);
    let Some(PublicKey::Rsa { modulus, exponent }) = public.public_key else {
        panic!("an RSA key");
    };
    assert_eq!((modulus.len(), &exponent[..]), (256, &[1, 0, 1][..]));

    for curve in fixture.curves() {
        let spec = KeySpec::Curve(curve);
        let (public, private) = fixture.make_pair(curve.name(), spec, &[Usage::Sign]);
        let [public, private] = [public, private].map(|half| fixture.read(half));
        for half in [&public, &private] {
            assert_eq!((half.key_type, half.size), (curve.key_type(), KeySize::Curve(curve)));
            assert_eq!(&half.id[..], curve.name().as_bytes());
            assert_eq!(half.label, format!("key {curve}"));
        }
        let key = public.public_key.unwrap();
        assert!(private.public_key.is_none_or(|same| same == key));
        let der = encoding::public_key_der(&key);
        assert_eq!(encoding::public_key_from_der(&der), Some(key));
    }
}

fn keys_have_the_usages_that_were_asked_for_and_no_others(fixture: &mut Fixture) {
    let specs = [
        KeySpec::Aes { bits: 128 },
        KeySpec::Hmac { bits: 256 },
        KeySpec::Rsa { bits: 2048 },
        KeySpec::Curve(Curve::P256),
        KeySpec::Curve(Curve::Ed25519),
    ];
    let mut number = 0;
    for spec in specs {
        let possible: Vec<_> = Usages::possible(spec.key_type()).iter().collect();
        let one_each = possible.iter().map(|usage| vec![*usage]);
        for usages in one_each.chain([possible.clone()]) {
            number += 1;
            let asked: Usages = usages.iter().copied().collect();
            let got = match fixture.make(&number.to_string(), spec, &usages) {
                Made::Secret(key) => fixture.read(key).usages,
                Made::Pair { public, private } => {
                    let [public, private] = [public, private].map(|half| fixture.read(half).usages);
                    for usage in [Usage::Encrypt, Usage::Verify, Usage::Wrap] {
                        assert!(!private.contains(usage), "{spec:?} {usage}");
                    }
                    for usage in [Usage::Decrypt, Usage::Sign, Usage::Unwrap, Usage::Derive] {
                        assert!(!public.contains(usage), "{spec:?} {usage}");
                    }
                    public.union(private)
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(got, asked, "{spec:?}");
        }
    }
}

/// Read by another program's eyes.
fn attributes_on_the_token_are_as_asked(fixture: &mut Fixture) {
    let specs = [
        KeySpec::Aes { bits: 256 },
        KeySpec::Hmac { bits: 256 },
        KeySpec::Rsa { bits: 2048 },
        KeySpec::Curve(Curve::P384),
        KeySpec::Curve(Curve::Ed25519),
    ];
    for (number, spec) in (1..).zip(specs) {
        for extractable in [false, true] {
            let id = [number, u8::from(extractable)];
            let made = fixture.session.generate(
                spec,
                &Template {
                    id: &id,
                    label: "grüße",
                    extractable,
                    usages: Usages::default_for(spec.key_type()),
                    session_only: false,
                },
            );
            for handle in made.unwrap().handles() {
                let object = fixture.read(handle);
                let public = object.class == Class::Public;
                assert_eq!(object.label, "grüße");
                assert_eq!(object.extractable, extractable || public);
                assert_eq!(object.sensitive, !public);
            }
            for facts in fixture.token.attributes(&format!("{:02x}{:02x}", id[0], id[1])) {
                let public = facts.class == softhsm_test::Class::PublicKey;
                assert_eq!(facts.token, Some(true));
                assert_eq!(facts.private, Some(!public), "{spec:?}");
                assert_eq!(facts.local, Some(true));
                if !public {
                    assert_eq!(facts.sensitive, Some(true));
                    assert_eq!(facts.always_sensitive, Some(true));
                    assert_eq!(facts.extractable, Some(extractable));
                    assert_eq!(facts.never_extractable, Some(!extractable));
                    assert_eq!(facts.value, None);
                }
            }
        }
    }
}

fn keys_are_found_and_destroyed(fixture: &mut Fixture) {
    let (public, private) = fixture.make_pair("a", KeySpec::Curve(Curve::P256), &[Usage::Sign]);
    let secret = fixture.make_secret(KeySpec::Aes { bits: 128 }, &[Usage::Encrypt]);
    for (class, handle) in Class::ALL.into_iter().zip([secret, private, public]) {
        assert_eq!(fixture.found(Filter::Class(class)), [handle]);
    }
    let mut both = fixture.found(Filter::Id(b"a"));
    both.sort();
    let mut expected = vec![public, private];
    expected.sort();
    assert_eq!(both, expected);
    assert_eq!(fixture.found(Filter::Label("key secret")), [secret]);
    assert_eq!(fixture.found(Filter::Label("key")), []);
    assert_eq!(fixture.found(Filter::Id(b"b")), []);

    fixture.session.destroy(secret).unwrap();
    assert_eq!(fixture.found(Filter::Id(b"secret")), []);
    let failure = fixture.session.read(secret).unwrap_err();
    assert_eq!(failure.rv, Some(Ckr::ObjectHandleInvalid), "{failure}");
    let failure = fixture.session.destroy(secret).unwrap_err();
    assert_eq!(failure.rv, Some(Ckr::ObjectHandleInvalid), "{failure}");

    // Making so many takes SoftHSM a while.
    if fixture.is_softhsm {
        return;
    }
    for number in 0..FOUND_AT_ONCE + 1 {
        fixture.make(&format!("n{number}"), KeySpec::Aes { bits: 128 }, &[Usage::Encrypt]);
    }
    assert_eq!(fixture.count(Class::Secret), FOUND_AT_ONCE + 1);
}

fn session_keys_are_not_found_among_the_tokens(fixture: &mut Fixture) {
    for spec in [KeySpec::Aes { bits: 128 }, KeySpec::Rsa { bits: 2048 }] {
        let template = Template {
            id: b"probe",
            label: "probe",
            extractable: false,
            usages: Usages::default_for(spec.key_type()),
            session_only: true,
        };
        fixture.session.generate(spec, &template).unwrap();
    }
    assert_eq!(fixture.found(Filter::Id(b"probe")), []);
    assert_eq!(Class::ALL.map(|class| fixture.count(class)), [0, 0, 0]);
}

fn what_the_token_lacks_is_told(fixture: &mut Fixture) {
    let mut refused = |spec| {
        let template = Template {
            id: b"x",
            label: "x",
            extractable: false,
            usages: Usages::default_for(KeySpec::key_type(spec)),
            session_only: false,
        };
        fixture.session.generate(spec, &template).err()
    };
    let ml_dsa = refused(KeySpec::PostQuantum(ParameterSet::MlDsa65));
    let secp256k1 = refused(KeySpec::Curve(Curve::Secp256k1));
    match fixture.is_softhsm {
        true => {
            assert_eq!(secp256k1, None);
            assert_eq!(ml_dsa.unwrap().rv, Some(Ckr::MechanismInvalid));
        }
        false => {
            // The embedded token has no name for it.
            assert_eq!(secp256k1.unwrap().rv, Some(Ckr::GeneralError));
            assert_eq!(ml_dsa, None);
        }
    }
    assert_eq!(fixture.count(Class::Secret), 0);
}

fn other_programs_keys_are_read(fixture: &mut Fixture) {
    for (id, kind, key_type) in [
        ("e1", "EC:prime256v1", KeyType::Ec),
        ("e2", "rsa:2048", KeyType::Rsa),
        ("e3", "AES:32", KeyType::Aes),
    ] {
        fixture.token.make_foreign_key(id, "made elsewhere", kind);
        let id = [u8::from_str_radix(id, 16).unwrap()];
        let found = fixture.session.find(&Filter::Id(&id)).unwrap();
        assert!(!found.is_empty());
        for handle in found {
            let object = fixture.session.read(handle).unwrap().unwrap();
            assert_eq!((object.key_type, &object.label[..]), (key_type, "made elsewhere"));
        }
    }
}
