//! `check`, `token`, `openapi` and `audit verify`.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use softhsm_test::{FaultyToken, Token};

use crate::support::{Builder, Finished, Scratch, Server, base64, run, text};
use crate::tools::{audit_files, behind, faults};

/// What a step of `check` says, and whether it is well.
#[track_caller]
fn step<'a>(ended: &'a Finished, name: &str) -> (bool, &'a str) {
    let mut found = ended.line().lines().filter_map(|line| {
        let (verdict, rest) = line.split_once(' ')?;
        let said = rest.trim_start().strip_prefix(name)?.strip_prefix(": ")?;
        Some((verdict == "ok", said))
    });
    let first = found.next();
    first.unwrap_or_else(|| panic!("no step {name}: {}", ended.line()))
}

fn softhsm() -> Builder {
    Server::with(Token::softhsm())
}

#[test]
fn check_of_what_is_well() {
    for builder in [softhsm(), Server::with(Token::embedded()), Server::linked()] {
        let ended = builder.run(&["check"]);
        assert_eq!(ended.code, Some(0), "{} {}", ended.line(), ended.stderr);
        for name in [
            "configuration",
            "module",
            "token",
            "login",
            "mechanisms",
            "random",
            "round trip",
            "leftovers",
        ] {
            assert!(step(&ended, name).0, "{}", ended.line());
        }
    }
}

#[test]
fn check_leaves_nothing_on_the_token() {
    let token = Token::softhsm();
    assert_eq!(Server::with(token.clone()).run(&["check"]).code, Some(0));
    assert!(token.objects().is_empty());
}

#[test]
fn check_needs_no_authentication() {
    let ended = softhsm().without("HSM_AUTH__JWT_SECRET").run(&["check"]);
    assert_eq!(ended.code, Some(0), "{} {}", ended.line(), ended.stderr);
}

#[test]
fn check_beside_a_running_server() {
    let server = Server::softhsm();
    let ended = server.run(&["check"]);
    assert_eq!(ended.code, Some(0), "{} {}", ended.line(), ended.stderr);
}

#[track_caller]
fn fails(ended: &Finished, name: &str, named: &str) {
    assert!(ended.code.is_some_and(|code| code != 0), "{}", ended.line());
    let (well, said) = step(ended, name);
    assert!(!well && said.contains(named), "{named:?}: {}", ended.line());
}

#[test]
fn check_of_a_module_that_is_missing() {
    let ended = softhsm().env("HSM_LIBRARY_PATH", "/nowhere/module.so").run(&["check"]);
    assert!(step(&ended, "configuration").0);
    fails(&ended, "module", "/nowhere/module.so");
    let ended = softhsm().without("HSM_LIBRARY_PATH").run(&["check"]);
    fails(&ended, "configuration", "HSM_LIBRARY_PATH");
}

#[test]
fn check_of_a_token_that_is_missing() {
    let ended = softhsm().env("HSM_TOKEN_LABEL", "another").run(&["check"]);
    assert!(step(&ended, "module").0);
    fails(&ended, "token", "`test token`");
}

#[test]
fn check_tries_a_wrong_pin_once() {
    let faulty = FaultyToken::over(Token::softhsm());
    let ended = behind(&faulty).env("HSM_PIN", "not-the-pin").run(&["check"]);
    fails(&ended, "login", "PIN");
    assert_eq!(faulty.calls("C_Login"), 1);
    assert!(!ended.line().contains("not-the-pin"));
    let ended = softhsm().without("HSM_PIN").run(&["check"]);
    fails(&ended, "login", "HSM_PIN");
}

#[test]
fn check_of_a_generator_that_gives_zeros() {
    let faulty = FaultyToken::over(Token::softhsm());
    faulty.fault("C_GenerateRandom zero");
    fails(&behind(&faulty).run(&["check"]), "random", "");
}

#[test]
fn check_of_a_token_that_cannot_sign() {
    let faulty = FaultyToken::over(Token::softhsm());
    faulty.fault("C_Sign rv=0x30");
    fails(&behind(&faulty).run(&["check"]), "round trip", "CKR_DEVICE_ERROR");
}

#[test]
fn check_finds_objects_without_an_id() {
    let token = Token::softhsm();
    let made = token.pkcs11_tool(&["--keygen", "--key-type", "AES:32", "--label", "no id"]);
    assert!(made.status.success());
    assert_eq!(token.objects()[0].id, "");
    fails(&Server::with(token).run(&["check"]), "leftovers", "1 ");
}

#[test]
fn check_finds_private_halves_alone_and_counts_public_ones() {
    let token = Token::softhsm();
    token.make_foreign_key("01", "whole", "EC:prime256v1");
    token.make_foreign_key("02", "without a private half", "EC:prime256v1");
    let gone = token.pkcs11_tool(&["--delete-object", "--type", "privkey", "--id", "02"]);
    assert!(gone.status.success());
    let ended = Server::with(token.clone()).run(&["check"]);
    assert_eq!(ended.code, Some(0), "{}", ended.line());
    assert!(step(&ended, "leftovers").1.contains("1 public"), "{}", ended.line());

    token.make_foreign_key("03", "without a public half", "rsa:2048");
    let gone = token.pkcs11_tool(&["--delete-object", "--type", "pubkey", "--id", "03"]);
    assert!(gone.status.success());
    fails(&Server::with(token).run(&["check"]), "leftovers", "1 private");
}

/// The claims of a token, unchecked.
fn claims(token: &str) -> Value {
    use base64::Engine as _;
    let part = token.split('.').nth(1).unwrap();
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

#[test]
fn a_token_opens_what_its_scopes_name() {
    let server = Server::softhsm();
    let mint = |args: &[&str]| {
        let ended = server.run(&[&["token"], args].concat());
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert_eq!(ended.stdout.iter().filter(|byte| **byte == b'\n').count(), 1);
        ended.line().to_owned()
    };
    let reader = mint(&["--sub", "alice", "--scope", "keys:read slots:*"]);
    let caller = server.bearer(&reader);
    caller.get("/api/v1/hsm/keys").good(200);
    caller.get("/api/v1/hsm/slots").good(200);
    let refused = caller.create(json!({"key_type": "AES", "key_size": 256}));
    refused.problem_naming(403, "forbidden", "keys:create");
    let said = claims(&reader);
    assert_eq!(
        (&said["sub"], &said["scope"]),
        (&json!("alice"), &json!("keys:read slots:*"))
    );
    assert_eq!(said["exp"].as_u64().unwrap() - said["iat"].as_u64().unwrap(), 3600);
    for (ttl, seconds) in [("90s", 90), ("5m", 300), ("2h", 7200), ("3d", 259_200)] {
        let said = claims(&mint(&["--sub", "a", "--scope", "*", "--ttl", ttl]));
        assert_eq!(
            said["exp"].as_u64().unwrap() - said["iat"].as_u64().unwrap(),
            seconds,
            "{ttl}"
        );
    }
    server
        .bearer(&mint(&["--sub", "a", "--scope", "*"]))
        .create(json!({"key_type": "AES", "key_size": 256}))
        .good(201);
}

#[test]
fn a_token_fits_what_the_server_asks_for() {
    let server = softhsm()
        .env("HSM_AUTH__ISSUER", "https://issuer.example")
        .env("HSM_AUTH__AUDIENCE", "the gateway")
        .start();
    let ended = server.run(&["token", "--sub", "alice", "--scope", "*"]);
    server.bearer(ended.line()).get("/api/v1/hsm/keys").good(200);
    server.all().get("/api/v1/hsm/keys").problem(401, "unauthenticated");
}

#[test]
fn tokens_that_cannot_be_made() {
    let builder = softhsm();
    let fails = |builder: &Builder, args: &[&str], named: &str| {
        let ended = builder.run(args);
        assert!(ended.code.is_some_and(|code| code != 0), "{args:?}");
        assert!(
            ended.stdout.is_empty() && ended.stderr.contains(named),
            "{named}: {}",
            ended.stderr
        );
    };
    fails(
        &builder,
        &["token", "--sub", "a", "--scope", "keys:read crypto:fly"],
        "crypto:fly",
    );
    fails(&builder, &["token", "--sub", "a", "--scope", ""], "scope");
    fails(&builder, &["token", "--scope", "*"], "--sub");
    fails(&builder, &["token", "--sub", "a"], "--scope");
    fails(&builder, &["token", "--sub", "", "--scope", "*"], "subject");
    for ttl in ["", "h", "-1h", "0s", "1w", "forever", "99999999999999999999d"] {
        fails(&builder, &["token", "--sub", "a", "--scope", "*", "--ttl", ttl], "");
    }
    let without = builder.without("HSM_AUTH__JWT_SECRET");
    fails(
        &without,
        &["token", "--sub", "a", "--scope", "*"],
        "HSM_AUTH__JWT_SECRET",
    );
}

#[test]
fn a_token_needs_the_secret_alone() {
    let ended = softhsm()
        .without("HSM_LIBRARY_PATH")
        .without("HSM_DATA_DIR")
        .run(&["token", "--sub", "a", "--scope", "*"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

fn openapi() -> Vec<u8> {
    let folder = Scratch::new();
    let output = Command::new(env!("CARGO_BIN_EXE_hsm-server"))
        .arg("openapi")
        .env_clear()
        .current_dir(folder.path("."))
        .output()
        .unwrap();
    let ended = Finished::from(output);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    ended.stdout
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn the_committed_document_is_current() {
    let file = workspace().join("crates/hsm-openapi/openapi.json");
    let document = openapi();
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&file, &document).unwrap();
    }
    assert!(
        fs::read(&file).unwrap_or_default() == document,
        "crates/hsm-openapi/openapi.json is stale: run the tests once with UPDATE_GOLDEN=1"
    );
}

#[test]
fn the_server_s_document_is_the_same() {
    let server = Server::softhsm();
    let served = server.anonymous().get("/api/v1/openapi.json").good(200);
    let printed: Value = serde_json::from_slice(&openapi()).unwrap();
    assert_eq!(served, printed);
}

#[test]
fn the_document_is_valid() {
    let validator = env::var_os("OPENAPI_SPEC_VALIDATOR").map_or_else(
        || workspace().join(".tools/python/bin/openapi-spec-validator"),
        PathBuf::from,
    );
    assert!(
        validator.exists(),
        "{} is missing: run scripts/test, or `pip install openapi-spec-validator` somewhere and set OPENAPI_SPEC_VALIDATOR to its path",
        validator.display()
    );
    let folder = Scratch::new();
    let file = folder.file("openapi.json", openapi());
    let ended = run(validator.to_str().unwrap(), [file]);
    assert_eq!(ended.code, Some(0), "{}{}", ended.line(), ended.stderr);
    let document: Value = serde_json::from_slice(&openapi()).unwrap();
    assert!(text(&document["openapi"]).starts_with("3.1"));
}

/// The scopes of each call (contract §5), empty where any token will do; none where no token is needed.
const SCOPES: [(&str, &str, Option<&str>); 44] = [
    ("get", "/api/v1/hsm/slots", Some("slots:read")),
    ("get", "/api/v1/hsm/slots/{id}/mechanisms", Some("slots:read")),
    ("get", "/api/v1/hsm/capabilities", Some("slots:read")),
    ("post", "/api/v1/hsm/keys", Some("keys:create")),
    ("post", "/api/v1/hsm/keys/import", Some("keys:create")),
    ("patch", "/api/v1/hsm/keys/{key_id}", Some("keys:update")),
    ("post", "/api/v1/hsm/derive", Some("keys:create crypto:derive")),
    ("post", "/api/v1/hsm/encapsulate", Some("keys:create crypto:derive")),
    ("post", "/api/v1/hsm/decapsulate", Some("keys:create crypto:derive")),
    ("post", "/api/v1/hsm/keys/{key_id}/csr", Some("crypto:sign")),
    ("post", "/api/v1/hsm/wrap", Some("crypto:wrap")),
    ("post", "/api/v1/wrap", Some("crypto:wrap")),
    ("post", "/api/v1/hsm/random", Some("crypto:random")),
    ("post", "/api/v1/hsm/batch", Some("")),
    ("post", "/api/v1/batch", Some("")),
    ("get", "/api/v1/hsm/keys", Some("keys:read")),
    ("get", "/api/v1/hsm/keys/{key_id}", Some("keys:read")),
    ("delete", "/api/v1/hsm/keys/{key_id}", Some("keys:delete")),
    ("post", "/api/v1/hsm/encrypt", Some("crypto:encrypt")),
    ("post", "/api/v1/hsm/decrypt", Some("crypto:decrypt")),
    ("post", "/api/v1/hsm/sign", Some("crypto:sign")),
    ("post", "/api/v1/hsm/verify", Some("crypto:verify")),
    ("post", "/api/v1/keys", Some("keys:create")),
    ("patch", "/api/v1/keys/{key_id}", Some("keys:update")),
    ("post", "/api/v1/keys/{key_id}/rotate", Some("keys:update")),
    ("post", "/api/v1/keys/{key_id}/restore", Some("keys:update")),
    ("patch", "/api/v1/keys/{key_id}/versions/{version}", Some("keys:update")),
    ("get", "/api/v1/keys/{key_id}/jwks", Some("keys:read")),
    ("post", "/api/v1/keys/{key_id}/csr", Some("crypto:sign")),
    ("post", "/api/v1/rewrap", Some("crypto:encrypt crypto:decrypt")),
    ("post", "/api/v1/datakeys", Some("crypto:encrypt")),
    ("get", "/api/v1/keys", Some("keys:read")),
    ("get", "/api/v1/keys/{key_id}", Some("keys:read")),
    ("delete", "/api/v1/keys/{key_id}", Some("keys:delete")),
    ("post", "/api/v1/encrypt", Some("crypto:encrypt")),
    ("post", "/api/v1/decrypt", Some("crypto:decrypt")),
    ("post", "/api/v1/sign", Some("crypto:sign")),
    ("post", "/api/v1/verify", Some("crypto:verify")),
    ("get", "/api/v1/audit", Some("audit:read")),
    ("get", "/metrics", Some("metrics:read")),
    ("get", "/health/live", None),
    ("get", "/health/ready", None),
    ("get", "/api/v1/openapi.json", None),
    ("get", "/docs", None),
];

#[test]
fn every_operation_has_its_scope() {
    let document: Value = serde_json::from_slice(&openapi()).unwrap();
    let mut found = BTreeMap::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let security = operation["security"]
                .as_array()
                .unwrap_or_else(|| panic!("{method} {path} declares no scope"));
            assert_eq!(security.len(), 1, "{method} {path}: {security:?}");
            let scopes = security[0].get("bearer").map(|scopes| {
                let names: Vec<&str> = scopes.as_array().unwrap().iter().map(text).collect();
                names.join(" ")
            });
            found.insert((method.clone(), path.clone()), scopes);
            assert!(
                operation["responses"].as_object().is_some_and(|all| !all.is_empty()),
                "{method} {path}"
            );
        }
    }
    let wanted: BTreeMap<_, _> = SCOPES
        .iter()
        .filter(|(_, path, _)| *path != "/docs")
        .map(|(method, path, scope)| (((*method).to_owned(), (*path).to_owned()), scope.map(str::to_owned)))
        .collect();
    assert_eq!(found, wanted);
}

fn written(server: &Server, records: usize) {
    let caller = server.all();
    let key = caller.key(json!({"key_type": "AES", "key_size": 256}));
    for _ in 1..records {
        caller
            .hsm("encrypt", &json!({"key_id": key["key_id"], "data": base64(b"x")}))
            .good(200);
    }
}

#[test]
fn the_audit_log_holds_beside_a_running_server() {
    let server = Server::softhsm();
    written(&server, 5);
    let folder = server.data_dir().join("audit");
    let folder = folder.to_str().unwrap();
    for args in [&["audit", "verify"][..], &["audit", "verify", folder][..]] {
        let ended = server.run(args);
        assert_eq!(ended.code, Some(0), "{} {}", ended.line(), ended.stderr);
        assert!(ended.line().contains("5 records"), "{}", ended.line());
    }
    // It needs nothing of the server's settings.
    let bare = Command::new(env!("CARGO_BIN_EXE_hsm-server"))
        .args(["audit", "verify", folder])
        .env_clear()
        .output()
        .unwrap();
    assert_eq!(Finished::from(bare).code, Some(0));
}

#[test]
fn an_unfinished_line_is_ignored() {
    let server = Server::softhsm();
    written(&server, 3);
    let builder = server.end("TERM");
    let file = audit_files(&builder.scratch().path("data/audit")).pop().unwrap();
    let mut text = fs::read_to_string(&file).unwrap();
    text.push_str("{\"seq\":4,\"time\":\"20");
    fs::write(&file, &text).unwrap();
    let ended = builder.run(&["audit", "verify"]);
    assert_eq!(ended.code, Some(0), "{}", ended.line());
    assert!(ended.line().contains("3 records"), "{}", ended.line());
    // And the next start cuts it, and says so in the log.
    let server = builder.start();
    written(&server, 1);
    let ended = server.run(&["audit", "verify"]);
    assert_eq!(ended.code, Some(0), "{}", ended.line());
    assert!(ended.line().contains("5 records"), "{}", ended.line());
}

#[test]
fn the_first_record_that_does_not_hold_is_named() {
    let server = Server::softhsm();
    written(&server, 6);
    let builder = server.end("TERM");
    let folder = builder.scratch().path("data/audit");
    let file = audit_files(&folder).pop().unwrap();
    let good = fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = good.lines().collect();
    let joined = |lines: &[&str]| lines.join("\n") + "\n";
    let verdict = |text: &str| {
        fs::write(&file, text).unwrap();
        builder.run(&["audit", "verify"])
    };
    assert_eq!(verdict(&good).code, Some(0));

    let changed = lines[2].replace("\"subject\":\"test\"", "\"subject\":\"nobody\"");
    assert_ne!(changed, lines[2]);
    let mut tampered = lines.clone();
    tampered[2] = &changed;
    let mut swapped = lines.clone();
    swapped.swap(2, 3);
    let without: Vec<&str> = [&lines[..2], &lines[3..]].concat();
    for text in [joined(&tampered), joined(&swapped), joined(&without)] {
        let ended = verdict(&text);
        assert_eq!(ended.code, Some(1), "{}", ended.line());
        // The changed record itself, or the one after whose `prev` tells of it.
        let named = ["record 3", "record 4", "seq 3", "seq 4"]
            .iter()
            .any(|name| ended.line().contains(name));
        assert!(named, "{}", ended.line());
        // Nothing is appended to what does not hold… and nothing of it is thrown away.
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
    }
    let nowhere = builder.run(&["audit", "verify", "/nowhere"]);
    assert_eq!(nowhere.code, Some(1));
}

#[test]
fn a_command_that_does_not_exist() {
    let builder = softhsm();
    for args in [&[][..], &["server"], &["serve", "--pin", "1234"], &["audit"]] {
        let ended = builder.run(args);
        assert_eq!(ended.code, Some(2), "{args:?}: {}", ended.stderr);
        assert!(faults(&ended).is_empty());
    }
    for args in [&["--help"][..], &["--version"], &["serve", "--help"]] {
        assert_eq!(builder.run(args).code, Some(0), "{args:?}");
    }
}

#[test]
fn check_looks_at_what_serve_would_refuse_beside_the_token() {
    let ended = softhsm()
        .env("HSM_AUTH__JWKS_FILE", "/nowhere/jwks.json")
        .run(&["check"]);
    fails(&ended, "authentication", "/nowhere/jwks.json");
    let ended = softhsm()
        .env("HSM_SERVER__TLS_CERT", "/nowhere/cert.pem")
        .env("HSM_SERVER__TLS_KEY", "/nowhere/key.pem")
        .run(&["check"]);
    fails(&ended, "tls", "/nowhere/cert.pem");
}
