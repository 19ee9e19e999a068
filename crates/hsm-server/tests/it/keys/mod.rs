//! Keys on the token: made, found, listed, deleted, and what the token itself says of them.

mod finding;
mod making;
mod naming;

use serde_json::Value;

use crate::support::{Caller, text};

const KEYS: &str = "/api/v1/hsm/keys";

fn path(key: &Value) -> String {
    format!("{KEYS}/{}", text(&key["key_id"]))
}

/// The CKA_ID of a key, in hex.
fn hex(key: &Value) -> &str {
    text(&key["key_id"]).strip_prefix("hsm:").unwrap()
}

/// The ids of each page.
fn pages(caller: &Caller, query: &str) -> Vec<Vec<String>> {
    let (mut pages, mut next) = (Vec::new(), String::new());
    loop {
        let page = caller.get(&format!("{KEYS}?{query}{next}")).good(200);
        let ids = page["keys"]
            .as_array()
            .unwrap()
            .iter()
            .map(|key| text(&key["key_id"]).to_owned());
        pages.push(ids.collect());
        match page["next_cursor"].as_str() {
            Some(cursor) => next = format!("&cursor={cursor}"),
            None => return pages,
        }
        assert!(pages.len() < 100, "pages without end");
    }
}
