//! Pages of keys.

use hsm_core::{Curve, Hsm, HsmKeyId, KeyQuery, KeySpec, KeyType, Usage};

use crate::{Fixture, aes, new_key, on_both, p256};

on_both!(
    pages_follow_each_other,
    filters_leave_out_what_is_not_asked_for,
    a_list_knows_at_once_what_was_made_and_destroyed_here,
    keys_of_other_programs_are_listed,
);

/// The ids of each page.
fn pages(hsm: &Hsm, limit: usize) -> Vec<Vec<HsmKeyId>> {
    let mut query = all(limit);
    let mut pages = Vec::new();
    loop {
        let page = hsm.keys(query.clone()).wait().unwrap();
        query.after = page.keys.last().map(|key| key.id.clone());
        pages.push(page.keys.into_iter().map(|key| key.id).collect());
        if !page.more {
            return pages;
        }
    }
}

fn all(limit: usize) -> KeyQuery {
    KeyQuery {
        limit,
        ..KeyQuery::default()
    }
}

fn labels(hsm: &Hsm, query: KeyQuery) -> Vec<String> {
    let page = hsm.keys(query).wait().unwrap();
    let mut labels: Vec<_> = page.keys.into_iter().map(|key| key.label).collect();
    labels.sort();
    labels
}

fn pages_follow_each_other(fixture: &Fixture) {
    let hsm = &fixture.hsm;
    assert_eq!(pages(hsm, 10), [[]]);
    let mut ids: Vec<HsmKeyId> = (0..7)
        .map(|n| hsm.generate(aes(&format!("key {n}"))).wait().unwrap().id)
        .collect();
    ids.sort();
    for limit in [1, 2, 3, 6, 7, 8, 1000] {
        let pages = pages(hsm, limit);
        assert_eq!(pages.concat(), ids, "{limit}");
        assert_eq!(pages.len(), ids.len().div_ceil(limit), "{limit}");
    }
    // The key that a page ended with may be gone when the next one is asked for.
    let after = ids[3].clone();
    hsm.delete(&after).wait().unwrap();
    let query = KeyQuery {
        after: Some(after),
        ..all(10)
    };
    let rest: Vec<_> = hsm
        .keys(query)
        .wait()
        .unwrap()
        .keys
        .into_iter()
        .map(|key| key.id)
        .collect();
    assert_eq!(rest, ids[4..]);
}

fn filters_leave_out_what_is_not_asked_for(fixture: &Fixture) {
    let hsm = &fixture.hsm;
    for new in [
        aes("a"),
        aes("b"),
        p256("c"),
        new_key(KeySpec::Hmac { bits: 256 }, "d"),
        new_key(KeySpec::Curve(Curve::Ed25519), "e"),
    ] {
        hsm.generate(new).wait().unwrap();
    }
    let of_type = |key_type| KeyQuery {
        key_type: Some(key_type),
        ..all(10)
    };
    assert_eq!(labels(hsm, of_type(KeyType::Aes)), ["a", "b"]);
    assert_eq!(labels(hsm, of_type(KeyType::Ec)), ["c"]);
    assert_eq!(labels(hsm, of_type(KeyType::Ed)), ["e"]);
    assert_eq!(labels(hsm, of_type(KeyType::Rsa)), [""; 0]);
    let labelled = |label: &str| KeyQuery {
        label: Some(label.to_owned()),
        ..all(10)
    };
    assert_eq!(labels(hsm, labelled("d")), ["d"]);
    assert_eq!(labels(hsm, labelled("D")), [""; 0]);
    let both = KeyQuery {
        key_type: Some(KeyType::Ec),
        ..labelled("a")
    };
    assert_eq!(labels(hsm, both), [""; 0]);
    // A page is cut after the filter.
    let mut query = KeyQuery {
        limit: 1,
        ..of_type(KeyType::Aes)
    };
    let first = hsm.keys(query.clone()).wait().unwrap();
    assert_eq!((first.keys.len(), first.more), (1, true));
    query.after = Some(first.keys[0].id.clone());
    let second = hsm.keys(query).wait().unwrap();
    assert_eq!((second.keys.len(), second.more), (1, false));
    assert_ne!(first.keys[0].id, second.keys[0].id);
}

fn a_list_knows_at_once_what_was_made_and_destroyed_here(fixture: &Fixture) {
    let hsm = &fixture.hsm;
    for turn in 0..10 {
        assert_eq!(labels(hsm, all(10)), [""; 0]);
        let key = hsm.generate(p256(&format!("key {turn}"))).wait().unwrap();
        assert_eq!(labels(hsm, all(10)), [key.label.as_str()]);
        hsm.delete(&key.id).wait().unwrap();
    }
}

fn keys_of_other_programs_are_listed(fixture: &Fixture) {
    let (hsm, token) = (&fixture.hsm, &fixture.token);
    token.make_foreign_key("0102", "made elsewhere", "EC:prime256v1");
    let page = hsm.keys(all(10)).wait().unwrap();
    assert_eq!(page.keys.len(), 1);
    let key = &page.keys[0];
    assert_eq!((key.label.as_str(), key.id.as_bytes()), ("made elsewhere", &[1, 2][..]));
    assert!(key.usages.contains(Usage::Sign) && key.public_key.is_some());
    // A call by id meets the deletion, and the list with it.
    token.delete_foreign_key("0102");
    assert!(hsm.key(&key.id).wait().is_err());
    assert_eq!(labels(hsm, all(10)), [""; 0]);
}
