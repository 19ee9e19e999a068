//! What the server signs and encrypts is right to other programs, and the reverse: OpenSSL's command line, `pkcs11-tool`,
//! a JOSE library, another cryptographic library.

mod ciphertexts;
mod signatures;

use std::path::Path;

use crate::support::{Scratch, Server, run};

const MESSAGE: &[u8] = b"Hello World!";

fn openssl<'a>(args: impl IntoIterator<Item = &'a str>) -> (bool, Vec<u8>) {
    let finished = run("openssl", args);
    eprintln!(
        "openssl: {:?} {} {}",
        finished.code,
        String::from_utf8_lossy(&finished.stdout),
        finished.stderr
    );
    (finished.code == Some(0), finished.stdout)
}

/// Puts an AES-256 key that the test knows on the token, by pkcs11-tool.
#[track_caller]
fn put_secret(server: &Server, id: &str, secret: &[u8], usage: &str) {
    let scratch = Scratch::new();
    let file = scratch.file("secret", secret);
    let args = [
        "--write-object",
        path(&file),
        "--type",
        "secrkey",
        "--key-type",
        "AES:32",
        "--id",
        id,
        "--label",
        id,
        usage,
        "--sensitive",
        "--private",
    ];
    let written = server.token().pkcs11_tool(&args);
    assert!(written.status.success(), "{written:?}");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
