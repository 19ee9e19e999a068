//! The store is away, locked or full: what needs it is refused and says so, what does not goes on, and it heals by itself.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use serde_json::{Value, json};
use softhsm_test::{Postgres, Token};

use super::{Sealed, aes, ailing, encrypt_body, heals, key, make, patch, path, rotate, seal, without_holes_or_twins};
use crate::support::{Caller, Reply, Server, base64, merged, run, text};
use crate::tools::{limit_files, wait_until, with_disks_that_fill};

/// What is asked, by a name for messages.
type Ask<'a> = (&'static str, Box<dyn Fn() -> Reply + Sync + 'a>);

/// Keys that a server has used, and a ciphertext and a signature of each.
struct Used {
    sealed: Vec<Sealed>,
    signer: String,
    on_token: String,
}

impl Used {
    #[track_caller]
    fn made(caller: &Caller) -> Used {
        let on_token = caller.key(json!({"key_type": "AES", "key_size": 256}));
        let on_token = text(&on_token["key_id"]).to_owned();
        make(caller, "inside", "hsm");
        make(caller, "outside", "wrapped");
        let ec = json!({"name": "signer", "key_type": "EC", "curve": "P-256", "protection": "wrapped"});
        caller.post("/api/v1/keys", &ec).good(201);
        let used = Used {
            sealed: ["inside", "outside", &on_token].map(|id| seal(caller, id)).to_vec(),
            signer: "signer".to_owned(),
            on_token,
        };
        used.serve(caller);
        used
    }

    /// All of them serve, as if nothing were.
    #[track_caller]
    fn serve(&self, caller: &Caller) {
        for one in &self.sealed {
            one.opens(caller);
            seal(caller, text(&one.answer["key_id"])).opens(caller);
        }
        let data = json!({"data": base64("message")});
        let body = merged(&data, json!({"key_id": self.signer}));
        let signed = caller.post("/api/v1/sign", &body).good(200);
        let valid = caller.post("/api/v1/verify", &merged(&signed, data)).good(200);
        assert_eq!(valid["valid"], true);
    }

    /// The key of the token serves, whatever the store does.
    #[track_caller]
    fn on_token_serves(&self, caller: &Caller) {
        let own = self
            .sealed
            .iter()
            .find(|one| one.answer["key_id"] == self.on_token.as_str());
        own.unwrap().opens(caller);
        seal(caller, &self.on_token).opens(caller);
        let body = encrypt_body(&self.on_token, "x");
        let answer = caller.hsm("encrypt", &body).good(200);
        assert_eq!(caller.hsm("decrypt", &answer).good(200)["data"], base64("x"));
    }
}

#[track_caller]
fn refused(reply: Reply) {
    reply.problem(503, "store_unavailable");
}

/// What can't be done without a store that can be written, all at once.
#[track_caller]
fn writes_are_refused(caller: &Caller) {
    let inside = path("inside");
    let version = format!("{inside}/versions/1");
    let post = |path: &str, body: Value| caller.post(path, &body);
    let on_token = json!({"key_type": "AES", "key_size": 256, "key_label": "refused"});
    let asks: Vec<Ask<'_>> = vec![
        ("create", Box::new(|| post("/api/v1/keys", aes("refused", "hsm")))),
        (
            "create wrapped",
            Box::new(|| post("/api/v1/keys", aes("refused.too", "wrapped"))),
        ),
        (
            "create on the token",
            Box::new(|| post("/api/v1/hsm/keys", on_token.clone())),
        ),
        ("rotate", Box::new(|| rotate(caller, "inside"))),
        ("rotate wrapped", Box::new(|| rotate(caller, "outside"))),
        ("tags", Box::new(|| patch(caller, &inside, json!({"tags": {"a": "b"}})))),
        (
            "state",
            Box::new(|| patch(caller, &inside, json!({"state": "disabled"}))),
        ),
        (
            "version",
            Box::new(|| patch(caller, &version, json!({"state": "disabled"}))),
        ),
        ("delete", Box::new(|| caller.delete(&inside))),
    ];
    let replies: Vec<_> = thread::scope(|scope| {
        let asked: Vec<_> = asks.iter().map(|(what, ask)| (*what, scope.spawn(ask))).collect();
        asked
            .into_iter()
            .map(|(what, asked)| (what, asked.join().unwrap()))
            .collect()
    });
    for (what, reply) in replies {
        assert_eq!(reply.status, 503, "{what}: {}", reply.text());
        refused(reply);
    }
}

/// What was refused has not happened, and can be done now.
#[track_caller]
fn all_is_as_it_was(server: &Server, used: &Used) {
    let caller = server.all();
    used.serve(&caller);
    for name in ["inside", "outside"] {
        let key = key(&caller, name);
        assert_eq!((&key["state"], &key["tags"]), (&json!("enabled"), &json!({})), "{key}");
        assert_eq!(key["versions"][0]["state"], "enabled", "{key}");
        let count = without_holes_or_twins(&key);
        let rotated = wait_for(|| rotate(&caller, name));
        assert_eq!(without_holes_or_twins(&rotated), count + 1);
    }
    for name in ["refused", "refused.too"] {
        caller.get(&path(name)).problem(404, "key_not_found");
    }
    let made = wait_for(|| caller.post("/api/v1/keys", &aes("refused", "hsm")));
    assert_eq!(made["primary_version"], 1);
    super::crash::settled(server);
    used.serve(&caller);
}

/// Asks until what was broken off before is out of the way.
#[track_caller]
fn wait_for(ask: impl Fn() -> Reply) -> Value {
    let mut last = None;
    wait_until("it is done", || {
        let reply = ask();
        let again = reply.status == 409;
        last = Some(reply);
        !again
    });
    let last = last.unwrap();
    assert!((200..300).contains(&last.status), "{}", last.text());
    last.json()
}

#[test]
fn postgresql_is_away_and_comes_back() {
    let (mut database, token) = (Postgres::start(), Token::softhsm());
    let on_it = || Server::with(token.clone()).env("HSM_STORE__URL", &database.url());
    let server = on_it().start();
    let caller = server.all();
    let used = Used::made(&caller);
    let unused = ["unused.1", "unused.2"];
    for name in unused {
        make(&caller, name, "wrapped");
    }
    let other = on_it().start();
    // In its memory are all but the unused ones.
    used.serve(&other.all());
    let operations = key(&caller, "inside")["operations"].as_u64().unwrap();

    for unused in unused {
        database.stop();
        for server in [&server, &other] {
            used.on_token_serves(&server.all());
            used.serve(&server.all());
            writes_are_refused(&server.all());
            wait_until("it says so", || ailing(server) == ["store"]);
            let problem = server
                .anonymous()
                .get("/health/ready")
                .problem(503, "store_unavailable");
            assert!(text(&problem["detail"]).contains("store"), "{problem}");
            used.serve(&server.all());
            used.on_token_serves(&server.all());
            writes_are_refused(&server.all());
        }
        let other_caller = other.all();
        refused(other_caller.post("/api/v1/encrypt", &encrypt_body(unused, "x")));
        refused(other_caller.post("/api/v1/encrypt", &encrypt_body("nowhere", "x")));
        refused(other_caller.get("/api/v1/keys"));

        database.start_again();
        for server in [&server, &other] {
            heals(server);
            used.serve(&server.all());
        }
        seal(&other_caller, unused).opens(&caller);
    }
    all_is_as_it_was(&server, &used);
    // What was done meanwhile is counted.
    wait_until("it is counted", || {
        let now = key(&other.all(), "inside")["operations"].as_u64().unwrap();
        now >= operations + 20
    });
}

#[test]
fn keys_in_memory_serve_only_so_long() {
    let (mut database, token) = (Postgres::start(), Token::softhsm());
    let server = Server::with(token)
        .env("HSM_STORE__URL", &database.url())
        .env("HSM_STORE__STALE_MS", "2000")
        .start();
    let caller = server.all();
    let used = Used::made(&caller);
    database.stop();
    for name in ["inside", "outside"] {
        wait_until("it is too old", || {
            let reply = caller.post("/api/v1/encrypt", &encrypt_body(name, "x"));
            if reply.status == 200 {
                return false;
            }
            refused(reply);
            true
        });
    }
    let body = json!({"key_id": "signer", "data": base64("message")});
    refused(caller.post("/api/v1/sign", &body));
    for one in &used.sealed {
        if one.answer["key_id"] != used.on_token.as_str() {
            refused(caller.post("/api/v1/decrypt", &one.answer));
        }
    }
    used.on_token_serves(&caller);
    database.start_again();
    heals(&server);
    all_is_as_it_was(&server, &used);
}

#[test]
fn postgresql_is_read_only() {
    let (database, token) = (Postgres::start(), Token::softhsm());
    let server = Server::with(token).env("HSM_STORE__URL", &database.url()).start();
    let caller = server.all();
    let used = Used::made(&caller);
    let set = |read_only: &str| {
        let change = format!("ALTER SYSTEM SET default_transaction_read_only = {read_only}");
        for sql in [&change, "SELECT pg_reload_conf()"] {
            let ended = run("psql", ["-c", sql, &database.url()]);
            assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        }
    };
    set("on");
    wait_until("it can't be written", || {
        let tags = json!({"tags": {"another": super::fresh_text()}});
        patch(&caller, &path("signer"), tags).status != 200
    });
    writes_are_refused(&caller);
    used.serve(&caller);
    used.on_token_serves(&caller);
    writes_are_refused(&caller);
    set("off");
    wait_until("it can be written", || {
        patch(&caller, &path("signer"), json!({"tags": {"written": "again"}})).status == 200
    });
    heals(&server);
    all_is_as_it_was(&server, &used);
}

/// `sqlite3` with a lock on the file that lets nobody write.
struct Lock(Child);

impl Lock {
    #[track_caller]
    fn take(file: &Path) -> Lock {
        let mut child = Command::new("sqlite3")
            .arg(file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let text = ".timeout 60000\nBEGIN EXCLUSIVE;\nSELECT 'locked';\n";
        child.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "locked\n");
        Lock(child)
    }

    fn release(mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

#[test]
fn sqlite_is_locked_by_another_program() {
    let server = Server::softhsm();
    let caller = server.all();
    let used = Used::made(&caller);
    let lock = Lock::take(&server.data_dir().join("store.sqlite"));
    refused(caller.post("/api/v1/keys", &aes("refused", "hsm")));
    used.serve(&caller);
    used.on_token_serves(&caller);
    refused(rotate(&caller, "inside"));
    used.serve(&caller);
    lock.release();
    heals(&server);
    all_is_as_it_was(&server, &used);
}

#[test]
fn the_disk_of_sqlite_is_full() {
    with_disks_that_fill("lasting::store_away::the_disk_of_sqlite_is_full", full_disk);
}

fn full_disk() {
    let server = Server::softhsm();
    let caller = server.all();
    let used = Used::made(&caller);
    let log = server.data_dir().join("store.sqlite-wal");
    let size = log.metadata().unwrap().len();
    eprintln!("{size} bytes are in the write-ahead log");
    limit_files(&server, Some(size));
    writes_are_refused(&caller);
    used.serve(&caller);
    used.on_token_serves(&caller);
    writes_are_refused(&caller);
    limit_files(&server, None);
    heals(&server);
    all_is_as_it_was(&server, &used);
    // On disk it is whole too.
    let server = server.end("KILL").start();
    used.serve(&server.all());
}

#[test]
fn the_file_of_sqlite_is_moved_away() {
    let server = Server::softhsm();
    let caller = server.all();
    let used = Used::made(&caller);
    let data = server.data_dir();
    let away = data.join("away");
    std::fs::create_dir(&away).unwrap();
    let files = ["store.sqlite", "store.sqlite-wal", "store.sqlite-shm"];
    let move_all = |from: &Path, to: &Path| {
        for name in files {
            if from.join(name).exists() {
                std::fs::rename(from.join(name), to.join(name)).unwrap();
            }
        }
    };
    move_all(&data, &away);
    used.serve(&caller);
    used.on_token_serves(&caller);
    let answers = writes_without_change(&caller);
    used.serve(&caller);
    assert!(
        !data.join("store.sqlite").exists(),
        "no other store is begun in its place"
    );
    move_all(&away, &data);
    heals(&server);
    // What was acknowledged is there, what was refused is not.
    let server = server.end("KILL").start();
    let caller = server.all();
    used.serve(&caller);
    for (name, made) in answers {
        assert_eq!(caller.get(&path(&name)).status, if made { 200 } else { 404 }, "{name}");
    }
}

/// Makes some keys, each of which is acknowledged or refused.
#[track_caller]
fn writes_without_change(caller: &Caller) -> Vec<(String, bool)> {
    let names = (0..4).map(|at| format!("meanwhile.{at}"));
    names
        .map(|name| {
            let reply = caller.post("/api/v1/keys", &aes(&name, "hsm"));
            let made = reply.status == 201;
            if !made {
                refused(reply);
            }
            (name, made)
        })
        .collect()
}
