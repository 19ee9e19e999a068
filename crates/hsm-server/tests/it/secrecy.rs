//! Secrets appear nowhere: not in an answer, a log, a record, a command line.

use std::fs;

use serde_json::{Value, json};
use softhsm_test::{FaultyToken, Token};

use crate::support::{Caller, Reply, SECRET, base64, bytes, merged, mint, text};
use crate::tools::behind;

const PLAINTEXT: &str = "plaintext-4471-saffron-otter-plaintext";

/// Keeps every answer.
struct Listener<'a> {
    caller: &'a Caller,
    answers: Vec<(String, Reply)>,
}

impl Listener<'_> {
    fn keep(&mut self, what: &str, reply: Reply) -> Value {
        let value = serde_json::from_slice(&reply.body).unwrap_or_default();
        self.answers.push((what.to_owned(), reply));
        value
    }

    fn post(&mut self, path: &str, body: &Value) -> Value {
        self.text(path, &body.to_string())
    }

    fn text(&mut self, path: &str, body: &str) -> Value {
        let reply = self.caller.post_text(path, body);
        self.keep(&format!("{path} {body}"), reply)
    }

    fn get(&mut self, path: &str) -> Value {
        let reply = self.caller.get(path);
        self.keep(path, reply)
    }
}

/// All that there is to do with a key, and to do wrong.
fn scenario(listener: &mut Listener<'_>, faulty: &FaultyToken) {
    let data = base64(PLAINTEXT);
    let hsm = |name: &str| format!("/api/v1/hsm/{name}");
    for key in [
        json!({"key_type": "AES", "key_size": 256, "key_label": "aes"}),
        json!({"key_type": "RSA", "key_size": 2048, "key_label": "rsa"}),
        json!({"key_type": "EC", "curve": "P-256", "key_label": "ec"}),
        json!({"key_type": "HMAC", "key_label": "hmac", "extractable": true}),
    ] {
        let key = listener.post(&hsm("keys"), &key);
        let id = &key["key_id"];
        let body = json!({"key_id": id, "data": data});
        let signed = listener.post(&hsm("sign"), &body);
        listener.post(&hsm("verify"), &merged(&signed, json!({"data": data})));
        let sealed = listener.post(&hsm("encrypt"), &merged(&body, json!({"aad": data})));
        listener.post(&hsm("decrypt"), &merged(&sealed, json!({"aad": base64(b"other")})));
        let sealed = listener.post(&hsm("encrypt"), &body);
        if sealed["ciphertext"].is_string() {
            let reply = listener.caller.post(&hsm("decrypt"), &sealed);
            assert_eq!(bytes(&reply.good(200)["data"]), PLAINTEXT.as_bytes());
        }
        // The request is wrong, the plaintext is in it.
        for wrong in [
            format!(r#"{{"key_id":{id},"data":"{data}""#),
            format!(r#"{{"key_id":{id},"data":"{data}!"}}"#),
            format!(r#"{{"key_id":{id},"data":{{"a":"{data}"}}}}"#),
            format!(r#"{{"key_id":{id},"data":["{data}"]}}"#),
            format!(r#"{{"key_id":{id},"data":"{PLAINTEXT}"}}"#),
            format!(r#"{{"key_id":{id},"data":"{data}","data":"{data}"}}"#),
            format!(r#"{{"key_id":{id},"data":"{data}","other":"{data}"}}"#),
            format!(r#"{{"key_id":{id},"data":"{data}","algorithm":"AES-CBC"}}"#),
            format!(r#"{{"key_id":{id},"data":"{data}","algorithm":7}}"#),
            format!(r#"{{"key_id":"hsm:00","data":"{data}"}}"#),
            format!(r#"["{data}"]"#),
            format!(r#""{data}""#),
        ] {
            listener.text(&hsm("encrypt"), &wrong);
            listener.text(&hsm("sign"), &wrong);
        }
        // The token fails, the plaintext is in its hands.
        for rule in [
            "C_Sign rv=0x30\nC_Encrypt rv=0x30\nC_EncryptUpdate rv=0x30",
            "C_SignInit rv=0x54\nC_EncryptInit rv=0x54",
            "forget-sessions",
            "logout",
        ] {
            faulty.fault(rule);
            listener.post(&hsm("sign"), &body);
            listener.post(&hsm("encrypt"), &body);
        }
        faulty.clear();
        listener.get(&format!("/api/v1/hsm/keys/{}", text(id)));
    }
    for path in [
        "/api/v1/hsm/keys",
        "/api/v1/hsm/slots",
        "/api/v1/audit",
        "/api/v1/openapi.json",
        "/metrics",
        "/health/ready",
        "/docs/errors",
        "/nowhere",
    ] {
        listener.get(path);
    }
}

#[test]
fn secrets_appear_nowhere() {
    let faulty = FaultyToken::over(Token::softhsm());
    let server = behind(&faulty).env("HSM_LOG__LEVEL", "trace").start();
    let bearer = mint(&json!({"sub": "secretive", "scope": "*"}));
    let caller = server.bearer(&bearer);
    let mut listener = Listener {
        caller: &caller,
        answers: Vec::new(),
    };
    scenario(&mut listener, &faulty);

    // Tokens that are refused are secrets too: they may be good elsewhere.
    let expired = mint(&json!({"scope": "*", "exp": 1}));
    let poor = mint(&json!({"scope": "slots:read"}));
    for token in [&expired, &poor] {
        let reply = server.bearer(token).get("/api/v1/hsm/keys");
        listener.keep("refused", reply);
        let reply = server
            .anonymous()
            .get(&format!("/api/v1/hsm/keys?access_token={token}"));
        listener.keep("in the query", reply);
        let reply = server.all().get(&format!("/api/v1/hsm/keys?access_token={token}"));
        listener.keep("in the query, with a good one", reply);
    }
    let basic = [("Authorization", "Basic cGluOnBpbi01OTI3LXR1bGlw")];
    let reply = server.anonymous().raw("GET", "/api/v1/hsm/keys", &basic, b"");
    listener.keep("basic", reply);

    let mut places: Vec<(String, Vec<u8>)> = listener
        .answers
        .iter()
        .map(|(what, reply)| {
            (
                what.clone(),
                format!("{:?} {}", reply.headers, reply.text()).into_bytes(),
            )
        })
        .collect();
    assert!(places.len() > 150);
    places.push(("stderr".into(), server.log().into_bytes()));
    places.push(("stdout".into(), server.stdout().into_bytes()));
    let command_line = fs::read(format!("/proc/{}/cmdline", server.pid())).unwrap();
    places.push(("command line".into(), command_line));
    for (path, content) in server.data_files() {
        places.push((path.display().to_string(), content));
    }
    assert!(places.iter().any(|(name, _)| name.ends_with(".jsonl")));
    assert!(
        server.log().contains("TRACE") || server.log().contains("DEBUG"),
        "{}",
        server.log()
    );

    let signature = |token: &str| token.rsplit('.').next().unwrap().to_owned();
    let secrets = [
        ("PIN", server.token().pin().to_owned()),
        ("PIN in base64", base64(server.token().pin())),
        ("JWT secret", SECRET.to_owned()),
        ("bearer token", bearer.clone()),
        ("its signature", signature(&bearer)),
        ("expired token's signature", signature(&expired)),
        ("poor token's signature", signature(&poor)),
        ("plaintext", PLAINTEXT.to_owned()),
        (
            "plaintext in base64",
            base64(PLAINTEXT).trim_end_matches('=').to_owned(),
        ),
        (
            "plaintext in hex",
            PLAINTEXT.bytes().map(|byte| format!("{byte:02x}")).collect(),
        ),
        (
            "plaintext as a list",
            format!("{:?}", &PLAINTEXT.as_bytes()[..12])
                .trim_matches(['[', ']'])
                .to_owned(),
        ),
    ];
    for (name, secret) in &secrets {
        for (place, content) in &places {
            let found = content.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "the {name} is in {place}: {}", String::from_utf8_lossy(content));
        }
    }
}

#[test]
fn a_wrong_pin_and_a_wrong_setting_are_not_shown() {
    let faulty = FaultyToken::over(Token::softhsm());
    for (name, value) in [
        ("HSM_PIN", "wrong-pin-3318-juniper"),
        ("HSM_AUTH__JWT_SECRET", "short-3318-juniper"),
    ] {
        let builder = behind(&faulty).env("HSM_LOG__LEVEL", "trace").env(name, value);
        for args in [&["serve"][..], &["check"], &["token", "--sub", "a", "--scope", "*"]] {
            let ended = builder.run(args);
            let said = format!("{}{}", ended.line(), ended.stderr);
            assert!(!said.contains("3318"), "{args:?}: {said}");
        }
    }
    // In a file that can't be read as it should.
    for content in [
        "pin = 'wrong-pin-3318-juniper",
        "pin = ['wrong-pin-3318-juniper']",
        "pinn = 'wrong-pin-3318-juniper'",
        "[auth]\njwt_secret = 'short-3318-juniper'",
        "[auth]\njwt_secret = { a = 'short-3318-juniper' }",
        "auth = 'short-3318-juniper'",
    ] {
        let builder = behind(&faulty).without("HSM_PIN").without("HSM_AUTH__JWT_SECRET");
        let file = builder.scratch().file("hsm.toml", content);
        let ended = builder.env("HSM_CONFIG", file.to_str().unwrap()).refused();
        assert_ne!(ended.code, Some(0));
        assert!(!ended.stderr.contains("3318"), "{content}: {}", ended.stderr);
    }
}
