//! Who may call what.

use serde_json::{Value, json};

use super::{IMPORT, recorded};
use crate::support::{Server, base64};

#[test]
fn each_call_needs_its_scopes() {
    let server = Server::softhsm();
    let making = ["keys:create", "crypto:derive"];
    for (method, path, scopes, action) in [
        (
            "GET",
            "/api/v1/hsm/slots/0/mechanisms",
            &["slots:read"][..],
            "mechanisms",
        ),
        ("GET", "/api/v1/hsm/capabilities", &["slots:read"], "capabilities"),
        ("PATCH", "/api/v1/hsm/keys/hsm:00", &["keys:update"], "update"),
        ("POST", IMPORT, &["keys:create"], "import"),
        ("POST", "/api/v1/hsm/wrap", &["crypto:wrap"], "wrap"),
        ("POST", "/api/v1/wrap", &["crypto:wrap"], "wrap"),
        ("POST", "/api/v1/hsm/derive", &making, "derive"),
        ("POST", "/api/v1/hsm/encapsulate", &making, "encapsulate"),
        ("POST", "/api/v1/hsm/decapsulate", &making, "decapsulate"),
        ("POST", "/api/v1/hsm/keys/hsm:00/csr", &["crypto:sign"], "csr"),
        ("POST", "/api/v1/hsm/random", &["crypto:random"], "random"),
    ] {
        let json_type = [("Content-Type", "application/json")];
        server
            .anonymous()
            .raw(method, path, &json_type, b"{}")
            .problem(401, "unauthenticated");
        // Each of the scopes is needed.
        for missing in scopes {
            let others: Vec<_> = scopes.iter().filter(|scope| *scope != missing).copied().collect();
            let caller = server.caller(&format!("audit:read {}", others.join(" ")));
            let reply = caller.raw(method, path, &json_type, b"{}");
            reply.problem_naming(403, "forbidden", missing);
            let how = format!("Bearer realm=\"hsm\", error=\"insufficient_scope\", scope=\"{missing}\"");
            assert_eq!(reply.header("www-authenticate"), Some(how.as_str()));
            assert_eq!(
                recorded(&server, action),
                json!([null, null, "refused", 403, "forbidden"])
            );
        }
        let reply = server.caller(&scopes.join(" ")).raw(method, path, &json_type, b"{}");
        assert!(!matches!(reply.status, 401 | 403), "{path}: {}", reply.text());
    }
    let both = server.caller("audit:read").post("/api/v1/hsm/derive", &json!({}));
    both.problem_naming(403, "forbidden", "keys:create");
    both.problem_naming(403, "forbidden", "crypto:derive");
}

#[test]
fn a_wrapped_key_needs_one_more() {
    let server = Server::softhsm();
    let wrapped = json!({
        "key_type": "AES", "key_label": "w", "format": "wrapped", "key_material": base64([1; 24]),
        "wrapping_key_id": "hsm:00", "algorithm": "AES-KW",
    });
    let half = server.caller("keys:create");
    half.post(IMPORT, &wrapped)
        .problem_naming(403, "forbidden", "crypto:unwrap");
    assert_eq!(
        recorded(&server, "unwrap"),
        json!([null, null, "refused", 403, "forbidden"])
    );
    let both = server.caller("keys:create crypto:unwrap");
    both.post(IMPORT, &wrapped).problem(404, "key_not_found");
    server
        .caller("crypto:unwrap")
        .post(IMPORT, &wrapped)
        .problem_naming(403, "forbidden", "keys:create");
}

#[test]
fn any_token_may_send_a_batch() {
    let server = Server::softhsm();
    let body: Value = json!({"operations": [{"operation": "sign"}]});
    for path in ["/api/v1/hsm/batch", "/api/v1/batch"] {
        server.anonymous().post(path, &body).problem(401, "unauthenticated");
        let results = server.caller("audit:read").post(path, &body).good(200)["results"].clone();
        assert_eq!(results[0]["status"], 403);
        assert!(
            results[0]["detail"].as_str().unwrap().contains("crypto:sign"),
            "{results}"
        );
    }
}
