//! The token as other programs use it: OpenSC's pkcs11-tool, in a process of its own.

use std::process::{Command, Output};

use crate::{Token, library};

impl Token {
    /// `pkcs11-tool` with the module and its environment, and nothing else.
    pub fn tool(&self) -> Command {
        let mut tool = Command::new("pkcs11-tool");
        tool.envs(self.module_env().iter().cloned()).arg("--module");
        match &self.init_args {
            // The tool cannot hand an argument to C_Initialize; the shim does.
            Some(args) if self.argument_only => tool
                .arg(library::built("fault-shim"))
                .env("FAULT_MODULE", self.module())
                .env("FAULT_INIT_ARGS", args),
            _ => tool.arg(self.module()),
        };
        tool
    }

    /// Runs `pkcs11-tool` on this token, logged in, with these arguments.
    pub fn pkcs11_tool(&self, args: &[&str]) -> Output {
        self.tool()
            .args(["--token-label", self.label(), "--login", "--pin", self.pin()])
            .args(args)
            .output()
            .expect("pkcs11-tool is not installed (Debian: apt install opensc)")
    }

    /// Makes a key, or a pair, with a program that is not ours.
    ///
    /// `id` is the CKA_ID in hex; `kind` is in pkcs11-tool's words: `rsa:2048`, `EC:prime256v1`, `EC:ed25519`,
    /// `AES:32` or `GENERIC:32` (bytes).
    pub fn make_foreign_key(&self, id: &str, label: &str, kind: &str) {
        self.make_foreign_key_with(id, label, kind, &[]);
    }

    /// As [`make_foreign_key`](Self::make_foreign_key), with more arguments: `--extractable`, `--usage-sign` …
    pub fn make_foreign_key_with(&self, id: &str, label: &str, kind: &str, more: &[&str]) {
        let secret = ["AES:", "GENERIC:", "DES"].iter().any(|name| kind.starts_with(name));
        let what = if secret { "--keygen" } else { "--keypairgen" };
        let args = [what, "--key-type", kind, "--id", id, "--label", label];
        let output = self.pkcs11_tool(&[&args, more].concat());
        assert!(output.status.success(), "pkcs11-tool {args:?}: {}", said(&output));
    }

    /// Deletes every key object with this CKA_ID (hex) with a program that is not ours; tells how many there were.
    pub fn delete_foreign_key(&self, id: &str) -> usize {
        ["privkey", "pubkey", "secrkey"]
            .into_iter()
            .filter(|class| {
                let args = ["--delete-object", "--type", class, "--id", id];
                self.pkcs11_tool(&args).status.success()
            })
            .count()
    }
}

/// Runs a program that must succeed.
pub(crate) fn run(command: &mut Command) {
    let program = command.get_program().to_owned();
    let output = command
        .output()
        .unwrap_or_else(|why| panic!("{}: {why}", program.display()));
    assert!(output.status.success(), "{}: {}", program.display(), said(&output));
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr]
        .map(|bytes| String::from_utf8_lossy(bytes))
        .join("")
}
