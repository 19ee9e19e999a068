//! Keys of the token that become managed ones, further tokens, and names and labels that are taken.

use std::thread;

use serde_json::{Value, json};
use softhsm_test::Token;

use super::{
    HSM_KEYS, KEYS, MESSAGE, aes, at, bare, call, destroy, digits, hsm_id, is_valid, key, made, opens, patch, rotate,
    sealed, signed,
};
use crate::support::{Server, base64, merged, text};
use crate::tools::wait_until;

#[test]
fn a_key_that_is_there_is_adopted() {
    let server = Server::softhsm();
    let caller = server.all();
    let pair = caller.key(json!({"key_type": "EC", "curve": "P-256", "key_label": "by hand"}));
    let id = text(&pair["key_id"]);
    let before = signed(&caller, id);
    let body = json!({"name": "adopted", "hsm_key_id": id, "tags": {"a": "b"}, "rotation_period_days": 10});
    let reply = caller.post(KEYS, &body);
    let adopted = reply.good(201);
    assert_eq!(reply.header("location"), Some(at("adopted").as_str()));
    assert_eq!(hsm_id(&adopted, 1), id);
    for (name, value) in [
        ("protection", json!("hsm")),
        ("key_type", json!("EC")),
        ("curve", json!("P-256")),
        ("usages", pair["usages"].clone()),
        ("tags", body["tags"].clone()),
        ("rotation_period_days", json!(10)),
    ] {
        assert_eq!(adopted[name], value, "{name}");
    }
    assert_eq!(adopted["versions"][0]["public_key_pem"], pair["public_key_pem"]);
    assert!(is_valid(
        &caller,
        &merged(&before, json!({"key_id": "adopted", "key_version": 1}))
    ));
    let rotated = rotate(&caller, "adopted");
    assert_eq!(rotated["primary_version"], 2);
    assert_ne!(hsm_id(&rotated, 2), id);
    assert_eq!(signed(&caller, "adopted")["key_version"], 2);
    assert!(is_valid(
        &caller,
        &merged(&before, json!({"key_id": "adopted", "key_version": 1}))
    ));

    let again = json!({"name": "again", "hsm_key_id": id});
    caller.post(KEYS, &again).problem_naming(409, "conflict", "adopted");
    let second = json!({"name": "again", "hsm_key_id": hsm_id(&rotated, 2)});
    caller.post(KEYS, &second).problem_naming(409, "conflict", "adopted");
    let unknown = json!({"name": "again", "hsm_key_id": "hsm:00ff00ff"});
    caller.post(KEYS, &unknown).problem(404, "key_not_found");
    for wrong in ["adopted", "hsm:0", "hsm:"] {
        caller
            .post(KEYS, &json!({"name": "again", "hsm_key_id": wrong}))
            .problem(400, "invalid_key_id");
    }
    let free = caller.key(json!({"key_type": "AES", "key_size": 256}));
    let taken = json!({"name": "adopted", "hsm_key_id": free["key_id"]});
    caller.post(KEYS, &taken).problem_naming(409, "conflict", "adopted");
    for (field, value) in [
        ("key_type", json!("EC")),
        ("key_size", json!(256)),
        ("curve", json!("P-256")),
        ("protection", json!("hsm")),
        ("usages", json!(["sign"])),
    ] {
        let body = json!({"name": "again", "hsm_key_id": free["key_id"], field: value});
        caller.post(KEYS, &body).problem_naming(400, "invalid_request", field);
    }
    caller.get(&at("again")).problem(404, "key_not_found");
    destroy(&caller, "adopted");
    assert!(server.token().attributes(digits(id)).is_empty());
}

#[test]
fn a_key_of_an_odd_size_is_adopted_but_not_rotated() {
    let server = Server::softhsm();
    let caller = server.all();
    server.token().make_foreign_key("aa07", "small", "rsa:1024");
    let rotating = json!({"name": "small", "hsm_key_id": "hsm:aa07", "rotation_period_days": 3});
    caller
        .post(KEYS, &rotating)
        .problem_naming(400, "invalid_request", "rotation_period_days");
    made(&caller, &json!({"name": "small", "hsm_key_id": "hsm:aa07"}));
    assert!(is_valid(&caller, &signed(&caller, "small")));
    bare(&caller, &at("small/rotate")).problem(400, "key_type_mismatch");
    let after = json!({"rotate_after_operations": 10});
    patch(&caller, &at("small"), &after).problem_naming(400, "invalid_request", "rotate_after_operations");
}

#[test]
fn a_taken_name_is_a_conflict_and_a_taken_label_stops_nobody() {
    let server = Server::softhsm();
    let caller = server.all();
    let first = made(&caller, &aes("orders", "hsm"));
    for protection in ["hsm", "wrapped"] {
        caller
            .post(KEYS, &aes("orders", protection))
            .problem_naming(409, "conflict", "orders");
    }
    caller.key(json!({"key_type": "AES", "key_size": 256, "key_label": "taken:1"}));
    assert_eq!(key(&caller, "orders"), first);
    let taken = made(&caller, &aes("taken", "hsm"));
    caller.key(json!({"key_type": "AES", "key_size": 256, "key_label": "orders:2"}));
    let rotated = bare(&caller, &at("orders/rotate")).good(200);
    assert_eq!(rotated["primary_version"], 2);
    let labels: Vec<_> = server
        .token()
        .objects()
        .into_iter()
        .map(|object| object.label)
        .collect();
    assert!(labels.contains(&"orders:1".to_owned()), "{labels:?}");
    for (key, label) in [(&taken, "taken:1"), (&rotated, "orders:2")] {
        let version = usize::try_from(key["primary_version"].as_u64().unwrap()).unwrap();
        let id = hsm_id(key, version);
        let other = format!("{label}:{}", id.trim_start_matches("hsm:"));
        assert!(labels.contains(&other), "{other} is none of {labels:?}");
    }
    destroy(&caller, "orders");
    caller
        .post(KEYS, &aes("orders", "wrapped"))
        .problem_naming(409, "conflict", "orders");
}

#[test]
fn half_a_pair_is_adopted_with_what_it_can_do_and_an_ambiguous_key_is_not() {
    let server = Server::softhsm();
    let caller = server.all();
    let pair = caller.key(json!({"key_type": "EC", "curve": "P-256"}));
    let proof = signed(&caller, text(&pair["key_id"]));
    let pem: String = text(&pair["public_key_pem"])
        .lines()
        .filter(|line| !line.starts_with('-'))
        .collect();
    let import = json!({"key_type": "EC", "format": "spki", "key_material": pem, "key_label": "public alone"});
    let half = caller.post(&format!("{HSM_KEYS}/import"), &import).good(201);
    let adopted = made(&caller, &json!({"name": "half", "hsm_key_id": half["key_id"]}));
    assert_eq!(adopted["usages"], json!(["verify"]));
    assert!(is_valid(
        &caller,
        &merged(&proof, json!({"key_id": "half", "key_version": 1}))
    ));
    let sign = json!({"key_id": "half", "data": base64(MESSAGE)});
    call(&caller, "sign", &sign).problem(400, "usage_not_permitted");

    server.token().make_foreign_key("aa08", "one", "AES:32");
    server.token().make_foreign_key("aa08", "two", "AES:16");
    let both = json!({"name": "both", "hsm_key_id": "hsm:aa08"});
    caller.post(KEYS, &both).problem(409, "ambiguous_key");
    caller.get(&at("both")).problem(404, "key_not_found");
}

#[test]
fn creations_that_meet_make_one_key() {
    let server = Server::softhsm();
    let caller = server.all();
    let loose = caller.key(json!({"key_type": "AES", "key_size": 256}));
    let objects = server.token().objects().len();
    let creations = |body: &(dyn Fn(usize) -> Value + Sync)| {
        let caller = &caller;
        let replies: Vec<_> = thread::scope(|scope| {
            let calls: Vec<_> = (0..6)
                .map(|number| scope.spawn(move || caller.post(KEYS, &body(number))))
                .collect();
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        });
        let (good, other): (Vec<_>, Vec<_>) = replies.into_iter().partition(|reply| reply.status == 201);
        assert_eq!(good.len(), 1, "{other:?}");
        other.iter().for_each(|reply| drop(reply.problem(409, "conflict")));
        text(&good[0].json()["key_id"]).to_owned()
    };
    creations(&|_| aes("same", "hsm"));
    creations(&|_| aes("wrapped", "wrapped"));
    let adopter = creations(&|number| json!({"name": format!("adopter-{number}"), "hsm_key_id": loose["key_id"]}));
    opens(&caller, &sealed(&caller, "same"));
    opens(&caller, &sealed(&caller, &adopter));
    wait_until("one more on the token, and the gateway's own", || {
        let now = server.token().objects();
        let own = now
            .iter()
            .filter(|object| object.label.starts_with("hsm-gateway:"))
            .count();
        now.len() - own == objects + 1
    });
    let shown = caller.get(&format!("{KEYS}?limit=1000")).good(200);
    assert_eq!(shown["keys"].as_array().unwrap().len(), 3, "{shown}");
}

#[test]
fn versions_are_made_on_the_token_that_is_asked_for() {
    let tokens = Token::several(&["one", "two"]);
    let backup = [("TOKEN_LABEL", tokens[1].label()), ("PIN", tokens[1].pin())];
    let builder = backup
        .iter()
        .fold(Server::with(tokens[0].clone()), |builder, (field, value)| {
            builder.env(&format!("HSM_TOKENS__BACKUP__{field}"), value)
        });
    let server = builder.start();
    let caller = server.all();
    tokens[1].make_foreign_key("aa01", "by hand", "AES:32");
    let made_there = made(&caller, &merged(&aes("made", "hsm"), json!({"token": "backup"})));
    let adopted = made(&caller, &json!({"name": "adopted", "hsm_key_id": "hsm:backup:aa01"}));
    for (name, first) in [("made", made_there), ("adopted", adopted)] {
        assert_eq!(first["token"], "backup");
        let ciphertext = sealed(&caller, name);
        let second = hsm_id(&rotate(&caller, name), 2);
        for id in [hsm_id(&first, 1), second] {
            let id = id
                .strip_prefix("hsm:backup:")
                .unwrap_or_else(|| panic!("{id}"))
                .to_owned();
            assert_eq!(
                (tokens[0].attributes(&id).len(), tokens[1].attributes(&id).len()),
                (0, 1)
            );
        }
        opens(&caller, &ciphertext);
        opens(&caller, &sealed(&caller, name));
        destroy(&caller, name);
    }
    assert!(tokens[1].objects().is_empty());
    // Wrapped keys there need the key-encryption key there.
    let wrapped = merged(&aes("wrapped", "wrapped"), json!({"token": "backup"}));
    caller
        .post(KEYS, &wrapped)
        .problem_naming(409, "conflict", "kek rotate --to backup");
    let unknown = merged(&aes("unknown", "hsm"), json!({"token": "attic"}));
    caller
        .post(KEYS, &unknown)
        .problem_naming(400, "invalid_request", "token");
    for name in ["wrapped", "unknown"] {
        caller.get(&at(name)).problem(404, "key_not_found");
    }
}
