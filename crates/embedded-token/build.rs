//! Tells the linker to keep and to export the entry points of the token.
//!
//! Link arguments do not travel from a library to the program that uses it. So they are also given as metadata:
//! the build script of a package that makes a program finds them in `DEP_EMBEDDED_TOKEN_LINK_ARGS`, separated by
//! blanks, and hands each on as `cargo::rustc-link-arg-bins`.

use std::env;

/// What PKCS#11 3.x looks for in a module, by name.
const ENTRY_POINTS: [&str; 3] = ["C_GetFunctionList", "C_GetInterface", "C_GetInterfaceList"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let args = match env::var("CARGO_CFG_TARGET_OS").as_deref() {
        Ok("linux") => ENTRY_POINTS.map(|name| {
            // The first makes the linker fetch the symbol, the second lets dlsym find it in the program.
            [
                format!("-Wl,--undefined={name}"),
                format!("-Wl,--export-dynamic-symbol={name}"),
            ]
        }),
        _ => return,
    };
    let args: Vec<String> = args.into_iter().flatten().collect();
    for arg in &args {
        println!("cargo::rustc-link-arg-tests={arg}");
    }
    println!("cargo::metadata=LINK_ARGS={}", args.join(" "));
}
