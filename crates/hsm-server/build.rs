//! Hands on the link arguments that make the program its own PKCS#11 module (feature `embedded`).

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=DEP_EMBEDDED_TOKEN_LINK_ARGS");
    let args = env::var("DEP_EMBEDDED_TOKEN_LINK_ARGS").unwrap_or_default();
    for arg in args.split_whitespace() {
        println!("cargo::rustc-link-arg-bins={arg}");
    }
}
