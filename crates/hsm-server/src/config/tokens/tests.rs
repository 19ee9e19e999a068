#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use secrecy::ExposeSecret;

use super::super::tests::{File, audit, fault, faults, load};
use super::super::{Config, Fault, Module, Purpose};

const LIBRARY: (&str, &str) = ("HSM_LIBRARY_PATH", "/default.so");

fn check(variables: &[(&str, &str)]) -> Config {
    let all: Vec<_> = [LIBRARY].iter().chain(variables).copied().collect();
    load(Purpose::Check, &all).unwrap().0
}

fn check_fault(variables: &[(&str, &str)]) -> String {
    let all: Vec<_> = [LIBRARY].iter().chain(variables).copied().collect();
    fault(Purpose::Check, &all)
}

/// Names of the tokens, the default one as `-`, module by module.
fn modules(config: &Config) -> Vec<Vec<String>> {
    let name = |token: &super::TokenSettings<'_>| token.name.map_or("-".to_owned(), ToString::to_string);
    let modules = config.modules();
    modules
        .iter()
        .map(|module| module.tokens().map(name).collect())
        .collect()
}

#[test]
fn every_setting_of_a_token_can_come_from_a_variable() {
    let config = check(&[
        ("HSM_TOKENS__BACKUP__LIBRARY_PATH", "/other.so"),
        ("HSM_TOKENS__BACKUP__TOKEN_LABEL", "second"),
        ("HSM_TOKENS__BACKUP__PIN", "0123"),
        ("HSM_TOKENS__BACKUP__INIT_ARGS", "[1]"),
        ("HSM_TOKENS__BACKUP__MAX_SESSIONS", "3"),
        ("HSM_TOKENS__BACKUP__QUEUE", "0"),
    ]);
    let tokens = config.all_tokens();
    assert_eq!(tokens.len(), 2);
    let token = &tokens[1];
    assert_eq!(token.name.unwrap().as_str(), "backup");
    assert_eq!(token.token_label, Some("second"));
    assert_eq!(token.pin.unwrap().expose_secret(), "0123");
    assert_eq!((token.max_sessions, token.queue), (3, 0));
    let modules = config.modules();
    assert_eq!(*modules[1].module, Module::File("/other.so".into()));
    assert_eq!(modules[1].init_args, Some("[1]"));
    assert_eq!(modules[0].init_args, None);
}

#[test]
fn what_a_token_does_not_say_is_as_for_the_default_one() {
    let config = check(&[
        ("HSM_TOKENS__B__TOKEN_LABEL", "second"),
        ("HSM_PIN", "1234"),
        ("HSM_TOKEN_LABEL", "first"),
        ("HSM_LIMITS__MAX_SESSIONS", "7"),
        ("HSM_LIMITS__QUEUE", "8"),
    ]);
    assert_eq!(modules(&config), [["-", "b"]]);
    let token = config.all_tokens()[1];
    assert_eq!((token.max_sessions, token.queue), (7, 8));
    assert!(token.pin.is_none(), "a PIN is for one token");
}

#[test]
fn one_path_is_one_module() {
    let folder = tempfile::tempdir().unwrap();
    let [library, link] = ["module.so", "link.so"].map(|name| folder.path().join(name));
    std::fs::write(&library, "").unwrap();
    std::os::unix::fs::symlink(&library, &link).unwrap();
    let config = check(&[
        ("HSM_LIBRARY_PATH", library.to_str().unwrap()),
        ("HSM_TOKENS__A__LIBRARY_PATH", link.to_str().unwrap()),
        ("HSM_TOKENS__B__LIBRARY_PATH", "/other.so"),
        ("HSM_TOKENS__C__LIBRARY_PATH", "/other.so"),
        ("HSM_TOKENS__C__INIT_ARGS", "x"),
    ]);
    assert_eq!(modules(&config), [["-", "a"], ["b", "c"]]);
    assert_eq!(config.modules()[1].init_args, Some("x"));
}

#[test]
fn one_module_has_one_text_for_its_initialisation() {
    let text = check_fault(&[("HSM_INIT_ARGS", "one"), ("HSM_TOKENS__B__INIT_ARGS", "two")]);
    assert!(
        text.starts_with("HSM_TOKENS__B__INIT_ARGS: must not differ from HSM_INIT_ARGS"),
        "{text}"
    );
    let other = ("HSM_TOKENS__B__LIBRARY_PATH", "/other.so");
    check(&[("HSM_INIT_ARGS", "one"), ("HSM_TOKENS__B__INIT_ARGS", "two"), other]);
    check(&[("HSM_INIT_ARGS", "one"), ("HSM_TOKENS__B__INIT_ARGS", "one")]);
}

#[test]
fn the_embedded_token_is_one() {
    let embedded = ("HSM_TOKENS__B__LIBRARY_PATH", "embedded");
    assert_eq!(modules(&check(&[embedded])), [["-"], ["b"]]);
    for second in [
        vec![embedded, ("HSM_LIBRARY_PATH", "embedded")],
        vec![("HSM_LIBRARY_PATH", "embedded"), ("HSM_TOKENS__B__TOKEN_LABEL", "x")],
    ] {
        let text = check_fault(&second);
        assert!(
            text.starts_with("HSM_TOKENS__B__LIBRARY_PATH: ") && text.ends_with("that of HSM_LIBRARY_PATH"),
            "{text}"
        );
    }
    let text = check_fault(&[embedded, ("HSM_TOKENS__C__LIBRARY_PATH", "embedded")]);
    assert!(text.starts_with("HSM_TOKENS__C__LIBRARY_PATH: "), "{text}");
}

#[test]
fn a_variable_means_the_section_whatever_its_case() {
    let file = File::holding("[tokens.Back-Up]\ntoken_label = \"a\"\npin = \"1\"\n[tokens.\"x.y\"]\npin = \"2\"\n");
    let config = check(&[
        ("HSM_CONFIG", file.path()),
        ("HSM_TOKENS__BACK-UP__PIN", "3"),
        ("HSM_TOKENS__X.Y__TOKEN_LABEL", "b"),
        ("HSM_TOKENS__A__B___PIN", "4"),
    ]);
    let told = |token: &super::TokenSettings<'_>| {
        let name = token.name.map(ToString::to_string);
        (
            name.unwrap_or_default(),
            token.token_label.map(str::to_owned),
            token.pin.map(|pin| pin.expose_secret().to_owned()),
        )
    };
    let tokens: Vec<_> = config.all_tokens()[1..].iter().map(told).collect();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        tokens,
        [
            ("Back-Up".to_owned(), text("a"), text("3")),
            ("a__b_".to_owned(), None, text("4")),
            ("x.y".to_owned(), text("b"), text("2")),
        ]
    );
}

#[test]
fn names_and_settings_that_are_none_are_told() {
    for (variable, expected) in [
        (
            "HSM_TOKENS__B__PINN",
            "HSM_TOKENS__B__PINN: unknown setting; did you mean HSM_TOKENS__B__PIN?",
        ),
        ("HSM_TOKENS__B__COLOUR", "HSM_TOKENS__B__COLOUR: unknown setting"),
        (
            "HSM_TOKENS__B__pin",
            "HSM_TOKENS__B__pin: unknown setting; did you mean HSM_TOKENS__B__PIN?",
        ),
        (
            "HSM_TOKENS__PIN",
            "HSM_TOKENS__PIN: must be HSM_TOKENS__, a token's name,",
        ),
        (
            "HSM_TOKENS__.B__PIN",
            "HSM_TOKENS__.B__PIN: must be HSM_TOKENS__, a token's name,",
        ),
        (
            "HSM_TOKENS__A B__PIN",
            "HSM_TOKENS__A B__PIN: must be HSM_TOKENS__, a token's name,",
        ),
    ] {
        let text = check_fault(&[(variable, "1")]);
        assert!(text.starts_with(expected), "{text}");
    }
    for (content, expected) in [
        ("tokens = 5", "tokens in F: is a section, not a value"),
        ("[tokens]\nb = 5", "tokens.b in F: is a section, not a value"),
        (
            "[tokens.b]\npinn = \"1\"",
            "tokens.b.pinn in F: unknown setting; did you mean tokens.b.pin?",
        ),
        (
            "[tokens.\"a b\"]\npin = \"1\"",
            "tokens.a b in F: a token's name must be 1 to 64 of",
        ),
        (
            "[tokens.\"\"]\npin = \"1\"",
            "tokens. in F: a token's name must be 1 to 64 of",
        ),
        (
            "[tokens.b]\npin = \"1\"\n[tokens.B]\npin = \"2\"",
            "tokens.b in F: the names `B` and `b` differ by case alone",
        ),
        (
            "[tokens.b]\nqueue = \"5\"",
            "tokens.b.queue in F (HSM_TOKENS__B__QUEUE): must be a whole number from 0 to 1000000, not \"5\"",
        ),
    ] {
        let file = File::holding(content);
        let text = check_fault(&[("HSM_CONFIG", file.path())]);
        assert!(text.replace(file.path(), "F").starts_with(expected), "{text}");
    }
    let twice = check_fault(&[("HSM_TOKENS__B__PIN", "1"), ("HSM_TOKENS__b__PIN", "2")]);
    assert!(
        twice.starts_with("HSM_TOKENS__b__PIN: is the same setting as HSM_TOKENS__B__PIN"),
        "{twice}"
    );
}

#[test]
fn a_tokens_pin_is_like_the_default_ones() {
    let file = File::holding("0123\n");
    let config = audit(&[("HSM_TOKENS__B__PIN_FILE", file.path()), ("HSM_TOKENS__B__PIN", "")]);
    assert_eq!(config.all_tokens()[1].pin.unwrap().expose_secret(), "0123");
    for (name, value) in [
        ("HSM_TOKENS__B__PIN_FILE", "/nowhere/pin"),
        ("HSM_TOKENS__B__PIN", ""),
        ("HSM_TOKENS__B__PIN", "\u{FFFD}"),
    ] {
        let found = load(Purpose::Audit, &[(name, value)]).unwrap_err();
        assert!(found.iter().all(Fault::is_pin), "{found:?}");
        assert!(found[0].to_string().starts_with(&format!("{name}: ")), "{found:?}");
    }
    let shown = format!("{:?}", audit(&[("HSM_TOKENS__B__PIN", "47114711")]));
    assert!(!shown.contains("47114711"), "{shown}");
    let file = File::holding("[tokens.b]\npin = 47114711");
    let text = faults(load(Purpose::Audit, &[("HSM_CONFIG", file.path())]));
    assert!(
        text[0].starts_with("tokens.b.pin in ") && !text[0].contains("47114711"),
        "{text:?}"
    );
}
