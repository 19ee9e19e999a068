//! Which keys the token makes.

use hsm_core::key::ParameterSet;
use hsm_core::{Curve, Error, KeySpec, KeyType, PublicKey, Usages};

use crate::Fixture;

pub(crate) fn check(fixture: &Fixture) {
    let mut wrong = Vec::new();
    for key_type in KeyType::ALL.iter().copied() {
        for spec in specs(key_type) {
            let told = fixture.sizes(key_type).contains(&spec.size());
            let usages: Vec<_> = Usages::default_for(key_type).iter().collect();
            match (fixture.make(spec, &usages, false), told) {
                (Ok(key), true) => {
                    assert_eq!((key.key_type, key.size), (key_type, spec.size()), "{}", fixture.name);
                    assert_eq!(key.usages, Usages::default_for(key_type), "{} {spec:?}", fixture.name);
                    assert!(key.sensitive && !key.extractable, "{} {spec:?}", fixture.name);
                    let size = key.public_key.as_ref().map(PublicKey::size);
                    let secret = matches!(key_type, KeyType::Aes | KeyType::Hmac);
                    assert_eq!(size, (!secret).then_some(spec.size()), "{} {spec:?}", fixture.name);
                    fixture.hsm.delete(&key.id).wait().unwrap();
                }
                (Err(Error::NotSupported(_) | Error::InvalidRequest { .. }), false) => {}
                (made, _) => wrong.push(format!("{spec:?} told: {told}, and {made:?}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}: {wrong:#?}", fixture.name);
    // Nothing is left of what failed, nor of the trials.
    let left = fixture.hsm.keys(hsm_core::KeyQuery {
        limit: 10,
        ..Default::default()
    });
    assert!(left.wait().unwrap().keys.is_empty());
    let trials = fixture.hsm.leftovers().wait().unwrap();
    assert_eq!((trials.without_id, trials.lone_private, trials.lone_public), (0, 0, 0));
}

fn specs(key_type: KeyType) -> Vec<KeySpec> {
    let curves = Curve::ALL.iter().filter(|curve| curve.key_type() == key_type);
    match key_type {
        KeyType::Rsa => KeySpec::RSA_BITS
            .iter()
            .map(|bits| KeySpec::Rsa { bits: *bits })
            .collect(),
        KeyType::Aes => KeySpec::AES_BITS
            .iter()
            .map(|bits| KeySpec::Aes { bits: *bits })
            .collect(),
        KeyType::Hmac => vec![KeySpec::Hmac { bits: 256 }, KeySpec::Hmac { bits: 512 }],
        KeyType::Ec | KeyType::Ed => curves.map(|curve| KeySpec::Curve(*curve)).collect(),
        KeyType::MlDsa | KeyType::MlKem => ParameterSet::of(key_type).map(KeySpec::PostQuantum).collect(),
        KeyType::SlhDsa => {
            let fast = ParameterSet::of(key_type).filter(|set| set.name().ends_with('f'));
            fast.map(KeySpec::PostQuantum).collect()
        }
    }
}
