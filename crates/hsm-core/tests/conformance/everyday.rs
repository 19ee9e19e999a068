//! What is done with keys every day.

use hsm_core::key::Material;
use hsm_core::{Error, Import, KeyInfo, KeyQuery, KeyType, Label, Operation, PublicKey, Sign, Support, Usage, Verify};
use zeroize::Zeroizing;

use crate::{Fixture, attributes, label};

pub(crate) fn check(fixture: &Fixture) {
    let spec = [KeyType::Ec, KeyType::Rsa]
        .into_iter()
        .find_map(|key_type| fixture.some_spec(key_type))
        .unwrap();
    let key = fixture.make(spec, &[Usage::Sign, Usage::Verify], false).unwrap();
    renamed(fixture, &key);
    its_public_key_is_imported(fixture, &key);
    a_secret_is_imported(fixture);
    assert_eq!(fixture.hsm.random(32).wait().unwrap().len(), 32);
    fixture.hsm.delete(&key.id).wait().unwrap();
    assert_eq!(fixture.hsm.key(&key.id).wait().err(), Some(Error::KeyNotFound(key.id)));
}

fn renamed(fixture: &Fixture, key: &KeyInfo) {
    let other = fixture.some_spec(key.key_type).unwrap();
    let other = fixture.make(other, &[Usage::Sign, Usage::Verify], false).unwrap();
    let label = label();
    let renamed = fixture.hsm.relabel(&key.id, label.clone()).wait().unwrap();
    assert_eq!(
        (renamed.label.as_str(), &renamed.id),
        (label.as_str(), &key.id),
        "{}",
        fixture.name
    );
    let same = fixture.hsm.relabel(&key.id, label.clone()).wait().unwrap();
    assert_eq!(same.label, label.as_str());
    let taken = fixture.hsm.relabel(&other.id, label.clone()).wait();
    assert!(matches!(taken, Err(Error::Conflict(_))), "{}: {taken:?}", fixture.name);
    let found = fixture.hsm.keys(KeyQuery {
        limit: 10,
        label: Some(label.as_str().to_owned()),
        ..KeyQuery::default()
    });
    let found: Vec<_> = found.wait().unwrap().keys.into_iter().map(|found| found.id).collect();
    assert_eq!(found, std::slice::from_ref(&key.id), "{}", fixture.name);
    // Its old label is free again.
    let again = fixture.hsm.relabel(&other.id, Label::parse(&key.label).unwrap()).wait();
    assert_eq!(again.unwrap().label, key.label);
    fixture.hsm.delete(&other.id).wait().unwrap();
}

fn its_public_key_is_imported(fixture: &Fixture, key: &KeyInfo) {
    let public: PublicKey = key.public_key.clone().unwrap();
    let imported = fixture.hsm.import(Import {
        material: Material::Public(public),
        attributes: attributes(&[Usage::Verify]),
    });
    let imported = match imported.wait() {
        Ok(imported) => imported,
        Err(Error::NotSupported(_)) => return,
        // It takes public RSA keys alone, and blames the template for others.
        Err(Error::InvalidRequest { .. }) if fixture.name == "tpm" => return,
        Err(error) => panic!("{}: {error:?}", fixture.name),
    };
    assert_eq!((imported.key_type, imported.size), (key.key_type, key.size));
    let signed = fixture.hsm.sign(Sign::new(key.id.clone(), b"data")).wait().unwrap();
    let request = Sign {
        algorithm: signed.algorithm.into(),
        ..Sign::new(imported.id.clone(), b"data")
    };
    let verified = fixture.hsm.verify(Verify {
        signed: request.clone(),
        signature: signed.signature,
    });
    assert!(verified.wait().unwrap(), "{}", fixture.name);
    assert!(matches!(
        fixture.hsm.sign(request).wait(),
        Err(Error::UsageNotPermitted(_))
    ));
    fixture.hsm.delete(&imported.id).wait().unwrap();
}

fn a_secret_is_imported(fixture: &Fixture) {
    if fixture.support(hsm_core::Algorithm::HmacSha256, Operation::Sign) == Support::No {
        return;
    }
    let imported = fixture.hsm.import(Import {
        material: Material::Secret {
            key_type: KeyType::Hmac,
            value: Zeroizing::new(b"0123456789abcdef0123456789abcdef".to_vec()),
        },
        attributes: attributes(&[Usage::Sign]),
    });
    let imported = imported.wait().unwrap();
    let request = Sign {
        algorithm: hsm_core::Algorithm::HmacSha256.into(),
        ..Sign::new(imported.id, b"data")
    };
    let signature = fixture.hsm.sign(request).wait().unwrap().signature;
    // openssl dgst -sha256 -hmac 0123456789abcdef0123456789abcdef
    let expected = "ed371f87983563d6173c4a3c24961640c6260d0ae40dd824dc357c610b8e3546";
    let hex: String = signature.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, expected, "{}", fixture.name);
}
