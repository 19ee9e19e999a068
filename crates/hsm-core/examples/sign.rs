//! Signs with a key in the token, which is made if it is not there yet.
//!
//! ```text
//! HSM_LIBRARY_PATH=/usr/lib/softhsm/libsofthsm2.so HSM_TOKEN_LABEL=my_token HSM_PIN=1234 cargo run --example sign
//! ```
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::env;
use std::error::Error;

use hsm_core::{Curve, Hsm, KeyQuery, KeySpec, Label, NewKey, Sign, Verify, encoding};

const LABEL: &str = "example signer";

/// Opens the token that the environment names, signs, and has the signature checked.
pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let hsm = Hsm::builder()
        .module(env::var("HSM_LIBRARY_PATH")?)
        .token(env::var("HSM_TOKEN_LABEL")?)
        .pin(env::var("HSM_PIN")?);
    let hsm = match env::var("HSM_INIT_ARGS") {
        Ok(text) => hsm.init_args(text).open()?,
        Err(_) => hsm.open()?,
    };

    let with_label = KeyQuery {
        label: Some(LABEL.to_owned()),
        limit: 1,
        ..KeyQuery::default()
    };
    let key = match hsm.keys(with_label).wait()?.keys.pop() {
        Some(key) => key,
        None => {
            let new = NewKey::new(KeySpec::Curve(Curve::P256), Label::parse(LABEL)?);
            hsm.generate(new).wait()?
        }
    };
    println!("key {} ({})", key.id, key.uri);
    if let Some(public) = &key.public_key {
        print!("{}", encoding::public_key_pem(public));
    }

    let asked = Sign::new(key.id, b"Hello World!");
    let signed = hsm.sign(asked.clone()).wait()?;
    println!("{}, {} bytes", signed.algorithm.name(), signed.signature.len());
    let right = hsm.verify(Verify {
        signed: asked,
        signature: signed.signature,
    });
    println!("right: {}", right.wait()?);
    Ok(())
}
