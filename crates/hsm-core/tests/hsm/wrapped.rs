//! Keys that lie wrapped outside the token, and a gateway's own keys.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use hsm_core::key::ParameterSet;
use hsm_core::pkcs11::Module;
use hsm_core::{
    BatchDone, BatchItem, Choice, Curve, Decrypt, Encrypt, Error, Hsm, HsmKeyId, KeyAttributes, KeyQuery, KeyRef,
    KeySpec, Label, NewKey, NewWrapped, Operation, Options, SharedKey, Sign, Stopped, Usage, Usages, Verify,
    WrappedKey,
};
use softhsm_test::Token;

use crate::{Faulty, Fixture, PATIENCE, aes, on_both, options};

on_both!(
    keys_of_every_kind_are_used_inside,
    a_key_is_wrapped_anew,
    what_does_not_unwrap_is_told,
    only_so_many_are_loaded,
    a_key_that_is_wrapped_refuses_what_it_may_not,
    a_batch_mixes_keys,
    a_key_that_is_unloaded_has_left_the_token,
);

const HIDDEN: &str = "own:";

fn kek(hsm: &Hsm, label: &str) -> HsmKeyId {
    let new = NewKey {
        usages: Usages::NONE.with(Usage::Wrap).with(Usage::Unwrap),
        ..NewKey::new(KeySpec::Aes { bits: 256 }, Label::parse(label).unwrap())
    };
    hsm.own().generate(new).wait().unwrap().id
}

fn wrapped(hsm: &Hsm, kek: &HsmKeyId, spec: KeySpec) -> Arc<WrappedKey> {
    let new = NewWrapped {
        spec,
        usages: Usages::default_for(spec.key_type()),
        kek: kek.clone(),
    };
    Arc::new(hsm.own().make_wrapped(new).wait().unwrap())
}

fn round_trip(hsm: &Hsm, key: &Arc<WrappedKey>) {
    let encrypted = hsm.encrypt(Encrypt::new(key.clone(), *b"apples")).wait().unwrap();
    let data = hsm.decrypt(Decrypt::new(key.clone(), encrypted)).wait().unwrap();
    assert_eq!(data.as_slice(), b"apples");
}

fn signs(hsm: &Hsm, key: &Arc<WrappedKey>) {
    let signature = hsm.sign(Sign::new(key.clone(), *b"data")).wait().unwrap().signature;
    let verify = |data: &[u8]| {
        let signed = Sign::new(key.clone(), data);
        let signature = signature.clone();
        hsm.verify(Verify { signed, signature }).wait().unwrap()
    };
    assert!(verify(b"data"));
    assert!(!verify(b"dat4"));
}

fn keys_of_every_kind_are_used_inside(fixture: &Fixture) {
    let hsm = &fixture.hsm;
    let kek = kek(hsm, "kek");
    let objects = fixture.token.objects().len();
    round_trip(hsm, &wrapped(hsm, &kek, KeySpec::Aes { bits: 256 }));
    round_trip(hsm, &wrapped(hsm, &kek, KeySpec::Rsa { bits: 2048 }));
    signs(hsm, &wrapped(hsm, &kek, KeySpec::Rsa { bits: 2048 }));
    signs(hsm, &wrapped(hsm, &kek, KeySpec::Curve(Curve::P256)));
    signs(hsm, &wrapped(hsm, &kek, KeySpec::Curve(Curve::P521)));
    signs(hsm, &wrapped(hsm, &kek, KeySpec::Hmac { bits: 512 }));
    for spec in [
        KeySpec::Curve(Curve::Ed25519),
        KeySpec::Curve(Curve::Ed448),
        KeySpec::PostQuantum(ParameterSet::MlDsa65),
    ] {
        let new = NewWrapped {
            spec,
            usages: Usages::default_for(spec.key_type()),
            kek: kek.clone(),
        };
        match hsm.own().make_wrapped(new).wait() {
            Ok(key) => signs(hsm, &Arc::new(key)),
            // SoftHSM does not wrap Edwards keys.
            Err(Error::NotSupported(why)) => assert!(!why.to_string().is_empty()),
            Err(error) => panic!("{spec:?}: {error}"),
        }
    }
    let loaded = hsm.loaded();
    assert!(loaded.keys >= 6 && loaded.hits > 0 && loaded.misses > 0, "{loaded:?}");
    assert_eq!(hsm.stop(Duration::from_secs(10)), Stopped::Clean);
    assert_eq!(fixture.token.objects().len(), objects);
}

fn a_key_is_wrapped_anew(fixture: &Fixture) {
    let hsm = &fixture.hsm;
    let (old, new) = (kek(hsm, "old"), kek(hsm, "new"));
    for spec in [
        KeySpec::Aes { bits: 128 },
        KeySpec::Rsa { bits: 2048 },
        KeySpec::Hmac { bits: 256 },
    ] {
        let key = wrapped(hsm, &old, spec);
        let sign = spec.key_type() != hsm_core::KeyType::Aes;
        let before = (!sign).then(|| hsm.encrypt(Encrypt::new(key.clone(), *b"data")).wait().unwrap());
        let again = Arc::new(hsm.own().rewrap(&key, &new).wait().unwrap());
        assert_eq!((&again.id, &again.kek), (&key.id, &new));
        assert_ne!(again.wrapped, key.wrapped);
        // What is loaded is the same key; a process that begins anew has only what is kept.
        hsm.delete(&old)
            .wait()
            .unwrap_or_else(|_| hsm.key(&new).wait().unwrap());
        match before {
            Some(encrypted) => {
                let data = hsm.decrypt(Decrypt::new(again.clone(), encrypted)).wait().unwrap();
                assert_eq!(data.as_slice(), b"data");
            }
            None => signs(hsm, &again),
        }
        // The old one is gone: the next of the list is made under a fresh one.
        if spec != (KeySpec::Hmac { bits: 256 }) {
            return;
        }
    }
}

fn what_does_not_unwrap_is_told(fixture: &Fixture) {
    let hsm = &fixture.hsm;
    let kek = kek(hsm, "kek");
    let key = wrapped(hsm, &kek, KeySpec::Aes { bits: 256 });
    let mut changed = WrappedKey::clone(&key);
    *changed.wrapped.last_mut().unwrap() ^= 1;
    let error = hsm
        .encrypt(Encrypt::new(Arc::new(changed), *b"data"))
        .wait()
        .unwrap_err();
    assert!(
        matches!(&error, Error::Device(why) if why.to_string().contains(&kek.to_string())),
        "{error}"
    );

    let mut lost = WrappedKey::clone(&key);
    lost.kek = HsmKeyId::parse("hsm:00ff").unwrap();
    let error = hsm.encrypt(Encrypt::new(Arc::new(lost), *b"data")).wait().unwrap_err();
    assert!(
        matches!(&error, Error::Unavailable(why) if why.to_string().contains("hsm:00ff")),
        "{error}"
    );
    round_trip(hsm, &key);
}

fn only_so_many_are_loaded(fixture: &Fixture) {
    let kek = kek(&fixture.hsm, "kek");
    fixture.hsm.stop(Duration::from_secs(5));
    let hsm = open(&fixture.token, |options| options.loaded_keys = 8);
    let keys: Vec<_> = (0..40)
        .map(|_| wrapped(&hsm, &kek, KeySpec::Aes { bits: 256 }))
        .collect();
    thread::scope(|scope| {
        for shift in 0..4 {
            let (hsm, keys) = (&hsm, &keys);
            scope.spawn(move || {
                for round in 0..80 {
                    round_trip(hsm, &keys[(round * 7 + shift * 3) % keys.len()]);
                }
            });
        }
    });
    let loaded = hsm.loaded();
    assert!((1..=8).contains(&loaded.keys) && loaded.most == 8, "{loaded:?}");
    assert!(loaded.misses > 40, "{loaded:?}");
}

fn a_key_that_is_wrapped_refuses_what_it_may_not(fixture: &Fixture) {
    let hsm = &fixture.hsm;
    let kek = kek(hsm, "kek");
    let new = NewWrapped {
        spec: KeySpec::Aes { bits: 256 },
        usages: Usages::NONE.with(Usage::Encrypt),
        kek,
    };
    let key = Arc::new(hsm.own().make_wrapped(new).wait().unwrap());
    let encrypted = hsm.encrypt(Encrypt::new(key.clone(), *b"data")).wait().unwrap();
    let error = hsm.decrypt(Decrypt::new(key.clone(), encrypted)).wait().unwrap_err();
    assert!(matches!(error, Error::UsageNotPermitted(_)), "{error}");
    let mut sign = Sign::new(key.clone(), *b"data");
    sign.algorithm = Choice::parse("ES256", Operation::Sign);
    assert!(matches!(hsm.sign(sign).wait(), Err(Error::KeyTypeMismatch(_))));
    assert_eq!(
        hsm.default_algorithm(&KeyRef::from(key), Operation::Encrypt),
        Some(hsm_core::Algorithm::AesGcm)
    );
}

fn a_batch_mixes_keys(fixture: &Fixture) {
    let hsm = &fixture.hsm;
    let kek = kek(hsm, "kek");
    let key = wrapped(hsm, &kek, KeySpec::Aes { bits: 256 });
    let other = hsm.generate(aes("on the token")).wait().unwrap().id;
    let items = vec![
        BatchItem::Encrypt(Encrypt::new(key.clone(), *b"one")),
        BatchItem::Encrypt(Encrypt::new(other, *b"two")),
        BatchItem::Encrypt(Encrypt::new(HsmKeyId::parse("hsm:00").unwrap(), *b"three")),
        BatchItem::Encrypt(Encrypt::new(key.clone(), *b"four")),
    ];
    let done = hsm.batch(items).wait().unwrap();
    assert!(matches!(done[0], Ok(BatchDone::Encrypted(_))), "{:?}", done[0]);
    assert!(matches!(done[1], Ok(BatchDone::Encrypted(_))), "{:?}", done[1]);
    assert!(matches!(done[2], Err(Error::KeyNotFound(_))), "{:?}", done[2]);
    assert!(matches!(done[3], Ok(BatchDone::Encrypted(_))), "{:?}", done[3]);
}

fn a_key_that_is_unloaded_has_left_the_token(fixture: &Fixture) {
    let hsm = &fixture.hsm;
    let kek = kek(hsm, "kek");
    let keys: Vec<_> = (0..3).map(|_| wrapped(hsm, &kek, KeySpec::Aes { bits: 256 })).collect();
    keys.iter().for_each(|key| round_trip(hsm, key));
    let loaded = || {
        let objects = fixture.token.objects();
        objects.iter().filter(|object| object.label == "loaded").count()
    };
    assert_eq!((hsm.loaded().keys, loaded()), (3, 3));
    hsm.unload(&keys[1].id).wait().unwrap();
    assert_eq!(hsm.loaded().keys, 2);
    // The worker that used it last may still have it for an instant.
    let began = Instant::now();
    while loaded() > 2 && began.elapsed() < PATIENCE {
        thread::yield_now();
    }
    assert_eq!(loaded(), 2);
    hsm.unload(&keys[1].id).wait().unwrap();
    round_trip(hsm, &keys[1]);
    assert_eq!(hsm.loaded().keys, 3);
}

fn open(token: &Token, change: impl FnOnce(&mut Options)) -> Hsm {
    let mut options = options(token);
    change(&mut options);
    let module = Module::load(token.module(), token.init_args()).unwrap();
    Hsm::open(module, options).unwrap()
}

#[test]
fn own_keys_are_out_of_sight() {
    let token = Token::softhsm();
    token.apply_env();
    let hsm = open(&token, |options| options.hidden = Some(HIDDEN.into()));
    let own = kek(&hsm, "own:kek:1");
    let key = wrapped(&hsm, &own, KeySpec::Aes { bits: 256 });
    round_trip(&hsm, &key);
    assert!(hsm.own().has(&own).wait().unwrap());
    let listed = hsm
        .keys(KeyQuery {
            limit: 10,
            ..KeyQuery::default()
        })
        .wait()
        .unwrap();
    assert!(listed.keys.is_empty());
    let not_found = |error: Error| assert!(matches!(error, Error::KeyNotFound(_)), "{error}");
    not_found(hsm.key(&own).wait().unwrap_err());
    not_found(hsm.delete(&own).wait().unwrap_err());
    not_found(hsm.relabel(&own, Label::parse("mine").unwrap()).wait().unwrap_err());
    not_found(hsm.encrypt(Encrypt::new(own.clone(), *b"data")).wait().unwrap_err());
    let batch = hsm
        .batch(vec![BatchItem::Encrypt(Encrypt::new(own.clone(), *b"data"))])
        .wait()
        .unwrap();
    assert!(matches!(batch[0], Err(Error::KeyNotFound(_))));
    let taken = |error: Error| assert!(matches!(error, Error::Conflict(_)), "{error}");
    taken(hsm.generate(aes("own:mine")).wait().unwrap_err());
    let mine = hsm.generate(aes("mine")).wait().unwrap().id;
    taken(
        hsm.relabel(&mine, Label::parse("own:mine").unwrap())
            .wait()
            .unwrap_err(),
    );
    assert!(hsm.own().has(&own).wait().unwrap());
}

#[test]
fn a_seal_is_made_and_checked() {
    let fixture = Fixture::on(Token::softhsm());
    let own = fixture.hsm.own();
    let new = NewKey::new(KeySpec::Hmac { bits: 256 }, Label::parse("seal").unwrap());
    let key = own.generate(new).wait().unwrap().id;
    let mac = own.seal(&key, b"record".to_vec()).wait().unwrap();
    assert_eq!(mac.len(), 32);
    assert!(own.check_seal(&key, b"record".to_vec(), mac.clone()).wait().unwrap());
    assert!(!own.check_seal(&key, b"rec0rd".to_vec(), mac.clone()).wait().unwrap());
    assert!(
        !own.check_seal(&key, b"record".to_vec(), mac[..31].to_vec())
            .wait()
            .unwrap()
    );
}

#[test]
fn a_key_is_made_under_an_id_that_was_chosen_before() {
    let fixture = Fixture::on(Token::softhsm());
    let hsm = &fixture.hsm;
    let id = hsm.fresh_id().wait().unwrap();
    let new = |label| NewKey {
        id: Some(id.clone()),
        ..aes(label)
    };
    assert_eq!(hsm.generate(new("one")).wait().unwrap().id, id);
    let error = hsm.generate(new("two")).wait().unwrap_err();
    assert!(matches!(error, Error::Conflict(_)), "{error}");
    assert_eq!(hsm.destroy_all(&id).wait().unwrap(), 1);
    assert_eq!(hsm.destroy_all(&id).wait().unwrap(), 0);
}

#[test]
fn a_key_encryption_key_is_made_on_two_tokens() {
    let tokens = Token::several(&["one", "other"]);
    tokens[0].apply_env();
    let module: hsm_core::SharedBackend = Module::load(tokens[0].module(), None).unwrap().into();
    let name = hsm_core::TokenName::parse("other").unwrap();
    let one = Hsm::open(module.clone(), options(&tokens[0])).unwrap();
    let mut there = options(&tokens[1]);
    there.name = Some(name.clone());
    let other = Hsm::open(module, there).unwrap();

    let spec = KeySpec::Aes { bits: 256 };
    let usages = Usages::NONE.with(Usage::Wrap).with(Usage::Unwrap);
    let offers = [one.own().offer().wait().unwrap(), other.own().offer().wait().unwrap()];
    let shared = one
        .own()
        .make_shared(vec![SharedKey { spec, usages }], &[&offers[0], &offers[1]]);
    let parcels = shared.wait().unwrap();
    let id = one.fresh_id().wait().unwrap();
    let there = HsmKeyId::on(Some(&name), id.as_bytes()).unwrap();
    let attributes = |id: &HsmKeyId| KeyAttributes {
        id: Some(id.clone()),
        label: Label::parse("kek").unwrap(),
        extractable: true,
        usages,
    };
    let here = one
        .own()
        .accept(&offers[0], parcels[0][0].clone(), attributes(&id), spec);
    let here = here.wait().unwrap();
    assert!(here.sensitive && !here.extractable);
    let other_key = other
        .own()
        .accept(&offers[1], parcels[1][0].clone(), attributes(&there), spec);
    assert!(!other_key.wait().unwrap().extractable);

    let key = wrapped(&one, &id, KeySpec::Aes { bits: 256 });
    let encrypted = one.encrypt(Encrypt::new(key.clone(), *b"data")).wait().unwrap();
    let mut copy = WrappedKey::clone(&key);
    copy.kek = there;
    copy.id = HsmKeyId::on(Some(&name), key.id.as_bytes()).unwrap();
    let data = other.decrypt(Decrypt::new(Arc::new(copy), encrypted)).wait().unwrap();
    assert_eq!(data.as_slice(), b"data");
    drop(offers);
    one.stop(Duration::from_secs(10));
    other.stop(Duration::from_secs(10));
    assert_eq!(tokens[0].objects().len(), 1, "the pairs of the offers are gone");
}

#[test]
fn loaded_keys_survive_lost_sessions() {
    let faulty = Faulty::new();
    let hsm = &faulty.hsm;
    let kek = kek(hsm, "kek");
    let keys: Vec<_> = (0..8).map(|_| wrapped(hsm, &kek, KeySpec::Aes { bits: 256 })).collect();
    keys.iter().for_each(|key| round_trip(hsm, key));
    let encrypted = hsm.encrypt(Encrypt::new(keys[0].clone(), *b"before")).wait().unwrap();
    faulty.token.fault("forget-sessions");
    let data = hsm.decrypt(Decrypt::new(keys[0].clone(), encrypted)).wait().unwrap();
    assert_eq!(data.as_slice(), b"before");
    keys.iter().for_each(|key| round_trip(hsm, key));
}
