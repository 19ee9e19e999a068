//! Many keys, and much data.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use softhsm_test::{FaultyToken, Token};

use crate::support::{Server, base64, bytes, text};
use crate::tools::behind;

const MANY: u32 = 1000;

fn listed(server: &Server, query: &str) -> Vec<Value> {
    let caller = server.all();
    let mut all = Vec::new();
    let mut path = format!("/api/v1/hsm/keys?{query}");
    loop {
        let page = caller.get(&path).good(200);
        all.extend(page["keys"].as_array().unwrap().iter().cloned());
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/api/v1/hsm/keys?{query}&cursor={cursor}"),
            None => return all,
        }
    }
}

#[test]
fn a_list_pages_through_all_keys_once() {
    let token = Token::softhsm();
    token.make_many_keys(MANY);
    let server = Server::on(&token);
    for limit in [1000, 100, 99] {
        let keys = listed(&server, &format!("limit={limit}"));
        let ids: BTreeSet<&str> = keys.iter().map(|key| text(&key["key_id"])).collect();
        assert_eq!((keys.len(), ids.len()), (1000, 1000), "{limit}");
    }
    let first = server.all().get("/api/v1/hsm/keys").good(200);
    assert_eq!(first["keys"].as_array().unwrap().len(), 100);
    assert_eq!(listed(&server, "limit=10&label=many%20512").len(), 1);
    assert!(listed(&server, "limit=10&key_type=RSA").is_empty());

    // A key that comes or goes while somebody pages does not shift the others.
    let caller = server.all();
    let page = caller.get("/api/v1/hsm/keys?limit=500").good(200);
    let seen = page["keys"].as_array().unwrap();
    for key in &seen[10..20] {
        caller
            .delete(&format!("/api/v1/hsm/keys/{}", text(&key["key_id"])))
            .good(204);
    }
    let rest = listed(&server, &format!("limit=500&cursor={}", text(&page["next_cursor"])));
    assert_eq!(rest.len(), 500);
}

/// How long 200 signatures take, with this many keys on the token; none of them is looked for.
fn two_hundred_signatures(keys: u32) -> Duration {
    let faulty = FaultyToken::over(Token::softhsm());
    faulty.token().make_many_keys(keys - 1);
    let server = behind(&faulty).start();
    let caller = server.all();
    let key = caller.key(json!({"key_type": "EC", "curve": "P-256"}));
    let body = json!({"key_id": key["key_id"], "data": base64(b"message")});
    caller.hsm("sign", &body).good(200);
    faulty.forget_calls();
    let started = Instant::now();
    for _ in 0..200 {
        caller.hsm("sign", &body).good(200);
    }
    let took = started.elapsed();
    assert_eq!(faulty.calls("C_FindObjectsInit"), 0);
    assert_eq!(faulty.calls("C_SignInit"), 200);
    took
}

#[test]
fn a_signature_costs_what_it_costs_with_ten_keys() {
    let (few, many) = (two_hundred_signatures(10), two_hundred_signatures(MANY));
    eprintln!("200 signatures: {few:?} with 10 keys, {many:?} with {MANY}");
}

#[test]
fn seven_hundred_kibibytes() {
    for server in [Server::softhsm(), Server::embedded()] {
        let caller = server.all();
        let key = caller.key(json!({"key_type": "AES", "key_size": 256}));
        let data: Vec<u8> = (0..700 * 1024_u32).map(|number| (number % 251) as u8).collect();
        for algorithm in ["AES-GCM", "AES-CTR"] {
            let body = json!({"key_id": key["key_id"], "algorithm": algorithm, "data": base64(&data)});
            let sealed = caller.hsm("encrypt", &body).good(200);
            assert_eq!(bytes(&sealed["ciphertext"]).len(), data.len());
            let opened = caller.hsm("decrypt", &sealed).good(200);
            assert!(bytes(&opened["data"]) == data, "{algorithm}");
        }
    }
}
