//! A TLS server whose key is in the token, and a client that trusts its certificate alone.

use std::sync::Arc;

use hsm_core::{Curve, Error, KeyInfo, KeySpec};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ResolvesServerCert;
use rustls::sign::{CertifiedKey, SigningKey as _, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, OtherError, RootCertStore, ServerConfig, ServerConnection, SignatureAlgorithm,
    SignatureScheme, SupportedProtocolVersion,
};

use crate::{Fixture, on_both};

on_both!(
    clients_shake_hands_with_keys_of_the_token,
    schemes_are_chosen_by_key,
    a_handshake_tells_why_it_failed,
);

const IN_TLS: [KeySpec; 5] = [
    KeySpec::Rsa { bits: 2048 },
    KeySpec::Curve(Curve::P256),
    KeySpec::Curve(Curve::P384),
    KeySpec::Curve(Curve::P521),
    KeySpec::Curve(Curve::Ed25519),
];

fn clients_shake_hands_with_keys_of_the_token(fixture: &Fixture) {
    for spec in IN_TLS {
        let key = fixture.key(spec);
        for version in [&TLS12, &TLS13] {
            let (mut client, mut server) = both_sides(fixture, &key, version);
            shake_hands(&mut client, &mut server).unwrap_or_else(|error| panic!("{spec:?}, {version:?}: {error}"));
            assert_eq!(client.protocol_version(), Some(version.version));
            assert!(!client.is_handshaking() && !server.is_handshaking());
        }
    }
}

fn schemes_are_chosen_by_key(fixture: &Fixture) {
    let rsa = fixture.hsm.tls_key(&fixture.key(KeySpec::Rsa { bits: 2048 })).unwrap();
    assert_eq!(rsa.algorithm(), SignatureAlgorithm::RSA);
    let chosen = |offered: &[SignatureScheme]| rsa.choose_scheme(offered).map(|signer| signer.scheme());
    use SignatureScheme as S;
    assert_eq!(
        chosen(&[S::RSA_PKCS1_SHA512, S::RSA_PSS_SHA256]),
        Some(S::RSA_PSS_SHA256)
    );
    assert_eq!(
        chosen(&[S::RSA_PKCS1_SHA1, S::RSA_PKCS1_SHA384]),
        Some(S::RSA_PKCS1_SHA384)
    );
    assert_eq!(chosen(&[S::ED25519, S::ECDSA_NISTP256_SHA256]), None);

    let ed448 = fixture.hsm.tls_key(&fixture.key(KeySpec::Curve(Curve::Ed448))).unwrap();
    assert_eq!(ed448.algorithm(), SignatureAlgorithm::ED448);
    let signer = ed448.choose_scheme(&[S::ED25519, S::ED448]).unwrap();
    assert_eq!((signer.scheme(), signer.sign(b"data").unwrap().len()), (S::ED448, 114));

    let aes = fixture.hsm.tls_key(&fixture.key(KeySpec::Aes { bits: 256 }));
    assert!(matches!(aes, Err(Error::KeyTypeMismatch(_))), "{aes:?}");
}

fn a_handshake_tells_why_it_failed(fixture: &Fixture) {
    let key = fixture.key(KeySpec::Curve(Curve::P256));
    let (mut client, mut server) = both_sides(fixture, &key, &TLS13);
    fixture.hsm.delete(&key.id).wait().unwrap();
    let failed = shake_hands(&mut client, &mut server).unwrap_err();
    let rustls::Error::Other(OtherError(why)) = failed else {
        panic!("{failed:?}");
    };
    assert_eq!(why.downcast_ref::<Error>(), Some(&Error::KeyNotFound(key.id)));
}

/// A client and a server, which has a certificate that the key in the token signed.
fn both_sides(
    fixture: &Fixture,
    key: &KeyInfo,
    version: &'static SupportedProtocolVersion,
) -> (ClientConnection, ServerConnection) {
    let signing = fixture.hsm.certificate_key(key).unwrap();
    let wanted = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate: CertificateDer<'static> = wanted.self_signed(&signing).unwrap().der().clone();
    let certified = CertifiedKey::new(vec![certificate.clone()], Arc::new(fixture.hsm.tls_key(key).unwrap()));
    certified.keys_match().unwrap();

    let resolver: Arc<dyn ResolvesServerCert> = Arc::new(SingleCertAndKey::from(certified));
    let server = ServerConfig::builder_with_protocol_versions(&[version])
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = ClientConfig::builder_with_protocol_versions(&[version])
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    (
        ClientConnection::new(Arc::new(client), name).unwrap(),
        ServerConnection::new(Arc::new(server)).unwrap(),
    )
}

fn shake_hands(client: &mut ClientConnection, server: &mut ServerConnection) -> Result<(), rustls::Error> {
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        if !wire.is_empty() {
            server.read_tls(&mut wire.as_slice()).unwrap();
        }
        server.process_new_packets()?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
    }
    Ok(())
}
