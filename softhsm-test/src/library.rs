//! Where module files are.

use std::env;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOFTHSM_PLACES: [&str; 9] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
    "/home/linuxbrew/.linuxbrew/lib/softhsm/libsofthsm2.so",
];

/// SoftHSM's module: `SOFTHSM2_MODULE`, else the first of the usual places that has it.
pub(crate) fn softhsm() -> PathBuf {
    find_softhsm().expect("SoftHSM is not installed (Debian: apt install softhsm2), or set SOFTHSM2_MODULE")
}

/// [`softhsm`], if it is there.
pub(crate) fn find_softhsm() -> Option<PathBuf> {
    if let Some(path) = env::var_os("SOFTHSM2_MODULE") {
        return Some(path.into());
    }
    SOFTHSM_PLACES.iter().map(PathBuf::from).find(|path| path.exists())
}

/// A library by its path below a folder for libraries.
pub(crate) fn foreign(file: &str) -> Option<PathBuf> {
    let debian = format!("/usr/lib/{}-linux-gnu", env::consts::ARCH);
    [&debian, "/usr/lib64", "/usr/lib", "/usr/local/lib"]
        .map(|folder| Path::new(folder).join(file))
        .into_iter()
        .find(|path| path.exists())
}

/// The module file that `package` of this workspace builds; built now if it has not been.
pub(crate) fn built(package: &str) -> PathBuf {
    let profile = profile_folder();
    let file = format!(
        "{}{}{}",
        env::consts::DLL_PREFIX,
        package.replace('-', "_"),
        env::consts::DLL_SUFFIX
    );
    // A dependency's file stays in `deps`; what was built for itself is linked there from one above.
    let find = || {
        [profile.join("deps").join(&file), profile.join(&file)]
            .into_iter()
            .find(|path| path.exists())
    };
    if let Some(path) = find() {
        return path;
    }
    let lock = File::create(profile.join(".softhsm-test.lock")).expect("a lock file");
    lock.lock().expect("the lock");
    find().unwrap_or_else(|| {
        build(package, &profile);
        find().unwrap_or_else(|| panic!("cargo built {package}, but {file} is not in {}", profile.display()))
    })
}

/// `target/debug` or `target/release`: where this test's own program lies, in `deps` or directly.
fn profile_folder() -> PathBuf {
    let program = env::current_exe().expect("the path of this program");
    let above = |path: &Path| path.parent().map(Path::to_path_buf);
    let built_here = program
        .ancestors()
        .find(|folder| folder.file_name().is_some_and(|name| name == "deps"))
        .and_then(above);
    // A documentation test runs in a folder of its own.
    built_here.unwrap_or_else(|| {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let target = env::var_os("CARGO_TARGET_DIR").map_or(workspace.join("target"), PathBuf::from);
        target.join("debug")
    })
}

fn build(package: &str, profile: &Path) {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .args(["build", "--quiet", "--locked", "--lib", "--package", package])
        .arg("--target-dir")
        .arg(profile.parent().expect("a folder has one above it"));
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    assert!(
        cargo.status().expect("cargo runs").success(),
        "{package} does not build"
    );
}
