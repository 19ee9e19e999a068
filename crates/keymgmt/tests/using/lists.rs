//! Lists of keys of every kind.

use keymgmt::service::{AnyKey, ListQuery};

use super::*;

fn all(world: &World, query: &ListQuery) -> Vec<String> {
    let mut ids = Vec::new();
    let mut after = None;
    loop {
        let query = ListQuery { after, ..query.clone() };
        let page = wait(world.service.list(query.clone())).unwrap();
        assert!(page.keys.len() <= query.limit);
        ids.extend(page.keys.iter().map(|key| key.id().to_string()));
        if !page.more {
            return ids;
        }
        after = page.keys.last().map(AnyKey::id);
        assert!(after.is_some(), "a page that is not the last one has keys");
    }
}

#[test]
fn lists_have_managed_keys_first_and_versions_of_them_never() {
    let world = World::new();
    let mut plain: Vec<_> = (0..3)
        .map(|n| world.plain(&format!("plain {n}"), aes()).to_string())
        .collect();
    plain.sort();
    for key in ["b", "a"] {
        world.make(key, p256(), Protection::Hsm);
        world.rotate(key);
    }
    world.make("c", aes(), Protection::Wrapped);
    let expected: Vec<_> = ["a", "b", "c"]
        .map(str::to_owned)
        .into_iter()
        .chain(plain.clone())
        .collect();
    for limit in [1, 2, 3, 4, 100] {
        let query = ListQuery {
            limit,
            ..ListQuery::default()
        };
        assert_eq!(all(&world, &query), expected, "{limit} a page");
    }
    let filtered = |query: ListQuery| all(&world, &ListQuery { limit: 2, ..query });
    let wrapped = ListQuery {
        protection: Some(Protection::Wrapped),
        ..ListQuery::default()
    };
    assert_eq!(filtered(wrapped), ["c"]);
    let of_type = ListQuery {
        key_type: Some(hsm_core::KeyType::Ec),
        ..ListQuery::default()
    };
    assert_eq!(filtered(of_type), ["a", "b"]);
    let labelled = ListQuery {
        label: Some("plain 1".into()),
        ..ListQuery::default()
    };
    assert_eq!(filtered(labelled).len(), 1);
}
