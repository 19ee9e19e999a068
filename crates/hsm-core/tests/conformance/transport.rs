//! Keys of every type that leave wrapped and come back.

use hsm_core::{
    Algorithm, Error, KeyInfo, KeySize, KeyType, Operation, Sign, Support, Unwrap, Usage, Usages, Verify, Wrap,
};

use crate::{Fixture, attributes};

pub(crate) fn check(fixture: &Fixture) {
    for algorithm in [Algorithm::AesKwp, Algorithm::AesKw, Algorithm::RsaAesKeyWrap] {
        let supports = |operation| fixture.support(algorithm, operation) != Support::No;
        if !supports(Operation::Wrap) || !supports(Operation::Unwrap) {
            continue;
        }
        let spec = fixture.some_spec(algorithm.row().key_type).unwrap();
        let key = fixture.make(spec, &[Usage::Wrap, Usage::Unwrap], false).unwrap();
        stays(fixture, &key, algorithm);
        for key_type in KeyType::ALL.iter().copied() {
            let Some(spec) = fixture.some_spec(key_type) else {
                continue;
            };
            let usages: Vec<_> = Usages::default_for(key_type).iter().collect();
            let target = fixture.make(spec, &usages, true).unwrap();
            leaves_and_comes_back(fixture, &key, &target, algorithm, &usages);
        }
    }
}

/// A key that is not extractable stays, whatever the token thinks of it.
fn stays(fixture: &Fixture, key: &KeyInfo, algorithm: Algorithm) {
    let spec = fixture.some_spec(KeyType::Hmac).unwrap();
    let target = fixture.make(spec, &[Usage::Sign, Usage::Verify], false).unwrap();
    let refused = fixture.hsm.wrap(Wrap {
        key: key.id.clone().into(),
        target: target.id,
        algorithm: algorithm.into(),
    });
    assert_eq!(
        refused.wait().err(),
        Some(Error::NotExtractable),
        "{} {algorithm:?}",
        fixture.name
    );
}

fn leaves_and_comes_back(fixture: &Fixture, key: &KeyInfo, target: &KeyInfo, algorithm: Algorithm, usages: &[Usage]) {
    let what = format!("{}: {} under {}", fixture.name, target.key_type, algorithm.name());
    let wrapped = fixture.hsm.wrap(Wrap {
        key: key.id.clone().into(),
        target: target.id.clone(),
        algorithm: algorithm.into(),
    });
    let wrapped = match wrapped.wait() {
        Ok(wrapped) => wrapped.wrapped_key,
        // Some tokens wrap no keys of this type, and AES-KW none of odd lengths: they say so.
        Err(Error::NotExtractable | Error::NotSupported(_) | Error::InvalidRequest { .. }) => return,
        Err(error) => panic!("{what}: {error:?}"),
    };
    let unwrapped = fixture.hsm.unwrap(Unwrap {
        key: key.id.clone(),
        algorithm: algorithm.into(),
        wrapped_key: wrapped,
        key_type: target.key_type,
        attributes: attributes(usages),
    });
    let back = match unwrapped.wait() {
        Ok(back) => back,
        Err(Error::NotSupported(_)) => return,
        Err(error) => panic!("{what}: {error:?}"),
    };
    assert_eq!(back.key_type, target.key_type, "{what}");
    assert!(
        back.size == target.size || back.size == KeySize::Unknown,
        "{what}: {:?}",
        back.size
    );
    assert!(back.sensitive && !back.extractable, "{what}");
    if target.key_type == KeyType::Ec {
        assert_eq!(back.public_key, target.public_key, "{what}");
    }
    // What comes back is the same key: what it signs is good for the one that has left.
    if usages.contains(&Usage::Sign) {
        let signed = fixture
            .hsm
            .sign(Sign::new(back.id, b"data"))
            .wait()
            .unwrap_or_else(|why| panic!("{what}: {why}"));
        let request = Sign {
            algorithm: signed.algorithm.into(),
            ..Sign::new(target.id.clone(), b"data")
        };
        let verified = fixture.hsm.verify(Verify {
            signed: request,
            signature: signed.signature,
        });
        assert!(verified.wait().unwrap(), "{what}");
    }
}
