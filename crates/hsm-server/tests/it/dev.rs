//! `dev`: nothing to set up, and what it prints works as it stands.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::support::{Finished, Reply, Scratch, bytes, send, text};
use crate::tools::{only_fault, sh, wait_until};

/// A running `hsm-server dev` on a data folder that outlives it.
struct Dev {
    child: Child,
    said: String,
}

fn command(folder: &Path, more: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hsm-server"));
    command
        .arg("dev")
        .env_clear()
        .env("HSM_DATA_DIR", folder)
        .envs(more.iter().copied())
        .stdin(Stdio::null());
    command
}

fn refused(folder: &Path, more: &[(&str, &str)]) -> Finished {
    command(folder, more).output().unwrap().into()
}

impl Dev {
    fn start(scratch: &Scratch, name: &str, more: &[(&str, &str)]) -> Self {
        let (out, log) = (
            scratch.path(&format!("{name}.out")),
            scratch.path(&format!("{name}.log")),
        );
        let mut child = command(&scratch.path(name), more)
            .stdout(File::create(&out).unwrap())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        wait_until("dev listens", || {
            let text = fs::read_to_string(&log).unwrap();
            assert!(child.try_wait().unwrap().is_none(), "{text}");
            text.contains("listening")
        });
        let said = fs::read_to_string(&out).unwrap();
        Self { child, said }
    }

    fn value(&self, name: &str) -> &str {
        let line = self.said.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name}: {}", self.said)).trim()
    }

    fn url(&self) -> &str {
        self.value("Base URL:")
    }

    fn address(&self) -> SocketAddr {
        self.url().strip_prefix("http://").unwrap().parse().unwrap()
    }

    fn get(&self, path: &str) -> Reply {
        let bearer = format!("Bearer {}", self.value("Bearer token:"));
        send(self.address(), "GET", path, &[("Authorization", &bearer)], b"")
    }

    /// The answers of the commands that it prints, run as they stand.
    fn commands(&self) -> Vec<Value> {
        let lines: Vec<&str> = self.said.lines().filter(|line| line.starts_with("curl ")).collect();
        assert_eq!(lines.len(), 3, "{}", self.said);
        let run = |line: &&str| {
            assert!(!line.contains(['|', '\\', '$']), "{line}");
            // The status too: curl takes a problem for a success.
            let answer: Value = serde_json::from_str(&sh(line)).unwrap();
            assert!(answer.get("code").is_none(), "{line}: {answer}");
            answer
        };
        lines.iter().map(run).collect()
    }

    fn end(mut self) {
        sh(&format!("kill -TERM {}", self.child.id()));
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn check_commands(dev: &Dev) {
    let answers = dev.commands();
    let key = &answers[0];
    assert!(text(&key["key_id"]).starts_with("hsm:") && text(&key["public_key_pem"]).contains("PUBLIC KEY"));
    assert!(!bytes(&answers[1]["signature"]).is_empty());
    assert!(!bytes(&answers[2]["ciphertext"]).is_empty() && !bytes(&answers[2]["tag"]).is_empty());
}

fn keys(dev: &Dev) -> Vec<Value> {
    let list = dev.get("/api/v1/hsm/keys").good(200);
    list["keys"].as_array().unwrap().clone()
}

#[test]
fn what_it_prints_works_on_every_start() {
    let scratch = Scratch::new();
    let dev = Dev::start(&scratch, "data", &[]);
    assert!(dev.said.to_uppercase().contains("DEVELOPMENT"), "{}", dev.said);
    check_commands(&dev);
    // Each of them may be run again, but for a label that is then taken.
    let docs = dev.value("Docs:").strip_prefix(dev.url()).unwrap();
    let page = send(dev.address(), "GET", docs, &[], b"");
    assert_eq!(page.status, 200);
    assert_eq!(page.header("content-type"), Some("text/html"), "{page:?}");
    let before = keys(&dev);
    dev.end();

    let dev = Dev::start(&scratch, "data", &[]);
    assert_eq!(keys(&dev), before);
    check_commands(&dev);
    assert_eq!(keys(&dev).len(), before.len() + 1);
    dev.end();
}

#[test]
fn a_token_of_the_first_start_holds_on_the_second() {
    let scratch = Scratch::new();
    let dev = Dev::start(&scratch, "data", &[]);
    let bearer = format!("Bearer {}", dev.value("Bearer token:"));
    dev.end();
    let dev = Dev::start(&scratch, "data", &[]);
    let reply = send(
        dev.address(),
        "GET",
        "/api/v1/hsm/keys",
        &[("Authorization", &bearer)],
        b"",
    );
    reply.good(200);
}

#[test]
fn only_its_user_can_read_its_folder() {
    let scratch = Scratch::new();
    let dev = Dev::start(&scratch, "data", &[]);
    dev.commands();
    let mut files = 0;
    let mut folders: Vec<PathBuf> = vec![scratch.path("data")];
    while let Some(folder) = folders.pop() {
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&folder), 0o700, "{}", folder.display());
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                assert_eq!(mode(&path), 0o600, "{}", path.display());
                files += 1;
            }
        }
    }
    assert!(files >= 4, "PIN, secret, token, audit log: {files}");
}

#[test]
fn its_secrets_are_not_printed() {
    let scratch = Scratch::new();
    let dev = Dev::start(&scratch, "data", &[("HSM_LOG__LEVEL", "trace")]);
    check_commands(&dev);
    let log = fs::read_to_string(scratch.path("data.log")).unwrap();
    for name in ["pin", "jwt-secret", "token/so-pin"] {
        let secret = fs::read_to_string(scratch.path("data").join(name)).unwrap();
        for place in [&dev.said, &log] {
            assert!(!place.contains(secret.trim()), "{name}");
        }
    }
    let bearer = dev.value("Bearer token:");
    assert!(!log.contains(bearer) && !log.contains(bearer.rsplit('.').next().unwrap()));
}

#[test]
fn the_next_one_takes_the_next_port() {
    let scratch = Scratch::new();
    let first = Dev::start(&scratch, "one", &[]);
    let second = Dev::start(&scratch, "two", &[]);
    assert_ne!(first.address(), second.address());
    assert!(first.address().ip().is_loopback() && second.address().ip().is_loopback());
    let one = keys(&first);
    check_commands(&second);
    assert_eq!(keys(&first), one);

    let address = first.address().to_string();
    let third = Dev::start(&scratch, "three", &[("HSM_SERVER__LISTEN", &address)]);
    assert!(third.address().port() > first.address().port());
}

#[test]
fn it_refuses_any_address_but_loopback() {
    let scratch = Scratch::new();
    for address in ["0.0.0.0:0", "192.0.2.1:8080", "[::]:8080"] {
        let ended = refused(
            &scratch.path("data"),
            &[("HSM_SERVER__LISTEN", address), ("HSM_SERVER__BEHIND_PROXY", "true")],
        );
        only_fault(&ended, 1, &["HSM_SERVER__LISTEN", "loopback"]);
    }
    assert!(!scratch.path("data").exists());
    let on_six = Dev::start(&scratch, "data", &[("HSM_SERVER__LISTEN", "[::1]:0")]);
    assert!(on_six.url().starts_with("http://[::1]:"));
    check_commands(&on_six);
}

#[test]
fn one_folder_serves_one_server() {
    let scratch = Scratch::new();
    let dev = Dev::start(&scratch, "data", &[]);
    let ended = refused(&scratch.path("data"), &[]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    only_fault(&ended, 1, &["another process"]);
    check_commands(&dev);
}

#[test]
fn two_at_once_on_an_empty_folder() {
    let scratch = Scratch::new();
    let folder = scratch.path("data");
    let mut both: Vec<Child> = (0..2)
        .map(|number| {
            command(&folder, &[])
                .stdout(File::create(scratch.path(&format!("{number}.out"))).unwrap())
                .stderr(File::create(scratch.path(&format!("{number}.log"))).unwrap())
                .spawn()
                .unwrap()
        })
        .collect();
    wait_until("one is refused", || {
        both.iter_mut().any(|child| child.try_wait().unwrap().is_some())
    });
    let left = both
        .iter_mut()
        .position(|child| child.try_wait().unwrap().is_none())
        .expect("one of the two goes on");
    wait_until("the other listens", || {
        let log = fs::read_to_string(scratch.path(&format!("{left}.log"))).unwrap();
        log.contains("listening")
    });
    for child in &mut both {
        let _ = child.kill();
        let _ = child.wait();
    }
    let dev = Dev::start(&scratch, "data", &[]);
    check_commands(&dev);
}

#[test]
fn settings_of_serve_do_not_lead_it_to_a_real_token() {
    let scratch = Scratch::new();
    let token = softhsm_test::Token::softhsm();
    let env = token.env();
    let env: Vec<(&str, &str)> = env
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let dev = Dev::start(&scratch, "data", &env);
    check_commands(&dev);
    assert!(token.objects().is_empty());
    let slots = dev.get("/api/v1/hsm/slots").good(200);
    assert_eq!(slots["slots"].as_array().unwrap().len(), 1);
    assert_ne!(slots["slots"][0]["token_label"], json!(token.label()));
}

#[test]
fn a_token_whose_pin_is_lost_is_not_asked() {
    let scratch = Scratch::new();
    drop(Dev::start(&scratch, "data", &[]));
    let folder = scratch.path("data");
    fs::remove_file(folder.join("pin")).unwrap();
    only_fault(&refused(&folder, &[]), 1, &["HSM_DATA_DIR", "PIN"]);
    assert!(!folder.join("pin").exists());
}

#[test]
fn no_listener_of_dev_is_open_to_the_network() {
    let scratch = Scratch::new();
    let ended = refused(&scratch.path("data"), &[("HSM_SERVER__METRICS_LISTEN", "0.0.0.0:0")]);
    only_fault(&ended, 1, &["HSM_SERVER__METRICS_LISTEN", "loopback"]);
}

#[test]
fn a_relative_data_folder_will_do() {
    let scratch = Scratch::new();
    let folder = scratch.path("here");
    fs::create_dir(&folder).unwrap();
    let mut child = command(Path::new("data"), &[("HSM_SERVER__LISTEN", "127.0.0.1:0")])
        .current_dir(&folder)
        .stdout(Stdio::null())
        .stderr(File::create(scratch.path("log")).unwrap())
        .spawn()
        .unwrap();
    wait_until("dev listens", || {
        let log = fs::read_to_string(scratch.path("log")).unwrap();
        assert!(child.try_wait().unwrap().is_none(), "{log}");
        log.contains("listening")
    });
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(folder.join("data/token/token.sql").exists());
}
