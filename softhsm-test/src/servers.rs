//! Processes that a token lives in, and their certain end.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// Long enough for a machine that is busy with something else.
const START_LIMIT: Duration = Duration::from_secs(60);
const TRY_LIMIT: Duration = Duration::from_secs(5);

/// How a server process is started, and how it is seen that it serves.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) ready: Ready,
}

#[derive(Debug)]
pub(crate) enum Ready {
    /// This socket takes connections. What is left of an earlier one is removed before the start.
    Socket(PathBuf),
    /// This file has something in it. It is removed before the start.
    File(PathBuf),
    /// This program, with these arguments, succeeds in the server's environment.
    Program(PathBuf, Vec<String>),
}

/// Running servers, each with a process group of its own. They end when this is dropped, and when this process ends in
/// any way: a process beside it waits for that.
#[derive(Debug)]
pub(crate) struct Servers {
    folder: PathBuf,
    plans: Vec<Server>,
    running: Vec<Child>,
    guardian: Guardian,
}

impl Servers {
    /// Starts the servers in their order, each when the one before it serves. Their output goes to `folder`, which the
    /// guardian removes when this process is killed.
    ///
    /// # Errors
    ///
    /// A server ended before it served, with what it said.
    pub(crate) fn start(folder: &Path, plans: Vec<Server>) -> Result<Self, String> {
        let mut servers = Self {
            folder: folder.to_path_buf(),
            plans,
            running: Vec::new(),
            guardian: Guardian::new(folder),
        };
        servers.start_all()?;
        Ok(servers)
    }

    /// Ends all servers as a crash does.
    pub(crate) fn kill(&mut self) {
        for mut child in self.running.drain(..).rev() {
            // What it has started itself is in its group.
            let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
            child.wait().expect("the end of a server");
        }
        self.guardian.watch(&[]);
    }

    /// Starts the servers anew with what their files hold.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.start_all().unwrap_or_else(|why| panic!("{why}"));
    }

    fn start_all(&mut self) -> Result<(), String> {
        for plan in &self.plans {
            let (child, log) = plan.spawn(&self.folder);
            self.running.push(child);
            self.guardian.watch(&self.running);
            let child = self.running.last_mut().expect("it was just put there");
            plan.wait(child, &log)?;
        }
        Ok(())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Server {
    fn spawn(&self, folder: &Path) -> (Child, PathBuf) {
        if let Ready::Socket(path) | Ready::File(path) = &self.ready {
            let _ = fs::remove_file(path);
        }
        let name = self.program.file_name().expect("a program has a name");
        let log = folder.join(name).with_extension("log");
        let output = File::create(&log).expect("a file for a server's output");
        let child = Command::new(&self.program)
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            // Tells whoever wonders, and the tests, which token the process belongs to.
            .env("HSM_TEST_FOLDER", folder)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle"))
            .stderr(output)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|why| panic!("{}: {why}", self.program.display()));
        (child, log)
    }

    fn wait(&self, child: &mut Child, log: &Path) -> Result<(), String> {
        let said = || fs::read_to_string(log).unwrap_or_default();
        let started = Instant::now();
        while !self.serves() {
            if let Some(status) = child.try_wait().expect("the state of a server") {
                return Err(format!("{} ended, {status}: {}", self.program.display(), said()));
            }
            if started.elapsed() > START_LIMIT {
                return Err(format!("{} does not serve: {}", self.program.display(), said()));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn serves(&self) -> bool {
        match &self.ready {
            Ready::Socket(path) => UnixStream::connect(path).is_ok(),
            Ready::File(path) => fs::metadata(path).is_ok_and(|file| file.len() > 0),
            Ready::Program(program, args) => {
                let mut child = Command::new(program)
                    .args(args)
                    .envs(self.env.iter().map(|(name, value)| (name, value)))
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap_or_else(|why| panic!("{}: {why}", program.display()));
                succeeds(&mut child)
            }
        }
    }
}

/// Whether the program ends well, and soon: one that asks too early may wait for ever.
fn succeeds(child: &mut Child) -> bool {
    let started = Instant::now();
    while started.elapsed() < TRY_LIMIT {
        if let Some(status) = child.try_wait().expect("the state of a program") {
            return status.success();
        }
        thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    child.wait().expect("the end of a program");
    false
}

/// A process of another process group that outlives this one by a moment.
///
/// It reads lines: the process groups to end, the last line counts. At the end of its input it ends them and removes
/// the folder, unless the last line was `done`.
#[derive(Debug)]
struct Guardian {
    process: Child,
    /// Closed by the system when this process ends.
    input: Option<ChildStdin>,
}

const GUARDIAN: &str = r#"
while read -r last; do groups=$last; done
[ "$groups" = done ] && exit
for group in $groups; do kill -s KILL -- "-$group"; done
# What is dying may still write.
for _ in 1 2 3 4 5 6 7 8 9; do rm -rf -- "$1" && exit; sleep 1; done
"#;

impl Guardian {
    fn new(folder: &Path) -> Self {
        let mut process = Command::new("sh")
            .args(["-c", GUARDIAN, "sh"])
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("sh");
        let input = process.stdin.take();
        Self { process, input }
    }

    fn watch(&self, servers: &[Child]) {
        let groups: Vec<_> = servers.iter().map(|child| child.id().to_string()).collect();
        self.tell(&groups.join(" "));
    }

    fn tell(&self, line: &str) {
        let mut input = self.input.as_ref().expect("open until the end");
        // One write, so that a line is whole or not there.
        input
            .write_all(format!("{line}\n").as_bytes())
            .expect("the guardian reads");
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        self.tell("done");
        self.input = None;
        let _ = self.process.wait();
    }
}
