//! The store's commands: `migrate`, `backup`, `restore`, `kek`, what `check` says of it all, and a start without a store.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};
use softhsm_test::{Postgres, Token};

use crate::support::{Builder, Caller, Finished, Scratch, Server, base64, run};
use crate::tools::wait_until;

#[track_caller]
fn well(ended: Finished) -> String {
    assert_eq!(ended.code, Some(0), "{} {}", ended.line(), ended.stderr);
    ended.line().to_owned()
}

/// It ends with 1, and says one line that has all of these in it.
#[track_caller]
fn refused(ended: &Finished, named: &[&str]) {
    assert_eq!(ended.code, Some(1), "{} {}", ended.line(), ended.stderr);
    let lines: Vec<_> = ended
        .stderr
        .lines()
        .filter_map(|line| line.strip_prefix("hsm-server: "))
        .collect();
    let [.., line] = lines[..] else {
        panic!("{}", ended.stderr);
    };
    for name in named {
        assert!(line.contains(name), "{name:?}: {line}");
    }
}

/// Makes two managed keys, and encrypts with each: what decrypt takes.
#[track_caller]
fn two_keys(caller: &Caller) -> Vec<Value> {
    let make = |(name, protection): (&str, &str)| {
        let body = json!({"name": name, "key_type": "AES", "key_size": 256, "protection": protection});
        caller.post("/api/v1/keys", &body).good(201);
        let body = json!({"key_id": name, "data": base64(name.as_bytes())});
        caller.post("/api/v1/encrypt", &body).good(200)
    };
    [("inside", "hsm"), ("outside", "wrapped")].map(make).to_vec()
}

#[track_caller]
fn decrypts(caller: &Caller, encrypted: &[Value]) {
    for one in encrypted {
        let name = one["key_id"].as_str().unwrap();
        let answer = caller.post("/api/v1/decrypt", one).good(200);
        assert_eq!(answer["data"], base64(name.as_bytes()));
    }
}

fn twins() -> Builder {
    let tokens = Token::several(&["one", "two"]);
    Server::with(tokens[0].clone())
        .env("HSM_TOKENS__BACKUP__TOKEN_LABEL", tokens[1].label())
        .env("HSM_TOKENS__BACKUP__PIN", tokens[1].pin())
}

#[test]
fn migrations_are_told_and_done_without_a_token() {
    let builder = Server::with(Token::softhsm()).without("HSM_LIBRARY_PATH");
    let file = builder.scratch().path("data").join("store.sqlite");
    refused(&builder.run(&["migrate", "--check"]), &["schema 0", "pending"]);
    assert!(!file.exists());
    assert!(well(builder.run(&["migrate"])).contains("was 0"));
    assert!(well(builder.run(&["migrate", "--check"])).contains("nothing is to be done"));
    well(builder.run(&["migrate"]));
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_store_of_a_newer_program_is_refused() {
    let builder = Server::with(Token::softhsm());
    well(builder.run(&["migrate"]));
    let file = builder.scratch().path("data").join("store.sqlite");
    let file = file.to_str().unwrap();
    well(run("sqlite3", [file, "UPDATE schema_version SET version = 9"]));
    refused(&builder.run(&["migrate", "--check"]), &["schema 9", "newer"]);
    refused(&builder.run(&["migrate"]), &["schema 9"]);
    refused(&builder.run(&["kek", "status"]), &["schema 9"]);
    refused(&builder.refused(), &["schema 9"]);
}

#[test]
fn serve_does_not_start_without_its_store() {
    let url = "postgres://gateway:pw-5521-maple@127.0.0.1:1/keys";
    let ended = Server::with(Token::softhsm()).env("HSM_STORE__URL", url).refused();
    refused(&ended, &["HSM_STORE__URL"]);
    assert!(!ended.stderr.contains("pw-5521-maple"), "{}", ended.stderr);
    let builder = Server::with(Token::softhsm());
    let data = builder.scratch().path("data");
    fs::create_dir(&data).unwrap();
    fs::write(
        data.join("store.sqlite"),
        "this is no database, but some text of another program",
    )
    .unwrap();
    refused(&builder.refused(), &["store.sqlite"]);
}

#[test]
fn a_backup_comes_back_in_another_store() {
    let token = Token::softhsm();
    let mut server = Server::on(&token);
    let encrypted = two_keys(&server.all());
    let scratch = Scratch::new();
    let file = scratch.path("backup");
    let name = file.to_str().unwrap();
    let said = well(server.run(&["backup", name]));
    assert!(
        said.contains("2 managed keys") && said.contains("audit head: record "),
        "{said}"
    );
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let whole = fs::read(&file).unwrap();
    refused(&server.run(&["backup", name]), &["is there already"]);
    assert_eq!(fs::read(&file).unwrap(), whole);
    assert_eq!(file.parent().unwrap().read_dir().unwrap().count(), 1);
    refused(&server.run(&["restore", name]), &["empty"]);
    server.signal("TERM");
    assert!(server.wait().success());

    fs::remove_file(server.data_dir().join("store.sqlite")).unwrap();
    let said = well(server.run(&["restore", name]));
    assert!(
        said.contains("2 managed keys") && said.contains("continues it"),
        "{said}"
    );

    for damaged in [&whole[..whole.len() / 2], &whole.to_ascii_uppercase()] {
        let bad = scratch.file("damaged", damaged);
        let fresh = Server::with(token.clone());
        refused(&fresh.run(&["restore", bad.to_str().unwrap()]), &["damaged"]);
    }
    let other = Server::with(token);
    let said = well(other.run(&["restore", name]));
    assert!(said.contains("does not have record"), "{said}");
    let other = other.start();
    decrypts(&other.all(), &encrypted);
}

#[test]
fn nothing_is_backed_up_where_no_store_is() {
    let builder = Server::with(Token::softhsm());
    let file = builder.scratch().path("backup");
    refused(
        &builder.run(&["backup", file.to_str().unwrap()]),
        &["no store", "HSM_DATA_DIR"],
    );
    assert!(!file.exists());
    refused(&builder.run(&["kek", "status"]), &["no store"]);
    refused(&builder.run(&["restore", "/nowhere/backup"]), &["/nowhere/backup"]);
}

#[test]
fn sqlite_moves_to_postgresql() {
    let token = Token::softhsm();
    let mut server = Server::on(&token);
    let encrypted = two_keys(&server.all());
    server.signal("TERM");
    assert!(server.wait().success());
    let scratch = Scratch::new();
    let name = scratch.path("move").to_str().unwrap().to_owned();
    well(server.run(&["backup", &name]));
    let database = Postgres::start();
    let moved = Server::with(token).env("HSM_STORE__URL", &database.url());
    well(moved.run(&["restore", &name]));
    let moved = moved.start();
    decrypts(&moved.all(), &encrypted);
}

#[test]
fn the_key_encryption_key_is_rotated_beside_a_server() {
    let server = Server::softhsm();
    assert!(well(server.run(&["kek", "status"])).contains("no key-encryption key yet"));
    let encrypted = two_keys(&server.all());
    assert!(well(server.run(&["kek", "status"])).starts_with("version 1, in use"));
    let ended = server.run(&["kek", "rotate"]);
    assert!(ended.stderr.contains("0 are left"), "{}", ended.stderr);
    assert!(ended.stderr.contains("audit-commands"), "{}", ended.stderr);
    assert!(well(ended).contains("version 2 of the gateway's own keys is new"));
    decrypts(&server.all(), &encrypted);
    let said = well(server.run(&["kek", "status"]));
    assert!(
        said.contains("version 2, in use") && said.contains("no managed key"),
        "{said}"
    );
    let said = well(server.run(&["kek", "rotate", "--resume"]));
    assert!(
        said.contains("version 2") && said.contains("; 0 managed keys"),
        "{said}"
    );
    let log = server.data_dir().join("audit-commands");
    well(server.run(&["audit", "verify", log.to_str().unwrap()]));
    let body = json!({"name": "later", "key_type": "AES", "key_size": 128, "protection": "wrapped"});
    server.all().post("/api/v1/keys", &body).good(201);
}

#[test]
fn the_linked_token_is_rotated_on() {
    let mut server = Server::linked_embedded();
    let encrypted = two_keys(&server.all());
    well(server.run(&["kek", "rotate"]));
    decrypts(&server.all(), &encrypted);
    server.signal("TERM");
    assert!(server.wait().success());
    assert!(well(server.run(&["kek", "rotate"])).contains("version 3"));
    well(server.run(&["check"]));
}

#[test]
fn a_second_token_ends_the_warning() {
    let server = twins().start();
    assert!(!well(server.run(&["check"])).contains("warning"));
    let encrypted = two_keys(&server.all());
    let said = well(server.run(&["check"]));
    assert!(
        said.contains("warning  key-encryption key: is on one token only"),
        "{said}"
    );
    refused(&server.run(&["kek", "rotate", "--to", "backupp"]), &["--to backupp"]);
    well(server.run(&["kek", "rotate", "--to", "backup"]));
    let said = well(server.run(&["check"]));
    assert!(!said.contains("warning"), "{said}");
    assert!(
        said.contains("ok       key-encryption key: version 2 is on the token; the seals of 2"),
        "{said}"
    );
    decrypts(&server.all(), &encrypted);
    let ended = server.run(&["kek", "rotate"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("--to backup"), "{}", ended.stderr);
}

#[test]
fn check_tells_of_keys_that_do_not_fit_the_store() {
    let token = Token::softhsm();
    let mut server = Server::on(&token);
    two_keys(&server.all());
    server.signal("TERM");
    assert!(server.wait().success());
    let beside = Server::with(token);
    let said = well(beside.run(&["check"]));
    assert!(said.contains("gateway keys that the store does not name"), "{said}");
    let scratch = Scratch::new();
    let name = scratch.path("backup").to_str().unwrap().to_owned();
    well(server.run(&["backup", &name]));
    let other = Server::with(Token::softhsm());
    well(other.run(&["restore", &name]));
    let ended = other.run(&["check"]);
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.line().contains("failed   key-encryption key: the token lacks"),
        "{}",
        ended.line()
    );
}

#[test]
fn health_and_metrics_tell_of_the_store() {
    let mut database = Postgres::start();
    let server = Server::with(Token::softhsm())
        .env("HSM_STORE__URL", &database.url())
        .start();
    let ready = server.anonymous().get("/health/ready").good(200);
    let names: Vec<_> = ready["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|check| &check["name"])
        .collect();
    assert!(names.contains(&&json!("store")), "{ready}");
    let metrics = server.anonymous().get("/metrics").text();
    assert!(metrics.contains("\nhsm_store_available 1\n"), "{metrics}");
    database.stop();
    wait_until("not ready", || server.anonymous().get("/health/ready").status == 503);
    server
        .anonymous()
        .get("/health/ready")
        .problem(503, "store_unavailable");
    database.start_again();
    wait_until("ready", || server.anonymous().get("/health/ready").status == 200);
}
