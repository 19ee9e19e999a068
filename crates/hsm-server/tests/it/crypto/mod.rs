//! Encrypt, decrypt, sign, verify: every algorithm, what decides when none is named, and what is refused.

mod choice;
mod encryption;
mod signatures;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256, Sha384, Sha512};

use crate::support::{Caller, base64, bytes, merged};

const DATA: &str = "SGVsbG8gV29ybGQh";

#[track_caller]
fn opens(caller: &Caller, encrypted: &Value, data: &str) {
    assert_eq!(caller.hsm("decrypt", encrypted).good(200), json!({"data": data}));
}

/// Signs, checks the answer's form, and verifies it; gives the answer.
#[track_caller]
fn signs(caller: &Caller, request: Value) -> Value {
    let answer = caller.hsm("sign", &request).good(200);
    assert_eq!(answer.as_object().unwrap().len(), 5, "{answer}");
    assert_eq!(answer["key_id"], request["key_id"]);
    assert_eq!(
        answer["message_type"],
        *request.get("message_type").unwrap_or(&json!("raw"))
    );
    let check = merged(&answer, json!({"data": request["data"]}));
    assert!(is_valid(caller, &check), "{answer}");
    let other = if request.get("message_type") == Some(&json!("digest")) {
        base64(vec![7; bytes(&request["data"]).len()])
    } else {
        base64("something else")
    };
    assert!(!is_valid(caller, &merged(&check, json!({"data": other}))), "{answer}");
    answer
}

#[track_caller]
fn is_valid(caller: &Caller, check: &Value) -> bool {
    let answer = caller.hsm("verify", check).good(200);
    assert_eq!(answer.as_object().unwrap().len(), 1, "{answer}");
    answer["valid"].as_bool().unwrap()
}

fn hash(bits: &str, data: &[u8]) -> Vec<u8> {
    match bits {
        "256" => Sha256::digest(data).to_vec(),
        "384" => Sha384::digest(data).to_vec(),
        _ => Sha512::digest(data).to_vec(),
    }
}
