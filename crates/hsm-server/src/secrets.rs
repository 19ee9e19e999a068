//! Secrets that the server makes for itself, in files that only its user can read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::SecretString;
use zeroize::Zeroizing;

/// Random bytes in a secret.
const BYTES: usize = 32;

/// The secret in `path`; a random one is put there first if there is none.
///
/// # Errors
/// What the file system says, or that the file is empty.
pub fn read_or_make(path: &Path) -> io::Result<SecretString> {
    if !path.exists() {
        put_random(path)?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    let mut text = Zeroizing::new(String::new());
    File::open(path)?.read_to_string(&mut text)?;
    if text.trim().is_empty() {
        return Err(io::Error::other(format!("{} is empty; remove it", path.display())));
    }
    Ok(SecretString::from(text.trim()))
}

/// Puts a random secret in `path`, whole or not at all; one that somebody else has put there meanwhile stays.
fn put_random(path: &Path) -> io::Result<()> {
    let mut bytes = Zeroizing::new([0; BYTES]);
    getrandom::fill(bytes.as_mut()).map_err(|error| io::Error::other(error.to_string()))?;
    let text = Zeroizing::new(URL_SAFE_NO_PAD.encode(bytes.as_ref()));
    let unfinished = path.with_extension(format!("new-{}", std::process::id()));
    let mut file = create(&unfinished)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    let linked = written.and_then(|()| fs::hard_link(&unfinished, path));
    fs::remove_file(&unfinished)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Makes an empty file with mode 0600 if there is none.
///
/// # Errors
/// What the file system says.
pub fn touch(path: &Path) -> io::Result<()> {
    match create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}
