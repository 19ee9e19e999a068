//! [`Server`]: `hsm-server serve` as a process, and [`Caller`], who talks to it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use softhsm_test::{FaultyToken, Token};

use super::{Finished, Reply, SECRET, Scratch, mint, send, try_send};

/// The PIN of a token that the server makes itself.
pub(crate) const LINKED_PIN: &str = "linked-pin-7716-cedar";
/// How long a start or a stop may take before the test gives up; no statement about how long it takes.
const PATIENCE: Duration = Duration::from_secs(60);
const EVERY: Duration = Duration::from_millis(5);

/// What a server stands on, kept until it has ended.
#[derive(Debug)]
enum Held {
    Token(Token),
    Faulty(FaultyToken),
    Linked,
}

/// A server that is yet to be started.
#[derive(Debug)]
pub(crate) struct Builder {
    held: Held,
    scratch: Scratch,
    env: BTreeMap<String, String>,
}

impl Builder {
    fn new(held: Held, token_env: Vec<(String, String)>) -> Self {
        let scratch = Scratch::new();
        let mut env: BTreeMap<_, _> = token_env.into_iter().collect();
        let mut add = |name: &str, value: &str| env.insert(name.to_owned(), value.to_owned());
        add("HSM_DATA_DIR", scratch.path("data").to_str().unwrap());
        add("HSM_SERVER__LISTEN", "127.0.0.1:0");
        add("HSM_AUTH__JWT_SECRET", SECRET);
        add("HSM_LOG__FORMAT", "json");
        Self { held, scratch, env }
    }

    /// Sets a variable of the server's environment.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Takes a variable out of the server's environment.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.env.remove(name);
        self
    }

    /// The folder of this server's files; `data` in it is its data folder.
    pub(crate) fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Starts `serve` and waits until `/health/ready` answers 200.
    #[track_caller]
    pub(crate) fn start(self) -> Server {
        let server = self.start_unready();
        let started = Instant::now();
        while server.anonymous().get("/health/ready").status != 200 {
            assert!(started.elapsed() < PATIENCE, "not ready: {}", server.log());
            sleep(EVERY);
        }
        server
    }

    /// Starts `serve` and waits until it listens, ready or not.
    #[track_caller]
    pub(crate) fn start_unready(self) -> Server {
        let mut child = self
            .command(&["serve"])
            .stdout(self.create("stdout"))
            .stderr(self.create("stderr"))
            .spawn()
            .unwrap();
        let started = Instant::now();
        let address = loop {
            let log = fs::read_to_string(self.scratch.path("stderr")).unwrap_or_default();
            if let Some(address) = address_in(&log) {
                break address;
            }
            if let Some(status) = child.try_wait().unwrap() {
                panic!("serve ended with {status}: {log}");
            }
            if started.elapsed() > PATIENCE {
                let _ = child.kill();
                panic!("serve does not listen: {log}");
            }
            sleep(EVERY);
        };
        let Self { held, scratch, env } = self;
        Server {
            child,
            address,
            held,
            scratch,
            env,
        }
    }

    /// Runs `serve`, which must end by itself.
    #[track_caller]
    pub(crate) fn refused(self) -> Finished {
        self.run(&["serve"])
    }

    /// Runs any command of the binary to its end, in this environment.
    #[track_caller]
    pub(crate) fn run(&self, args: &[&str]) -> Finished {
        let mut child = self
            .command(args)
            .stdout(self.create("command.stdout"))
            .stderr(self.create("command.stderr"))
            .spawn()
            .unwrap();
        let status = wait(&mut child).unwrap_or_else(|| {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{args:?} does not end: {}", self.lossy("command.stderr"));
        });
        Finished {
            code: status.code(),
            stdout: self.scratch.read("command.stdout"),
            stderr: self.lossy("command.stderr"),
        }
    }

    /// The binary with these arguments, in this environment and no other.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        command(args, &self.env)
    }

    fn create(&self, name: &str) -> File {
        File::create(self.scratch.path(name)).unwrap()
    }

    fn lossy(&self, name: &str) -> String {
        String::from_utf8_lossy(&self.scratch.read(name)).into_owned()
    }
}

fn command(args: &[&str], env: &BTreeMap<String, String>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hsm-server"));
    command.args(args).env_clear().envs(env).stdin(Stdio::null());
    command
}

/// A running `hsm-server serve` with a token and a data folder of its own. Dropped, it is stopped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
    held: Held,
    scratch: Scratch,
    env: BTreeMap<String, String>,
}

impl Server {
    /// On a fresh token of SoftHSM.
    #[track_caller]
    pub(crate) fn softhsm() -> Self {
        Self::on(&Token::softhsm())
    }

    /// On a fresh token of the embedded token's module file.
    #[track_caller]
    pub(crate) fn embedded() -> Self {
        Self::on(&Token::embedded())
    }

    /// On the token linked into the binary, which the server makes in its empty data folder.
    #[track_caller]
    pub(crate) fn linked_embedded() -> Self {
        Self::linked().start()
    }

    /// On this token.
    #[track_caller]
    pub(crate) fn on(token: &Token) -> Self {
        Self::with(token.clone()).start()
    }

    /// On a fresh token of SoftHSM behind a module that fails on command.
    #[track_caller]
    pub(crate) fn faulty() -> Self {
        Self::with_faulty(FaultyToken::over(Token::softhsm())).start()
    }

    /// One to be started on this token, with more settings.
    pub(crate) fn with(token: Token) -> Builder {
        let env = token.env();
        Builder::new(Held::Token(token), env)
    }

    /// One to be started on this token behind the failing module, with more settings.
    pub(crate) fn with_faulty(token: FaultyToken) -> Builder {
        let env = token.env();
        Builder::new(Held::Faulty(token), env)
    }

    /// One to be started on the token linked into the binary, with more settings.
    pub(crate) fn linked() -> Builder {
        let env = [("HSM_LIBRARY_PATH", "embedded"), ("HSM_PIN", LINKED_PIN)];
        Builder::new(
            Held::Linked,
            env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        )
    }

    /// The token below, past any failing module.
    pub(crate) fn token(&self) -> &Token {
        match &self.held {
            Held::Token(token) => token,
            Held::Faulty(faulty) => faulty.token(),
            Held::Linked => panic!("the linked token is the server's alone"),
        }
    }

    /// The failing module in between.
    pub(crate) fn faulty_token(&self) -> &FaultyToken {
        match &self.held {
            Held::Faulty(faulty) => faulty,
            Held::Token(_) | Held::Linked => panic!("this server has no FaultyToken"),
        }
    }

    /// Puts these rules of the failing module in force in place of all others; `""` for none.
    pub(crate) fn fault(&self, rules: &str) {
        self.faulty_token().fault(rules);
    }

    /// Who has the scopes, separated by spaces: `"keys:create crypto:sign"`.
    pub(crate) fn caller(&self, scopes: &str) -> Caller {
        self.bearer(&mint(&json!({"scope": scopes})))
    }

    /// Who may do everything.
    pub(crate) fn all(&self) -> Caller {
        self.caller("*")
    }

    /// Who sends this text as a bearer token.
    pub(crate) fn bearer(&self, token: &str) -> Caller {
        Caller {
            address: self.address,
            authorization: Some(format!("Bearer {token}")),
        }
    }

    /// Who sends no token.
    pub(crate) fn anonymous(&self) -> Caller {
        Caller {
            address: self.address,
            authorization: None,
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its data folder.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.env["HSM_DATA_DIR"].clone().into()
    }

    /// All that it has logged (stderr).
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&self.scratch.read("stderr")).into_owned()
    }

    /// All that it has written to stdout.
    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.scratch.read("stdout")).into_owned()
    }

    /// All files in its data folder, by their path in it.
    pub(crate) fn data_files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        collect(&self.data_dir(), &mut files);
        files
    }

    /// Another command of the binary in the server's environment, beside it.
    #[track_caller]
    pub(crate) fn run(&self, args: &[&str]) -> Finished {
        self.command(args).output().unwrap().into()
    }

    /// The binary with these arguments, in the server's environment.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        command(args, &self.env)
    }

    /// Sends a signal by its name without SIG: `TERM`, `KILL`, `HUP`, `STOP`, `CONT`.
    pub(crate) fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.pid());
        assert!(
            Command::new("sh").args(["-c", &kill]).status().unwrap().success(),
            "{kill}"
        );
    }

    /// Waits until the process has ended.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child).unwrap_or_else(|| panic!("the server does not end: {}", self.log()))
    }

    /// `SIGTERM`, and it must end with exit code 0. Gives back its whole log.
    #[track_caller]
    pub(crate) fn stop(mut self) -> String {
        self.signal("TERM");
        let status = self.wait();
        assert!(status.success(), "{status}: {}", self.log());
        self.log()
    }

    /// Ends the process (`KILL` or `TERM`) and hands back what it stood on, to be started again with the same token and
    /// data folder.
    #[track_caller]
    pub(crate) fn end(mut self, signal: &str) -> Builder {
        self.signal(signal);
        self.wait();
        self.ended()
    }

    /// Waits until the process has killed itself, and hands back what it stood on, as [`end`](Self::end) does.
    #[track_caller]
    pub(crate) fn died(mut self) -> Builder {
        const SIGKILL: i32 = 9;
        let status = self.wait();
        assert_eq!(status.signal(), Some(SIGKILL), "{status}");
        self.ended()
    }

    fn ended(&mut self) -> Builder {
        let held = std::mem::replace(&mut self.held, Held::Linked);
        let scratch = std::mem::replace(&mut self.scratch, Scratch::new());
        Builder {
            held,
            scratch,
            env: self.env.clone(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = fs::read(self.scratch.path("stderr")).unwrap_or_default();
            eprintln!("--- the server's log\n{}---", String::from_utf8_lossy(&log));
        }
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        self.signal("TERM");
        if wait(&mut self.child).is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn wait(child: &mut Child) -> Option<ExitStatus> {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        sleep(EVERY);
    }
    None
}

/// The address in the line that says `listening`.
fn address_in(log: &str) -> Option<SocketAddr> {
    let whole_lines = &log[..log.rfind('\n')?];
    let line = whole_lines.lines().find(|line| line.contains("listening"))?;
    let (_, rest) = line.split_once("http://").or_else(|| line.split_once("https://"))?;
    let end = rest
        .find(|c: char| !c.is_ascii_digit() && !".:".contains(c))
        .unwrap_or(rest.len());
    rest[..end].parse().ok()
}

fn collect(folder: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
}

/// Who calls the server: with a token or without. Paths are whole: `/api/v1/hsm/keys`.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    address: SocketAddr,
    authorization: Option<String>,
}

impl Caller {
    /// GET
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Reply {
        self.raw("GET", path, &[], b"")
    }

    /// POST of a JSON body.
    #[track_caller]
    pub(crate) fn post(&self, path: &str, body: &Value) -> Reply {
        self.post_text(path, body.to_string())
    }

    /// POST of any text, said to be JSON.
    #[track_caller]
    pub(crate) fn post_text(&self, path: &str, body: impl AsRef<[u8]>) -> Reply {
        self.raw("POST", path, &[("Content-Type", "application/json")], body.as_ref())
    }

    /// DELETE
    #[track_caller]
    pub(crate) fn delete(&self, path: &str) -> Reply {
        self.raw("DELETE", path, &[], b"")
    }

    /// Any request; the caller's token is added unless `headers` has an `Authorization`.
    #[track_caller]
    pub(crate) fn raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        send(self.address, method, path, &self.with_token(headers), body)
    }

    /// Any request, with a JSON body or none, to a server that may be gone before it answers: then `None`.
    pub(crate) fn attempt(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Option<Reply> {
        let mut all = self.with_token(headers);
        all.extend(body.map(|_| ("Content-Type", "application/json")));
        let body = body.map(Value::to_string).unwrap_or_default();
        try_send(self.address, method, path, &all, body.as_bytes()).ok()
    }

    fn with_token<'a>(&'a self, headers: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let mut all = headers.to_vec();
        let named = headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        if let (Some(authorization), false) = (&self.authorization, named) {
            all.push(("Authorization", authorization));
        }
        all
    }

    /// Asks for a key, with a label of its own unless one is given; the answer, whatever it is.
    #[track_caller]
    pub(crate) fn create(&self, mut body: Value) -> Reply {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        if body.get("key_label").is_none() {
            body["key_label"] = format!("key {}", NUMBER.fetch_add(1, Ordering::Relaxed)).into();
        }
        self.post("/api/v1/hsm/keys", &body)
    }

    /// Makes a key, with a label of its own unless one is given; the key.
    #[track_caller]
    pub(crate) fn key(&self, body: Value) -> Value {
        self.create(body).good(201)
    }

    /// One of `encrypt`, `decrypt`, `sign`, `verify` under `/api/v1/hsm`.
    #[track_caller]
    pub(crate) fn hsm(&self, operation: &str, body: &Value) -> Reply {
        self.post(&format!("/api/v1/hsm/{operation}"), body)
    }
}
