//! Tokens of other modules by hand. `scripts/test-modules` uses it too.
//!
//! - `modules missing NAME…` prints Debian's packages that tokens of these names need and that are not there.
//! - `modules run NAME COMMAND…` runs a command beside a fresh token, with the variables of `Token::env`, and removes
//!   the token. `$HSM_LIBRARY_PATH`, `$HSM_TOKEN_LABEL`, `$HSM_PIN` and `$HSM_INIT_ARGS` tell the command what it needs.
//! - `modules tool NAME ARGUMENT…` runs `pkcs11-tool`: `modules tool nss --list-mechanisms`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a tool for a terminal, which stops when something does not work"
)]

use std::env;
use std::process::{Command, ExitCode};

use softhsm_test::{NAMES, Token, missing_packages};

fn main() -> ExitCode {
    let args: Vec<_> = env::args().skip(1).collect();
    let words: Vec<_> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["missing", names @ ..] => missing(names),
        ["run", name, program, more @ ..] => {
            let token = Token::named(name);
            run(Command::new(program).args(more).envs(token.env()))
        }
        ["tool", name, more @ ..] => {
            let token = Token::named(name);
            run(token.tool().args(["--token-label", token.label()]).args(more))
        }
        _ => {
            eprintln!(
                "usage: modules missing NAME… | run NAME COMMAND… | tool NAME ARGUMENT…\nnames: {}",
                NAMES.join(", ")
            );
            ExitCode::from(2)
        }
    }
}

fn missing(names: &[&str]) -> ExitCode {
    let mut packages = Vec::new();
    for name in names {
        match missing_packages(name) {
            Ok(more) => packages.extend(more),
            Err(why) => {
                eprintln!("{why}");
                return ExitCode::from(2);
            }
        }
    }
    packages.sort_unstable();
    packages.dedup();
    for package in packages {
        println!("{package}");
    }
    ExitCode::SUCCESS
}

fn run(command: &mut Command) -> ExitCode {
    let status = command.status().unwrap();
    ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
