//! AES-GCM with random IVs ends at 2^32 encryptions with a version.

use serde_json::{Value, json};

use super::{MESSAGE, aes, call, database, hsm_id, made, opens, rotate, sealed, sql};
use crate::support::{Server, base64, merged, text};

#[test]
fn a_version_encrypts_so_often_and_no_more() {
    let server = Server::softhsm();
    let caller = server.all();
    let mut old = Vec::new();
    let on_token = hsm_id(&made(&caller, &aes("a-hsm", "hsm")), 1);
    made(&caller, &aes("a-wrapped", "wrapped"));
    for name in ["a-hsm", "a-wrapped"] {
        old.push(sealed(&caller, name));
    }
    let stopped = server.end("TERM");
    // What is reserved is at least what was encrypted: two are left.
    sql(
        &database(&stopped),
        "UPDATE versions SET encryptions_reserved = 4294967296 - 2",
    );
    let server = stopped.start();
    let caller = server.all();
    for (name, first) in ["a-hsm", "a-wrapped"].iter().zip(&old) {
        sealed(&caller, name);
        call(&caller, "datakeys", &json!({"key_id": name})).good(200);
        let data = json!({"key_id": name, "data": base64(MESSAGE)});
        let batch = json!({"operations": [merged(&data, json!({"operation": "encrypt"}))]});
        for reply in [
            call(&caller, "encrypt", &data),
            call(&caller, "rewrap", first),
            call(&caller, "datakeys", &json!({"key_id": name})),
        ] {
            reply.problem_naming(409, "conflict", "rotate the key");
        }
        let answer = call(&caller, "batch", &batch).good(200);
        assert_eq!(answer["results"][0]["code"], "conflict", "{answer}");
        assert!(text(&answer["results"][0]["detail"]).contains("rotate"));
        if *name == "a-hsm" {
            let by_id = merged(&data, json!({"key_id": on_token}));
            call(&caller, "encrypt", &by_id).problem(409, "conflict");
            caller.hsm("encrypt", &by_id).problem(409, "conflict");
        }
        // Neither what is there nor other algorithms.
        opens(&caller, first);
        let counter = merged(&data, json!({"algorithm": "AES-CTR"}));
        opens(&caller, &call(&caller, "encrypt", &counter).good(200));
        rotate(&caller, name);
        let fresh = call(&caller, "rewrap", first).good(200);
        assert_eq!(fresh["key_version"], 2);
        opens(&caller, &fresh);
    }
    let unmanaged = caller.key(json!({"key_type": "AES", "key_size": 256}));
    assert_eq!(sealed(&caller, text(&unmanaged["key_id"]))["key_version"], Value::Null);
}
