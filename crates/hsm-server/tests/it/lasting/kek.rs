//! New versions of the key-encryption key, while its keys are in use.

use std::collections::BTreeSet;
use std::thread;

use serde_json::json;
use softhsm_test::{Postgres, Token};

use super::crash::{GATEWAY_KEYS, REWRAP, VARIABLE, settled};
use super::{Load, Sealed, Stop, aes, kek_status, key, make, seal, well};
use crate::support::{Caller, Finished, Server, merged};
use crate::tools::wait_until;

const KEYS: usize = 20;

fn names() -> Vec<String> {
    (0..KEYS).map(|at| format!("key.{at}")).collect()
}

/// Makes the keys, one of them on the token; a ciphertext of each.
#[track_caller]
fn made(caller: &Caller) -> Vec<Sealed> {
    let make = |(at, name): (usize, String)| {
        make(caller, &name, if at == 0 { "hsm" } else { "wrapped" });
        seal(caller, &name)
    };
    names().into_iter().enumerate().map(make).collect()
}

/// How many keys lie under older versions, as `kek status` says, and the version in use.
#[track_caller]
fn outdated(server: &Server) -> (usize, String) {
    let status = kek_status(server);
    let in_use = status.lines().find(|line| line.contains(", in use")).unwrap();
    let version = in_use.split_once(',').unwrap().0.to_owned();
    let last = status.lines().last().unwrap();
    let count = last.split(' ').next().unwrap();
    let count = if count == "no" { 0 } else { count.parse().unwrap() };
    (count, version)
}

/// Runs the command, which kills itself at this point.
#[track_caller]
fn killed(server: &Server, args: &[&str], point: &str) {
    let ended: Finished = server.command(args).env(VARIABLE, point).output().unwrap().into();
    assert_eq!(ended.code, None, "{point}: {} {}", ended.line(), ended.stderr);
}

#[test]
fn rotation_beside_a_server_on_sqlite() {
    beside(Server::softhsm());
}

#[test]
fn rotation_beside_a_server_on_postgresql() {
    let database = Postgres::start();
    let server = Server::with(Token::softhsm()).env("HSM_STORE__URL", &database.url());
    beside(server.start());
}

fn beside(server: Server) {
    let caller = server.all();
    let before = made(&caller);
    let stop = Stop::default();
    let names = names();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let sealed = thread::scope(|scope| {
        let clients = vec![(caller.clone(), caller.clone()); 2];
        let load = Load::start(scope, &stop, &clients, &names, 50, &[]);
        for version in ["version 2", "version 3"] {
            let said = well(server.run(&["kek", "rotate"]));
            assert!(said.starts_with(version), "{said}");
            assert_eq!(outdated(&server), (0, version.to_owned()));
            // The server may not know of it yet, and make this one under the version before.
            make(&caller, &version.replace(' ', "."), "wrapped");
        }
        load.end()
    });
    eprintln!("{} encryptions", sealed.len());
    assert!(!sealed.is_empty());
    well(server.run(&["kek", "rotate", "--resume"]));
    assert_eq!(outdated(&server), (0, "version 3".to_owned()));
    for one in before.iter().chain(&sealed) {
        assert_eq!(one.version(), 1, "the keys' own versions are what they were");
        one.opens(&caller);
    }
    let server = server.end("TERM").start();
    for one in &before {
        one.opens(&server.all());
    }
    assert_eq!(outdated(&server), (0, "version 3".to_owned()));
    settled(&server);
}

#[test]
fn rotation_that_is_killed_and_resumed() {
    let server = Server::softhsm();
    let caller = server.all();
    let before = made(&caller);
    killed(&server, &["kek", "rotate"], REWRAP);
    let (left, version) = outdated(&server);
    assert_eq!(version, "version 2");
    eprintln!("{left} of {KEYS} are left");
    assert!((1..KEYS).contains(&left), "{left}");
    for one in &before {
        one.opens(&caller);
        seal(&caller, one.answer["key_id"].as_str().unwrap()).opens(&caller);
    }
    // Once more, while it is resumed.
    killed(&server, &["kek", "rotate", "--resume"], REWRAP);
    let said = well(server.run(&["kek", "rotate", "--resume"]));
    assert!(said.contains("version 2") && said.contains("is in use"), "{said}");
    assert_eq!(outdated(&server), (0, "version 2".to_owned()));
    for one in &before {
        one.opens(&caller);
    }
    settled(&server);

    // Left to a server that is started, which does it without being asked.
    killed(&server, &["kek", "rotate"], REWRAP);
    assert!(outdated(&server).0 > 0);
    let server = server.end("KILL").start();
    wait_until("the server has done it", || {
        outdated(&server) == (0, "version 3".to_owned())
    });
    for one in &before {
        one.opens(&server.all());
    }
}

#[test]
fn new_keys_that_are_not_finished() {
    let server = Server::softhsm();
    let caller = server.all();
    let before = made(&caller);
    let mut in_use = 1;
    for point in GATEWAY_KEYS {
        killed(&server, &["kek", "rotate"], point);
        in_use += usize::from(point == "gateway-keys:after-commit");
        assert_eq!(outdated(&server).1, format!("version {in_use}"), "{point}");
        settled(&server);
        make(&caller, point.split_once(':').unwrap().1, "wrapped");
        in_use += 1;
        assert!(well(server.run(&["kek", "rotate"])).starts_with(&format!("version {in_use} ")));
        assert_eq!(outdated(&server).0, 0);
        for one in &before {
            one.opens(&caller);
        }
    }
    assert_eq!(key(&caller, "key.0")["state"], "enabled");
    settled(&server);
}

#[test]
fn new_keys_on_two_tokens_that_are_not_finished() {
    let tokens = Token::several(&["one", "two"]);
    let server = Server::with(tokens[0].clone())
        .env("HSM_TOKENS__BACKUP__TOKEN_LABEL", tokens[1].label())
        .env("HSM_TOKENS__BACKUP__PIN", tokens[1].pin())
        .start();
    let caller = server.all();
    make(&caller, "older", "wrapped");
    let sealed = seal(&caller, "older");
    let on_both = ["kek", "rotate", "--to", "backup"];
    for point in GATEWAY_KEYS {
        killed(&server, &on_both, point);
        only_known_ones(&server, &tokens);
        sealed.opens(&caller);
    }
    // The last one was killed when its version was there.
    assert_eq!(outdated(&server), (1, "version 2".to_owned()));
    assert!(well(server.run(&on_both)).starts_with("version 3 "));
    assert_eq!(outdated(&server), (0, "version 3".to_owned()));
    only_known_ones(&server, &tokens);
    sealed.opens(&caller);
    let body = aes("there", "wrapped");
    let on_backup = merged(&body, json!({"token": "backup"}));
    caller.post("/api/v1/keys", &on_backup).good(201);
    seal(&caller, "there").opens(&caller);
}

/// Waits until the tokens hold the gateway keys that the store names, and no others.
#[track_caller]
fn only_known_ones(server: &Server, tokens: &[Token]) {
    let status = kek_status(server);
    let words = status.split([' ', ',', '\n']);
    let known: BTreeSet<_> = words.filter_map(|word| word.strip_prefix("hsm:")).collect();
    wait_until("what was not finished is gone", || {
        let objects = tokens.iter().flat_map(Token::objects);
        let found: Vec<_> = objects.map(|object| object.id).collect();
        found.iter().all(|id| known.contains(id.as_str()))
    });
    let held: BTreeSet<_> = tokens[0].objects().into_iter().map(|object| object.id).collect();
    assert!(known.iter().all(|id| held.contains(*id)), "{known:?} {held:?}");
}
