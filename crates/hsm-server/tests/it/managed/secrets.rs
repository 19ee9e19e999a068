//! What whoever has the database can't do: find a key in it, or make the server use a record that no gateway wrote.

use std::path::PathBuf;

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::NO_PAD;
use serde_json::{Value, json};

use super::{
    KEYS, MESSAGE, aes, at, call, change, database, destroy, ec, hsm_id, imported, made, opens, patch, plaintext,
    query, rotate, sealed, signed, sql,
};
use crate::support::{ABSENT, Builder, Caller, Server, base64, merged, text};

/// A key in clear, as it came from elsewhere.
const KNOWN: [u8; 32] = *b"\x9a\x17\xe2\x4c\x80\x5d\xb3\x6f\x01\xc8\x7e\x39\xd4\xa2\x55\xeb\x1c\x66\xf0\x8d\x2b\x97\x43\xba\x0e\x71\xcd\x38\xa9\x5f\xe6\x12";

/// The ways in which bytes may be written: as they are, in hex, in base64 wherever they lie in it.
fn written(secret: &[u8]) -> Vec<Vec<u8>> {
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut all = vec![secret.to_vec(), hex.to_uppercase().into_bytes(), hex.into_bytes()];
    for alphabet in [&STANDARD, &URL_SAFE] {
        let engine = GeneralPurpose::new(alphabet, NO_PAD);
        for before in 0..3 {
            let text = engine.encode([&vec![0; before], secret].concat());
            // The digits that hold nothing but the secret.
            all.push(text.as_bytes()[(before * 8).div_ceil(6)..(before + secret.len()) * 8 / 6].to_vec());
        }
    }
    all
}

/// The files that hold the secret, written in any way.
fn holding(server: &Server, secret: &[u8]) -> Vec<PathBuf> {
    let needles = written(secret);
    let mut files = server.data_files();
    files.insert("log".into(), server.log().into_bytes());
    files.insert("stdout".into(), server.stdout().into_bytes());
    let holds = |content: &[u8]| {
        let mut needles = needles.iter();
        needles.any(|needle| content.windows(needle.len()).any(|window| window == needle))
    };
    files.retain(|_, content| holds(content));
    files.into_keys().collect()
}

#[test]
fn neither_database_nor_log_holds_a_key_in_clear() {
    let server = Server::softhsm();
    let caller = server.all();
    let import = json!({"key_type": "AES", "format": "raw", "key_material": base64(KNOWN), "key_label": "known"});
    let headers = [("Content-Type", "application/json"), ("Idempotency-Key", "import")];
    let imported = caller
        .raw(
            "POST",
            "/api/v1/hsm/keys/import",
            &headers,
            import.to_string().as_bytes(),
        )
        .good(201);
    made(
        &caller,
        &json!({"name": "known", "hsm_key_id": imported["key_id"], "tags": {"a": "b"}}),
    );
    made(&caller, &aes("hidden", "wrapped"));
    let mut secrets = vec![KNOWN.to_vec(), MESSAGE.repeat(2)];
    for name in ["known", "hidden"] {
        for bits in [128, 192, 256] {
            secrets.push(plaintext(
                &call(&caller, "datakeys", &json!({"key_id": name, "key_size": bits})).good(200),
            ));
        }
        let body = json!({"operations": [{"operation": "datakeys", "key_id": name}]});
        secrets.push(plaintext(&call(&caller, "batch", &body).good(200)["results"][0]));
        let encrypt = json!({"key_id": name, "data": base64(MESSAGE.repeat(2))});
        let ciphertext = call(&caller, "encrypt", &encrypt).good(200);
        rotate(&caller, name);
        call(&caller, "rewrap", &ciphertext).good(200);
    }
    // Each way of writing is found where it is: in a tag, which the database does hold.
    let planted = b"planted secret, 32 bytes long...";
    for (number, one) in written(planted).into_iter().enumerate() {
        let value = String::from_utf8(one).unwrap();
        change(
            &caller,
            "hidden",
            json!({"tags": {"planted": value, "number": number.to_string()}}),
        );
        let found = holding(&server, planted);
        assert!(found.iter().any(|path| path.starts_with(server.data_dir())), "{number}");
    }
    let names: Vec<_> = server.data_files().into_keys().collect();
    for end in ["store.sqlite", "store.sqlite-wal", ".jsonl"] {
        assert!(
            names.iter().any(|path| path.to_str().unwrap().ends_with(end)),
            "{end}: {names:?}"
        );
    }
    let nothing: [PathBuf; 0] = [];
    for secret in &secrets {
        assert_eq!(holding(&server, secret), nothing);
    }
    // The log of what was written ahead has gone into the database.
    let server = server.end("TERM").start();
    for secret in &secrets {
        assert_eq!(holding(&server, secret), nothing);
    }
    assert!(!holding(&server, planted).is_empty());
}

/// Every call of the key is refused with 500, and says that somebody wrote to the store.
#[track_caller]
fn is_refused(caller: &Caller, name: &str, ciphertext: &Value) {
    let data = json!({"key_id": name, "data": base64(MESSAGE)});
    let ciphertext = merged(ciphertext, json!({"key_id": name}));
    let replies = [
        call(caller, "encrypt", &data),
        call(caller, "sign", &data),
        call(caller, "decrypt", &ciphertext),
        call(caller, "rewrap", &ciphertext),
        call(caller, "datakeys", &json!({"key_id": name})),
        caller.get(&at(name)),
        patch(caller, &at(name), &json!({"tags": {"x": "y"}})),
        super::bare(caller, &at(&format!("{name}/rotate"))),
        caller.delete(&at(name)),
    ];
    for (number, reply) in replies.iter().enumerate() {
        assert_eq!(reply.status, 500, "call {number} of {name}: {}", reply.text());
        let problem = reply.problem_naming(500, "internal", &format!("`{name}`"));
        let detail = text(&problem["detail"]);
        assert!(detail.contains("backup"), "{detail}");
    }
}

/// A server with keys `a`, `b` (AES, wrapped), `h` (AES on the token), `e` (EC, wrapped), a ciphertext of each that
/// encrypts, stopped.
fn prepared() -> (Builder, [Value; 3]) {
    let server = Server::softhsm();
    let caller = server.all();
    for body in [
        aes("a", "wrapped"),
        aes("b", "wrapped"),
        aes("h", "hsm"),
        ec("e", "wrapped"),
    ] {
        made(&caller, &body);
    }
    signed(&caller, "e");
    let ciphertexts = ["a", "b", "h"].map(|name| sealed(&caller, name));
    change(&caller, "b", json!({"state": "disabled"}));
    change(&caller, "b", json!({"state": "enabled"}));
    (server.end("TERM"), ciphertexts)
}

#[test]
fn a_record_that_was_changed_is_refused() {
    let (mut stopped, [a, _, h]) = prepared();
    let file = database(&stopped);
    let undo = stopped.scratch().path("untouched.sqlite");
    std::fs::copy(&file, &undo).unwrap();
    for (name, change) in [
        ("a", "UPDATE keys SET key_type = 'HMAC' WHERE name = 'a'"),
        (
            "a",
            "UPDATE keys SET usages = (SELECT usages FROM keys WHERE name = 'e') WHERE name = 'a'",
        ),
        ("a", "UPDATE keys SET state = 'disabled' WHERE name = 'a'"),
        (
            "a",
            "UPDATE keys SET size = (SELECT size FROM keys WHERE name = 'e') WHERE name = 'a'",
        ),
        ("a", "UPDATE keys SET revision = revision + 1 WHERE name = 'a'"),
        ("b", "UPDATE keys SET revision = revision - 1 WHERE name = 'b'"),
        ("a", "UPDATE keys SET created_at = created_at + 1 WHERE name = 'a'"),
        ("a", "UPDATE keys SET rotation_period_days = 1 WHERE name = 'a'"),
        ("a", "UPDATE keys SET rotate_after_operations = 5 WHERE name = 'a'"),
        ("a", "UPDATE keys SET seal_mac = zeroblob(32) WHERE name = 'a'"),
        (
            "a",
            "UPDATE keys SET seal_mac = (SELECT seal_mac FROM keys WHERE name = 'b') WHERE name = 'a'",
        ),
        ("a", "UPDATE keys SET seal_version = 2 WHERE name = 'a'"),
        ("a", "INSERT INTO tags (tag, value, name) VALUES ('t', 'v', 'a')"),
        (
            "a",
            "UPDATE versions SET wrapped = (SELECT wrapped FROM versions WHERE name = 'b') WHERE name = 'a'",
        ),
        (
            "a",
            "UPDATE versions SET hsm_id = 'hsm:00ff00ff00ff00ff' WHERE name = 'a'",
        ),
        ("a", "UPDATE versions SET created_at = created_at + 1 WHERE name = 'a'"),
        (
            "h",
            "UPDATE versions SET hsm_id = 'hsm:00ff00ff00ff00ff' WHERE name = 'h'",
        ),
        ("h", "UPDATE keys SET protection = 'wrapped' WHERE name = 'h'"),
    ] {
        std::fs::copy(&undo, &file).unwrap();
        sql(&file, change);
        eprintln!("{change}");
        let server = stopped.start();
        let caller = server.all();
        is_refused(&caller, name, if name == "h" { &h } else { &a });
        // The others are used as before.
        made(&caller, &aes("new", "wrapped"));
        opens(&caller, &sealed(&caller, "new"));
        if name != "h" {
            opens(&caller, &h);
        }
        stopped = server.end("TERM");
    }
}

#[test]
fn swapped_blobs_are_refused_also_while_the_server_runs() {
    let (stopped, [a, b, _]) = prepared();
    let file = database(&stopped);
    sql(
        &file,
        "CREATE TABLE swap AS SELECT name, wrapped FROM versions;
         UPDATE versions SET wrapped = (SELECT wrapped FROM swap WHERE name = 'b') WHERE name = 'a';
         UPDATE versions SET wrapped = (SELECT wrapped FROM swap WHERE name = 'a') WHERE name = 'b';
         DROP TABLE swap;",
    );
    let server = stopped.start();
    let caller = server.all();
    is_refused(&caller, "a", &a);
    is_refused(&caller, "b", &b);
    // One that nobody has used since the start, changed under the running server.
    made(&caller, &aes("fresh", "wrapped"));
    let server = server.end("TERM").start();
    let caller = server.all();
    sql(
        &file,
        "UPDATE versions SET wrapped = (SELECT wrapped FROM versions WHERE name = 'a') WHERE name = 'fresh'",
    );
    is_refused(&caller, "fresh", &a);
}

/// Keeps the rows of a key as they are, to be put back by [`put_back`].
fn kept(name: &str) -> String {
    let copies = ["keys", "versions", "tags"]
        .map(|table| format!("CREATE TABLE old_{table} AS SELECT * FROM {table} WHERE name = '{name}';"));
    copies.concat()
}

fn put_back(name: &str) -> String {
    let restored = ["keys", "versions", "tags"].map(|table| {
        format!(
            "DELETE FROM {table} WHERE name = '{name}'; INSERT INTO {table} SELECT * FROM old_{table}; DROP TABLE old_{table};"
        )
    });
    restored.concat()
}

#[test]
fn an_older_record_in_place_of_a_newer_one_is_refused_where_the_audit_log_tells() {
    let (stopped, [a, b, _]) = prepared();
    let file = database(&stopped);
    // Rotated since.
    sql(&file, &kept("a"));
    let server = stopped.start();
    rotate(&server.all(), "a");
    let stopped = server.end("TERM");
    sql(&file, &put_back("a"));
    let server = stopped.start();
    let caller = server.all();
    is_refused(&caller, "a", &a);
    opens(&caller, &b);

    // Destroyed since: nobody brings it back.
    let stopped = server.end("TERM");
    sql(&file, &kept("b"));
    let server = stopped.start();
    destroy(&server.all(), "b");
    let stopped = server.end("TERM");
    sql(&file, &put_back("b"));
    let server = stopped.start();
    is_refused(&server.all(), "b", &b);
}

#[test]
fn a_version_that_was_taken_out_or_enabled_again_is_refused() {
    let server = Server::softhsm();
    let caller = server.all();
    for name in ["short", "twin", "enabled"] {
        made(&caller, &aes(name, "wrapped"));
    }
    let ciphertext = sealed(&caller, "enabled");
    for name in ["short", "enabled"] {
        rotate(&caller, name);
    }
    super::change_version(&caller, "enabled", 1, "disabled");
    let stopped = server.end("TERM");
    sql(
        &database(&stopped),
        "DELETE FROM versions WHERE name = 'short' AND version = 2;
         UPDATE keys SET primary_version = 1 WHERE name = 'short';
         INSERT INTO versions SELECT 'twin', 2, state, material, hsm_id, kek_version, algorithm, wrapped, public_key,
            created_at, encryptions_reserved FROM versions WHERE name = 'enabled' AND version = 1;
         UPDATE versions SET state = 'enabled' WHERE name = 'enabled' AND version = 1;",
    );
    let server = stopped.start();
    let caller = server.all();
    for name in ["short", "twin", "enabled"] {
        is_refused(&caller, name, &ciphertext);
    }
}

#[test]
fn a_key_of_the_token_is_not_used_past_the_changed_record_of_its_managed_key() {
    let server = Server::softhsm();
    let caller = server.all();
    let id = hsm_id(&made(&caller, &aes("h", "hsm")), 1);
    let ciphertext = sealed(&caller, &id);
    change(&caller, "h", json!({"state": "disabled"}));
    let stopped = server.end("TERM");
    sql(
        &database(&stopped),
        "UPDATE keys SET state = 'enabled' WHERE name = 'h'",
    );
    let server = stopped.start();
    let caller = server.all();
    let data = json!({"key_id": id, "data": base64(MESSAGE)});
    let hsm_body = merged(&ciphertext, json!({"key_version": ABSENT}));
    for reply in [
        call(&caller, "encrypt", &data),
        call(&caller, "decrypt", &ciphertext),
        caller.hsm("encrypt", &data),
        caller.hsm("decrypt", &hsm_body),
    ] {
        reply.problem_naming(500, "internal", "`h`");
    }
}

#[test]
fn a_key_of_users_is_not_taken_for_one_of_the_gateways_own() {
    for part in ["kek", "mac"] {
        let server = Server::softhsm();
        let caller = server.all();
        made(&caller, &aes("before", "wrapped"));
        let ciphertext = sealed(&caller, "before");
        let (key_type, usages) = match part {
            "kek" => ("AES", json!(["wrap", "unwrap"])),
            _ => ("HMAC", json!(["sign", "verify"])),
        };
        let known = imported(&caller, key_type, &KNOWN, json!({"usages": usages}));
        let stopped = server.end("TERM");
        sql(
            &database(&stopped),
            &format!("UPDATE gateway_keys SET {part} = '{known}'"),
        );
        let server = stopped.start();
        let caller = server.all();
        for protection in ["wrapped", "hsm"] {
            caller
                .post(KEYS, &aes("after", protection))
                .problem_naming(500, "internal", &known);
        }
        call(&caller, "decrypt", &ciphertext).problem_naming(500, "internal", &known);
    }
}

#[test]
fn what_a_record_names_is_not_destroyed_by_a_made_up_intent() {
    let server = Server::softhsm();
    let caller = server.all();
    made(&caller, &aes("h", "hsm"));
    let before = token_ids(&server);
    assert!(before.len() > 2);
    let intents = before.iter().enumerate().flat_map(|(number, id)| {
        ["create", "rotate", "token_key", "gateway_keys"].map(|kind| {
            let row = format!("'{kind}-{number}', '{kind}', NULL, NULL, '{id}', 'nobody', 1, 1");
            format!("INSERT INTO intents VALUES ({row});")
        })
    });
    let intents: String = intents.collect();
    let stopped = server.end("TERM");
    let file = database(&stopped);
    sql(&file, &intents);
    let server = stopped.start();
    crate::tools::wait_until("the intents are worked off", || {
        query(&file, "SELECT count(*) FROM intents") == "0"
    });
    assert_eq!(token_ids(&server), before);
}

/// The ids of all that is on the server's token, in order.
fn token_ids(server: &Server) -> Vec<String> {
    let objects = server.token().objects().into_iter();
    let mut ids: Vec<String> = objects.map(|object| format!("hsm:{}", object.id)).collect();
    ids.sort();
    ids
}
