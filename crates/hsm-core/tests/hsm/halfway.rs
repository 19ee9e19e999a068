//! New operations that fail half-way: what is left, what is asked again, and what is answered.

use hsm_core::{
    Algorithm, Choice, Decrypt, Encrypt, Error, Hsm, HsmKeyId, KeyAttributes, KeyInfo, KeyQuery, KeySpec, KeyType,
    Label, NewKey, Options, Support, Unwrap, Usage, Usages, Wrap, key::TokenName, pkcs11::Module,
};
use softhsm_test::{FaultyToken, Token};

use crate::{Faulty, aes, id, new_key, open_behind, options, p256};

fn wrapping(hsm: &Hsm, spec: KeySpec) -> KeyInfo {
    let usages = Usages::NONE.with(Usage::Wrap).with(Usage::Unwrap);
    let new = new_key(spec, "wrapping");
    hsm.generate(NewKey { usages, ..new }).wait().unwrap()
}

fn extractable(hsm: &Hsm) -> KeyInfo {
    let new = NewKey {
        id: None,
        extractable: true,
        ..aes("target")
    };
    hsm.generate(new).wait().unwrap()
}

fn wrap(key: &KeyInfo, target: &KeyInfo) -> Wrap {
    Wrap {
        key: key.id.clone().into(),
        target: target.id.clone(),
        algorithm: Choice::BY_KEY,
    }
}

/// The key's objects by another program's eyes: reading many must not search for each.
#[test]
fn a_walk_searches_once_however_many_private_keys_there_are() {
    let Faulty { hsm, token } = Faulty::new();
    for number in 0..20 {
        hsm.generate(p256(&format!("key {number}"))).wait().unwrap();
    }
    token.forget_calls();
    let unknown = hsm.encrypt(Encrypt::new(id("hsm:ff"), b"data")).wait();
    assert!(matches!(unknown, Err(Error::KeyNotFound(_))));
    // One a class.
    assert_eq!(token.calls("C_FindObjectsInit"), 3);
    assert_eq!(
        hsm.keys(KeyQuery {
            limit: 100,
            ..KeyQuery::default()
        })
        .wait()
        .unwrap()
        .keys
        .len(),
        20
    );
}

#[test]
fn a_key_is_not_unwrapped_twice_when_the_one_between_can_not_be_destroyed() {
    unwraps_once("C_DestroyObject rv=0x82 count=1");
}

#[test]
fn a_key_is_not_unwrapped_twice_when_it_can_not_be_read() {
    unwraps_once("C_GetAttributeValue rv=0x82 skip=4 count=1");
}

fn unwraps_once(fault: &str) {
    let Faulty { hsm, token } = Faulty::new();
    let key = wrapping(&hsm, KeySpec::Rsa { bits: 2048 });
    let target = extractable(&hsm);
    let wrapped_key = hsm.wrap(wrap(&key, &target)).wait().unwrap().wrapped_key;
    token.fault(fault);
    let unwrapped = hsm.unwrap(Unwrap {
        key: key.id,
        algorithm: Choice::BY_KEY,
        wrapped_key,
        key_type: KeyType::Aes,
        attributes: KeyAttributes {
            id: None,
            label: Label::parse("unwrapped").unwrap(),
            extractable: false,
            usages: Usages::default_for(KeyType::Aes),
        },
    });
    let unwrapped = unwrapped.wait();
    token.clear();
    let made = usize::from(unwrapped.is_ok());
    // The session's own key may stay as long as the session.
    let labels: Vec<_> = token.token().objects().into_iter().map(|object| object.label).collect();
    assert_eq!(
        labels.iter().filter(|label| *label == "unwrapped").count(),
        made,
        "{fault}: {labels:?}"
    );
    if let Ok(unwrapped) = unwrapped {
        assert!(hsm.key(&unwrapped.id).wait().is_ok());
    }
}

#[test]
fn half_a_label_change_is_taken_back() {
    let Faulty { hsm, token } = Faulty::new();
    let key = hsm.generate(p256("old")).wait().unwrap();
    token.fault("C_SetAttributeValue rv=0x10 skip=1 count=1");
    assert!(hsm.relabel(&key.id, Label::parse("new").unwrap()).wait().is_err());
    assert_eq!(hsm.key(&key.id).wait().unwrap().label, "old");
    assert!(matches!(hsm.generate(aes("old")).wait(), Err(Error::Conflict(_))));
    assert!(hsm.generate(aes("new")).wait().is_ok());
}

#[test]
fn a_token_without_a_login_does_not_say_that_the_target_is_gone() {
    let token = FaultyToken::over(Token::softhsm());
    let hsm = open_behind(&token, options(token.token())).unwrap();
    let key = wrapping(&hsm, KeySpec::Rsa { bits: 2048 });
    let target = extractable(&hsm);
    hsm.stop(std::time::Duration::from_secs(5));
    let without_pin = Options {
        pin: None,
        ..options(token.token())
    };
    let hsm = Hsm::open(Module::load(token.module(), None).unwrap(), without_pin).unwrap();
    let refused = hsm.wrap(wrap(&key, &target)).wait();
    assert!(
        matches!(&refused, Err(Error::Unavailable(why)) if why.contains("HSM_PIN")),
        "{refused:?}"
    );
}

#[test]
fn a_target_whose_handle_is_dead_is_looked_for_again() {
    let Faulty { hsm, token } = Faulty::new();
    let key = wrapping(&hsm, KeySpec::Aes { bits: 256 });
    let target = extractable(&hsm);
    token.fault("C_WrapKey rv=0x60 count=1");
    assert!(hsm.wrap(wrap(&key, &target)).wait().is_ok());
    token
        .token()
        .delete_foreign_key(target.id.to_string().trim_start_matches("hsm:"));
    token.clear();
    assert_eq!(
        hsm.wrap(wrap(&key, &target)).wait().err(),
        Some(Error::KeyNotFound(target.id))
    );
}

#[test]
fn another_tokens_key_is_not_discarded_here() {
    let Faulty { hsm, token: _token } = Faulty::new();
    let key = hsm.generate(aes("key")).wait().unwrap();
    let elsewhere = HsmKeyId::on(TokenName::parse("other").as_ref(), key.id.as_bytes()).unwrap();
    hsm.discard(&elsewhere);
    // What is discarded here goes first, and the other one would have gone with it.
    let gone = hsm.generate(aes("gone")).wait().unwrap();
    hsm.discard(&gone.id);
    crate::until("the key is destroyed", || hsm.key(&gone.id).wait().is_err());
    assert!(hsm.key(&key.id).wait().is_ok());
}

#[test]
fn a_buffer_that_is_always_too_small_is_not_enlarged_for_ever() {
    let Faulty { hsm, token } = Faulty::new();
    let key = hsm.generate(aes("key")).wait().unwrap();
    // CKR_BUFFER_TOO_SMALL
    token.fault("C_Encrypt rv=0x150");
    let refused = hsm.encrypt(Encrypt::new(key.id.clone(), b"data")).wait();
    assert!(matches!(refused, Err(Error::Device(_))), "{refused:?}");
    assert!(token.calls("C_Encrypt") <= 2);
    token.clear();
    assert!(hsm.encrypt(Encrypt::new(key.id, b"data")).wait().is_ok());
}

/// One hash that the token answers oddly to costs neither the others nor a key pair each time.
#[test]
fn the_hashes_of_oaep_are_judged_one_by_one_and_once() {
    let Faulty { hsm, token } = Faulty::new();
    let key = hsm
        .generate(new_key(KeySpec::Rsa { bits: 2048 }, "rsa"))
        .wait()
        .unwrap();
    token.forget_calls();
    // SoftHSM refuses all but SHA-1 anyway; CKR_GENERAL_ERROR is no word for that.
    token.fault("C_DecryptInit rv=0x05 skip=1");
    let request = || Encrypt {
        algorithm: Algorithm::RsaOaepSha1.into(),
        ..Encrypt::new(key.id.clone(), b"data")
    };
    let encrypted = hsm.encrypt(request()).wait().unwrap();
    for _ in 0..3 {
        hsm.encrypt(request()).wait().unwrap();
    }
    assert_eq!(token.calls("C_GenerateKeyPair"), 1);
    token.clear();
    assert_eq!(
        *hsm.decrypt(Decrypt::new(key.id.clone(), encrypted)).wait().unwrap(),
        b"data"
    );
}

#[test]
fn a_token_that_nothing_can_be_changed_on_tells_so_and_what_it_can() {
    let token = FaultyToken::over(Token::softhsm());
    // CKF_WRITE_PROTECTED
    token.fault("C_GetTokenInfo flags=0x2");
    let hsm = open_behind(&token, options(token.token())).unwrap();
    let told = hsm.capabilities().wait().unwrap();
    for made in &told.key_types {
        assert_eq!(made.support, Support::No, "{made:?}");
        assert!(
            made.why.as_ref().is_some_and(|why| why.contains("CKF_WRITE_PROTECTED")),
            "{made:?}"
        );
    }
    let cells = told.algorithms.iter();
    let signs = cells.filter(|cell| cell.support == Support::Native && cell.algorithm == Algorithm::RsaPssSha256);
    assert_eq!(signs.count(), 2);
}
