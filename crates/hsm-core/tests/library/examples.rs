//! The examples, each run as its user does: its main function in a process of its own.

use std::env;
use std::process::Command;

use softhsm_test::Token;

#[path = "../../examples/memory_backend.rs"]
mod memory_backend;
#[path = "../../examples/sign.rs"]
mod sign;
#[path = "../../examples/tls_server.rs"]
mod tls_server;

/// Set in the process that an example runs in.
const INSIDE: &str = "HSM_CORE_EXAMPLE";

#[test]
fn memory_backend_runs() {
    memory_backend::main().unwrap();
}

#[test]
fn sign_runs() {
    runs("examples::sign_runs", sign::main, "right: true");
}

#[test]
fn tls_server_runs() {
    let heard = "the server said: hello, by a key that never left its token";
    runs("examples::tls_server_runs", tls_server::main, heard);
}

fn runs(test: &str, main: fn() -> Result<(), Box<dyn std::error::Error>>, says: &str) {
    if env::var_os(INSIDE).is_some() {
        main().unwrap();
        return;
    }
    for token in [Token::softhsm(), Token::embedded()] {
        // The second time its key is there.
        for _ in 0..2 {
            let output = Command::new(env::current_exe().unwrap())
                .args([test, "--exact", "--nocapture"])
                .env(INSIDE, "1")
                .envs(token.env())
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && said.contains(says), "{said}{errors}");
        }
        assert_eq!(token.objects().len(), 2);
    }
}
