//! What lasts: managed keys through crashes, rotation under load, several gateways, a store that is away, and new
//! key-encryption keys.

mod crash;
mod gateways;
mod kek;
mod rotation;
mod store_away;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, ScopedJoinHandle, sleep};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Caller, Finished, Reply, Server, base64, text};
use crate::tools::wait_until;

/// A ciphertext as encrypt answered it, and what is in it.
#[derive(Clone, Debug)]
struct Sealed {
    answer: Value,
    plain: String,
}

impl Sealed {
    /// The version that it names.
    fn version(&self) -> u64 {
        self.answer["key_version"].as_u64().unwrap()
    }

    /// It decrypts to what was in it.
    #[track_caller]
    fn opens(&self, caller: &Caller) {
        let opened = caller.post("/api/v1/decrypt", &self.answer).good(200);
        assert_eq!(opened["data"], base64(&self.plain), "{}", self.answer);
    }
}

/// A text that no other call gives.
fn fresh_text() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    format!("text {}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

fn encrypt_body(id: &str, plain: &str) -> Value {
    json!({"key_id": id, "data": base64(plain)})
}

/// Encrypts a text of its own.
#[track_caller]
fn seal(caller: &Caller, id: &str) -> Sealed {
    let plain = fresh_text();
    let answer = caller.post("/api/v1/encrypt", &encrypt_body(id, &plain)).good(200);
    Sealed { answer, plain }
}

fn aes(name: &str, protection: &str) -> Value {
    json!({"name": name, "key_type": "AES", "key_size": 256, "protection": protection})
}

/// Makes a managed key that encrypts; the key.
#[track_caller]
fn make(caller: &Caller, name: &str, protection: &str) -> Value {
    caller.post("/api/v1/keys", &aes(name, protection)).good(201)
}

fn path(name: &str) -> String {
    format!("/api/v1/keys/{name}")
}

#[track_caller]
fn key(caller: &Caller, name: &str) -> Value {
    caller.get(&path(name)).good(200)
}

/// Asks for a new version.
#[track_caller]
fn rotate(caller: &Caller, name: &str) -> Reply {
    caller.raw("POST", &format!("{}/rotate", path(name)), &[], b"")
}

#[track_caller]
fn patch(caller: &Caller, path: &str, body: Value) -> Reply {
    let json = [("Content-Type", "application/json")];
    caller.raw("PATCH", path, &json, body.to_string().as_bytes())
}

/// The numbers of a key's versions, in the order of the answer.
fn versions(key: &Value) -> Vec<u64> {
    let all = key["versions"].as_array().unwrap();
    all.iter().map(|one| one["version"].as_u64().unwrap()).collect()
}

/// Its versions are 1 to n, and what is on the token for them is there once for each.
#[track_caller]
fn without_holes_or_twins(key: &Value) -> u64 {
    let count = key["versions"].as_array().unwrap().len() as u64;
    assert_eq!(versions(key), (1..=count).collect::<Vec<_>>(), "{key}");
    let on_token = key["versions"].as_array().unwrap().iter();
    let ids: Vec<_> = on_token.filter_map(|one| one["hsm_key_id"].as_str()).collect();
    let distinct: BTreeSet<_> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len(), "{key}");
    let expected = if key["protection"] == "hsm" { count } else { 0 };
    assert_eq!(ids.len() as u64, expected, "{key}");
    count
}

/// All keys of the list, page by page.
#[track_caller]
fn all_keys(caller: &Caller) -> Vec<Value> {
    let mut path = "/api/v1/keys?limit=100".to_owned();
    let mut keys = Vec::new();
    loop {
        let page = caller.get(&path).good(200);
        keys.extend(page["keys"].as_array().unwrap().iter().cloned());
        let Some(cursor) = page["next_cursor"].as_str() else {
            return keys;
        };
        path = format!("/api/v1/keys?limit=100&cursor={cursor}");
    }
}

/// The lines of `kek status` of this server.
#[track_caller]
fn kek_status(server: &Server) -> String {
    well(server.run(&["kek", "status"]))
}

#[track_caller]
fn well(ended: Finished) -> String {
    assert_eq!(ended.code, Some(0), "{} {}", ended.line(), ended.stderr);
    ended.line().to_owned()
}

/// The checks of `/health/ready` that are not well.
fn ailing(server: &Server) -> Vec<String> {
    let ready = server.anonymous().get("/health/ready").json();
    let checks = ready["checks"].as_array().unwrap().iter();
    let bad = checks.filter(|check| check["ok"] == false);
    bad.map(|check| text(&check["name"]).to_owned()).collect()
}

/// Waits until the server says that it is ready, having lost nothing but its store before.
fn heals(server: &Server) {
    wait_until("ready again", || server.anonymous().get("/health/ready").status == 200);
}

/// Clients that encrypt again and again until they are told to stop.
struct Load<'scope> {
    stop: &'scope Stop,
    clients: Vec<ScopedJoinHandle<'scope, Vec<Sealed>>>,
}

/// What tells clients to stop, and why one of them did by itself.
#[derive(Debug, Default)]
struct Stop {
    asked: AtomicBool,
    /// What was answered that should not have been.
    unexpected: Mutex<Vec<String>>,
}

impl<'scope> Load<'scope> {
    /// A client for each of these, which encrypts with the keys in turn, that often a second, and opens each second answer
    /// with the caller beside its own.
    fn start<'env>(
        scope: &'scope thread::Scope<'scope, 'env>,
        stop: &'scope Stop,
        clients: &[(Caller, Caller)],
        keys: &'scope [&'scope str],
        each_second: u32,
        allowed: &'static [(u16, &'static str)],
    ) -> Load<'scope> {
        let pause = Duration::from_secs(1) / each_second;
        let clients = clients.iter().cloned();
        let clients = clients.map(|(own, other)| {
            scope.spawn(move || {
                let mut sealed = Vec::new();
                let began = Instant::now();
                for turn in 0_u32.. {
                    if stop.asked.load(Ordering::SeqCst) {
                        break;
                    }
                    let id = keys[turn as usize % keys.len()];
                    let plain = fresh_text();
                    let reply = own.post("/api/v1/encrypt", &encrypt_body(id, &plain));
                    if reply.status == 200 {
                        let answer = reply.json();
                        if turn % 2 == 0 {
                            let opened = other.post("/api/v1/decrypt", &answer);
                            stop.check(&opened, allowed, |opened| opened["data"] == base64(&plain));
                        }
                        sealed.push(Sealed { answer, plain });
                    } else {
                        stop.check(&reply, allowed, |_| false);
                    }
                    sleep((pause * (turn + 1)).saturating_sub(began.elapsed()));
                }
                sealed
            })
        });
        Load {
            stop,
            clients: clients.collect(),
        }
    }

    /// Ends it; everything that was answered. Fails if anything was answered that should not have been.
    #[track_caller]
    fn end(mut self) -> Vec<Sealed> {
        self.stop.asked.store(true, Ordering::SeqCst);
        let clients = std::mem::take(&mut self.clients);
        let all = clients.into_iter().flat_map(|client| client.join().unwrap());
        let all = all.collect();
        let unexpected = self.stop.unexpected.lock().unwrap();
        assert!(unexpected.is_empty(), "{unexpected:?}");
        all
    }
}

impl Stop {
    fn check(&self, reply: &Reply, allowed: &[(u16, &str)], is_right: impl Fn(&Value) -> bool) {
        let body = reply.json();
        let fits = if reply.status == 200 {
            is_right(&body)
        } else {
            allowed
                .iter()
                .any(|(status, code)| *status == reply.status && body["code"] == *code)
        };
        if !fits {
            let said = format!("{} {body}", reply.status);
            self.unexpected.lock().unwrap().push(said);
        }
    }
}

impl Drop for Load<'_> {
    /// A test that fails does not wait for its clients for ever.
    fn drop(&mut self) {
        self.stop.asked.store(true, Ordering::SeqCst);
    }
}
