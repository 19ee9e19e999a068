//! Several tokens in one server: keys of each by their ids, one list of all, own health, and faults at the start.

use serde_json::{Value, json};
use softhsm_test::{FaultyToken, Token};

use crate::support::{Builder, Caller, LINKED_PIN, Server, base64, merged, text};
use crate::tools::{audit_records, behind, faults, only_fault, wait_until};

/// Two tokens of one SoftHSM, each with a key pair `aa01` of its own.
fn twins() -> Vec<Token> {
    let tokens = Token::several(&["one", "two"]);
    for token in &tokens {
        token.make_foreign_key("aa01", token.label(), "EC:prime256v1");
    }
    tokens
}

/// The variables that name a further token, by the ending of each.
fn further(builder: Builder, name: &str, settings: &[(&str, &str)]) -> Builder {
    settings.iter().fold(builder, |builder, (field, value)| {
        builder.env(&format!("HSM_TOKENS__{name}__{field}"), value)
    })
}

/// The first token as the default one, the second as `backup`, of the same module.
fn with_backup(tokens: &[Token]) -> Builder {
    let [one, two] = tokens else {
        panic!("two tokens");
    };
    further(
        Server::with(one.clone()),
        "BACKUP",
        &[("TOKEN_LABEL", two.label()), ("PIN", two.pin())],
    )
}

/// A SoftHSM token as the default one; the other, whatever its module, as `other`.
fn with_other_module(builder: Builder, module: &str, other: &Token) -> Builder {
    let settings = [
        ("LIBRARY_PATH", module),
        ("TOKEN_LABEL", other.label()),
        ("PIN", other.pin()),
    ];
    let builder = further(builder, "OTHER", &settings);
    let builder = other.init_args().iter().fold(builder, |builder, args| {
        further(builder, "OTHER", &[("INIT_ARGS", args)])
    });
    let env = other.module_env().iter();
    env.fold(builder, |builder, (name, value)| builder.env(name, value))
}

#[track_caller]
fn ids(list: &Value) -> Vec<&str> {
    list["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| text(&key["key_id"]))
        .collect()
}

/// Signs with the key, checks the signature with it, and gives what verify takes.
#[track_caller]
fn signs(caller: &Caller, id: &str) -> Value {
    let body = json!({"key_id": id, "data": base64(b"message")});
    let signed = caller.hsm("sign", &body).good(200);
    assert_eq!(signed["key_id"], id);
    let check = merged(&signed, json!({"data": body["data"]}));
    assert_eq!(caller.hsm("verify", &check).good(200), json!({"valid": true}));
    check
}

/// The checks of `/health/ready`: each name, and whether it is well.
fn checks(body: &Value) -> Vec<(&str, bool)> {
    let checks = body["checks"].as_array().unwrap();
    checks
        .iter()
        .map(|check| (text(&check["name"]), check["ok"].as_bool().unwrap()))
        .collect()
}

fn metric(server: &Server, line: &str) -> Option<f64> {
    let page = server.anonymous().get("/metrics").text();
    let value = page.lines().find_map(|found| found.strip_prefix(line))?;
    value.trim().parse().ok()
}

#[test]
fn an_id_says_on_which_token_the_key_is() {
    let tokens = twins();
    let server = with_backup(&tokens).start();
    let caller = server.all();
    let one = signs(&caller, "hsm:aa01");
    let two = signs(&caller, "hsm:backup:aa01");
    // Two keys, though they have one CKA_ID.
    for (signed, other) in [(&one, "hsm:backup:aa01"), (&two, "hsm:aa01")] {
        let crossed = merged(signed, json!({"key_id": other}));
        assert_eq!(caller.hsm("verify", &crossed).good(200), json!({"valid": false}));
    }
    for (id, label) in [("hsm:aa01", "one"), ("hsm:backup:aa01", "two")] {
        for path in ["/api/v1/hsm/keys", "/api/v1/keys"] {
            let key = caller.get(&format!("{path}/{id}")).good(200);
            assert_eq!((text(&key["key_id"]), text(&key["key_label"])), (id, label));
            assert!(text(&key["pkcs11_uri"]).contains(&format!("token={label};")), "{key}");
        }
    }
    let upper = caller.get("/api/v1/hsm/keys/hsm:backup:AA01").good(200);
    assert_eq!(upper["key_id"], "hsm:backup:aa01");

    caller.delete("/api/v1/hsm/keys/hsm:backup:aa01").good(204);
    assert!(tokens[1].attributes("aa01").is_empty());
    assert_eq!(tokens[0].attributes("aa01").len(), 2);
    caller
        .get("/api/v1/hsm/keys/hsm:backup:aa01")
        .problem(404, "key_not_found");
    signs(&caller, "hsm:aa01");
    let recorded: Vec<_> = audit_records(&server)
        .iter()
        .filter(|record| record["action"] == "delete")
        .map(|record| record["key_id"].clone())
        .collect();
    assert_eq!(recorded, ["hsm:backup:aa01"]);
}

#[test]
fn a_token_that_is_not_configured_has_no_keys() {
    let tokens = twins();
    let server = with_backup(&tokens).start();
    let caller = server.all();
    for id in ["hsm:nowhere:aa01", "hsm:BACKUP:aa01", "hsm:backup:aa02"] {
        let body = json!({"key_id": id, "data": base64(b"x")});
        for operation in ["sign", "encrypt"] {
            caller.hsm(operation, &body).problem_naming(404, "key_not_found", id);
        }
        let path = format!("/api/v1/hsm/keys/{id}");
        caller.get(&path).problem_naming(404, "key_not_found", id);
        caller.delete(&path).problem_naming(404, "key_not_found", id);
    }
    for id in ["hsm::aa01", "hsm:.x:aa01", "hsm:a:b:aa01", "hsm:backup:"] {
        let body = json!({"key_id": id, "data": base64(b"x")});
        caller.hsm("sign", &body).problem(400, "invalid_key_id");
    }
}

#[test]
fn new_keys_are_the_default_tokens() {
    let tokens = twins();
    let server = with_backup(&tokens).start();
    let key = server.all().key(json!({"key_type": "AES", "key_size": 256}));
    let id = text(&key["key_id"]).strip_prefix("hsm:").unwrap();
    assert!(!id.contains(':'), "{id}");
    assert_eq!(tokens[0].attributes(id).len(), 1);
    assert!(tokens[1].attributes(id).is_empty());
}

#[test]
fn a_list_goes_over_all_tokens_page_by_page() {
    let tokens = twins();
    tokens[0].make_foreign_key("aa02", "second", "AES:32");
    tokens[1].make_foreign_key("aa00", "second", "AES:32");
    let server = with_backup(&tokens).start();
    let caller = server.all();
    let all = ["hsm:aa01", "hsm:aa02", "hsm:backup:aa00", "hsm:backup:aa01"];
    for limit in 1..=5 {
        let mut path = format!("/api/v1/hsm/keys?limit={limit}");
        let mut seen = Vec::new();
        loop {
            let list = caller.get(&path).good(200);
            let page = ids(&list);
            assert!(page.len() <= limit && !page.is_empty(), "{limit}: {list}");
            seen.extend(page.into_iter().map(str::to_owned));
            let Some(cursor) = list["next_cursor"].as_str() else {
                break;
            };
            assert!(seen.len() < all.len(), "a cursor after the last key: {list}");
            path = format!("/api/v1/hsm/keys?limit={limit}&cursor={cursor}");
        }
        assert_eq!(seen, all, "{limit}");
    }
    let labelled = caller.get("/api/v1/hsm/keys?label=second").good(200);
    assert_eq!(ids(&labelled), ["hsm:aa02", "hsm:backup:aa00"]);
    let pairs = caller.get("/api/v1/hsm/keys?key_type=EC&limit=1").good(200);
    assert_eq!(ids(&pairs), ["hsm:aa01"]);
    assert!(pairs["next_cursor"].is_string());
}

#[test]
fn tokens_of_different_modules() {
    let (soft, embedded) = (Token::softhsm(), Token::embedded());
    soft.make_foreign_key("aa01", "soft", "EC:prime256v1");
    embedded.make_foreign_key("aa01", "embedded", "EC:prime256v1");
    let module = embedded.module().to_str().unwrap();
    let server = with_other_module(Server::with(soft.clone()), module, &embedded).start();
    let caller = server.all();
    signs(&caller, "hsm:aa01");
    signs(&caller, "hsm:other:aa01");
    assert_eq!(
        ids(&caller.get("/api/v1/hsm/keys").good(200)),
        ["hsm:aa01", "hsm:other:aa01"]
    );
    let slots = caller.get("/api/v1/hsm/slots").good(200);
    let models: Vec<_> = slots["slots"].as_array().unwrap().iter().collect();
    let of = |label: &str| models.iter().filter(|slot| slot["token_label"] == label).count();
    assert_eq!(of(soft.label()), 2, "both tokens have this label: {slots}");
}

#[test]
fn slots_of_one_module_are_listed_once() {
    let tokens = twins();
    let server = with_backup(&tokens).start();
    let slots = server.all().get("/api/v1/hsm/slots").good(200);
    let labels: Vec<_> = slots["slots"]
        .as_array()
        .unwrap()
        .iter()
        .map(|slot| &slot["token_label"])
        .collect();
    for label in ["one", "two"] {
        assert_eq!(labels.iter().filter(|found| **found == label).count(), 1, "{slots}");
    }
}

#[test]
fn the_linked_token_as_a_further_one() {
    let soft = Token::softhsm();
    soft.make_foreign_key("aa01", "soft", "EC:prime256v1");
    let linked = [("LIBRARY_PATH", "embedded"), ("PIN", LINKED_PIN)];
    let server = further(Server::with(soft.clone()), "INSIDE", &linked).start();
    let caller = server.all();
    signs(&caller, "hsm:aa01");
    assert_eq!(ids(&caller.get("/api/v1/hsm/keys").good(200)), ["hsm:aa01"]);
    let ready = server.anonymous().get("/health/ready").good(200);
    assert!(checks(&ready).contains(&("login:inside", true)), "{ready}");
    assert!(server.data_dir().join("token").exists());

    let second = further(Server::linked(), "B", &linked);
    only_fault(&second.refused(), 1, &["HSM_TOKENS__B__LIBRARY_PATH", "embedded"]);
    let short = further(
        Server::with(soft),
        "INSIDE",
        &[("LIBRARY_PATH", "embedded"), ("PIN", "short")],
    );
    only_fault(&short.refused(), 78, &["HSM_TOKENS__INSIDE__PIN", "8 characters"]);
}

#[test]
fn settings_of_the_file() {
    let tokens = twins();
    let builder = Server::with(tokens[0].clone());
    let pin = builder.scratch().file("pin", tokens[1].pin());
    let file = builder.scratch().file(
        "hsm.toml",
        format!("[tokens.Second]\ntoken_label = \"two\"\npin_file = {pin:?}\nmax_sessions = 1\nqueue = 0\n"),
    );
    let server = builder.env("HSM_CONFIG", file.to_str().unwrap()).start();
    signs(&server.all(), "hsm:Second:aa01");
    assert_eq!(
        metric(&server, "hsm_sessions{state=\"all\",token=\"Second\"}"),
        Some(1.0)
    );
}

#[test]
fn faults_of_a_further_token_name_its_settings() {
    let tokens = Token::several(&["one", "two"]);
    let wrong = with_backup(&tokens)
        .env("HSM_TOKENS__BACKUP__PIN", "not-the-pin")
        .refused();
    only_fault(&wrong, 78, &["HSM_TOKENS__BACKUP__PIN: "]);
    assert!(!wrong.stderr.contains("not-the-pin"));
    for (field, value, named) in [
        ("TOKEN_LABEL", "three", "`two`"),
        ("TOKEN_LABEL", "pkcs11:colour=red", "colour"),
        ("TOKEN_LABEL", "one", "the token `one`"),
        ("LIBRARY_PATH", "/nowhere/module.so", "/nowhere/module.so"),
        ("PINN", "x", "did you mean HSM_TOKENS__BACKUP__PIN?"),
        ("QUEUE", "many", "whole number"),
    ] {
        let variable = format!("HSM_TOKENS__BACKUP__{field}");
        let ended = with_backup(&tokens).env(&variable, value).refused();
        only_fault(&ended, 1, &[&format!("{variable}: "), named]);
    }
    let ended = with_backup(&tokens)
        .env("HSM_INIT_ARGS", "a")
        .env("HSM_TOKENS__BACKUP__INIT_ARGS", "b")
        .refused();
    only_fault(&ended, 1, &["HSM_TOKENS__BACKUP__INIT_ARGS: ", "HSM_INIT_ARGS"]);
    // Without a label of its own, the further token might be either.
    let ended = with_backup(&tokens)
        .without("HSM_TOKENS__BACKUP__TOKEN_LABEL")
        .refused();
    only_fault(&ended, 1, &["HSM_TOKENS__BACKUP__TOKEN_LABEL: several tokens fit"]);
}

#[test]
fn faults_of_several_tokens_are_said_at_once() {
    let tokens = Token::several(&["one", "two"]);
    let ended = with_backup(&tokens)
        .env("HSM_TOKEN_LABEL", "three")
        .env("HSM_TOKENS__BACKUP__PIN", "not-the-pin")
        .refused();
    assert_eq!(ended.code, Some(78), "{}", ended.stderr);
    let faults = faults(&ended);
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(faults[0].starts_with("HSM_TOKEN_LABEL: "), "{faults:?}");
    assert!(faults[1].starts_with("HSM_TOKENS__BACKUP__PIN: "), "{faults:?}");
}

#[test]
fn a_further_token_without_a_pin_serves_what_needs_none() {
    let tokens = twins();
    let server = with_backup(&tokens).without("HSM_TOKENS__BACKUP__PIN").start();
    let caller = server.all();
    signs(&caller, "hsm:aa01");
    let body = json!({"key_id": "hsm:backup:aa01", "data": base64(b"x")});
    caller.hsm("sign", &body).problem(503, "hsm_unavailable");
    let ready = server.anonymous().get("/health/ready").good(200);
    let login = ready["checks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|check| check["name"] == "login:backup");
    assert!(
        text(&login.unwrap()["detail"]).contains("HSM_TOKENS__BACKUP__PIN"),
        "{ready}"
    );
    assert!(
        server
            .log()
            .contains("HSM_TOKENS__BACKUP__PIN or HSM_TOKENS__BACKUP__PIN_FILE")
    );
}

#[test]
fn one_token_is_away_while_the_other_serves() {
    let soft = Token::softhsm();
    soft.make_foreign_key("aa01", "soft", "EC:prime256v1");
    let frail = FaultyToken::over(Token::embedded());
    frail.token().make_foreign_key("aa01", "frail", "EC:prime256v1");
    let builder = Server::with(soft);
    let env = frail.env().into_iter().filter(|(name, _)| name.starts_with("FAULT_"));
    let builder = env.fold(builder, |builder, (name, value)| builder.env(&name, &value));
    let server = with_other_module(builder, frail.module().to_str().unwrap(), frail.token()).start();
    let caller = server.all();
    signs(&caller, "hsm:aa01");
    signs(&caller, "hsm:other:aa01");

    frail.fault("* rv=0x32");
    let body = json!({"key_id": "hsm:other:aa01", "data": base64(b"x")});
    caller.hsm("sign", &body).problem(503, "hsm_unavailable");
    for _ in 0..5 {
        signs(&caller, "hsm:aa01");
    }
    let ready = server.anonymous().get("/health/ready").good(200);
    assert_eq!(checks(&ready)[..2], [("token", true), ("login", true)], "{ready}");
    assert!(checks(&ready).contains(&("token:other", false)), "{ready}");
    assert_eq!(metric(&server, "hsm_token_available "), Some(1.0));
    assert_eq!(metric(&server, "hsm_token_available{token=\"other\"}"), Some(0.0));
    // A list without the keys of one token would be wrong, and nobody would see it.
    caller.get("/api/v1/hsm/keys").problem(503, "hsm_unavailable");
    caller.get("/api/v1/hsm/keys/hsm:aa01").good(200);

    frail.clear();
    wait_until("the token is back", || caller.hsm("sign", &body).status == 200);
    signs(&caller, "hsm:other:aa01");
    let list = caller.get("/api/v1/hsm/keys").good(200);
    assert_eq!(ids(&list), ["hsm:aa01", "hsm:other:aa01"]);
    assert_eq!(metric(&server, "hsm_token_available{token=\"other\"}"), Some(1.0));
}

#[test]
fn none_can_serve() {
    let tokens = twins();
    let faulty = FaultyToken::over(tokens[0].clone());
    let settings = [("TOKEN_LABEL", "two"), ("PIN", tokens[1].pin())];
    let server = further(behind(&faulty), "BACKUP", &settings).start();
    let caller = server.all();
    let ids = ["hsm:aa01", "hsm:backup:aa01"];
    for id in ids {
        signs(&caller, id);
    }
    let ready = server.anonymous().get("/health/ready").good(200);
    let well = [
        ("token", true),
        ("login", true),
        ("token:backup", true),
        ("login:backup", true),
        ("audit", true),
        ("store", true),
    ];
    assert_eq!(checks(&ready), well);
    faulty.fault("* rv=0xE0");
    for id in ids {
        let body = json!({"key_id": id, "data": base64(b"x")});
        caller.hsm("sign", &body).problem(503, "hsm_unavailable");
    }
    let problem = server.anonymous().get("/health/ready").problem(503, "hsm_unavailable");
    for name in ["token: ", "token:backup: "] {
        assert!(text(&problem["detail"]).contains(name), "{problem}");
    }
    assert_eq!(checks(&problem).len(), well.len());
    faulty.clear();
    wait_until("both are back", || {
        let ready = server.anonymous().get("/health/ready");
        ready.status == 200 && checks(&ready.json()) == well
    });
    for id in ids {
        signs(&caller, id);
    }
}

#[test]
fn one_module_is_initialised_and_finalized_once() {
    let tokens = twins();
    let faulty = FaultyToken::over(tokens[0].clone());
    let settings = [("TOKEN_LABEL", "two"), ("PIN", tokens[1].pin())];
    let server = further(behind(&faulty), "BACKUP", &settings).start();
    let caller = server.all();
    signs(&caller, "hsm:aa01");
    signs(&caller, "hsm:backup:aa01");
    server.stop();
    assert_eq!(faulty.calls("C_Initialize"), 1);
    assert_eq!(faulty.calls("C_Login"), 2);
    assert_eq!(faulty.calls("C_Logout"), 2);
    assert_eq!(faulty.calls("C_Finalize"), 1);
    assert_eq!(faulty.call_log().last().map(String::as_str), Some("C_Finalize"));
}

#[test]
fn check_looks_at_every_token() {
    let tokens = twins();
    let ended = with_backup(&tokens).run(&["check"]);
    assert_eq!(ended.code, Some(0), "{} {}", ended.line(), ended.stderr);
    for step in ["token", "login", "mechanisms", "random", "round trip", "leftovers"] {
        for named in [format!("{step}: "), format!("{step} (backup): ")] {
            let said = |line: &str| {
                line.strip_prefix("ok       ")
                    .is_some_and(|said| said.starts_with(&named))
            };
            assert_eq!(
                ended.line().lines().filter(|line| said(line)).count(),
                1,
                "{}",
                ended.line()
            );
        }
    }
    // The module is theirs in common.
    assert_eq!(ended.line().matches("module").count(), 1, "{}", ended.line());

    let ended = with_backup(&tokens)
        .env("HSM_TOKENS__BACKUP__PIN", "not-the-pin")
        .run(&["check"]);
    assert_eq!(ended.code, Some(1));
    assert!(
        ended
            .line()
            .contains("failed   login (backup): HSM_TOKENS__BACKUP__PIN: "),
        "{}",
        ended.line()
    );
    assert!(ended.line().contains("ok       round trip: "), "{}", ended.line());
}
