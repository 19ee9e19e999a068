//! PIN, secrets, bearer tokens, plaintext and key material stay where they belong, at the most talkative level of the log
//! too.

use std::fmt::Write as _;

use serde_json::{Value, json};
use softhsm_test::{FaultyToken, Token};

use crate::support::{Reply, SECRET, Server, base64, bytes, merged, mint};
use crate::tools::behind;

/// Unlike anything that a log would hold by chance.
const PLAINTEXT: &str = "plaintext-6604-juniper-otter-marble";

/// What must not be seen, by name.
struct Secrets(Vec<(&'static str, Vec<u8>)>);

impl Secrets {
    fn new(pin: &str, bearer: &str) -> Self {
        let mut all = Self(Vec::new());
        all.add("PIN", pin.as_bytes());
        all.add("secret of tokens", SECRET.as_bytes());
        all.add("bearer token", bearer.as_bytes());
        let signature = bearer.rsplit('.').next().unwrap();
        all.add("signature of the bearer token", signature.as_bytes());
        all.add("plaintext", PLAINTEXT.as_bytes());
        all
    }

    /// As it is, in base64, in hex, and as Rust shows bytes.
    fn add(&mut self, name: &'static str, secret: &[u8]) {
        let hex = secret.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        // Without the last characters, which depend on what follows.
        let base64 = base64(secret);
        let base64 = &base64[..base64.len() - 4];
        let shown = format!("{:?}", &secret[..8]);
        let shown = shown.trim_matches(['[', ']']);
        let upper = hex.to_uppercase();
        for form in [
            secret,
            hex.as_bytes(),
            upper.as_bytes(),
            base64.as_bytes(),
            shown.as_bytes(),
        ] {
            self.0.push((name, form.to_vec()));
        }
    }

    #[track_caller]
    fn are_not_in(&self, place: &str, text: &[u8]) {
        for (name, secret) in &self.0 {
            let found = text.windows(secret.len()).any(|window| window == secret);
            assert!(!found, "the {name} is in {place}");
        }
    }
}

/// Right and wrong requests with secrets in them. The answers, but for what decrypt answered rightly.
fn use_everything(server: &Server, bearer: &str, foreign: Option<&str>) -> Vec<Reply> {
    let caller = server.bearer(bearer);
    let data = base64(PLAINTEXT);
    let aes =
        json!({"key_type": "AES", "key_size": 256, "extractable": true, "usages": ["encrypt", "decrypt", "sign"]});
    let aes = caller.key(aes)["key_id"].clone();
    let ec = caller.key(json!({"key_type": "EC", "curve": "P-256"}))["key_id"].clone();
    let mut replies = Vec::new();
    let sealed = caller.hsm("encrypt", &json!({"key_id": aes, "data": data}));
    let opened = caller.hsm("decrypt", &sealed.good(200)).good(200);
    assert_eq!(bytes(&opened["data"]), PLAINTEXT.as_bytes());
    replies.push(sealed);
    for id in [Some(&aes), Some(&ec), foreign.map(Value::from).as_ref()]
        .into_iter()
        .flatten()
    {
        replies.push(caller.hsm("sign", &json!({"key_id": id, "data": data})));
        replies.push(caller.hsm("encrypt", &json!({"key_id": id, "data": data})));
        replies.push(caller.hsm("verify", &json!({"key_id": id, "data": data, "signature": data})));
        replies.push(caller.get(&format!("/api/v1/hsm/keys/{}", id.as_str().unwrap())));
    }
    // Secrets where they do not belong.
    let good = json!({"key_id": aes, "data": data});
    for wrong in [
        json!({"data": PLAINTEXT}),
        json!({"data": {PLAINTEXT: 1}}),
        json!({"aad": PLAINTEXT}),
        json!({"algorithm": [data]}),
        json!({"data": [PLAINTEXT, data]}),
    ] {
        replies.push(caller.hsm("encrypt", &merged(&good, wrong)));
    }
    for body in [
        format!("{{\"data\":\"{PLAINTEXT}"),
        format!("{PLAINTEXT}{good}"),
        format!("\"{PLAINTEXT}\""),
    ] {
        replies.push(caller.post_text("/api/v1/hsm/sign", body));
    }
    // Keys in clear, and secrets in batches.
    let import = json!({"key_type": "HMAC", "format": "raw", "key_material": data, "key_label": "brought"});
    for more in [
        json!({}),
        json!({"key_type": "AES"}),
        json!({"format": "pkcs8", "key_type": "EC"}),
        json!({"format": PLAINTEXT}),
        json!({"key_material": PLAINTEXT}),
        json!({"key_material": [data]}),
        json!({"format": "wrapped", "wrapping_key_id": aes, "algorithm": "AES-KWP"}),
    ] {
        replies.push(caller.post("/api/v1/hsm/keys/import", &merged(&import, more)));
    }
    let sign = merged(&good, json!({"operation": "sign"}));
    let items = [
        sign.clone(),
        merged(&sign, json!({"data": PLAINTEXT})),
        merged(&sign, json!({"operation": PLAINTEXT})),
        json!(PLAINTEXT),
        json!({PLAINTEXT: data}),
    ];
    replies.push(caller.post("/api/v1/hsm/batch", &json!({"operations": items})));
    replies.push(server.bearer(&format!("{bearer}x")).get("/api/v1/hsm/keys"));
    replies.push(caller.raw(
        "GET",
        "/api/v1/hsm/slots",
        &[("Authorization", &format!("Basic {bearer}"))],
        b"",
    ));
    for path in [
        "/api/v1/hsm/keys",
        "/api/v1/hsm/slots",
        "/api/v1/audit",
        "/health/ready",
        "/metrics",
        "/nothing",
    ] {
        replies.push(caller.get(path));
    }
    replies
}

fn check(server: Server, secrets: &Secrets, replies: &[Reply]) {
    for reply in replies {
        secrets.are_not_in(&format!("an answer {}", reply.status), &reply.body);
        secrets.are_not_in("a header", format!("{:?}", reply.headers).as_bytes());
    }
    let files = server.data_files();
    assert!(
        files
            .keys()
            .any(|path| path.extension().is_some_and(|end| end == "jsonl"))
    );
    for (path, content) in files {
        secrets.are_not_in(&path.display().to_string(), &content);
    }
    let command_line = std::fs::read(format!("/proc/{}/cmdline", server.pid())).unwrap_or_default();
    secrets.are_not_in("the command line", &command_line);
    secrets.are_not_in("stdout", server.stdout().as_bytes());
    let log = server.stop();
    assert!(log.lines().count() >= replies.len(), "requests are logged: {log}");
    secrets.are_not_in("the log", log.as_bytes());
}

#[test]
fn they_are_nowhere_when_all_is_well() {
    let server = Server::with(Token::softhsm()).env("HSM_LOG__LEVEL", "trace").start();
    let token = server.token();
    // Material that a token would give away.
    token.make_foreign_key_with("0a01", "open", "AES:32", &["--extractable"]);
    let material = token.attributes("0a01")[0]
        .value
        .clone()
        .expect("a secret that can be read");
    let bearer = mint(&json!({"scope": "*"}));
    let mut secrets = Secrets::new(token.pin(), &bearer);
    secrets.add("key", &material);
    let replies = use_everything(&server, &bearer, Some("hsm:0a01"));
    check(server, &secrets, &replies);
}

#[test]
fn they_are_nowhere_when_the_token_fails() {
    for rules in [
        "C_Sign rv=0x30\nC_Verify rv=0x30",
        "C_SignInit rv=0x60\nC_VerifyInit rv=0x82",
        "C_Sign corrupt",
    ] {
        let token = FaultyToken::over(Token::softhsm());
        let server = Server::with_faulty(token).env("HSM_LOG__LEVEL", "trace").start();
        let bearer = mint(&json!({"scope": "*"}));
        let secrets = Secrets::new(server.token().pin(), &bearer);
        server.fault(rules);
        let replies = use_everything(&server, &bearer, None);
        check(server, &secrets, &replies);
    }
}

#[test]
fn they_are_nowhere_beside_the_token_in_the_binary() {
    let server = Server::linked().env("HSM_LOG__LEVEL", "trace").start();
    let bearer = mint(&json!({"scope": "*"}));
    let secrets = Secrets::new(crate::support::LINKED_PIN, &bearer);
    let replies = use_everything(&server, &bearer, None);
    check(server, &secrets, &replies);
}

#[test]
fn a_wrong_pin_is_not_shown() {
    let wrong = "wrong-pin-3318-lantern";
    let refused = Server::with(Token::softhsm())
        .env("HSM_PIN", wrong)
        .env("HSM_LOG__LEVEL", "trace")
        .refused();
    assert_eq!(refused.code, Some(78));
    let secrets = Secrets::new(wrong, &mint(&json!({})));
    secrets.are_not_in("stderr", refused.stderr.as_bytes());
    secrets.are_not_in("stdout", &refused.stdout);
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
