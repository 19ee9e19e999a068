//! The traits of the crate `signature`, and the builders of `x509-cert` on top of them.

use std::str::FromStr as _;
use std::time::Duration;

use hsm_core::adapter::signature::AnySignature;
use hsm_core::{Algorithm, Curve, Error, KeySpec, NewKey, Usage, Usages};
use signature::{Keypair as _, SignatureEncoding, Signer, Verifier};
use x509_cert::builder::{Builder as _, CertificateBuilder, profile};
use x509_cert::der::Encode as _;
use x509_cert::der::asn1::Ia5String;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::name::Name;
use x509_cert::request::RequestBuilder;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{EncodePublicKey as _, SubjectPublicKeyInfoOwned};
use x509_cert::time::Validity;

use crate::{Fixture, SIGNING, assert_certificate, on_both, openssl};

on_both!(
    signatures_are_of_their_crates_types,
    other_crates_check_the_signatures,
    keys_and_types_that_do_not_fit_are_told,
    x509_cert_builds_certificates_and_requests,
    what_fails_on_the_token_is_the_source_of_the_error,
);

fn signatures_are_of_their_crates_types(fixture: &Fixture) {
    fn signs<S>(fixture: &Fixture, spec: KeySpec, algorithm: Algorithm)
    where
        S: SignatureEncoding + Clone,
        hsm_core::adapter::signature::Signer: Signer<S>,
        hsm_core::adapter::signature::VerifyingKey: Verifier<S>,
    {
        let key = match fixture
            .hsm
            .keys(hsm_core::KeyQuery {
                limit: 1,
                label: Some(format!("{spec:?}")),
                ..Default::default()
            })
            .wait()
            .unwrap()
            .keys
            .pop()
        {
            Some(key) => Some(key),
            None => fixture.key_if_it_can(spec),
        };
        let Some(key) = key else { return };
        let signer = fixture.hsm.signer(&key, algorithm).unwrap();
        assert_eq!((signer.key().id.clone(), signer.algorithm()), (key.id, algorithm));
        let signature: S = signer.try_sign(b"data").unwrap();
        signer.verifying_key().verify(b"data", &signature).unwrap();
        signer.verifying_key().verify(b"date", &signature).unwrap_err();
        signer.verify(b"data", &signature).unwrap();
    }
    let curve = KeySpec::Curve;
    let rsa = KeySpec::Rsa { bits: 2048 };
    signs::<p256::ecdsa::Signature>(fixture, curve(Curve::P256), Algorithm::EcdsaSha256);
    signs::<p256::ecdsa::DerSignature>(fixture, curve(Curve::P256), Algorithm::EcdsaSha384);
    signs::<p384::ecdsa::Signature>(fixture, curve(Curve::P384), Algorithm::EcdsaSha384);
    signs::<p384::ecdsa::DerSignature>(fixture, curve(Curve::P384), Algorithm::EcdsaSha256);
    signs::<p521::ecdsa::Signature>(fixture, curve(Curve::P521), Algorithm::EcdsaSha512);
    signs::<p521::ecdsa::DerSignature>(fixture, curve(Curve::P521), Algorithm::EcdsaSha512);
    signs::<k256::ecdsa::Signature>(fixture, curve(Curve::Secp256k1), Algorithm::EcdsaSha256);
    signs::<k256::ecdsa::DerSignature>(fixture, curve(Curve::Secp256k1), Algorithm::EcdsaSha256);
    signs::<ed25519_dalek::Signature>(fixture, curve(Curve::Ed25519), Algorithm::EdDsa);
    signs::<rsa::pkcs1v15::Signature>(fixture, rsa, Algorithm::RsaPkcs1Sha384);
    signs::<rsa::pss::Signature>(fixture, rsa, Algorithm::RsaPssSha256);
    for (spec, algorithm) in [
        (rsa, Algorithm::RsaPssSha512),
        (curve(Curve::P521), Algorithm::EcdsaSha512),
        // Not checked here: this one is for the token.
        (curve(Curve::Ed448), Algorithm::EdDsa),
    ] {
        signs::<AnySignature>(fixture, spec, algorithm);
    }
}

fn other_crates_check_the_signatures(fixture: &Fixture) {
    use p256::pkcs8::DecodePublicKey as _;

    let key = fixture.key(KeySpec::Curve(Curve::P256));
    let signer = fixture.hsm.signer(&key, Algorithm::EcdsaSha256).unwrap();
    let signature: p256::ecdsa::Signature = signer.try_sign(b"data").unwrap();
    let der = signer.verifying_key().to_public_key_der().unwrap();
    let public = p256::ecdsa::VerifyingKey::from_public_key_der(der.as_bytes()).unwrap();
    public.verify(b"data", &signature).unwrap();
    public.verify(b"date", &signature).unwrap_err();

    let key = fixture.key(KeySpec::Rsa { bits: 2048 });
    let signer = fixture.hsm.signer(&key, Algorithm::RsaPssSha256).unwrap();
    let signature: rsa::pss::Signature = signer.try_sign(b"data").unwrap();
    let der = signer.verifying_key().to_public_key_der().unwrap();
    let public = rsa::PublicKey::from_public_key_der(der.as_bytes()).unwrap();
    let public = rsa::pss::VerifyingKey::<sha2::Sha256>::new(public);
    public.verify(b"data", &signature).unwrap();
    public.verify(b"date", &signature).unwrap_err();
}

fn keys_and_types_that_do_not_fit_are_told(fixture: &Fixture) {
    let hsm = &fixture.hsm;
    let key = fixture.key(KeySpec::Curve(Curve::P256));
    let refused = |key, algorithm| hsm.signer(key, algorithm).unwrap_err();
    assert!(matches!(refused(&key, Algorithm::EdDsa), Error::KeyTypeMismatch(_)));
    assert!(matches!(
        refused(&key, Algorithm::AesGcm),
        Error::UnsupportedAlgorithm(_)
    ));
    let aes = fixture.key(KeySpec::Aes { bits: 256 });
    assert!(matches!(
        refused(&aes, Algorithm::EcdsaSha256),
        Error::KeyTypeMismatch(_)
    ));
    let decrypts = NewKey {
        id: None,
        usages: Usages::from_iter([Usage::Decrypt, Usage::Encrypt]),
        ..NewKey::new(KeySpec::Rsa { bits: 2048 }, hsm_core::Label::parse("decrypts").unwrap())
    };
    let decrypts = hsm.generate(decrypts).wait().unwrap();
    let error = refused(&decrypts, Algorithm::RsaPssSha256);
    assert!(matches!(error, Error::UsageNotPermitted(_)), "{error:?}");

    let signer = hsm.signer(&key, Algorithm::EcdsaSha256).unwrap();
    let wrong: Result<p384::ecdsa::Signature, _> = signer.try_sign(b"data");
    assert!(matches!(cause(&wrong.unwrap_err()), Error::KeyTypeMismatch(_)));
    let wrong: Result<ed25519_dalek::Signature, _> = signer.try_sign(b"data");
    assert!(matches!(cause(&wrong.unwrap_err()), Error::KeyTypeMismatch(_)));
    let nonsense = AnySignature::try_from(b"no signature".as_slice()).unwrap();
    assert!(signer.verify(b"data", &nonsense).is_err());
}

fn cause(error: &signature::Error) -> Error {
    let source = std::error::Error::source(error).expect("a source");
    source.downcast_ref::<Error>().expect("an error of this crate").clone()
}

fn x509_cert_builds_certificates_and_requests(fixture: &Fixture) {
    for spec in SIGNING {
        let Some(key) = fixture.key_if_it_can(spec) else {
            continue;
        };
        let algorithm = hsm_core::adapter::identifier::default_algorithm(&key).unwrap();
        let signer = fixture.hsm.signer(&key, algorithm).unwrap();
        let subject = Name::from_str("CN=host.example,O=Example,C=AT").unwrap();

        let mut builder = RequestBuilder::new(subject.clone()).unwrap();
        let host = GeneralName::DnsName(Ia5String::new("host.example").unwrap());
        builder.add_extension(&SubjectAltName(vec![host])).unwrap();
        let request = builder.build::<_, AnySignature>(&signer).unwrap().to_der().unwrap();
        let said = openssl(&["req", "-inform", "DER", "-verify", "-noout", "-text"], &request);
        assert!(said.contains("self-signature verify OK"), "{spec:?}: {said}");
        assert!(said.contains("DNS:host.example"), "{spec:?}: {said}");

        let builder = CertificateBuilder::new(
            profile::cabf::Root::new(false, subject).unwrap(),
            SerialNumber::from(42_u32),
            Validity::from_now(Duration::from_secs(3600)).unwrap(),
            SubjectPublicKeyInfoOwned::from_key(&signer.verifying_key()).unwrap(),
        );
        let certificate = builder.unwrap().build::<_, AnySignature>(&signer).unwrap();
        assert_certificate(&certificate.to_der().unwrap());
    }
}

fn what_fails_on_the_token_is_the_source_of_the_error(fixture: &Fixture) {
    let key = fixture.key(KeySpec::Curve(Curve::Ed25519));
    let signer = fixture.hsm.signer(&key, Algorithm::EdDsa).unwrap();
    let _: ed25519_dalek::Signature = signer.sign(b"data");
    fixture.hsm.delete(&key.id).wait().unwrap();
    let gone: Result<ed25519_dalek::Signature, _> = signer.try_sign(b"data");
    assert_eq!(cause(&gone.unwrap_err()), Error::KeyNotFound(key.id));
}
