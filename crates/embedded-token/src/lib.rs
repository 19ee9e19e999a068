//! A PKCS#11 software token, [kryoptic](https://github.com/latchset/kryoptic), in two forms made from the same code.
//!
//! - As a Rust library it is linked into a program, which then is its own PKCS#11 module: it finds the entry points
//!   in itself (`dlopen(NULL)`; `Pkcs11::new_from_self` of the crate `cryptoki`). The package that makes the program
//!   must hand on the link arguments of this crate in its build script:
//!
//!   ```no_run
//!   for arg in std::env::var("DEP_EMBEDDED_TOKEN_LINK_ARGS").unwrap_or_default().split_whitespace() {
//!       println!("cargo::rustc-link-arg-bins={arg}");
//!   }
//!   ```
//!
//! - As `libembedded_token.so` it is a module file that any PKCS#11 program loads by its path.
//!
//! The token keeps everything in one SQLite file, which [`init_args`] names. If the file is not there, it is
//! made readable for all, as far as the umask lets it: make an empty one with mode 0600 beforehand, which is taken as
//! a new database. Libraries (OpenSSL, SQLite) are linked statically; nothing needs to be installed.
//!
//! Facts of this token that a user of it meets (kryoptic 1.5.4):
//!
//! - It has one slot, number 0, whose token is not initialised at first (`C_InitToken`, then `C_InitPIN` as security
//!   officer). A label is cut to 32 bytes.
//! - It states a least PIN length of 8 and does not enforce it.
//! - Ten wrong PINs lock it, for good; the count is kept in the file.
//! - After a `C_Initialize` that failed, `C_Finalize` must come before the next attempt, or that fails too.
//! - An empty search template also finds 174 objects of class CKO_MECHANISM.
//!
//! This token protects keys by the PIN alone. Whoever can read this process's memory can read its keys.

#![allow(
    unsafe_code,
    reason = "C symbols with fixed names are what PKCS#11 modules are found by"
)]

use std::fmt;
use std::path::Path;

use kryoptic_lib::fns::general::{fn_get_function_list, fn_get_interface, fn_get_interface_list};
use kryoptic_lib::pkcs11::{
    CK_FLAGS, CK_FUNCTION_LIST_PTR_PTR, CK_INTERFACE_PTR, CK_INTERFACE_PTR_PTR, CK_RV, CK_ULONG_PTR, CK_UTF8CHAR_PTR,
    CK_VERSION_PTR,
};

/// What the name of a database file must end with; the token takes the argument for something else without it.
pub const DATABASE_SUFFIX: &str = ".sql";

/// The text for `C_Initialize`'s reserved argument that makes `database` the only token, in slot 0.
///
/// The file is created at the first use; its folder must be there. Calling it also keeps the entry points in the
/// program.
///
/// # Errors
///
/// The token takes UTF-8 alone, names that end in [`DATABASE_SUFFIX`] alone, and reads some relative names as
/// options; a path must therefore be absolute.
pub fn init_args(database: &Path) -> Result<String, UnusableDatabase> {
    let text = database.to_str().ok_or(UnusableDatabase::NotUtf8)?;
    if text.contains('\0') {
        return Err(UnusableDatabase::NotUtf8);
    }
    if !database.is_absolute() {
        return Err(UnusableDatabase::NotAbsolute);
    }
    if !text.ends_with(DATABASE_SUFFIX) {
        return Err(UnusableDatabase::Suffix);
    }
    Ok(text.to_owned())
}

/// Why a path cannot be the token's database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnusableDatabase {
    /// The path is not UTF-8, or has a NUL in it.
    NotUtf8,
    /// The path is relative.
    NotAbsolute,
    /// The name does not end in [`DATABASE_SUFFIX`].
    Suffix,
}

impl fmt::Display for UnusableDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotUtf8 => f.write_str("the path of the token's database is not UTF-8"),
            Self::NotAbsolute => f.write_str("the path of the token's database is not absolute"),
            Self::Suffix => write!(f, "the token's database must be a {DATABASE_SUFFIX} file"),
        }
    }
}

impl std::error::Error for UnusableDatabase {}

/// PKCS#11 2.40 §5.4: the table of functions.
#[unsafe(no_mangle)]
pub extern "C" fn C_GetFunctionList(list: CK_FUNCTION_LIST_PTR_PTR) -> CK_RV {
    fn_get_function_list(list)
}

/// PKCS#11 3.0 §5.4.5: one interface by name and version.
#[unsafe(no_mangle)]
pub extern "C" fn C_GetInterface(
    name: CK_UTF8CHAR_PTR,
    version: CK_VERSION_PTR,
    interface: CK_INTERFACE_PTR_PTR,
    flags: CK_FLAGS,
) -> CK_RV {
    fn_get_interface(name, version, interface, flags)
}

/// PKCS#11 3.0 §5.4.4: all interfaces.
#[unsafe(no_mangle)]
pub extern "C" fn C_GetInterfaceList(interfaces: CK_INTERFACE_PTR, count: CK_ULONG_PTR) -> CK_RV {
    fn_get_interface_list(interfaces, count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_an_absolute_sql_file() {
        let of = |path: &str| init_args(Path::new(path));
        assert_eq!(of("/srv/t/token.sql").as_deref(), Ok("/srv/t/token.sql"));
        assert_eq!(of("token.sql"), Err(UnusableDatabase::NotAbsolute));
        assert_eq!(of("/srv/token.db"), Err(UnusableDatabase::Suffix));
        assert_eq!(of("/srv/a\0b.sql"), Err(UnusableDatabase::NotUtf8));
    }

    #[cfg(unix)]
    #[test]
    fn a_path_that_is_not_utf8_is_refused() {
        use std::os::unix::ffi::OsStrExt;
        let path = Path::new(std::ffi::OsStr::from_bytes(b"/srv/\xff.sql"));
        assert_eq!(init_args(path), Err(UnusableDatabase::NotUtf8));
    }
}
