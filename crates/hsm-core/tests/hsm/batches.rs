//! Many operations as one call.

use std::time::Duration;

use hsm_core::{BatchDone, BatchItem, Decrypt, Encrypt, Error, KeyInfo, Result, Sign, SignatureFormat, Signed, Verify};

use crate::{
    Faulty, Fixture, aes, assert_signs, assert_unavailable, id, is_right, on_both, p256, sign, sign_request, until,
};

on_both!(
    items_are_done_in_their_order,
    a_thousand_items_with_bad_ones_in_the_middle,
    ids_that_are_not_known_yet_are_looked_for_together,
    an_empty_batch_has_no_answers,
);

fn sign_item(key: &KeyInfo, data: &[u8]) -> BatchItem {
    BatchItem::Sign(sign_request(key, data))
}

fn signed(answer: Result<BatchDone>) -> Signed {
    match answer {
        Ok(BatchDone::Signed(signed)) => signed,
        other => panic!("{other:?}"),
    }
}

fn items_are_done_in_their_order(fixture: &Fixture) {
    let hsm = &fixture.hsm;
    let signer = hsm.generate(p256("signer")).wait().unwrap();
    let cipher = hsm.generate(aes("cipher")).wait().unwrap();
    let encrypted = hsm.encrypt(Encrypt::new(cipher.id.clone(), b"before")).wait().unwrap();
    let signature = hsm.sign(sign_request(&signer, b"before")).wait().unwrap().signature;
    let verify = |data: &[u8]| {
        BatchItem::Verify(Verify {
            signed: sign_request(&signer, data),
            signature: signature.clone(),
        })
    };
    let items = vec![
        sign_item(&signer, b"data"),
        BatchItem::Encrypt(Encrypt::new(cipher.id.clone(), b"plaintext")),
        BatchItem::Decrypt(Decrypt::new(cipher.id.clone(), encrypted.clone())),
        verify(b"before"),
        verify(b"after"),
    ];
    let mut answers = hsm.batch(items).wait().unwrap().into_iter().map(Result::unwrap);
    let Some(BatchDone::Signed(signed)) = answers.next() else {
        panic!("no signature");
    };
    assert!(is_right(&signer, b"data", &signed));
    let Some(BatchDone::Encrypted(encrypted)) = answers.next() else {
        panic!("no ciphertext");
    };
    let back = hsm.decrypt(Decrypt::new(cipher.id.clone(), encrypted)).wait().unwrap();
    assert_eq!(back.as_slice(), b"plaintext");
    assert!(matches!(answers.next(), Some(BatchDone::Decrypted(data)) if data.as_slice() == b"before"));
    assert!(matches!(answers.next(), Some(BatchDone::Verified(true))));
    assert!(matches!(answers.next(), Some(BatchDone::Verified(false))));
    assert!(answers.next().is_none());
}

fn a_thousand_items_with_bad_ones_in_the_middle(fixture: &Fixture) {
    let hsm = &fixture.hsm;
    let signer = hsm.generate(p256("signer")).wait().unwrap();
    let cipher = hsm.generate(aes("cipher")).wait().unwrap();
    let data = |n: usize| n.to_string().into_bytes();
    let item = |n: usize| match n {
        500 => BatchItem::Sign(Sign::new(id("hsm:00"), data(n))),
        501 => BatchItem::Sign(Sign::new(id("hsm:elsewhere:00"), data(n))),
        502 => BatchItem::Sign(Sign::new(cipher.id.clone(), data(n))),
        503 => {
            let mut encrypted = hsm.encrypt(Encrypt::new(cipher.id.clone(), data(n))).wait().unwrap();
            encrypted.ciphertext[0] ^= 1;
            BatchItem::Decrypt(Decrypt::new(cipher.id.clone(), encrypted))
        }
        504 => BatchItem::Sign(Sign {
            message_type: hsm_core::MessageType::Digest,
            format: Some(SignatureFormat::Der),
            ..Sign::new(signer.id.clone(), data(n))
        }),
        _ => sign_item(&signer, &data(n)),
    };
    let answers = hsm.batch((0..1000).map(item).collect()).wait().unwrap();
    assert_eq!(answers.len(), 1000);
    for (n, answer) in answers.into_iter().enumerate() {
        match n {
            500 | 501 => assert!(matches!(answer, Err(Error::KeyNotFound(_))), "{answer:?}"),
            502 => assert!(
                matches!(answer, Err(Error::UsageNotPermitted(_) | Error::KeyTypeMismatch(_))),
                "{answer:?}"
            ),
            503 => assert!(matches!(answer, Err(Error::DecryptionFailed)), "{answer:?}"),
            504 => assert!(matches!(answer, Err(Error::InvalidRequest { .. })), "{answer:?}"),
            _ => assert!(is_right(&signer, &data(n), &signed(answer))),
        }
    }
}

fn ids_that_are_not_known_yet_are_looked_for_together(fixture: &Fixture) {
    let (hsm, token) = (&fixture.hsm, &fixture.token);
    let own = hsm.generate(p256("own")).wait().unwrap();
    token.make_foreign_key("0a0b", "made elsewhere", "EC:prime256v1");
    token.make_foreign_key("0a0c", "made elsewhere too", "EC:prime256v1");
    let sign = |text: &str| {
        BatchItem::Sign(Sign {
            format: Some(SignatureFormat::P1363),
            ..Sign::new(id(text), b"data")
        })
    };
    let items = vec![
        sign("hsm:0a0b"),
        sign_item(&own, b"data"),
        sign("hsm:0a0c"),
        sign("hsm:0a0d"),
    ];
    let mut answers = hsm.batch(items).wait().unwrap().into_iter();
    for key in ["hsm:0a0b", &own.id.to_string(), "hsm:0a0c"] {
        let key = hsm.key(&id(key)).wait().unwrap();
        assert!(is_right(&key, b"data", &signed(answers.next().unwrap())));
    }
    let absent = answers.next().unwrap();
    assert!(matches!(absent, Err(Error::KeyNotFound(_))), "{absent:?}");
}

fn an_empty_batch_has_no_answers(fixture: &Fixture) {
    assert!(fixture.hsm.batch(Vec::new()).wait().unwrap().is_empty());
}

#[test]
fn an_item_that_hangs_ends_the_batch_and_what_was_done_stays() {
    let Faulty { hsm, token } = Faulty::with(|options| {
        options.max_sessions = Some(1);
        options.timeout = Duration::from_millis(700);
        options.keygen_timeout = Duration::from_secs(30);
    });
    let key = hsm.generate(p256("signer")).wait().unwrap();
    // A signature is two calls of C_Sign, or one: the third item or the sixth hangs.
    token.fault("C_SignInit skip=5 hang count=1");
    let items = (0..10_u8).map(|n| sign_item(&key, &[n])).collect();
    let answers = hsm.batch(items).wait().unwrap();
    assert_eq!(answers.len(), 10);
    for (n, answer) in answers.into_iter().enumerate() {
        match n {
            0..5 => assert!(is_right(&key, &[u8::try_from(n).unwrap()], &signed(answer))),
            _ => assert!(matches!(answer, Err(Error::Timeout)), "{n}: {answer:?}"),
        }
    }
    until("the replacement", || hsm.status().load.workers == 2);
    assert_eq!(hsm.status().load.hung, 1);
    assert_signs(&hsm, &key);
    token.clear();
    until("the end of what hung", || hsm.status().load.workers == 1);
    assert_eq!(
        token.calls("C_SignInit"),
        7,
        "what comes after the deadline is not begun"
    );
}

/// All together take longer than one may.
#[test]
fn each_item_has_the_whole_deadline() {
    let Faulty { hsm, token } = Faulty::with(|options| {
        options.timeout = Duration::from_millis(1000);
        options.keygen_timeout = Duration::from_secs(30);
    });
    let key = hsm.generate(p256("signer")).wait().unwrap();
    token.fault("C_SignInit delay_ms=150");
    let items = (0..15_u8).map(|n| sign_item(&key, &[n])).collect();
    for (n, answer) in (0_u8..).zip(hsm.batch(items).wait().unwrap()) {
        assert!(is_right(&key, &[n], &signed(answer)));
    }
    assert_eq!(hsm.status().load.hung, 0);
}

#[test]
fn a_batch_takes_one_place_in_the_queue() {
    let Faulty { hsm, token } = Faulty::with(|options| {
        options.max_sessions = Some(1);
        options.queue = 1;
    });
    let key = hsm.generate(p256("signer")).wait().unwrap();
    let items = || (0..10_u8).map(|n| sign_item(&key, &[n])).collect();
    token.fault("C_Sign hang");
    let first = hsm.sign(sign_request(&key, b"first"));
    until("the call", || token.calls("C_Sign") > 0);
    let waiting = hsm.batch(items());
    assert_eq!(hsm.status().load.queued, 1);
    // What fails without the token fails as it would alone, and only the others have no room.
    let bad = BatchItem::Encrypt(Encrypt::new(key.id.clone(), b"data"));
    let refused = hsm.batch([vec![bad], items()].concat()).wait().unwrap();
    assert!(matches!(refused[0], Err(Error::KeyTypeMismatch(_))), "{:?}", refused[0]);
    assert!(refused[1..].iter().all(|answer| matches!(answer, Err(Error::Busy))));
    token.clear();
    assert!(is_right(&key, b"first", &first.wait().unwrap()));
    for (n, answer) in (0_u8..).zip(waiting.wait().unwrap()) {
        assert!(is_right(&key, &[n], &signed(answer)));
    }
}

/// The only session is not a batch's alone.
#[test]
fn others_come_between_the_items_of_a_long_batch() {
    let Faulty { hsm, token } = Faulty::with(|options| options.max_sessions = Some(1));
    let key = hsm.generate(p256("signer")).wait().unwrap();
    token.fault("C_SignInit delay_ms=20");
    token.forget_calls();
    let long = hsm.batch((0..100_u8).map(|n| sign_item(&key, &[n])).collect());
    until("the batch", || token.calls("C_SignInit") > 0);
    assert!(is_right(&key, b"between", &sign(&hsm, &key, b"between").unwrap()));
    assert!(
        token.calls("C_SignInit") < 50,
        "it waited for {} items",
        token.calls("C_SignInit")
    );
    for (n, answer) in (0_u8..).zip(long.wait().unwrap()) {
        assert!(is_right(&key, &[n], &signed(answer)));
    }
}

#[test]
fn a_batch_ends_where_it_is_when_the_service_ends() {
    let Faulty { hsm, token } = Faulty::new();
    let key = hsm.generate(p256("signer")).wait().unwrap();
    token.fault("C_SignInit delay_ms=20");
    token.forget_calls();
    let long = hsm.batch((0..100_u8).map(|n| sign_item(&key, &[n])).collect());
    until("the batch", || token.calls("C_SignInit") > 2);
    hsm.wind_down();
    let answers = long.wait().unwrap();
    let done = answers.iter().take_while(|answer| answer.is_ok()).count();
    assert!((2..100).contains(&done), "{done}");
    assert!(answers[done..].iter().all(|answer| matches!(answer, Err(Error::Busy))));
    assert_eq!(token.calls("C_SignInit"), done as u64);
    assert_eq!(hsm.stop(Duration::from_secs(5)), hsm_core::Stopped::Clean);
}

#[test]
fn a_batch_meets_a_token_that_goes_away() {
    let Faulty { hsm, token } = Faulty::new();
    let key = hsm.generate(p256("signer")).wait().unwrap();
    let items = || (0..10_u8).map(|n| sign_item(&key, &[n])).collect();
    token.fault("C_SignInit skip=3 rv=0xe0\nC_GetSlotList rv=0x5");
    for (n, answer) in (0_u8..).zip(hsm.batch(items()).wait().unwrap()) {
        match n {
            0..3 => assert!(is_right(&key, &[n], &signed(answer))),
            _ => assert_unavailable(answer, "CKR_"),
        }
    }
    for answer in hsm.batch(items()).wait().unwrap() {
        assert_unavailable(answer, "CKR_");
    }
    token.clear();
    until("the token", || hsm.status().unavailable.is_none());
    // What is lost once in the middle is not seen.
    token.fault("C_SignInit skip=3 rv=0xb3 count=1");
    for (n, answer) in (0_u8..).zip(hsm.batch(items()).wait().unwrap()) {
        assert!(is_right(&key, &[n], &signed(answer)));
    }
}
