//! The server under load, in a process of its own.

use std::cell::RefCell;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use softhsm_test::Token;
use tempfile::TempDir;

use crate::http::Connection;

/// A running `hsm-server serve`; it ends when this is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    child: Child,
    bearer: String,
    keys: RefCell<Vec<String>>,
    _folder: TempDir,
}

impl Server {
    /// Starts it on `token` with this mode of the audit log, and waits until it listens.
    pub(crate) fn start(program: &Path, token: &Token, sync: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("hsm-bench-").tempdir().unwrap();
        let log = folder.path().join("log");
        let command = |arguments: &[&str]| {
            let mut command = Command::new(program);
            command
                .args(arguments)
                .current_dir(folder.path())
                .env_clear()
                .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
                .envs(token.env())
                .env("HSM_DATA_DIR", folder.path().join("data"))
                .env("HSM_SERVER__LISTEN", "127.0.0.1:0")
                .env(
                    "HSM_AUTH__JWT_SECRET",
                    "a secret of the benchmark alone, not of use elsewhere",
                )
                .env("HSM_AUDIT__SYNC", sync);
            command
        };
        let minted = command(&["token", "--sub", "bench", "--scope", "*"]).output().unwrap();
        assert!(minted.status.success(), "{}", String::from_utf8_lossy(&minted.stderr));
        let child = command(&["serve"])
            .stdout(File::create(folder.path().join("stdout")).unwrap())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self {
            address: wait_for_address(&log),
            child,
            bearer: String::from_utf8(minted.stdout).unwrap().trim().to_owned(),
            keys: RefCell::default(),
            _folder: folder,
        }
    }

    pub(crate) fn pid(&self) -> String {
        self.child.id().to_string()
    }

    /// A whole request.
    pub(crate) fn request(&self, method: &str, path: &str, body: &str) -> Vec<u8> {
        let (address, bearer, length) = (self.address, &self.bearer, body.len());
        format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {bearer}\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    }

    /// Makes a key and tells its id; `kind` is the part of the request that says which.
    pub(crate) fn own_key(&self, label: &str, kind: &str) -> String {
        let body = format!(r#"{{{kind},"key_label":"{label}"}}"#);
        let request = self.request("POST", "/api/v1/hsm/keys", &body);
        let key = Connection::open(self.address).exchange(&request).good(201);
        let id = text_of(&key, "key_id").unwrap();
        self.keys.borrow_mut().push(id.clone());
        id
    }

    pub(crate) fn delete_own_keys(&self) {
        for id in self.keys.take() {
            let request = self.request("DELETE", &format!("/api/v1/hsm/keys/{id}"), "");
            Connection::open(self.address).exchange(&request).good(204);
        }
    }

    /// Reads the list of keys to its end in pages of 100; tells how many there were.
    pub(crate) fn list_all(&self, connection: &mut Connection) -> usize {
        let mut pages = 0;
        let mut cursor = String::new();
        loop {
            let path = format!("/api/v1/hsm/keys?limit=100{cursor}");
            let page = connection.exchange(&self.request("GET", &path, "")).good(200);
            pages += 1;
            match text_of(&page, "next_cursor") {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return pages,
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its own folders and its token's go with it, so there is nothing to finish.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The value of a field that is text without escapes.
fn text_of(json: &str, field: &str) -> Option<String> {
    let (_, rest) = json.split_once(&format!(r#""{field}":""#))?;
    Some(rest.split('"').next()?.to_owned())
}

fn wait_for_address(log: &Path) -> SocketAddr {
    let started = Instant::now();
    loop {
        let text = fs::read_to_string(log).unwrap_or_default();
        let whole = &text[..text.rfind('\n').unwrap_or(0)];
        let address = whole.lines().find(|line| line.contains("listening")).and_then(|line| {
            let (_, rest) = line.split_once("http://")?;
            let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':'));
            rest[..end.unwrap_or(rest.len())].parse().ok()
        });
        if let Some(address) = address {
            return address;
        }
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "serve does not listen: {text}"
        );
        sleep(Duration::from_millis(20));
    }
}
