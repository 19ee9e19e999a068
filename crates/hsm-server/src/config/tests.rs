#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::path::{Path, PathBuf};

use secrecy::ExposeSecret;

use super::*;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// What `serve` needs at least.
const SERVE: [(&str, &str); 2] = [
    ("HSM_LIBRARY_PATH", "/usr/lib/module.so"),
    ("HSM_AUTH__JWT_SECRET", SECRET),
];

pub(super) type Loaded = Result<(Config, Vec<Warning>), Vec<Fault>>;

pub(super) fn load(purpose: Purpose, variables: &[(&str, &str)]) -> Loaded {
    let home = [("HOME", "/home/someone")];
    let all = home.iter().chain(variables);
    Config::load(
        all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        purpose,
    )
}

pub(super) fn audit(variables: &[(&str, &str)]) -> Config {
    load(Purpose::Audit, variables).unwrap().0
}

pub(super) fn faults(loaded: Loaded) -> Vec<String> {
    loaded.unwrap_err().iter().map(Fault::to_string).collect()
}

/// The one fault that `variables` make for `purpose`.
pub(super) fn fault(purpose: Purpose, variables: &[(&str, &str)]) -> String {
    let mut faults = faults(load(purpose, variables));
    assert_eq!(faults.len(), 1, "{faults:?}");
    faults.remove(0)
}

fn serve_with(extra: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    SERVE.iter().chain(extra).copied().collect()
}

pub(super) struct File {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl File {
    pub(super) fn holding(content: impl AsRef<[u8]>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("settings");
        std::fs::write(&path, content).unwrap();
        Self { _folder: folder, path }
    }

    pub(super) fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }
}

#[test]
fn defaults_are_those_of_the_manual() {
    let config = audit(&[]);
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.shutdown_timeout(), Duration::from_secs(30));
    assert_eq!(config.hsm_timeout(), Duration::from_secs(10));
    assert_eq!(config.keygen_timeout(), Duration::from_secs(60));
    assert_eq!(config.limits.queue, 1024);
    assert_eq!(config.limits.body_bytes, 1 << 20);
    assert!(config.max_sessions() >= 2);
    assert_eq!(config.verify_after_sign, VerifyAfterSign::Rsa);
    assert_eq!(config.audit.sync, AuditSync::Always);
    assert!(!config.legacy_algorithms && !config.server.behind_proxy);
    assert!(config.pin.is_none() && config.library_path.is_none());
    assert_eq!(config.log.level, "info");
    assert_eq!(config.stale(), Duration::from_secs(300));
    assert_eq!((config.loaded_keys(), config.cached_keys()), (10_000, 20_000));
}

#[test]
fn the_store_is_a_file_unless_a_url_is_given() {
    use keymgmt::store::Place;
    let place = |variables: &[_]| audit(variables).store_place();
    let Place::Sqlite(path) = place(&[("HSM_DATA_DIR", "/srv")]) else {
        panic!("no file");
    };
    assert_eq!(path, Path::new("/srv/store.sqlite"));
    for url in ["postgres://u:p@db.example/keys", "postgresql://localhost/keys"] {
        let Place::Postgres(found) = place(&[("HSM_STORE__URL", url)]) else {
            panic!("{url}");
        };
        assert_eq!(found.expose_secret(), url);
    }
}

#[test]
fn a_faulty_url_of_the_store_is_not_repeated() {
    for url in ["", "postgres://", "mysql://u:47114711@h/d", "47114711"] {
        let text = fault(Purpose::Store, &[("HSM_STORE__URL", url)]);
        assert!(
            text.starts_with("HSM_STORE__URL: ") && text.contains("postgres://"),
            "{text}"
        );
        assert!(!text.contains("47114711"), "{text}");
    }
    let config = audit(&[("HSM_STORE__URL", "postgres://u:47114711@h/d")]);
    assert!(!format!("{config:?}{}", config.store_name()).contains("47114711"));
}

#[test]
fn the_data_folder_follows_the_surroundings() {
    let data_dir = |variables: &[_]| audit(variables).data_dir;
    let state = ("STATE_DIRECTORY", "/var/lib/a:/var/lib/b");
    assert_eq!(data_dir(&[state]), Path::new("/var/lib/a"));
    assert_eq!(data_dir(&[state, ("HSM_DATA_DIR", "/srv")]), Path::new("/srv"));
    assert_eq!(audit(&[("HSM_DATA_DIR", "/srv")]).audit.path, Path::new("/srv/audit"));
    assert_eq!(audit(&[("HSM_AUDIT__PATH", "/log")]).audit.path, Path::new("/log"));
    if cfg!(target_os = "linux") {
        assert_eq!(data_dir(&[]), Path::new("/home/someone/.local/share/hsm-gateway"));
        assert_eq!(data_dir(&[("XDG_DATA_HOME", "/data")]), Path::new("/data/hsm-gateway"));
        // The XDG specification has relative paths ignored.
        assert!(data_dir(&[("XDG_DATA_HOME", "data")]).is_absolute());
    }
}

#[test]
fn text_from_variables_is_literal() {
    for pin in [
        "1234", "0123", "1e5", "true", "[1]", "{a=1}", "\"12\"", "'x'", " 1 ", "1_000", "0x1f", "a.b", "12,3", "$HOME",
        "ü",
    ] {
        let config = audit(&[
            ("HSM_PIN", pin),
            ("HSM_TOKEN_LABEL", pin),
            ("HSM_INIT_ARGS", pin),
            ("HSM_AUTH__ISSUER", pin),
            ("HSM_AUTH__AUDIENCE", pin),
            ("HSM_DATA_DIR", pin),
        ]);
        assert_eq!(config.pin.unwrap().expose_secret(), pin);
        assert_eq!(config.token_label.unwrap(), pin);
        assert_eq!(config.init_args.unwrap(), pin);
        assert_eq!(config.auth.issuer.unwrap(), pin);
        assert_eq!(config.auth.audience.unwrap(), pin);
        assert_eq!(config.data_dir, std::path::absolute(pin).unwrap());
    }
    let digits = "1".repeat(40);
    let config = audit(&[("HSM_AUTH__JWT_SECRET", &digits)]);
    assert_eq!(config.auth.jwt_secret.unwrap().expose_secret(), digits);
}

#[test]
fn every_setting_can_come_from_a_variable() {
    let config = audit(&[
        ("HSM_LIBRARY_PATH", "embedded"),
        ("HSM_LEGACY_ALGORITHMS", "true"),
        ("HSM_VERIFY_AFTER_SIGN", "none"),
        ("HSM_SERVER__LISTEN", "[::1]:0"),
        ("HSM_SERVER__TLS_CERT", "c"),
        ("HSM_SERVER__TLS_KEY", "k"),
        ("HSM_SERVER__BEHIND_PROXY", "true"),
        ("HSM_SERVER__SHUTDOWN_TIMEOUT_MS", "1"),
        ("HSM_SERVER__METRICS_LISTEN", "localhost:9000"),
        ("HSM_AUTH__JWKS_FILE", "j"),
        ("HSM_AUDIT__SYNC", "interval"),
        ("HSM_LIMITS__HSM_TIMEOUT_MS", "2"),
        ("HSM_LIMITS__KEYGEN_TIMEOUT_MS", "3"),
        ("HSM_LIMITS__MAX_SESSIONS", "4"),
        ("HSM_LIMITS__QUEUE", "0"),
        ("HSM_LIMITS__BODY_BYTES", "5"),
        ("HSM_LIMITS__LOADED_KEYS", "6"),
        ("HSM_LIMITS__CACHED_KEYS", "7"),
        ("HSM_STORE__URL", "postgres://host/database"),
        ("HSM_STORE__STALE_MS", "0"),
        ("HSM_LOG__FORMAT", "json"),
        ("HSM_LOG__LEVEL", "warn,hsm_core=trace"),
    ]);
    assert_eq!(config.library_path, Some(Module::Embedded));
    assert!(config.legacy_algorithms && config.server.behind_proxy);
    assert_eq!(config.verify_after_sign, VerifyAfterSign::None);
    assert_eq!(config.server.listen.to_string(), "[::1]:0");
    assert_eq!(config.server.metrics_listen.unwrap().to_string(), "127.0.0.1:9000");
    assert_eq!(config.shutdown_timeout(), Duration::from_millis(1));
    assert_eq!(config.hsm_timeout(), Duration::from_millis(2));
    assert_eq!(config.keygen_timeout(), Duration::from_millis(3));
    assert_eq!(config.max_sessions(), 4);
    assert_eq!((config.limits.queue, config.limits.body_bytes), (0, 5));
    assert_eq!((config.loaded_keys(), config.cached_keys()), (6, 7));
    assert!(config.store.url.is_some() && config.stale().is_zero());
    assert_eq!(config.audit.sync, AuditSync::Interval);
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.log.level, "warn,hsm_core=trace");
}

#[test]
fn variables_win_over_the_file() {
    let file = File::holding(
        "library_path = \"/a.so\"\npin = \"0123\"\n[limits]\nqueue = 7\nbody_bytes = 8\n[server]\nbehind_proxy = true\n",
    );
    let config = audit(&[("HSM_CONFIG", file.path()), ("HSM_LIMITS__QUEUE", "9")]);
    assert_eq!(config.library_path, Some(Module::File("/a.so".into())));
    assert_eq!(config.pin.unwrap().expose_secret(), "0123");
    assert_eq!((config.limits.queue, config.limits.body_bytes), (9, 8));
    assert!(config.server.behind_proxy);
}

#[test]
fn a_named_file_must_be_there() {
    let text = fault(Purpose::Audit, &[("HSM_CONFIG", "/nowhere/hsm.toml")]);
    assert!(
        text.contains("HSM_CONFIG") && text.contains("/nowhere/hsm.toml"),
        "{text}"
    );
}

#[test]
fn all_faults_come_at_once_and_name_the_variable() {
    let loaded = load(
        Purpose::Serve,
        &[
            ("HSM_SERVER__LISTEN", "nonsense"),
            ("HSM_LIMITS__HSM_TIMEOUT_MS", "0"),
            ("HSM_LIMITS__QUEUE", "many"),
            ("HSM_AUDIT__SYNC", "sometimes"),
            ("HSM_SERVER__TLS_CERT", "c.pem"),
            ("HSM_SERVER__LISSEN", "x"),
            ("HSM_TOKENS__B__PINN", "x"),
        ],
    );
    let faults = faults(loaded);
    let expected = [
        "HSM_SERVER__LISSEN: unknown setting; did you mean HSM_SERVER__LISTEN?",
        "HSM_TOKENS__B__PINN: unknown setting; did you mean HSM_TOKENS__B__PIN?",
        "HSM_SERVER__LISTEN: must be address:port, such as 127.0.0.1:8080 or [::1]:8080, not \"nonsense\"",
        "HSM_AUDIT__SYNC: must be one of always, interval, not \"sometimes\"",
        "HSM_LIMITS__HSM_TIMEOUT_MS: must be a whole number from 1 to 3600000, not \"0\"",
        "HSM_LIMITS__QUEUE: must be a whole number from 0 to 1000000, not \"many\"",
        "HSM_LIBRARY_PATH: must be set to the path of the PKCS#11 module, or to `embedded`",
        "HSM_AUTH__JWT_SECRET or HSM_AUTH__JWKS_FILE: one of them must be set, authentication is not configured",
        "HSM_SERVER__TLS_KEY: must be set too, since HSM_SERVER__TLS_CERT is",
    ];
    assert_eq!(faults, expected);
}

#[test]
fn wrong_values_are_refused() {
    for (name, value) in [
        ("HSM_LIMITS__QUEUE", "-1"),
        ("HSM_LIMITS__QUEUE", "+1"),
        ("HSM_LIMITS__QUEUE", "1.5"),
        ("HSM_LIMITS__QUEUE", ""),
        ("HSM_LIMITS__QUEUE", "99999999999999999999999999999999999999999999"),
        ("HSM_LIMITS__MAX_SESSIONS", "0"),
        ("HSM_LIMITS__KEYGEN_TIMEOUT_MS", "0"),
        ("HSM_LIMITS__BODY_BYTES", "0"),
        ("HSM_SERVER__SHUTDOWN_TIMEOUT_MS", "3600001"),
        ("HSM_SERVER__LISTEN", "127.0.0.1"),
        ("HSM_SERVER__LISTEN", "127.0.0.1:99999"),
        ("HSM_SERVER__LISTEN", ""),
        ("HSM_SERVER__BEHIND_PROXY", "yes"),
        ("HSM_LEGACY_ALGORITHMS", "1"),
        ("HSM_VERIFY_AFTER_SIGN", "RSA"),
        ("HSM_LOG__LEVEL", "lou=d"),
        ("HSM_LOG__FORMAT", "xml"),
        ("HSM_TOKEN_LABEL", ""),
        ("HSM_LIBRARY_PATH", ""),
        ("HSM_PIN", ""),
        ("HSM_PIN", "\u{FFFD}"),
        ("HSM_AUTH__JWT_SECRET", "0123456789abcdef0123456789abcde"),
    ] {
        let text = fault(Purpose::Audit, &[(name, value)]);
        assert!(text.starts_with(name), "{text}");
        assert!(!text.contains('\n'), "{text}");
    }
}

#[test]
fn the_file_is_checked_too() {
    let cases = [
        ("pni = \"1\"", "pni in F: unknown setting; did you mean pin?"),
        (
            "[server]\nlisen = \"x\"",
            "server.lisen in F: unknown setting; did you mean server.listen?",
        ),
        ("[depot]\nurl = \"x\"", "depot in F: unknown setting"),
        (
            "[store]\nurl = \"x\"",
            "store.url in F (HSM_STORE__URL): must be a URL that begins with postgres:// or postgresql:// (its value is not shown)",
        ),
        ("server = 5", "server in F: is a section, not a value"),
        (
            "[limits]\nqueue = \"5\"",
            "limits.queue in F (HSM_LIMITS__QUEUE): must be a whole number from 0 to 1000000, not \"5\"",
        ),
        (
            "legacy_algorithms = 1",
            "legacy_algorithms in F (HSM_LEGACY_ALGORITHMS): must be true or false, not 1",
        ),
        (
            "token_label = [1]",
            "token_label in F (HSM_TOKEN_LABEL): must be text that is not empty (in quotes in the file), not a value of another kind",
        ),
    ];
    for (content, expected) in cases {
        let file = File::holding(content);
        let text = fault(Purpose::Audit, &[("HSM_CONFIG", file.path())]);
        assert_eq!(text.replace(file.path(), "F"), expected);
    }
}

#[test]
fn secrets_are_never_shown() {
    let wrong = [
        "pin = 47114711",
        "pin = [47114711]",
        "pin = 47114711 oops",
        "pin = \"47114711",
        "pin = 1979-05-27 # 47114711",
        "[pin]\n47114711 = 1",
        "[auth]\njwt_secret = \"47114711\"",
        "[auth]\njwt_secret = 47114711",
    ];
    for content in wrong {
        let file = File::holding(content);
        let loaded = load(Purpose::Audit, &[("HSM_CONFIG", file.path())]);
        let faults = loaded.unwrap_err();
        assert!(!format!("{faults:?}").contains("47114711"), "{faults:?}");
    }
    let config = audit(&[("HSM_PIN", "47114711"), ("HSM_AUTH__JWT_SECRET", SECRET)]);
    let shown = format!("{config:?}");
    assert!(!shown.contains("47114711") && !shown.contains(SECRET), "{shown}");
}

#[test]
fn invalid_toml_is_placed() {
    let file = File::holding("# a\npin = \n");
    let text = fault(Purpose::Audit, &[("HSM_CONFIG", file.path())]);
    assert!(text.contains("not valid TOML: line 2, column"), "{text}");
}

#[test]
fn unknown_plain_variables_are_warnings() {
    let (_, warnings) = load(
        Purpose::Audit,
        &[
            ("HSM_AUTH_JWT_SECRET", "x"),
            ("HSM_TEST_TOKEN", "embedded"),
            ("HSMX", "y"),
        ],
    )
    .unwrap();
    let warnings: Vec<_> = warnings.iter().map(Warning::to_string).collect();
    assert_eq!(
        warnings,
        [
            "HSM_AUTH_JWT_SECRET: unknown variable, ignored; did you mean HSM_AUTH__JWT_SECRET?",
            "HSM_TEST_TOKEN: unknown variable, ignored",
        ]
    );
}

#[test]
fn the_pin_file_wins_and_loses_one_newline() {
    for (content, pin) in [
        ("0123", "0123"),
        ("0123\n", "0123"),
        ("0123\r\n", "0123"),
        ("0123\n\n", "0123\n"),
        ("0123\r", "0123\r"),
        (" 0123 \n", " 0123 "),
    ] {
        let file = File::holding(content);
        let config = audit(&[("HSM_PIN_FILE", file.path()), ("HSM_PIN", "other")]);
        assert_eq!(config.pin.unwrap().expose_secret(), pin);
    }
}

#[test]
fn an_empty_pin_does_not_matter_beside_a_pin_file() {
    let file = File::holding("0123\n");
    let config = audit(&[("HSM_PIN_FILE", file.path()), ("HSM_PIN", "")]);
    assert_eq!(config.pin.unwrap().expose_secret(), "0123");
}

#[test]
fn a_pin_file_without_a_pin_is_a_fault_of_the_pin() {
    for content in [&b""[..], b"\n", b"\r\n", b"\xff\xfe"] {
        let file = File::holding(content);
        let faults = load(Purpose::Audit, &[("HSM_PIN_FILE", file.path())]).unwrap_err();
        assert!(faults.iter().all(Fault::is_pin), "{faults:?}");
        assert!(faults[0].to_string().starts_with("HSM_PIN_FILE: "));
    }
    let text = fault(Purpose::Audit, &[("HSM_PIN_FILE", "/nowhere/pin")]);
    assert!(text.starts_with("HSM_PIN_FILE: /nowhere/pin: can't be read"), "{text}");
}

#[test]
fn an_open_address_needs_tls_or_a_proxy() {
    let open = ("HSM_SERVER__LISTEN", "0.0.0.0:8080");
    let text = fault(Purpose::Serve, &serve_with(&[open]));
    assert!(
        text.starts_with("HSM_SERVER__LISTEN: ") && text.contains("HSM_SERVER__TLS_CERT"),
        "{text}"
    );
    let proxy = ("HSM_SERVER__BEHIND_PROXY", "true");
    assert!(load(Purpose::Serve, &serve_with(&[open, proxy])).is_ok());
    let cert = ("HSM_SERVER__TLS_CERT", "c");
    let key = ("HSM_SERVER__TLS_KEY", "k");
    assert!(load(Purpose::Serve, &serve_with(&[open, cert, key])).is_ok());
    assert!(fault(Purpose::Serve, &serve_with(&[key])).starts_with("HSM_SERVER__TLS_CERT: "));
    assert!(fault(Purpose::Dev, &[open, proxy]).starts_with("HSM_SERVER__LISTEN: "));
    for local in ["127.0.0.2:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
        let listen = [("HSM_SERVER__LISTEN", local)];
        assert!(load(Purpose::Dev, &listen).is_ok(), "{local}");
        assert!(load(Purpose::Serve, &serve_with(&listen)).is_ok(), "{local}");
    }
}

#[test]
fn each_command_asks_for_what_it_needs() {
    assert!(load(Purpose::Serve, &SERVE).is_ok());
    assert!(load(Purpose::Dev, &[]).is_ok());
    assert!(load(Purpose::Check, &SERVE[..1]).is_ok());
    assert!(load(Purpose::Token, &SERVE[1..]).is_ok());
    assert!(load(Purpose::Store, &[]).is_ok());
    assert!(load(Purpose::Kek, &SERVE[..1]).is_ok());
    assert!(fault(Purpose::Kek, &[]).starts_with("HSM_LIBRARY_PATH: "));
    assert!(fault(Purpose::Serve, &SERVE[..1]).contains("HSM_AUTH__JWT_SECRET"));
    assert!(fault(Purpose::Serve, &SERVE[1..]).starts_with("HSM_LIBRARY_PATH: "));
    assert!(fault(Purpose::Check, &[]).starts_with("HSM_LIBRARY_PATH: "));
    assert!(fault(Purpose::Token, &[]).starts_with("HSM_AUTH__JWT_SECRET: "));
    let same = [("HSM_SERVER__METRICS_LISTEN", "127.0.0.1:8080")];
    assert!(fault(Purpose::Serve, &serve_with(&same)).starts_with("HSM_SERVER__METRICS_LISTEN: "));
}

#[test]
fn rust_log_is_the_default_level() {
    assert_eq!(audit(&[("RUST_LOG", "debug")]).log.level, "debug");
    let both = [("RUST_LOG", "debug"), ("HSM_LOG__LEVEL", "error")];
    assert_eq!(audit(&both).log.level, "error");
}

#[test]
fn the_manual_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/CONFIG.md");
    let page = markdown();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == page,
        "docs/CONFIG.md is stale; UPDATE_GOLDEN=1 rewrites it"
    );
}
