//! Batches over keys of every kind.

use hsm_core::{BatchDone, Verify};
use keymgmt::service::{Asked, Item, ItemDone};

use super::*;

fn item(key: &str, version: Option<u32>, asked: Asked) -> Item {
    Item::Run {
        key: id(key),
        version,
        asked,
    }
}

fn encryption() -> Asked {
    Asked::Encrypt(Box::new(|key| Encrypt::new(key, *b"data")))
}

#[test]
fn a_batch_is_answered_in_order_each_item_for_itself() {
    let world = World::new();
    world.make("orders", aes(), Protection::Wrapped);
    let (_, old) = world.encrypt("orders", b"old").unwrap();
    world.rotate("orders");
    world.make("signer", p256(), Protection::Hsm);
    let signature = world.sign("signer", b"data").unwrap();
    let plain = world.plain("plain", aes()).to_string();

    let decryption = |encrypted: Encrypted| -> Box<dyn FnOnce(KeyRef) -> Decrypt + Send> {
        Box::new(move |key| Decrypt::new(key, encrypted))
    };
    let items = vec![
        item("orders", None, encryption()),
        item(&plain, None, encryption()),
        item("orders", Some(1), Asked::Decrypt(decryption(old.clone()))),
        item("orders", Some(1), Asked::Rewrap(decryption(old.clone()))),
        item("orders", None, Asked::DataKey(128)),
        item(
            "signer",
            Some(1),
            Asked::Verify(Box::new(move |key| Verify {
                signed: Sign::new(key, *b"data"),
                signature,
            })),
        ),
        item("signer", None, Asked::Sign(Box::new(|key| Sign::new(key, *b"data")))),
        item("nobody", None, encryption()),
        item("orders", Some(9), Asked::Decrypt(decryption(old.clone()))),
        item(&plain, Some(1), Asked::Decrypt(decryption(old.clone()))),
        item("orders", None, Asked::DataKey(77)),
        item("orders", Some(2), Asked::Rewrap(decryption(old))),
    ];
    let answers = wait(world.service.batch(&caller(), items)).unwrap();
    let mut answers = answers.into_iter().map(Option::unwrap);
    let mut next = || answers.next().unwrap();

    let (done, ItemDone::Done(BatchDone::Encrypted(new))) = next().unwrap() else {
        panic!("no ciphertext")
    };
    assert_eq!(done.key_version, Some(2));
    assert_eq!(world.decrypt("orders", Some(2), &new).unwrap(), b"data");
    let (done, ItemDone::Done(BatchDone::Encrypted(_))) = next().unwrap() else {
        panic!("no ciphertext")
    };
    assert_eq!((done.key_id, done.key_version), (plain, None));
    let (done, ItemDone::Done(BatchDone::Decrypted(data))) = next().unwrap() else {
        panic!("no data")
    };
    assert_eq!((done.key_version, data.as_slice()), (Some(1), b"old".as_slice()));
    let (done, ItemDone::Rewrapped(rewrapped)) = next().unwrap() else {
        panic!("not rewrapped")
    };
    assert_eq!(done.key_version, Some(2));
    assert_eq!(world.decrypt("orders", Some(2), &rewrapped).unwrap(), b"old");
    let (done, ItemDone::DataKey(sealed, key)) = next().unwrap() else {
        panic!("no data key")
    };
    assert_eq!((done.key_version, key.0.len()), (Some(2), 16));
    assert_eq!(world.decrypt("orders", None, &sealed).unwrap(), *key.0);
    let (_, ItemDone::Done(BatchDone::Verified(true))) = next().unwrap() else {
        panic!("not verified")
    };
    let (_, ItemDone::Done(BatchDone::Signed(_))) = next().unwrap() else {
        panic!("not signed")
    };
    refused!(next(), Error::KeyNotFound(_));
    refused!(next(), Error::VersionNotFound { version: 9, .. });
    refused!(
        next(),
        Error::Invalid {
            field: "key_version",
            ..
        }
    );
    refused!(next(), Error::Invalid { field: "key_size", .. });
    refused!(next(), Error::Hsm(hsm_core::Error::DecryptionFailed));

    // One encryption before, three of the batch that count, and three decryptions just now, and the batch's own.
    assert_eq!(wait(world.service.managed(&name("orders"))).unwrap().operations, 8);
    assert_eq!(world.records("datakey").len(), 2);
    assert_eq!(world.records("rewrap").len(), 2);
}
