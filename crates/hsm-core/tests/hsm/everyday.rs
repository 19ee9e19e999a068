//! What a user does every day, waiting on a thread and awaiting under no runtime at all.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use hsm_core::{
    Algorithm, Curve, Decrypt, Encrypt, Error, KeySize, KeySpec, KeyType, Login, Sign, SignatureFormat, Usage, Verify,
};

use crate::{Fixture, aes, id, is_right, new_key, on_both, p256, sign_request};

on_both!(
    keys_are_made_used_and_destroyed,
    calls_are_awaited_without_a_runtime,
    what_is_changed_is_refused,
    the_token_is_described,
    keys_of_other_programs_come_and_go,
);

fn keys_are_made_used_and_destroyed(fixture: &Fixture) {
    let hsm = &fixture.hsm;
    let key = hsm.generate(p256("signer")).wait().unwrap();
    assert_eq!((key.key_type, key.size), (KeyType::Ec, KeySize::Curve(Curve::P256)));
    assert!(key.sensitive && !key.extractable);
    assert!(key.usages.contains(Usage::Sign) && key.usages.contains(Usage::Verify));

    let signed = hsm.sign(sign_request(&key, b"data")).wait().unwrap();
    assert_eq!(signed.algorithm, Algorithm::EcdsaSha256);
    assert_eq!(signed.format, Some(SignatureFormat::P1363));
    assert!(is_right(&key, b"data", &signed));
    let verify = |data: &[u8]| {
        let signed_again = sign_request(&key, data);
        let signature = signed.signature.clone();
        hsm.verify(Verify {
            signed: signed_again,
            signature,
        })
    };
    assert!(verify(b"data").wait().unwrap());
    assert!(!verify(b"date").wait().unwrap());

    let secret = hsm.generate(aes("cipher")).wait().unwrap();
    let request = Encrypt {
        aad: Some(b"header".to_vec()),
        ..Encrypt::new(secret.id.clone(), b"plaintext")
    };
    let encrypted = hsm.encrypt(request).wait().unwrap();
    assert_eq!(encrypted.algorithm, Algorithm::AesGcm);
    let lengths = (
        encrypted.iv.as_ref().unwrap().len(),
        encrypted.tag.as_ref().unwrap().len(),
    );
    assert_eq!((encrypted.ciphertext.len(), lengths), (9, (12, 16)));
    let mut request = Decrypt::new(secret.id.clone(), encrypted);
    assert_eq!(hsm.decrypt(request.clone()).wait(), Err(Error::DecryptionFailed));
    request.aad = Some(b"header".to_vec());
    assert_eq!(hsm.decrypt(request).wait().unwrap().as_slice(), b"plaintext");

    for key in [key, secret] {
        assert_eq!(hsm.key(&key.id).wait().unwrap().label, key.label);
        assert_eq!(hsm.delete(&key.id).wait().unwrap().label, key.label);
        assert_eq!(hsm.key(&key.id).wait().unwrap_err(), Error::KeyNotFound(key.id.clone()));
        assert_eq!(hsm.delete(&key.id).wait().unwrap_err(), Error::KeyNotFound(key.id));
    }
    assert!(fixture.token.objects().is_empty());
}

fn calls_are_awaited_without_a_runtime(fixture: &Fixture) {
    let hsm = &fixture.hsm;
    let answered = block_on(async {
        let key = hsm.generate(new_key(KeySpec::Hmac { bits: 256 }, "mac")).await?;
        let asked = Sign::new(key.id.clone(), b"data");
        let signed = hsm.sign(asked.clone()).await?;
        assert_eq!((signed.algorithm, signed.format), (Algorithm::HmacSha256, None));
        let verify = Verify {
            signed: asked,
            signature: signed.signature,
        };
        assert!(hsm.verify(verify).await?);

        // Many at once, awaited in another order than they were asked in.
        let calls: Vec<_> = (0..50_u8)
            .map(|n| (n, hsm.sign(Sign::new(key.id.clone(), [n]))))
            .collect();
        let mut macs = Vec::new();
        for (n, call) in calls.into_iter().rev() {
            macs.push((n, call.await?.signature));
        }
        for (n, mac) in macs {
            assert_eq!(hsm.sign(Sign::new(key.id.clone(), [n])).await?.signature, mac);
        }
        hsm.delete(&key.id).await
    });
    assert_eq!(answered.unwrap().label, "mac");
}

fn what_is_changed_is_refused(fixture: &Fixture) {
    let hsm = &fixture.hsm;
    let key = hsm.generate(aes("cipher")).wait().unwrap();
    let other = hsm.generate(aes("other")).wait().unwrap();
    let good = hsm.encrypt(Encrypt::new(key.id.clone(), b"plaintext")).wait().unwrap();
    let decrypt = |change: fn(&mut Decrypt)| {
        let mut request = Decrypt::new(key.id.clone(), good.clone());
        change(&mut request);
        hsm.decrypt(request).wait()
    };
    let changes: [fn(&mut Decrypt); 6] = [
        |r| r.ciphertext[0] ^= 1,
        |r| r.tag.as_mut().unwrap()[0] ^= 1,
        |r| r.iv.as_mut().unwrap()[0] ^= 1,
        |r| r.tag.as_mut().unwrap().truncate(15),
        |r| r.iv.as_mut().unwrap().truncate(11),
        |r| r.ciphertext.truncate(8),
    ];
    for change in changes {
        assert_eq!(decrypt(change), Err(Error::DecryptionFailed));
        assert!(decrypt(|_| {}).is_ok());
    }
    let with_another_key = Decrypt {
        key: other.id.clone().into(),
        ..Decrypt::new(key.id.clone(), good.clone())
    };
    assert_eq!(hsm.decrypt(with_another_key).wait(), Err(Error::DecryptionFailed));

    let signs_nothing = hsm.sign(Sign::new(key.id.clone(), b"data")).wait();
    assert!(
        matches!(signs_nothing, Err(Error::UsageNotPermitted(_))),
        "{signs_nothing:?}"
    );
    let elsewhere = hsm.key(&id("hsm:other:00")).wait();
    assert!(matches!(elsewhere, Err(Error::KeyNotFound(_))), "{elsewhere:?}");
}

fn the_token_is_described(fixture: &Fixture) {
    let hsm = &fixture.hsm;
    assert_eq!(hsm.token().label, fixture.token.label());
    assert!(!hsm.mechanisms().is_empty());
    let slots = hsm.slots().wait().unwrap();
    assert!(
        slots
            .iter()
            .any(|slot| slot.token.as_ref().is_some_and(|t| t.label == fixture.token.label()))
    );
    let status = hsm.status();
    assert_eq!((status.unavailable, status.login), (None, Login::LoggedIn));
    assert!(status.load.workers > 0);
    assert_eq!((status.load.hung, status.load.queued), (0, 0));
    let [one, other] = [(); 2].map(|()| hsm.random(32).wait().unwrap());
    assert_eq!(one.len(), 32);
    assert_ne!(one, other);
}

fn keys_of_other_programs_come_and_go(fixture: &Fixture) {
    let (hsm, token) = (&fixture.hsm, &fixture.token);
    let foreign = id("hsm:0a0b");
    assert!(matches!(hsm.key(&foreign).wait(), Err(Error::KeyNotFound(_))));
    token.make_foreign_key("0a0b", "made elsewhere", "EC:prime256v1");
    let key = hsm.key(&foreign).wait().unwrap();
    assert_eq!(key.label, "made elsewhere");
    let signed = hsm.sign(sign_request(&key, b"data")).wait().unwrap();
    assert!(is_right(&key, b"data", &signed));
    token.delete_foreign_key("0a0b");
    let signed = hsm.sign(sign_request(&key, b"data")).wait();
    assert!(matches!(signed, Err(Error::KeyNotFound(_))), "{signed:?}");
    assert!(matches!(hsm.key(&foreign).wait(), Err(Error::KeyNotFound(_))));
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}
