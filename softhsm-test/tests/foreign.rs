//! Tokens of other modules: each works, and nothing of it stays.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests: what is not as expected should stop them"
)]

use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, fs, thread};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use softhsm_test::{Class, FaultyToken, NAMES, Token, installed};

fn rsa_pair(session: &Session, id: u8) -> (ObjectHandle, ObjectHandle) {
    let public = [
        Attribute::Token(true),
        Attribute::Verify(true),
        Attribute::Id(vec![id]),
        Attribute::ModulusBits(2048.into()),
        Attribute::PublicExponent(vec![1, 0, 1]),
    ];
    let private = [
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Sign(true),
        Attribute::Id(vec![id]),
    ];
    session
        .generate_key_pair(&Mechanism::RsaPkcsKeyPairGen, &public, &private)
        .unwrap()
}

fn signs(session: &Session, (public, private): (ObjectHandle, ObjectHandle)) {
    let signature = session.sign(&Mechanism::RsaPkcs, private, b"data").unwrap();
    session
        .verify(&Mechanism::RsaPkcs, public, b"data", &signature)
        .unwrap();
    session
        .verify(&Mechanism::RsaPkcs, public, b"date", &signature)
        .unwrap_err();
}

/// Processes that belong to the token in this folder: their variables or their arguments name it.
fn processes_of(folder: &Path) -> Vec<String> {
    let names_it = |bytes: Vec<u8>| {
        let name = folder.as_os_str().as_bytes();
        bytes.windows(name.len()).any(|window| window == name)
    };
    fs::read_dir("/proc")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            ["environ", "cmdline"]
                .iter()
                .any(|file| fs::read(path.join(file)).is_ok_and(names_it))
        })
        .map(|path| fs::read_to_string(path.join("comm")).unwrap_or_default())
        .collect()
}

fn all_end(folder: &Path) {
    // A process that was killed ends when the system has time for it.
    for _ in 0..3000 {
        if processes_of(folder).is_empty() && !folder.exists() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!(
        "{} exists: {}; {:?}",
        folder.display(),
        folder.exists(),
        processes_of(folder)
    );
}

/// `servers`: how many processes the token needs, beside the one that watches over them.
fn works_and_goes(token: Token, servers: usize) {
    let folder = token.folder().unwrap().to_owned();
    assert!(token.objects().is_empty());
    token.with_session(|session| {
        let pair = rsa_pair(session, 1);
        signs(session, pair);
    });
    token.make_foreign_key("02", "made elsewhere", "rsa:2048");
    let pair = token.attributes("02");
    assert_eq!([pair[0].class, pair[1].class], [Class::PublicKey, Class::PrivateKey]);
    assert_eq!(pair[1].label, "made elsewhere");
    assert_eq!(token.delete_foreign_key("01"), 2);
    assert_eq!(token.objects().len(), 2);
    // p11-kit's server has a process for each connection; all of them are closed, but may be about to end.
    assert!(
        processes_of(&folder).len() >= servers,
        "{:?} of {servers}",
        processes_of(&folder)
    );
    drop(token);
    assert!(!folder.exists());
    all_end(&folder);
}

#[test]
fn softhsm() {
    works_and_goes(Token::named("softhsm"), 0);
}

#[test]
fn embedded() {
    works_and_goes(Token::named("embedded"), 0);
}

#[test]
fn nss() {
    works_and_goes(Token::named("nss"), 0);
}

#[test]
fn opencryptoki() {
    works_and_goes(Token::named("opencryptoki"), 2);
}

#[test]
fn opencryptoki_beside_another() {
    works_and_goes(Token::named("opencryptoki"), 2);
}

#[test]
fn tpm() {
    works_and_goes(Token::named("tpm"), 4);
}

#[test]
fn tpm_beside_another() {
    works_and_goes(Token::named("tpm"), 4);
}

#[test]
fn p11kit() {
    works_and_goes(Token::named("p11kit"), 2);
}

#[test]
fn the_environment_names_the_token() {
    works_and_goes(Token::of_environment(), 0);
}

#[test]
fn what_is_missing_is_named() {
    for name in NAMES {
        installed(name).unwrap();
    }
    assert!(installed("another").unwrap_err().contains("opencryptoki"));
}

#[test]
fn several_sessions_sign_side_by_side_on_a_tpm() {
    let token = Token::tpm();
    token.apply_env();
    token.with_session(|session| {
        rsa_pair(session, 1);
    });
    let module = Pkcs11::new(token.module()).unwrap();
    module
        .initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
        .unwrap();
    let slot = module
        .get_slots_with_token()
        .unwrap()
        .into_iter()
        .find(|slot| module.get_token_info(*slot).unwrap().label().trim_end() == token.label())
        .unwrap();
    let sessions: Vec<_> = (0..4).map(|_| module.open_rw_session(slot).unwrap()).collect();
    sessions[0]
        .login(UserType::User, Some(&AuthPin::from(token.pin())))
        .unwrap();
    thread::scope(|scope| {
        for session in sessions {
            scope.spawn(move || {
                let found = |class| {
                    let template = [Attribute::Id(vec![1]), Attribute::Class(class)];
                    session.find_objects(&template).unwrap()[0]
                };
                let pair = (found(ObjectClass::PUBLIC_KEY), found(ObjectClass::PRIVATE_KEY));
                for _ in 0..5 {
                    signs(&session, pair);
                }
            });
        }
    });
    // Another process uses it at the same time.
    token.make_foreign_key("02", "made elsewhere", "EC:prime256v1");
    assert_eq!(token.delete_foreign_key("02"), 2);
    module.finalize().unwrap();
}

#[test]
fn the_server_behind_p11_kit_can_crash_and_come_back() {
    let token = Token::p11kit();
    token.apply_env();
    token.make_foreign_key("01", "key", "rsa:2048");
    let module = Pkcs11::new(token.module()).unwrap();
    let start = || {
        module
            .initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
            .unwrap();
        module.get_slots_with_token().unwrap()
    };
    let session = module.open_rw_session(start()[0]).unwrap();
    session.generate_random_vec(8).unwrap();

    token.kill_server();
    session.generate_random_vec(8).unwrap_err();
    token.restart_server();
    session.generate_random_vec(8).unwrap_err();
    drop(session);
    module.clone().finalize().unwrap();

    let session = module.open_rw_session(start()[0]).unwrap();
    session.generate_random_vec(8).unwrap();
    drop(session);
    module.finalize().unwrap();
    assert_eq!(token.attributes("01").len(), 2);
}

#[test]
fn the_daemon_of_opencryptoki_can_crash_and_come_back() {
    let token = Token::opencryptoki();
    token.make_foreign_key("01", "key", "rsa:2048");
    token.kill_server();
    assert!(!token.pkcs11_tool(&["--list-objects"]).status.success());
    token.restart_server();
    assert_eq!(token.attributes("01").len(), 2);
}

#[test]
fn servers_of_a_tpm_can_crash_and_come_back() {
    let token = Token::tpm();
    token.make_foreign_key("01", "key", "rsa:2048");
    token.kill_server();
    assert!(!token.pkcs11_tool(&["--list-objects"]).status.success());
    token.restart_server();
    assert_eq!(token.attributes("01").len(), 2);
}

#[test]
fn other_modules_can_fail_too() {
    for token in [Token::nss(), Token::tpm(), Token::p11kit(), Token::opencryptoki()] {
        let faulty = FaultyToken::over(token);
        faulty.fault("C_OpenSession rv=0x30");
        let run = |faulty: &FaultyToken| {
            let mut tool = Command::new("pkcs11-tool");
            tool.arg("--module").arg(faulty.module()).envs(faulty.env());
            if let Some(args) = faulty.token().init_args() {
                tool.env("FAULT_INIT_ARGS", args);
            }
            tool.args(["--token-label", faulty.token().label(), "--login", "--pin"])
                .args([faulty.token().pin(), "--list-objects"])
                .output()
                .unwrap()
        };
        assert!(!run(&faulty).status.success());
        faulty.clear();
        assert!(run(&faulty).status.success());
    }
}

const MARK: &str = "folder: ";

/// Not a test: the program of the one below.
#[test]
#[ignore = "another test starts it and kills it"]
fn waits_to_be_killed() {
    if env::var_os("HSM_TEST_WAITS").is_none() {
        return;
    }
    let token = Token::p11kit();
    println!("{MARK}{}", token.folder().unwrap().display());
    loop {
        thread::park();
    }
}

#[test]
fn a_test_that_is_killed_leaves_nothing_behind() {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "waits_to_be_killed"])
        .env("HSM_TEST_WAITS", "yes")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(child.stdout.take().unwrap());
    let folder = said
        .lines()
        .find_map(|line| line.unwrap().split_once(MARK).map(|(_, folder)| folder.to_owned()))
        .unwrap();
    assert!(processes_of(folder.as_ref()).len() >= 2);
    child.kill().unwrap();
    child.wait().unwrap();
    all_end(folder.as_ref());
}
