//! Certificates and requests by rcgen.

use hsm_core::{Algorithm, Curve, Error, KeySpec};
use rcgen::{CertificateParams, DnType, KeyUsagePurpose};

use crate::{Fixture, SIGNING, assert_certificate, on_both, openssl};

on_both!(rcgen_makes_certificates_and_requests, rcgen_tells_that_the_token_failed);

fn rcgen_makes_certificates_and_requests(fixture: &Fixture) {
    for spec in SIGNING {
        let Some(key) = fixture.key_if_it_can(spec) else {
            continue;
        };
        let signing = fixture.hsm.certificate_key(&key);
        if matches!(spec, KeySpec::Curve(Curve::Secp256k1 | Curve::Ed448)) {
            assert!(matches!(signing, Err(Error::KeyTypeMismatch(_))), "{signing:?}");
            continue;
        }
        let signing = signing.unwrap();
        let mut wanted = CertificateParams::new(vec!["host.example".to_owned()]).unwrap();
        wanted.distinguished_name.push(DnType::CommonName, "host.example");
        wanted.key_usages = vec![KeyUsagePurpose::DigitalSignature];

        let request = wanted.serialize_request(&signing).unwrap();
        let said = openssl(&["req", "-inform", "DER", "-verify", "-noout", "-text"], request.der());
        assert!(said.contains("self-signature verify OK"), "{spec:?}: {said}");

        let certificate = wanted.self_signed(&signing).unwrap();
        assert_certificate(certificate.der());
    }
    let aes = fixture.key(KeySpec::Aes { bits: 128 });
    assert!(matches!(
        fixture.hsm.certificate_key(&aes),
        Err(Error::KeyTypeMismatch(_))
    ));
}

fn rcgen_tells_that_the_token_failed(fixture: &Fixture) {
    let key = fixture.key(KeySpec::Curve(Curve::P256));
    let signing = fixture.hsm.certificate_key(&key).unwrap();
    assert!(fixture.hsm.signer(&key, Algorithm::EcdsaSha256).is_ok());
    fixture.hsm.delete(&key.id).wait().unwrap();
    let failed = CertificateParams::default().self_signed(&signing);
    assert!(matches!(failed, Err(rcgen::Error::RemoteKeyError)));
}
