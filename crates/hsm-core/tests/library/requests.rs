//! PKCS#10 requests, checked by OpenSSL.

use hsm_core::adapter::signature::AnySignature;
use hsm_core::csr::{self, CertificateRequest, Names};
use hsm_core::key::ParameterSet;
use hsm_core::{
    Algorithm, Choice, Curve, Error, HsmKeyId, KeySpec, KeyType, NewKey, Operation, Sign, Usage, Usages, Verify,
    encoding,
};
use softhsm_test::Token;
use x509_cert::Certificate;
use x509_cert::builder::Builder as _;
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::request::{CertReq, RequestBuilder};

use crate::{Fixture, SIGNING, on_both, openssl};

on_both!(
    every_key_that_signs_can_ask_for_a_certificate,
    rsa_keys_sign_as_they_are_told,
    the_halves_of_a_request_fit,
    what_can_not_be_certified_is_refused,
);

const SUBJECT: &str = "CN=host.example,O=Müller\\, Söhne,C=AT";
const ALT_NAMES: [&str; 6] = [
    "host.example",
    "*.host.example",
    "10.1.2.3",
    "2001:db8::1",
    "a@b.example",
    "https://host.example/x",
];

fn request(key: &HsmKeyId) -> CertificateRequest {
    CertificateRequest {
        key: key.clone(),
        names: Names::parse(SUBJECT, &ALT_NAMES).unwrap(),
        algorithm: Choice::BY_KEY,
    }
}

/// OpenSSL checks the signature with the public key in the request, and shows it.
fn checked(pem: &str) -> String {
    assert!(pem.starts_with("-----BEGIN CERTIFICATE REQUEST-----\n"), "{pem}");
    assert!(pem.ends_with("\n-----END CERTIFICATE REQUEST-----\n"), "{pem}");
    assert!(pem.lines().all(|line| line.len() <= 64), "{pem}");
    let said = openssl(
        &["req", "-verify", "-noout", "-text", "-nameopt", "RFC2253,utf8,-esc_msb"],
        pem.as_bytes(),
    );
    // OpenSSL ends well also where a signature is wrong.
    assert!(said.contains("self-signature verify OK"), "{said}");
    said
}

fn every_key_that_signs_can_ask_for_a_certificate(fixture: &Fixture) {
    for spec in SIGNING {
        let Some(key) = fixture.key_if_it_can(spec) else {
            continue;
        };
        let made = fixture.hsm.csr(request(&key.id)).wait().unwrap();
        let said = checked(&made.to_pem());
        for shown in [
            "Subject: CN=host.example,O=Müller\\, Söhne,C=AT",
            "DNS:host.example, DNS:*.host.example, IP Address:10.1.2.3, IP Address:2001:DB8:0:0:0:0:0:1, \
             email:a@b.example, URI:https://host.example/x",
        ] {
            assert!(said.contains(shown), "{spec:?}: {said}");
        }
        assert!(!said.contains("critical"), "{said}");
    }
}

fn rsa_keys_sign_as_they_are_told(fixture: &Fixture) {
    let key = fixture.key(KeySpec::Rsa { bits: 2048 });
    let named = |name: &str| Choice::parse(name, Operation::Sign);
    for (algorithm, identifier, more) in [
        (Choice::BY_KEY, "sha256WithRSAEncryption", ""),
        (Algorithm::RsaPkcs1Sha512.into(), "sha512WithRSAEncryption", ""),
        (Algorithm::RsaPssSha256.into(), "rsassaPss", "Hash Algorithm: sha256"),
        (Algorithm::RsaPssSha384.into(), "rsassaPss", "Salt Length: 0x30"),
        (named("PS512"), "rsassaPss", "Mask Algorithm: mgf1 with sha512"),
    ] {
        let asked = CertificateRequest {
            algorithm,
            ..request(&key.id)
        };
        let said = checked(&fixture.hsm.csr(asked).wait().unwrap().to_pem());
        let identifier = format!("Signature Algorithm: {identifier}");
        assert!(
            said.contains(&identifier) && said.to_lowercase().contains(&more.to_lowercase()),
            "{said}"
        );
    }
}

fn the_halves_of_a_request_fit(fixture: &Fixture) {
    let key = fixture.key(KeySpec::Curve(Curve::P384));
    let asked = CertificateRequest {
        names: Names::parse("", &ALT_NAMES).unwrap(),
        algorithm: Choice::parse("ES384", Operation::Sign),
        ..request(&key.id)
    };
    let prepared = csr::prepare(&key, &asked).unwrap();
    let signed = fixture.hsm.sign(prepared.to_sign()).wait().unwrap();
    let said = checked(&prepared.finish(&signed.signature).unwrap().to_pem());
    // RFC 5280 §4.2.1.6: without a subject the alternative names are critical.
    assert!(said.contains("Subject Alternative Name: critical"), "{said}");
}

fn what_can_not_be_certified_is_refused(fixture: &Fixture) {
    let hsm = &fixture.hsm;
    let ask = |change: &dyn Fn(&mut CertificateRequest), id: &HsmKeyId| {
        let mut asked = request(id);
        change(&mut asked);
        hsm.csr(asked).wait().unwrap_err()
    };
    let as_it_is = |_: &mut CertificateRequest| {};

    let signer = fixture.key(KeySpec::Curve(Curve::P256)).id;
    let ask_by = |name: &str| {
        let algorithm = Choice::parse(name, Operation::Sign);
        ask(&|asked| asked.algorithm = algorithm.clone(), &signer)
    };
    let refused = ask_by("MD5");
    assert!(
        matches!(&refused, Error::UnsupportedAlgorithm(why) if why.contains("ECDSA-SHA256")),
        "{refused:?}"
    );
    assert!(matches!(ask_by("AES-GCM"), Error::UnsupportedAlgorithm(_)));
    assert!(matches!(ask_by("RSA-PSS-SHA256"), Error::KeyTypeMismatch(_)));
    assert!(matches!(ask_by("ES384"), Error::KeyTypeMismatch(_)));

    for spec in [KeySpec::Aes { bits: 256 }, KeySpec::Hmac { bits: 256 }] {
        let key = fixture.key(spec).id;
        assert!(matches!(ask(&as_it_is, &key), Error::KeyTypeMismatch(_)));
        let hmac = |asked: &mut CertificateRequest| asked.algorithm = Algorithm::HmacSha256.into();
        assert!(matches!(ask(&hmac, &key), Error::KeyTypeMismatch(_)));
    }
    let decrypts = NewKey {
        id: None,
        usages: Usages::from_iter([Usage::Encrypt, Usage::Decrypt]),
        ..NewKey::new(KeySpec::Rsa { bits: 2048 }, hsm_core::Label::parse("decrypts").unwrap())
    };
    let decrypts = hsm.generate(decrypts).wait().unwrap().id;
    assert!(matches!(ask(&as_it_is, &decrypts), Error::UsageNotPermitted(_)));
    let nobody = HsmKeyId::parse("hsm:0123").unwrap();
    assert_eq!(ask(&as_it_is, &nobody), Error::KeyNotFound(nobody.clone()));

    let mut half = hsm.key(&signer).wait().unwrap();
    half.public_key = None;
    let refused = csr::prepare(&half, &request(&signer)).unwrap_err();
    assert!(
        matches!(&refused, Error::NotSupported(why) if why.contains("public half")),
        "{refused:?}"
    );
}

/// RFC 9881 and RFC 9909: key and signature have one name, without parameters.
const POST_QUANTUM: [(ParameterSet, &str); 4] = [
    (ParameterSet::MlDsa44, "2.16.840.1.101.3.4.3.17"),
    (ParameterSet::MlDsa65, "2.16.840.1.101.3.4.3.18"),
    (ParameterSet::MlDsa87, "2.16.840.1.101.3.4.3.19"),
    (ParameterSet::SlhDsaSha2F128, "2.16.840.1.101.3.4.3.21"),
];

#[test]
fn post_quantum_keys_can_ask_for_certificates() {
    let fixture = Fixture::on(Token::embedded());
    for (parameter_set, name) in POST_QUANTUM {
        let key = fixture.key(KeySpec::PostQuantum(parameter_set));
        let made = fixture.hsm.csr(request(&key.id)).wait().unwrap();
        // OpenSSL 3.0 knows neither: another library takes it apart, and the signature is checked by the token.
        let read = CertReq::from_der(made.as_der()).unwrap();
        for algorithm in [&read.algorithm, &read.info.public_key.algorithm] {
            assert_eq!(
                (algorithm.oid.to_string().as_str(), &algorithm.parameters),
                (name, &None)
            );
        }
        let public = encoding::public_key_from_der(&read.info.public_key.to_der().unwrap());
        assert_eq!(public, key.public_key);
        let mut verify = Verify {
            signed: Sign::new(key.id.clone(), read.info.to_der().unwrap()),
            signature: read.signature.raw_bytes().to_vec(),
        };
        assert!(fixture.hsm.verify(verify.clone()).wait().unwrap());
        verify.signature[0] ^= 1;
        assert!(!fixture.hsm.verify(verify).wait().unwrap());

        let algorithm = hsm_core::adapter::identifier::default_algorithm(&key).unwrap();
        let signer = fixture.hsm.signer(&key, algorithm).unwrap();
        let builder = RequestBuilder::new(read.info.subject.clone()).unwrap();
        let built = builder.build::<_, AnySignature>(&signer).unwrap();
        assert_eq!(built.algorithm, read.algorithm);

        let by_rcgen = fixture.hsm.certificate_key(&key);
        assert_eq!(by_rcgen.is_ok(), key.key_type == KeyType::MlDsa);
        let Ok(signing) = by_rcgen else { continue };
        let certificate = rcgen::CertificateParams::default().self_signed(&signing).unwrap();
        let certificate = Certificate::from_der(certificate.der()).unwrap();
        assert_eq!(certificate.signature_algorithm(), &read.algorithm);
        let tbs = certificate.tbs_certificate();
        assert_eq!(tbs.subject_public_key_info(), &read.info.public_key);
        let verify = Verify {
            signed: Sign::new(key.id, tbs.to_der().unwrap()),
            signature: certificate.signature().raw_bytes().to_vec(),
        };
        assert!(fixture.hsm.verify(verify).wait().unwrap());
    }
}

#[test]
fn names_are_read_before_a_key_is_looked_for() {
    let refused = |subject: &str, alt_names: &[&str]| match Names::parse(subject, alt_names) {
        Err(Error::InvalidRequest { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused("host", &[]), "subject");
    assert_eq!(refused("", &[]), "subject");
    assert_eq!(refused("CN=a", &["a b"]), "subject_alt_names");
    assert_eq!(refused("CN=a", &["host.example"; 65]), "subject_alt_names");
    assert_eq!(refused(&format!("CN={}", "a".repeat(1024)), &[]), "subject");
}
