//! Tokens of modules that others make and that need processes, databases or folders of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU16, Ordering};

use crate::kind::{self, Kind, find_program};
use crate::servers::{Ready, Server};
use crate::token::{Home, LABEL, PIN, SO_PIN, text};
use crate::{Token, library, namespace, outside};

impl Token {
    /// A token of NSS's softoken: a database in a folder, in this process. Its module takes parameters by
    /// C_Initialize's reserved argument and in no other way.
    pub fn nss() -> Self {
        Kind::Nss.require();
        // A private key is protected with many rounds, and opened with each use: 14 RSA signatures a second.
        let module_env = vec![("NSS_MAX_MP_PBE_ITERATION_COUNT".to_owned(), "1".to_owned())];
        let home = Home::new();
        let database = format!("sql:{}", text(home.folder()));
        let password = home.folder().join("password");
        fs::write(&password, PIN).expect("a file for the password");
        let mut certutil = Command::new("certutil");
        certutil
            .args(["-N", "-d", &database, "-f", &text(&password)])
            .envs(module_env.iter().cloned());
        outside::run(&mut certutil);
        let init_args = format!(
            "configdir='{database}' certPrefix='' keyPrefix='' secmod='secmod.db' flags=optimizeSpace updatedir='' \
             updateCertPrefix='' updateKeyPrefix='' updateid='' updateTokenDescription='' \
             dbTokenDescription='{LABEL}'"
        );
        Self {
            // NSS has one password, and the security officer none.
            so_pin: String::new(),
            init_args: Some(init_args),
            argument_only: true,
            ..Self::in_home(module(kind::NSS), module_env, home)
        }
    }

    /// A token of openCryptoki's software token, with its daemon.
    ///
    /// All its paths are compiled in, so the calling thread gets mount and IPC namespaces of its own, and with it every
    /// thread and process that it starts from now on; threads that are there already do not see the token. That takes
    /// root, or CAP_SYS_ADMIN. Tests run side by side, but a process has one such token at a time.
    pub fn opencryptoki() -> Self {
        Kind::Opencryptoki.require();
        namespace::hide(&[
            Path::new("/run"),
            Path::new("/etc/opencryptoki"),
            Path::new("/var/lib/opencryptoki"),
            Path::new("/var/log"),
            Path::new("/dev/shm"),
        ]);
        // /var/lock is in /run.
        for folder in [
            "/run/lock",
            "/var/log/opencryptoki",
            "/var/lock/opencryptoki/swtok",
            "/var/lib/opencryptoki/swtok/TOK_OBJ",
        ] {
            fs::create_dir_all(folder).unwrap_or_else(|why| panic!("{folder}: {why}"));
        }
        let mut chgrp = Command::new("chgrp");
        chgrp.args(["-R", "pkcs11", "/var/lock/opencryptoki", "/var/lib/opencryptoki"]);
        outside::run(&mut chgrp);
        fs::write(
            "/etc/opencryptoki/opencryptoki.conf",
            "version opencryptoki-3.1\nslot 0\n{\nstdll = libpkcs11_sw.so\n}\n",
        )
        .expect("opencryptoki.conf");
        let token = Self {
            pin: OPENCRYPTOKI_PIN.to_owned(),
            so_pin: OPENCRYPTOKI_SO_PIN.to_owned(),
            ..Self::in_home(module(kind::OPENCRYPTOKI), Vec::new(), Home::new())
        };
        token.start(vec![Server {
            program: program("pkcsslotd"),
            args: vec!["-f".to_owned()],
            env: Vec::new(),
            ready: lists_slots(&token),
        }]);
        token.initialise();
        token
    }

    /// A token in a TPM 2.0 made of software, behind a resource manager on a D-Bus of its own: three processes.
    ///
    /// The resource manager lets several processes use the TPM; without it the module fills the TPM's three places for
    /// loaded keys and then fails.
    pub fn tpm() -> Self {
        Kind::Tpm.require();
        let home = Home::new();
        let store = home.folder().join("store");
        let state = home.folder().join("state");
        for folder in [&store, &state] {
            fs::create_dir(folder).expect("a folder of the TPM");
        }
        let bus = format!("unix:path={}", text(&home.folder().join("bus")));
        let module_env = [
            ("DBUS_SESSION_BUS_ADDRESS", bus.as_str()),
            ("TPM2_PKCS11_TCTI", TABRMD),
            ("TPM2_PKCS11_STORE", &text(&store)),
            ("TPM2_PKCS11_BACKEND", "esysdb"),
            ("TPM2_PKCS11_LOG_LEVEL", "0"),
            ("TSS2_LOG", "all+none"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let token = Self::in_home(module(kind::TPM), module_env.to_vec(), home);
        // The module finds the TPM by two ports side by side; another program may have one of them.
        let mut tries = 20;
        while let Err(why) = token.try_start(tpm_servers(&token, free_ports())) {
            tries -= 1;
            assert!(tries > 0, "{why}");
        }
        token.initialise();
        token
    }

    /// A SoftHSM token in another process, reached by p11-kit's protocol; [`kill_server`](Self::kill_server) ends that
    /// process.
    pub fn p11kit() -> Self {
        Kind::P11kit.require();
        let inside = Self::softhsm();
        let home = inside.home.clone().expect("SoftHSM has a folder");
        let socket = home.folder().join("p11-kit");
        let address = format!("unix:path={}", text(&socket));
        let token = Self {
            module: module(kind::P11_KIT_CLIENT),
            module_env: vec![("P11_KIT_SERVER_ADDRESS".to_owned(), address)],
            ..inside.clone()
        };
        token.start(vec![Server {
            program: program("p11-kit"),
            args: [
                "server",
                "--foreground",
                "--name",
                &text(&socket),
                "--provider",
                &text(inside.module()),
                &format!("pkcs11:token={}", LABEL.replace(' ', "%20")),
            ]
            .map(str::to_owned)
            .to_vec(),
            env: inside.module_env,
            ready: Ready::Socket(socket),
        }]);
        token
    }

    fn in_home(module: PathBuf, module_env: Vec<(String, String)>, home: Home) -> Self {
        Self {
            module,
            label: LABEL.to_owned(),
            pin: PIN.to_owned(),
            so_pin: SO_PIN.to_owned(),
            init_args: None,
            argument_only: false,
            module_env,
            home: Some(home.into()),
        }
    }

    fn start(&self, servers: Vec<Server>) {
        self.try_start(servers).unwrap_or_else(|why| panic!("{why}"));
    }

    fn try_start(&self, servers: Vec<Server>) -> Result<(), String> {
        self.own_home().start(servers)
    }
}

/// openCryptoki takes eight characters at most.
const OPENCRYPTOKI_PIN: &str = "tulip592";
/// What it gives every new token.
const OPENCRYPTOKI_SO_PIN: &str = "87654321";

const TABRMD: &str = "tabrmd:bus_type=session";

fn tpm_servers(token: &Token, port: u16) -> Vec<Server> {
    let folder = token.folder().expect("a folder");
    let at = |name: &str| text(&folder.join(name));
    let config = at("bus.conf");
    let bus = at("bus");
    fs::write(
        &config,
        format!(
            "<busconfig><type>session</type><listen>unix:path={bus}</listen><auth>EXTERNAL</auth>\
             <policy context=\"default\"><allow send_destination=\"*\" eavesdrop=\"true\"/>\
             <allow eavesdrop=\"true\"/><allow own=\"*\"/></policy></busconfig>"
        ),
    )
    .expect("the bus's settings");
    let next = port + 1;
    let root = rustix::process::geteuid().is_root();
    let words = |args: &[&str]| args.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let swtpm = Server {
        program: program("swtpm"),
        args: words(&[
            "socket",
            "--tpm2",
            "--tpmstate",
            &format!("dir={}", at("state")),
            "--server",
            &format!("type=tcp,port={port},bindaddr=127.0.0.1"),
            "--ctrl",
            &format!("type=tcp,port={next},bindaddr=127.0.0.1"),
            "--flags",
            "not-need-init,startup-clear",
            "--pid",
            &format!("file={}", at("swtpm.pid")),
        ]),
        env: Vec::new(),
        // Written when it has both ports.
        ready: Ready::File(folder.join("swtpm.pid")),
    };
    let dbus = Server {
        program: program("dbus-daemon"),
        args: words(&["--nofork", "--nopidfile", &format!("--config-file={config}")]),
        env: Vec::new(),
        ready: Ready::Socket(bus.into()),
    };
    let tcti = format!("--tcti=swtpm:host=127.0.0.1,port={port}");
    let mut args = words(&["--session", &tcti, "--max-transients=100"]);
    if root {
        args.push("--allow-root".to_owned());
    }
    let manager = Server {
        program: program("tpm2-abrmd"),
        args,
        env: token.module_env().to_vec(),
        ready: lists_slots(token),
    };
    vec![swtpm, dbus, manager]
}

/// Ready when another program can use the module. A mere connection ends pkcsslotd.
fn lists_slots(token: &Token) -> Ready {
    let args = ["--module", &text(token.module()), "--list-slots"].map(str::to_owned);
    Ready::Program(program("pkcs11-tool"), args.to_vec())
}

/// The first of two ports that this process alone would choose, below those that systems give away by themselves.
fn free_ports() -> u16 {
    const FIRST: u16 = 20_000;
    const PAIRS: u32 = 6_000;
    static ASKED: AtomicU16 = AtomicU16::new(0);
    let asked = u32::from(ASKED.fetch_add(1, Ordering::Relaxed));
    // A second token of this process is far from the processes that come after this one.
    let pair = (process::id() + asked * 997) % PAIRS;
    FIRST + 2 * u16::try_from(pair).expect("below 6000")
}

fn module(file: &str) -> PathBuf {
    library::foreign(file).expect("what is needed is there")
}

fn program(name: &str) -> PathBuf {
    find_program(name).expect("what is needed is there")
}
