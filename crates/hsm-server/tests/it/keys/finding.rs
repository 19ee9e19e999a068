//! Lists, deletion, and keys that other programs make and take away.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use softhsm_test::Token;

use super::{KEYS, hex, pages, path};
use crate::support::{Server, base64, merged, text};

on_both_tokens! {
    deletion_takes_both_halves,
    keys_of_other_programs_are_used_at_once,
    half_a_pair_does_what_it_can,
}

#[test]
fn lists_come_in_pages() {
    let server = Server::softhsm();
    let caller = server.all();
    let mut made = BTreeSet::new();
    for number in 0..7 {
        let body = match number % 3 {
            0 => json!({"key_type": "AES", "key_size": 128}),
            1 => json!({"key_type": "EC", "curve": "P-256"}),
            _ => json!({"key_type": "HMAC"}),
        };
        made.insert(text(&caller.key(body)["key_id"]).to_owned());
    }
    for limit in [1, 2, 3, 7, 8, 1000] {
        let pages = pages(&caller, &format!("limit={limit}"));
        assert_eq!(pages.len(), 7_usize.div_ceil(limit).max(1), "{limit}");
        assert!(pages.iter().all(|page| page.len() <= limit));
        let listed: Vec<String> = pages.concat();
        assert_eq!(listed.len(), 7);
        assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), made, "{limit}");
    }
    assert_eq!(
        pages(&caller, "key_type=AES&limit=2")
            .iter()
            .map(Vec::len)
            .sum::<usize>(),
        3
    );
    assert_eq!(pages(&caller, "key_type=EC").concat().len(), 2);
    assert_eq!(pages(&caller, "key_type=RSA").concat().len(), 0);
    assert_eq!(pages(&caller, "label=no+such+label").concat().len(), 0);
    assert_eq!(
        caller.get(&format!("{KEYS}?key_type=RSA")).good(200),
        json!({"keys": [], "next_cursor": null})
    );

    for (field, query) in [
        ("limit", "limit=0"),
        ("limit", "limit=1001"),
        ("limit", "limit=-1"),
        ("limit", "limit=ten"),
        ("limit", "limit="),
        ("limit", "limit=1&limit=2"),
        ("cursor", "cursor=invented"),
        ("cursor", "cursor="),
        ("cursor", "cursor=AAAAAAAAAAAA"),
        ("cursor", "cursor=1"),
        ("key_type", "key_type=DES"),
        ("page", "page=2"),
        ("label", "label=%ff"),
    ] {
        caller
            .get(&format!("{KEYS}?{query}"))
            .problem_naming(400, "invalid_request", field);
    }
}

#[test]
fn a_thousand_keys_are_listed() {
    let token = Token::softhsm();
    token.make_many_keys(1000);
    let server = Server::on(&token);
    let caller = server.all();
    assert_eq!(pages(&caller, "limit=1000")[0].len(), 1000);
    let by_default = pages(&caller, "key_type=AES");
    assert_eq!(by_default.iter().map(Vec::len).collect::<Vec<_>>(), [100; 10]);
    assert_eq!(by_default.concat().into_iter().collect::<BTreeSet<_>>().len(), 1000);
    let one = caller.get(&format!("{KEYS}?label=many%20617")).good(200);
    assert_eq!(one["keys"][0]["key_id"], "hsm:ff000269");
}

fn deletion_takes_both_halves(server: &Server) {
    let caller = server.all();
    for body in [
        json!({"key_type": "EC", "curve": "P-256"}),
        json!({"key_type": "ED", "curve": "Ed25519"}),
        json!({"key_type": "AES", "key_size": 256}),
    ] {
        let key = caller.key(body);
        let other = caller.key(json!({"key_type": "HMAC"}));
        caller.delete(&path(&key)).good(204);
        assert!(server.token().attributes(hex(&key)).is_empty());
        assert_eq!(server.token().attributes(hex(&other)).len(), 1);
        caller.get(&path(&key)).problem(404, "key_not_found");
        caller.delete(&path(&key)).problem(404, "key_not_found");
        caller
            .hsm("sign", &json!({"key_id": key["key_id"], "data": ""}))
            .problem(404, "key_not_found");
        assert_eq!(caller.get(KEYS).good(200)["keys"], json!([other]));
        caller.delete(&path(&other)).good(204);
    }
    server.token().make_foreign_key("0d01", "foreign", "EC:prime256v1");
    caller.delete(&format!("{KEYS}/hsm:0d01")).good(204);
    assert!(server.token().objects().is_empty());
}

fn keys_of_other_programs_are_used_at_once(server: &Server) {
    let caller = server.all();
    let token = server.token();
    caller.get(&format!("{KEYS}/hsm:0c01")).problem(404, "key_not_found");

    token.make_foreign_key("0c01", "foreign pair", "EC:prime256v1");
    let key = caller.get(&format!("{KEYS}/hsm:0c01")).good(200);
    assert_eq!(
        (&key["key_label"], &key["key_type"], &key["curve"]),
        (&json!("foreign pair"), &json!("EC"), &json!("P-256"))
    );
    assert!(key["usages"].as_array().unwrap().contains(&json!("sign")), "{key}");

    token.make_foreign_key("0c02", "foreign signer", "EC:prime256v1");
    let body = json!({"key_id": "hsm:0c02", "data": base64("hello")});
    let signed = caller.hsm("sign", &body).good(200);
    let check = merged(&signed, json!({"data": base64("hello")}));
    assert_eq!(caller.hsm("verify", &check).good(200), json!({"valid": true}));

    token.make_foreign_key("0c03", "only listed", "AES:32");
    let wanted = json!("hsm:0c03");
    let started = Instant::now();
    while !caller.get(KEYS).good(200)["keys"]
        .as_array()
        .unwrap()
        .iter()
        .any(|key| key["key_id"] == wanted)
    {
        assert!(
            started.elapsed() < Duration::from_secs(40),
            "a foreign key is never listed"
        );
        sleep(Duration::from_millis(100));
    }

    assert_eq!(token.delete_foreign_key("0c02"), 2);
    caller.hsm("sign", &body).problem(404, "key_not_found");
    caller.get(&format!("{KEYS}/hsm:0c02")).problem(404, "key_not_found");
    assert_eq!(token.delete_foreign_key("0c01"), 2);
    caller.get(&format!("{KEYS}/hsm:0c01")).problem(404, "key_not_found");

    // One that takes the place of another under the same id is a key of its own.
    token.make_foreign_key("0c01", "another", "AES:16");
    let key = caller.get(&format!("{KEYS}/hsm:0c01")).good(200);
    assert_eq!(
        (&key["key_label"], &key["key_type"], &key["key_size"]),
        (&json!("another"), &json!("AES"), &json!(128))
    );
    caller
        .hsm("encrypt", &json!({"key_id": "hsm:0c01", "data": ""}))
        .good(200);
}

fn half_a_pair_does_what_it_can(server: &Server) {
    let caller = server.all();
    let token = server.token();
    let delete = |class: &str, id: &str| {
        let gone = token.pkcs11_tool(&["--delete-object", "--type", class, "--id", id]);
        assert!(gone.status.success(), "{gone:?}");
    };
    token.make_foreign_key_with("0e01", "signer", "EC:prime256v1", &["--usage-sign"]);
    let body = json!({"key_id": "hsm:0e01", "data": base64("hello")});
    let signed = caller.hsm("sign", &body).good(200);
    let check = merged(&signed, json!({"data": base64("hello")}));

    delete("privkey", "0e01");
    let lone = caller.get(&format!("{KEYS}/hsm:0e01")).good(200);
    check_usages(&lone, "verify", &["encrypt", "wrap"]);
    assert!(text(&lone["public_key_pem"]).contains("PUBLIC KEY"));
    assert_eq!(caller.hsm("verify", &check).good(200), json!({"valid": true}));
    caller.hsm("sign", &body).problem(400, "usage_not_permitted");

    token.make_foreign_key_with("0e02", "private alone", "EC:prime256v1", &["--usage-sign"]);
    delete("pubkey", "0e02");
    let lone = caller.get(&format!("{KEYS}/hsm:0e02")).good(200);
    check_usages(&lone, "sign", &["decrypt", "unwrap", "derive"]);
    caller.hsm("sign", &json!({"key_id": "hsm:0e02", "data": ""})).good(200);

    let ids: BTreeSet<String> = pages(&caller, "limit=1").concat().into_iter().collect();
    assert_eq!(ids, BTreeSet::from(["hsm:0e01".to_owned(), "hsm:0e02".to_owned()]));
    caller.delete(&format!("{KEYS}/hsm:0e01")).good(204);
    caller.delete(&format!("{KEYS}/hsm:0e02")).good(204);
    assert!(token.objects().is_empty());
}

/// It has this usage, and may have those, which a token gives to a key whose maker did not say.
#[track_caller]
fn check_usages(key: &Value, has: &str, may_have: &[&str]) {
    let usages: Vec<&str> = key["usages"].as_array().unwrap().iter().map(text).collect();
    assert!(usages.contains(&has), "{key}");
    assert!(
        usages.iter().all(|usage| *usage == has || may_have.contains(usage)),
        "{key}"
    );
}
