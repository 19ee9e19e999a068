//! [`Kind`]: the kinds of tokens by name, and what each needs on the machine.

use std::env;
use std::path::{Path, PathBuf};

use crate::library;

/// Names that [`Token::named`](crate::Token::named) knows.
pub const NAMES: [&str; 6] = ["softhsm", "embedded", "nss", "opencryptoki", "tpm", "p11kit"];

/// Whether what a token of this name needs is on the machine.
///
/// # Errors
///
/// What to install, or that there is no such name.
pub fn installed(name: &str) -> Result<(), String> {
    let missing = missing_packages(name)?;
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{name} is not installed. Debian: apt-get install -y --no-install-recommends {}",
        missing.join(" ")
    ))
}

/// Debian's packages that a token of this name needs and that are not there.
///
/// # Errors
///
/// There is no such name.
pub fn missing_packages(name: &str) -> Result<Vec<&'static str>, String> {
    let kind = Kind::parse(name)?;
    let mut missing: Vec<_> = NEEDS
        .iter()
        .filter(|need| need.kinds.contains(&kind) && !need.sought.is_there())
        .map(|need| need.package)
        .collect();
    missing.dedup();
    Ok(missing)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Softhsm,
    Embedded,
    Nss,
    Opencryptoki,
    Tpm,
    P11kit,
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::Softhsm,
        Self::Embedded,
        Self::Nss,
        Self::Opencryptoki,
        Self::Tpm,
        Self::P11kit,
    ];

    pub(crate) fn parse(name: &str) -> Result<Self, String> {
        let all = NAMES.iter().zip(Self::ALL);
        all.into_iter()
            .find_map(|(is, kind)| (*is == name).then_some(kind))
            .ok_or_else(|| format!("there is no token {name:?}; there are {}", NAMES.join(", ")))
    }

    pub(crate) fn name(self) -> &'static str {
        NAMES[self as usize]
    }

    /// Stops the test unless what the kind needs is there.
    pub(crate) fn require(self) {
        if let Err(why) = installed(self.name()) {
            panic!("{why}");
        }
    }
}

pub(crate) const NSS: &str = "libsoftokn3.so";
pub(crate) const OPENCRYPTOKI: &str = "opencryptoki/libopencryptoki.so.0";
pub(crate) const TPM: &str = "libtpm2_pkcs11.so.1";
pub(crate) const P11_KIT_CLIENT: &str = "pkcs11/p11-kit-client.so";

enum Sought {
    Program(&'static str),
    Library(&'static str),
    Softhsm,
}

impl Sought {
    fn is_there(&self) -> bool {
        match self {
            Self::Program(name) => find_program(name).is_some(),
            Self::Library(file) => library::foreign(file).is_some(),
            Self::Softhsm => library::find_softhsm().is_some(),
        }
    }
}

struct Need {
    sought: Sought,
    package: &'static str,
    kinds: &'static [Kind],
}

const fn program(name: &'static str, package: &'static str, kinds: &'static [Kind]) -> Need {
    Need {
        sought: Sought::Program(name),
        package,
        kinds,
    }
}

const fn file(name: &'static str, package: &'static str, kinds: &'static [Kind]) -> Need {
    Need {
        sought: Sought::Library(name),
        package,
        kinds,
    }
}

/// One row a thing; rows of one package stand together.
const NEEDS: [Need; 14] = [
    program("pkcs11-tool", "opensc", &Kind::ALL),
    program("softhsm2-util", "softhsm2", &[Kind::Softhsm, Kind::P11kit]),
    Need {
        sought: Sought::Softhsm,
        package: "softhsm2",
        kinds: &[Kind::Softhsm, Kind::P11kit],
    },
    file(NSS, "libnss3", &[Kind::Nss]),
    program("certutil", "libnss3-tools", &[Kind::Nss]),
    file(OPENCRYPTOKI, "opencryptoki", &[Kind::Opencryptoki]),
    program("pkcsslotd", "opencryptoki", &[Kind::Opencryptoki]),
    file(TPM, "libtpm2-pkcs11-1", &[Kind::Tpm]),
    program("swtpm", "swtpm", &[Kind::Tpm]),
    file("libtss2-tcti-swtpm.so.0", "libtss2-tcti-swtpm0", &[Kind::Tpm]),
    program("tpm2-abrmd", "tpm2-abrmd", &[Kind::Tpm]),
    file("libtss2-tcti-tabrmd.so.0", "libtss2-tcti-tabrmd0", &[Kind::Tpm]),
    program("dbus-daemon", "dbus-daemon", &[Kind::Tpm]),
    program("p11-kit", "p11-kit", &[Kind::P11kit]),
];

/// A program by its name. Daemons are in `sbin`, which is not in everybody's `PATH`.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin"].map(|folder| Path::new(folder).to_path_buf()))
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::{Kind, NAMES, installed};

    #[test]
    fn names_are_parsed_and_others_refused() {
        for name in NAMES {
            assert_eq!(Kind::parse(name).unwrap().name(), name);
        }
        assert!(installed("luna").unwrap_err().contains("opencryptoki"));
    }
}
