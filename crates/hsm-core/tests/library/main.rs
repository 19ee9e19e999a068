//! The crate as other programs use it: behind the traits of other crates, in certificates, and by its examples.
#![cfg(all(
    feature = "pkcs11",
    feature = "csr",
    feature = "signature",
    feature = "rustls",
    feature = "rcgen-aws-lc-rs"
))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may stop at the first thing that is not as expected"
)]

mod certificates;
mod examples;
mod promises;
mod requests;
mod signers;
mod tls;

use std::io::Write as _;
use std::process::{Command, Stdio};

use hsm_core::{Curve, Error, Hsm, KeyInfo, KeySpec, Label, NewKey};
use softhsm_test::Token;

/// Makes two tests of a function: one on SoftHSM, one on the embedded token.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        $(mod $name {
            #[test]
            fn softhsm() {
                super::$name(&crate::Fixture::on(softhsm_test::Token::softhsm()));
            }

            #[test]
            fn embedded() {
                super::$name(&crate::Fixture::on(softhsm_test::Token::embedded()));
            }
        })*
    };
}
pub(crate) use on_both;

/// What tokens and certificates have in common.
const SIGNING: [KeySpec; 7] = [
    KeySpec::Rsa { bits: 2048 },
    KeySpec::Curve(Curve::P256),
    KeySpec::Curve(Curve::P384),
    KeySpec::Curve(Curve::P521),
    KeySpec::Curve(Curve::Secp256k1),
    KeySpec::Curve(Curve::Ed25519),
    KeySpec::Curve(Curve::Ed448),
];

/// A token in use.
struct Fixture {
    hsm: Hsm,
    token: Token,
}

impl Fixture {
    fn on(token: Token) -> Fixture {
        token.apply_env();
        let hsm = open(&token);
        Fixture { hsm, token }
    }

    fn key(&self, spec: KeySpec) -> KeyInfo {
        self.try_key(spec).unwrap()
    }

    /// A key; `None` for the one curve that the embedded token lacks.
    fn key_if_it_can(&self, spec: KeySpec) -> Option<KeyInfo> {
        match self.try_key(spec) {
            Ok(key) => Some(key),
            Err(Error::NotSupported(why)) => {
                let lacks = !self.is_softhsm() && spec == KeySpec::Curve(Curve::Secp256k1);
                assert!(lacks, "{spec:?}: {why}");
                None
            }
            Err(error) => panic!("{spec:?}: {error}"),
        }
    }

    fn try_key(&self, spec: KeySpec) -> hsm_core::Result<KeyInfo> {
        let label = Label::parse(&format!("{spec:?}")).unwrap();
        self.hsm.generate(NewKey::new(spec, label)).wait()
    }

    fn is_softhsm(&self) -> bool {
        self.token.module().to_string_lossy().contains("softhsm")
    }
}

fn open(token: &Token) -> Hsm {
    let builder = Hsm::builder()
        .module(token.module())
        .token(token.label())
        .pin(token.pin())
        .sessions(2);
    let builder = match token.init_args() {
        Some(text) => builder.init_args(text),
        None => builder,
    };
    builder.open().unwrap()
}

/// What OpenSSL says of `input`, both outputs; it must be content.
fn openssl(arguments: &[&str], input: &[u8]) -> String {
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl is installed");
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "openssl {arguments:?}: {said}");
    said
}

/// OpenSSL checks a certificate that its own key signed.
fn assert_certificate(der: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("certificate.pem");
    std::fs::write(&file, openssl(&["x509", "-inform", "DER"], der)).unwrap();
    let file = file.to_str().unwrap();
    let said = openssl(&["verify", "-check_ss_sig", "-CAfile", file, file], b"");
    assert!(said.contains("OK"), "{said}");
}
