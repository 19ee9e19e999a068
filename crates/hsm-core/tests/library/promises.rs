//! What a type promises, held when compiled.

use hsm_core::adapter::rcgen::CertificateKey;
use hsm_core::adapter::rustls::TlsKey;
use hsm_core::adapter::signature::{AnySignature, Signer, VerifyingKey};
use hsm_core::csr::{CertificateRequest, Csr, Prepared};
use hsm_core::pkcs11::Module;
use hsm_core::{
    BuildError, Builder, Call, Curve, Encrypted, Error, Hsm, KeyInfo, KeyPage, KeySpec, Label, NewKey, Options,
    SharedBackend, Signed, Status, TokenName,
};
use softhsm_test::Token;

const fn crosses_threads<T: Send + Sync + 'static>() {}
const fn is_an_error<T: std::error::Error + Send + Sync + 'static>() {}
const fn is_a_future<T: Future + Send>() {}

const _: () = {
    crosses_threads::<Hsm>();
    crosses_threads::<Builder>();
    crosses_threads::<Options>();
    crosses_threads::<Module>();
    crosses_threads::<Call<KeyInfo>>();
    crosses_threads::<KeyInfo>();
    crosses_threads::<KeyPage>();
    crosses_threads::<Encrypted>();
    crosses_threads::<Signed>();
    crosses_threads::<Status>();
    crosses_threads::<Signer>();
    crosses_threads::<VerifyingKey>();
    crosses_threads::<AnySignature>();
    crosses_threads::<TlsKey>();
    crosses_threads::<CertificateKey>();
    crosses_threads::<CertificateRequest>();
    crosses_threads::<Prepared>();
    crosses_threads::<Csr>();
    crosses_threads::<SharedBackend>();
    is_an_error::<Error>();
    is_an_error::<hsm_core::OpenError>();
    is_an_error::<BuildError>();
    is_a_future::<Call<Signed>>();
};

#[test]
fn a_builder_says_what_is_missing() {
    assert!(matches!(Hsm::builder().open(), Err(BuildError::NoModule)));
    let nowhere = Hsm::builder().module("/nowhere/module.so");
    assert!(matches!(nowhere.open(), Err(BuildError::Module(_))));
    assert!(!format!("{:?}", Hsm::builder().pin("secret-1").init_args("secret-2")).contains("secret"));
}

#[test]
fn a_builder_opens_several_tokens_of_one_module() {
    let tokens = Token::several(&["one", "other"]);
    tokens[0].apply_env();
    let module = SharedBackend::new(Module::load(tokens[0].module(), None).unwrap());
    let [one, other] = [("one", None), ("other", TokenName::parse("spare"))].map(|(label, name)| {
        let builder = Hsm::builder().token(label).pin(tokens[0].pin()).sessions(1);
        let builder = match name {
            Some(name) => builder.name(name),
            None => builder,
        };
        builder.open_on(module.clone()).unwrap()
    });
    let new = NewKey::new(KeySpec::Curve(Curve::P256), Label::parse("signer").unwrap());
    let key = other.generate(new).wait().unwrap();
    assert!(key.id.to_string().starts_with("hsm:spare:"));
    assert_eq!(one.key(&key.id).wait().unwrap_err(), Error::KeyNotFound(key.id));
    let wrong = Hsm::builder().token("pkcs11:what=1").open_on(module);
    assert!(matches!(wrong, Err(BuildError::Token(_))));
}
