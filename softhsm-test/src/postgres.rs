//! A real PostgreSQL server for a test: its own cluster in a temporary folder, on a socket of its own.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::servers::{Ready, Server, Servers};

const PORT: u16 = 5432;
const USER: &str = "gateway";
/// Durability is not what these tests are about: a server that is killed has lost nothing of what the kernel was given.
const SETTINGS: [&str; 4] = [
    "listen_addresses=",
    "fsync=off",
    "max_connections=60",
    "shared_buffers=16MB",
];

/// A PostgreSQL server with an empty database. It ends, and its folder goes, when this is dropped, and when this process
/// ends in any way.
#[derive(Debug)]
pub struct Postgres {
    // Ended before the folder goes.
    servers: Servers,
    folder: TempDir,
}

impl Postgres {
    /// Makes a cluster and starts its server. As root it runs as the user `postgres` or `nobody`, since PostgreSQL does not
    /// serve root.
    ///
    /// # Panics
    /// PostgreSQL is not installed; the text says what to install.
    pub fn start() -> Postgres {
        let programs = programs();
        let folder = tempfile::Builder::new().prefix("pg-").tempdir().expect("a folder");
        let data = folder.path().join("data");
        let owner = rustix::process::geteuid().is_root().then(unprivileged);
        if let Some((user, group)) = owner {
            // It passes through, and lists nothing.
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).expect("permissions");
            fs::create_dir(&data).expect("a folder");
            chown(&data, Some(user), Some(group)).expect("root may");
        }
        let (initdb, args) = run_as(owner, &programs.join("initdb"));
        let made = Command::new(initdb)
            .args(args)
            .args([
                "--no-sync",
                "--no-instructions",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C",
            ])
            .args(["--username", USER, "--pgdata"])
            .arg(&data)
            .current_dir("/")
            .output()
            .expect("initdb");
        assert!(
            made.status.success(),
            "initdb: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        let (program, mut args) = run_as(owner, &programs.join("postgres"));
        args.extend(["-D".to_owned(), text(&data), "-k".to_owned(), text(&data)]);
        args.extend(
            SETTINGS
                .iter()
                .flat_map(|setting| ["-c".to_owned(), (*setting).to_owned()]),
        );
        let asked = [
            "-q",
            "-h",
            &text(&data),
            "-p",
            &PORT.to_string(),
            "-U",
            USER,
            "-d",
            "postgres",
        ];
        let server = Server {
            program,
            args,
            env: Vec::new(),
            ready: Ready::Program(programs.join("pg_isready"), asked.map(str::to_owned).to_vec()),
        };
        let servers = Servers::start(folder.path(), vec![server]).unwrap_or_else(|why| panic!("{why}"));
        Postgres { servers, folder }
    }

    /// The URL of its database.
    pub fn url(&self) -> String {
        let socket = text(&self.folder.path().join("data")).replace('/', "%2F");
        format!("postgres://{USER}@{socket}:{PORT}/postgres")
    }

    /// Ends the server as a crash does.
    pub fn stop(&mut self) {
        self.servers.kill();
        // What it had started itself dies a moment later.
        let data = self.folder.path().join("data");
        while works_in(&data) {
            thread::sleep(Duration::from_millis(5));
        }
        // It is not asked whether the process that it names is still that server.
        let _ = fs::remove_file(self.folder.path().join("data/postmaster.pid"));
    }

    /// Starts it again with what it had.
    pub fn start_again(&mut self) {
        self.stop();
        self.servers.restart();
    }
}

/// Whether a process has the folder as its own.
fn works_in(folder: &Path) -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|process| fs::read_link(process.path().join("cwd")).ok())
        .any(|working| working == folder)
}

/// Where Debian's newest PostgreSQL has its programs.
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let programs = versions.map(|version| version.path().join("bin"));
    let newest = programs.filter(|bin| bin.join("initdb").exists()).max();
    newest.expect("PostgreSQL is not installed. Debian: apt-get install -y --no-install-recommends postgresql")
}

/// User and group that are nobody's to lose.
fn unprivileged() -> (u32, u32) {
    let users = fs::read_to_string("/etc/passwd").expect("the users");
    let find = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut ids = line.split(':').skip(2).map_while(|id| id.parse().ok());
        Some((ids.next()?, ids.next()?))
    };
    find("postgres")
        .or_else(|| find("nobody"))
        .expect("a user `postgres` or `nobody`")
}

/// A program and its first arguments, as another user if one is named.
fn run_as(owner: Option<(u32, u32)>, program: &Path) -> (PathBuf, Vec<String>) {
    let Some((user, group)) = owner else {
        return (program.to_path_buf(), Vec::new());
    };
    let args = vec![
        format!("--reuid={user}"),
        format!("--regid={group}"),
        "--clear-groups".to_owned(),
        text(program),
    ];
    (PathBuf::from("/usr/bin/setpriv"), args)
}

fn text(path: &(impl AsRef<OsStr> + ?Sized)) -> String {
    path.as_ref().to_str().expect("a path of UTF-8").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_serves_ends_and_serves_again() {
        let mut server = Postgres::start();
        let ask = |server: &Postgres, sql: &str| {
            let asked = Command::new(programs().join("psql"))
                .args(["-At", "-c", sql])
                .arg(server.url())
                .output()
                .unwrap();
            asked.status.success().then(|| String::from_utf8(asked.stdout).unwrap())
        };
        assert!(ask(&server, "CREATE TABLE t (n int); INSERT INTO t VALUES (7)").is_some());
        server.stop();
        assert_eq!(ask(&server, "SELECT n FROM t"), None);
        server.start_again();
        assert_eq!(ask(&server, "SELECT n FROM t").as_deref(), Some("7\n"));
        let folder = server.folder.path().to_owned();
        drop(server);
        assert!(!folder.exists());
    }
}
