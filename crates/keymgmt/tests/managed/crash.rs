//! The process dies at every point at which that matters; afterwards nothing is lost, and nothing left behind.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};

use hsm_core::KeyQuery;
use keymgmt::managed::fault;
use keymgmt::managed::record::KeyState;

use super::*;

const FOLDER: &str = "KEYMGMT_TEST_FOLDER";
const SIGKILL: i32 = 9;

/// Starts one of the tests below in a process of its own.
fn start(test: &str, token: &Token, folder: &Path, point: &str) -> Child {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args([&format!("crash::{test}"), "--exact", "--nocapture"]);
    command
        .envs(token.env())
        .env(FOLDER, folder)
        .env("GATEWAY_FAULT_POINT", point);
    command.stdout(Stdio::null()).spawn().unwrap()
}

fn patiently(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "never so: {what}");
        sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_death_at_any_point_loses_nothing_and_leaves_nothing() {
    for point in fault::POINTS {
        let (token, folder) = (Token::softhsm(), TempDir::new().unwrap());
        if *point == "recover:after-token" {
            start("lives", &token, folder.path(), "create:after-token")
                .wait()
                .unwrap();
        }
        let died = start("lives", &token, folder.path(), point).wait().unwrap();
        assert_eq!(died.signal(), Some(SIGKILL), "{point} was not met: {died}");
        let mut recovering = start("recovers", &token, folder.path(), "");
        let expected = folder.path().join("expected");
        patiently(&format!("recovered after {point}"), || {
            let ended = recovering.try_wait().unwrap();
            assert!(ended.is_none(), "after {point}: {ended:?}");
            expected.exists()
        });
        let expected = fs::read_to_string(expected).unwrap();
        let expected: BTreeSet<_> = expected.lines().map(str::to_owned).collect();
        patiently(&format!("nothing is left after {point}, and nothing lost"), || {
            on_token(&token) == expected
        });
        fs::write(folder.path().join("enough"), "").unwrap();
        assert!(recovering.wait().unwrap().success(), "after {point}");
    }
}

/// Does a little of everything, and writes down what was answered.
#[test]
fn lives() {
    let Some(folder) = env::var_os(FOLDER).map(PathBuf::from) else {
        return;
    };
    let gateway = Gateway::open(&Where::from_env(), &folder);
    let mut answered = OpenOptions::new()
        .append(true)
        .create(true)
        .open(folder.join("answered"))
        .unwrap();
    let mut answered = |what: &str| writeln!(answered, "{what}").unwrap();
    // After a first death the name may be taken by a key that was not answered.
    let taken = gateway.run(gateway.service.managed(&name("kept"))).is_ok();
    let create = |gateway: &Gateway| {
        let new = new_aes("kept", Protection::Hsm);
        match gateway.run(gateway.service.create_managed(&caller(), new, None)) {
            Ok(_) => true,
            // What the first one left behind is just being undone.
            Err(Error::Conflict(_) | Error::Hsm(hsm_core::Error::Conflict(_))) => false,
            Err(error) => panic!("{error}"),
        }
    };
    if !taken {
        gateway.wait_until("its name is free", create);
    }
    answered("kept 1");
    gateway.rotate("kept");
    answered("kept 2");
    gateway.create("wrapped", Protection::Wrapped);
    answered("wrapped 1");
    gateway.create("doomed", Protection::Hsm);
    answered("doomed 1");
    gateway.rotate("doomed");
    answered("doomed 2");
    let new = NewKey::new(KeySpec::Aes { bits: 128 }, Label::parse("of a user").unwrap());
    let made = gateway.run(gateway.service.create(&caller(), None, new, None)).unwrap();
    answered(&format!("token-key {}", made.id));
    answered("asked-to-destroy doomed");
    gateway.destroy("doomed");
    answered("destroy doomed");
    gateway.wait_until("doomed is gone", |gateway| ids_of(&gateway.record("doomed")).is_empty());
    gateway.run(gateway.service.rotate_kek(&[], |_, _| ())).unwrap();
    gateway.close();
}

/// Starts again, and checks that all is there that was answered.
#[test]
fn recovers() {
    let Some(folder) = env::var_os(FOLDER).map(PathBuf::from) else {
        return;
    };
    let gateway = Gateway::open(&Where::from_env(), &folder);
    let answered = fs::read_to_string(folder.join("answered")).unwrap_or_default();
    let asked = answered.contains("asked-to-destroy doomed");
    for line in answered.lines() {
        let (what, which) = line.split_once(' ').unwrap();
        match what {
            "destroy" => gateway.wait_until("doomed is gone", |gateway| {
                ids_of(&gateway.record("doomed")).is_empty() && gateway.record("doomed").state == KeyState::Destroyed
            }),
            "token-key" => drop(gateway.run(gateway.service.key(KeyId::parse(which).unwrap())).unwrap()),
            "asked-to-destroy" => {}
            "doomed" if asked => {}
            key => {
                assert!(gateway.record(key).latest_version() >= which.parse().unwrap(), "{line}");
                gateway.encrypt(key).unwrap();
            }
        }
    }
    // What was asked for and not answered may have happened, wholly.
    let doomed = || gateway.run(gateway.service.managed(&name("doomed"))).ok();
    if doomed().is_some_and(|key| !matches!(key.record.state, KeyState::Enabled)) {
        gateway.wait_until("doomed is gone", |gateway| ids_of(&gateway.record("doomed")).is_empty());
    }
    let known = |gateway: &Gateway| {
        let records = ["kept", "wrapped", "doomed"].map(|key| gateway.run(gateway.service.managed(&name(key))));
        let mut known: BTreeSet<String> = records.iter().flatten().flat_map(|key| ids_of(&key.record)).collect();
        let done = gateway.actions().into_iter().filter(|(action, ..)| action == "create");
        known.extend(done.filter_map(|(_, key, ..)| Some(key?.strip_prefix("hsm:")?.to_owned())));
        known
    };
    gateway.wait_until("nothing is left that nobody knows", |gateway| {
        let query = KeyQuery {
            limit: 1000,
            ..KeyQuery::default()
        };
        let keys = gateway.hsm.keys(query).wait().unwrap().keys;
        let known = known(gateway);
        keys.iter()
            .all(|key| known.contains(&key.id.to_string().replace("hsm:", "")))
    });
    // Hidden keys are not listed: the gateway's own ones are those that the store names.
    let status = gateway.run(gateway.service.kek_status()).unwrap();
    let own = status
        .keys
        .iter()
        .flat_map(|keys| [keys.kek.to_string(), keys.mac.to_string()]);
    let query = KeyQuery {
        limit: 1000,
        ..KeyQuery::default()
    };
    let listed = gateway.hsm.keys(query).wait().unwrap().keys;
    let ids = listed.iter().map(|key| key.id.to_string()).chain(own);
    let expected: Vec<String> = ids.map(|id| id.replace("hsm:", "")).collect();
    let file = folder.join("writing");
    fs::write(&file, expected.join("\n")).unwrap();
    fs::rename(file, folder.join("expected")).unwrap();
    // The one who asked looks at the token meanwhile.
    patiently("it was looked at", || folder.join("enough").exists());
    gateway.close();
}
