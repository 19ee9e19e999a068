//! `serve` refuses to start with a clear line for each fault, and starts where it should.

use std::fs;
use std::net::TcpListener;

use serde_json::json;
use softhsm_test::{FaultyToken, Token};

use crate::support::{Builder, SECRET, Server, base64, mint, text};
use crate::tools::{behind, faults, only_fault};

/// CKF_USER_PIN_FINAL_TRY and CKF_USER_PIN_LOCKED.
const FINAL_TRY: u32 = 0x0002_0000;
const LOCKED: u32 = 0x0004_0000;

fn softhsm() -> Builder {
    Server::with(Token::softhsm())
}

#[test]
fn a_module_that_is_not_there() {
    let ended = softhsm().env("HSM_LIBRARY_PATH", "/nowhere/module.so").refused();
    only_fault(&ended, 1, &["HSM_LIBRARY_PATH", "/nowhere/module.so"]);
}

#[test]
fn a_module_that_is_none() {
    let builder = softhsm();
    let text = builder.scratch().file("module.so", "no library");
    let ended = builder.env("HSM_LIBRARY_PATH", text.to_str().unwrap()).refused();
    only_fault(&ended, 1, &["HSM_LIBRARY_PATH", "module.so"]);

    // A library that speaks no PKCS#11.
    let builder = softhsm();
    let source = builder.scratch().file("other.c", "int other(void) { return 1; }");
    let library = builder.scratch().path("other.so");
    let built = crate::support::run(
        "cc",
        [
            "-shared",
            "-fPIC",
            "-o",
            library.to_str().unwrap(),
            source.to_str().unwrap(),
        ],
    );
    assert_eq!(built.code, Some(0), "{}", built.stderr);
    let ended = builder.env("HSM_LIBRARY_PATH", library.to_str().unwrap()).refused();
    only_fault(&ended, 1, &["HSM_LIBRARY_PATH", "C_GetFunctionList"]);
}

#[test]
fn no_module_and_no_authentication_are_said_at_once() {
    let ended = softhsm()
        .without("HSM_LIBRARY_PATH")
        .without("HSM_AUTH__JWT_SECRET")
        .refused();
    assert_eq!(ended.code, Some(1));
    let faults = faults(&ended);
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(faults[0].contains("HSM_LIBRARY_PATH"), "{faults:?}");
    assert!(
        faults[1].contains("HSM_AUTH__JWT_SECRET") && faults[1].contains("HSM_AUTH__JWKS_FILE"),
        "{faults:?}"
    );
}

#[test]
fn a_token_that_is_not_there() {
    let tokens = Token::several(&["one", "two"]);
    let ended = Server::with(tokens[0].clone())
        .env("HSM_TOKEN_LABEL", "three")
        .refused();
    only_fault(&ended, 1, &["HSM_TOKEN_LABEL", "three", "`one`", "`two`"]);

    let ended = Server::with(tokens[0].clone())
        .env("HSM_TOKEN_LABEL", "pkcs11:serial=00")
        .refused();
    only_fault(&ended, 1, &["HSM_TOKEN_LABEL", "`one`", "`two`"]);

    let ended = Server::with(tokens[0].clone())
        .env("HSM_TOKEN_LABEL", "pkcs11:colour=red")
        .refused();
    only_fault(&ended, 1, &["HSM_TOKEN_LABEL", "colour"]);
}

#[test]
fn no_token_at_all() {
    let ended = Server::with(Token::uninitialised()).refused();
    only_fault(&ended, 1, &["HSM_TOKEN_LABEL", "no initialised token"]);
}

#[test]
fn several_tokens_that_fit() {
    let tokens = Token::several(&["one", "two"]);
    let ended = Server::with(tokens[0].clone()).without("HSM_TOKEN_LABEL").refused();
    only_fault(&ended, 1, &["HSM_TOKEN_LABEL", "one", "two", "serial"]);

    let twins = Token::several(&["same", "same"]);
    let ended = Server::with(twins[0].clone()).refused();
    only_fault(&ended, 1, &["HSM_TOKEN_LABEL", "same", "serial"]);
}

#[test]
fn a_uri_chooses_the_token() {
    let tokens = Token::several(&["one", "two words"]);
    for uri in [
        "pkcs11:token=two%20words",
        "pkcs11:token=two%20words;manufacturer=SoftHSM%20project",
    ] {
        let server = Server::with(tokens[0].clone()).env("HSM_TOKEN_LABEL", uri).start();
        let key = server.all().key(json!({"key_type": "AES", "key_size": 128}));
        assert!(text(&key["pkcs11_uri"]).contains("token=two%20words"), "{key}");
    }
    // By the serial number, which is what tells twins apart.
    let server = Server::on(&tokens[0]);
    let slots = server.all().get("/api/v1/hsm/slots").good(200);
    let slots = slots["slots"].as_array().unwrap();
    let two = slots.iter().find(|slot| slot["token_label"] == "two words").unwrap();
    let uri = format!("pkcs11:serial={}", text(&two["token_serial"]));
    let server = Server::with(tokens[0].clone()).env("HSM_TOKEN_LABEL", &uri).start();
    assert_eq!(
        server.all().get("/api/v1/hsm/keys").good(200)["keys"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

#[test]
fn the_only_token_needs_no_label() {
    let server = softhsm().without("HSM_TOKEN_LABEL").start();
    server.all().key(json!({"key_type": "AES", "key_size": 128}));
}

#[test]
fn a_wrong_pin_costs_one_attempt() {
    let faulty = FaultyToken::over(Token::softhsm());
    let builder = behind(&faulty).env("HSM_PIN", "not-the-pin");
    let ended = builder.run(&["serve"]);
    only_fault(&ended, 78, &["PIN"]);
    assert_eq!(faulty.calls("C_Login"), 1);
    assert!(!ended.stderr.contains("not-the-pin"));
}

#[test]
fn a_pin_near_its_end_is_not_tried() {
    for flag in [FINAL_TRY, LOCKED] {
        let faulty = FaultyToken::over(Token::softhsm());
        faulty.fault(&format!("C_GetTokenInfo flags={flag:#x}"));
        let ended = behind(&faulty).run(&["serve"]);
        only_fault(&ended, 78, &["PIN"]);
        assert_eq!(faulty.calls("C_Login"), 0);
    }
}

#[test]
fn a_pin_file_that_is_missing_or_empty() {
    let builder = softhsm().env("HSM_PIN_FILE", "/nowhere/pin");
    only_fault(&builder.refused(), 78, &["HSM_PIN_FILE", "/nowhere/pin"]);
    let builder = softhsm();
    let empty = builder.scratch().file("pin", "\n");
    let ended = builder.env("HSM_PIN_FILE", empty.to_str().unwrap()).refused();
    only_fault(&ended, 78, &["HSM_PIN_FILE"]);
}

#[test]
fn the_pin_file_wins() {
    let token = Token::softhsm();
    for end in ["", "\n"] {
        let builder = Server::with(token.clone()).env("HSM_PIN", "not-the-pin");
        let file = builder.scratch().file("pin", format!("{}{end}", token.pin()));
        let server = builder.env("HSM_PIN_FILE", file.to_str().unwrap()).start();
        server.all().get("/api/v1/hsm/keys").good(200);
    }
    // One newline is dropped and not two.
    let builder = Server::with(token.clone());
    let file = builder.scratch().file("pin", format!("{}\n\n", token.pin()));
    let ended = builder.env("HSM_PIN_FILE", file.to_str().unwrap()).refused();
    only_fault(&ended, 78, &["PIN"]);
}

#[test]
fn without_a_pin_it_serves_what_needs_none() {
    let token = Token::softhsm();
    let (id, verified) = {
        let server = Server::on(&token);
        let caller = server.all();
        let key = caller.key(json!({"key_type": "EC", "curve": "P-256"}));
        let body = json!({"key_id": key["key_id"], "data": base64(b"message")});
        let mut signed = caller.hsm("sign", &body).good(200);
        signed["data"] = body["data"].clone();
        (key["key_id"].clone(), signed)
    };
    let server = Server::with(token).without("HSM_PIN").start();
    let caller = server.all();
    caller.get("/health/ready").good(200);
    let warned = server
        .log()
        .lines()
        .any(|line| line.contains("HSM_PIN") && line.contains("WARN"));
    assert!(warned, "{}", server.log());
    for _ in 0..3 {
        let body = json!({"key_id": id, "data": base64(b"message")});
        caller
            .hsm("sign", &body)
            .problem_naming(503, "hsm_unavailable", "HSM_PIN");
        caller
            .create(json!({"key_type": "AES", "key_size": 256}))
            .problem_naming(503, "hsm_unavailable", "HSM_PIN");
        assert_eq!(caller.hsm("verify", &verified).good(200), json!({"valid": true}));
        caller.get("/health/ready").good(200);
    }
    caller.get("/api/v1/hsm/slots").good(200);
}

#[test]
fn a_secret_that_is_too_short() {
    let ended = softhsm()
        .env("HSM_AUTH__JWT_SECRET", "thirty-one-bytes-of-a-secret-xx")
        .refused();
    only_fault(&ended, 1, &["HSM_AUTH__JWT_SECRET", "32"]);
    assert!(!ended.stderr.contains("thirty-one-bytes"));
}

#[test]
fn an_audit_folder_that_cannot_be_written() {
    let builder = softhsm();
    let file = builder.scratch().file("audit", "a file");
    let ended = builder.env("HSM_AUDIT__PATH", file.to_str().unwrap()).refused();
    only_fault(&ended, 1, &["HSM_AUDIT__PATH", file.to_str().unwrap()]);
    let ended = softhsm().env("HSM_AUDIT__PATH", "/proc/self/audit").refused();
    only_fault(&ended, 1, &["HSM_AUDIT__PATH", "/proc/self/audit"]);
}

#[test]
fn unknown_settings_are_named() {
    let ended = softhsm().env("HSM_SERVER__LISTENN", "127.0.0.1:0").refused();
    only_fault(&ended, 1, &["HSM_SERVER__LISTENN", "HSM_SERVER__LISTEN"]);
    let ended = softhsm().env("HSM_STORE__URL", "postgres://x").refused();
    only_fault(&ended, 1, &["HSM_STORE__URL"]);

    let builder = softhsm();
    let file = builder.scratch().file(
        "hsm.toml",
        "colour = 1\n[server]\nlisten = \"127.0.0.1:0\"\nspeed = 2\n[tokens.other]\ncolour = 1\n",
    );
    let ended = builder.env("HSM_CONFIG", file.to_str().unwrap()).refused();
    assert_eq!(ended.code, Some(1));
    let faults = faults(&ended);
    assert_eq!(faults.len(), 3, "{faults:?}");
    for name in ["colour", "server.speed", "tokens.other.colour"] {
        assert!(faults.iter().any(|fault| fault.contains(name)), "{name}: {faults:?}");
    }
}

#[test]
fn an_unknown_variable_without_a_section_is_a_warning() {
    let server = softhsm().env("HSM_PINN", "x").start();
    let warned = server
        .log()
        .lines()
        .any(|line| line.contains("HSM_PINN") && line.contains("WARN"));
    assert!(warned, "{}", server.log());
}

#[test]
fn the_file_is_read_and_the_environment_wins() {
    let token = Token::softhsm();
    let builder = Server::with(token.clone());
    let audit = builder.scratch().path("from-the-file");
    let settings = format!(
        "library_path = '{}'\ntoken_label = '{}'\npin = '{}'\n[audit]\npath = '{}'\n[limits]\nqueue = 'many'\n",
        token.module().display(),
        token.label(),
        token.pin(),
        audit.display()
    );
    let file = builder.scratch().file("hsm.toml", settings);
    let server = builder
        .without("HSM_LIBRARY_PATH")
        .without("HSM_TOKEN_LABEL")
        .without("HSM_PIN")
        .env("HSM_LIMITS__QUEUE", "10")
        .env("HSM_CONFIG", file.to_str().unwrap())
        .start();
    server.all().key(json!({"key_type": "AES", "key_size": 256}));
    assert!(audit.is_dir());
}

#[test]
fn an_address_in_use() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended = softhsm().env("HSM_SERVER__LISTEN", &address).refused();
    only_fault(&ended, 1, &["HSM_SERVER__LISTEN", &address]);
}

#[test]
fn an_open_address_needs_tls_or_a_proxy() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:8080"] {
        let ended = softhsm().env("HSM_SERVER__LISTEN", address).refused();
        only_fault(
            &ended,
            1,
            &["HSM_SERVER__LISTEN", "HSM_SERVER__TLS_CERT", "HSM_SERVER__BEHIND_PROXY"],
        );
    }
}

#[test]
fn half_of_tls() {
    let ended = softhsm().env("HSM_SERVER__TLS_CERT", "/nowhere/cert.pem").refused();
    assert_eq!(ended.code, Some(1));
    assert!(
        faults(&ended).iter().any(|fault| fault.contains("HSM_SERVER__TLS_KEY")),
        "{}",
        ended.stderr
    );
}

#[test]
fn everything_that_is_wrong_is_said_in_one_run() {
    let builder = softhsm();
    let file = builder.scratch().file("audit", "a file");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let ended = builder
        .env("HSM_SERVER__LISTEN", &taken.local_addr().unwrap().to_string())
        .env("HSM_AUDIT__PATH", file.to_str().unwrap())
        .env("HSM_AUTH__JWKS_FILE", "/nowhere/jwks.json")
        .env("HSM_LIBRARY_PATH", "/nowhere/module.so")
        .env("HSM_SERVER__TLS_CERT", "/nowhere/cert.pem")
        .env("HSM_SERVER__TLS_KEY", "/nowhere/key.pem")
        .refused();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let faults = faults(&ended);
    for name in [
        "HSM_AUDIT__PATH",
        "HSM_AUTH__JWKS_FILE",
        "HSM_LIBRARY_PATH",
        "HSM_SERVER__LISTEN",
        "HSM_SERVER__TLS_CERT",
        "HSM_SERVER__TLS_KEY",
    ] {
        let lines = faults.iter().filter(|fault| fault.starts_with(name)).count();
        assert_eq!(lines, 1, "{name}: {}", ended.stderr);
    }
}

#[test]
fn settings_that_are_wrong_are_said_in_one_run() {
    let ended = softhsm()
        .env("HSM_LIMITS__QUEUE", "many")
        .env("HSM_LIMITS__HSM_TIMEOUT_MS", "0")
        .env("HSM_SERVER__LISTEN", "here")
        .env("HSM_VERIFY_AFTER_SIGN", "sometimes")
        .env("HSM_AUDIT__SYNC", "never")
        .env("HSM_OTHER__THING", "1")
        .without("HSM_LIBRARY_PATH")
        .refused();
    assert_eq!(ended.code, Some(1));
    let faults = faults(&ended);
    assert_eq!(faults.len(), 7, "{faults:?}");
}

#[test]
fn the_embedded_token_is_made_only_with_a_pin_of_eight() {
    let ended = Server::linked().without("HSM_PIN").refused();
    only_fault(&ended, 78, &["HSM_PIN", "8"]);
    let ended = Server::linked().env("HSM_PIN", "seven-7").refused();
    only_fault(&ended, 78, &["HSM_PIN", "8"]);
    assert!(!ended.stderr.contains("seven-7"));
    let server = Server::linked().env("HSM_PIN", "eight--8").start();
    let key = server.all().key(json!({"key_type": "EC", "curve": "P-256"}));
    // It is there at the next start, and its PIN too.
    let builder = server.end("TERM");
    let ended = builder.run(&["check"]);
    assert_eq!(ended.code, Some(0), "{}", ended.line());
    let server = builder.start();
    assert_eq!(server.all().get("/api/v1/hsm/keys").good(200)["keys"], json!([key]));
}

#[test]
fn it_says_which_port_it_has() {
    let server = Server::softhsm();
    assert_ne!(server.address().port(), 0);
    server.anonymous().get("/health/live").good(200);
}

#[test]
fn secrets_are_in_no_command_line_and_no_log() {
    let server = Server::softhsm();
    server.all().key(json!({"key_type": "AES", "key_size": 256}));
    let bearer = mint(&json!({"scope": "keys:read"}));
    server.bearer(&bearer).get("/api/v1/hsm/keys").good(200);
    let command_line = fs::read(format!("/proc/{}/cmdline", server.pid())).unwrap();
    let command_line = String::from_utf8_lossy(&command_line).into_owned();
    for secret in [server.token().pin(), SECRET, &bearer] {
        for place in [&command_line, &server.log(), &server.stdout()] {
            assert!(!place.contains(secret));
        }
    }
}
