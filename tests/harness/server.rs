//! The server as a child process, with a store, a port and a log of its own.
//!
//! `bind` has port 0; the server prints `listening <name> <address>` to standard output, a file, once it accepts connections.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use tempfile::TempDir;

use super::{
    DEADLINE, eventually,
    program::{program, umbrad_of},
};

/// The settings of a test besides the address and the store: lines of the sections of `broker.toml`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Setup {
    pub listener: &'static str,
    pub limits: &'static str,
    pub store: &'static str,
}

/// Quotas that no test reaches: races and loads set this and say so.
pub const UNLIMITED: Setup = Setup {
    listener: "",
    limits: "requests_rate = \"1000000/s burst 1000000\"\npublishes_rate = \"10000000/s burst 5000\"",
    store: "",
};

/// A running server; dropped, it is killed and its directory removed.
pub struct Server {
    pub address: SocketAddr,
    child: Child,
    setup: Setup,
    directory: TempDir,
    program: PathBuf,
}

/// How a server ended, or why it did not start.
#[derive(Debug)]
pub struct Exit {
    pub status: ExitStatus,
    /// Its standard output and standard error.
    pub log: String,
}

impl Server {
    /// Starts a server with the defaults.
    pub fn start() -> Self {
        Self::with(Setup::default())
    }

    /// Starts a server with a new store.
    pub fn with(setup: Setup) -> Self {
        Self::within(tempfile::tempdir().expect("a temporary directory"), setup)
            .unwrap_or_else(|(exit, _)| panic!("the server did not start: {exit:?}"))
    }

    /// Starts a server on the store in `directory`.
    pub fn within(directory: TempDir, setup: Setup) -> Result<Self, (Exit, TempDir)> {
        let program = program();
        match launch(&program, directory.path(), setup) {
            Ok((child, address)) => Ok(Self { address, child, setup, directory, program }),
            Err(exit) => Err((exit, directory)),
        }
    }

    /// Tries to start a second server on the same store; it must end by itself.
    pub fn second(&self) -> Exit {
        match launch(&self.program, self.directory.path(), self.setup) {
            Ok((mut child, _)) => {
                let _ = child.kill();
                let _ = child.wait();
                panic!("two servers run on one store")
            }
            Err(exit) => exit,
        }
    }

    /// The address of another listener, by its name.
    pub fn address_of(&self, listener: &str) -> SocketAddr {
        eventually(&format!("a line `listening {listener}`"), || listening(self.directory.path(), listener))
    }

    /// Where the store, the configuration and the logs are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Returns the log since the last start.
    pub fn log(&self) -> String {
        read_log(self.directory.path())
    }

    /// Asks the server to end with SIGTERM: it must, with exit code 0.
    pub fn stop(&mut self) -> Exit {
        kill_process(self.pid(), Signal::TERM).expect("the server is running");
        let status = eventually("the server to end after SIGTERM", || self.child.try_wait().expect("a child"));
        let exit = Exit { status, log: self.log() };
        assert_eq!(exit.status.code(), Some(0), "{}", exit.log);
        assert!(!exit.log.contains("panicked"), "{}", exit.log);
        exit
    }

    /// Ends the server with SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().expect("the server is running");
        self.child.wait().expect("a child");
    }

    /// Sends a signal to the server, such as SIGSTOP.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the server is running");
    }

    /// Starts a server on the store of this one, which has ended.
    pub fn restart(&mut self) {
        let launched = launch(&self.program, self.directory.path(), self.setup);
        (self.child, self.address) = launched.unwrap_or_else(|exit| panic!("the server did not start again: {exit:?}"));
    }

    /// Starts a server on the store of this one, which has ended, with more arguments, and does not wait until it listens.
    pub fn begin_restart(&mut self, arguments: &[&str]) {
        self.child = spawn(&self.program, self.directory.path(), self.setup, arguments);
    }

    /// Waits until a server that was begun to start listens.
    pub fn await_start(&mut self) {
        let launched = await_listening(&mut self.child, self.directory.path());
        self.address = launched.unwrap_or_else(|exit| panic!("the server did not start again: {exit:?}"));
    }

    /// Starts the program at `path` on the store of this server, which has ended.
    pub fn restart_as(&mut self, path: &Path) {
        path.clone_into(&mut self.program);
        self.restart();
    }

    /// The path of the program that runs.
    pub fn running_program(&self) -> PathBuf {
        fs::read_link(format!("/proc/{}/exe", self.child.id())).expect("the server is running")
    }

    /// Stops the server and gives its directory.
    pub fn into_directory(mut self) -> TempDir {
        self.stop();
        let other = tempfile::tempdir().expect("a temporary directory");
        std::mem::replace(&mut self.directory, other)
    }

    /// Has the server read its files again, and waits until its log says so `count` times in all.
    pub fn hangup(&self, count: usize, says: &str) {
        kill_process(self.pid(), Signal::HUP).expect("the server is running");
        eventually(says, || (self.log().matches(says).count() >= count).then_some(()));
    }

    /// Lets the server have no more than `count` files open from now on.
    pub fn limit_open_files(&self, count: usize) {
        let limit = getrlimit(Resource::Nofile);
        let limit = Rlimit { current: Some(count as u64), maximum: limit.maximum };
        prlimit(Some(self.pid()), Resource::Nofile, limit).expect("a child's limit may be set");
    }

    /// Fails if the server has ended or has written of a panic.
    pub fn assert_alive(&mut self) {
        let ended = self.child.try_wait().expect("a child");
        let log = self.log();
        assert!(ended.is_none(), "the server ended with {ended:?}: {log}");
        assert!(!log.contains("panicked"), "{log}");
    }

    /// Resident memory of the server, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most resident memory that the server had so far, in bytes.
    pub fn peak_bytes(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, field: &str) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(path).expect("the server is running");
        let line = status.lines().find(|line| line.starts_with(field)).expect("a running process has it");
        let kib: u64 = line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("it is in kB");
        kib * 1024
    }

    /// File descriptors the server has open.
    pub fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("the server is running").count()
    }

    /// The process.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the server's log:\n{}", self.log());
        }
    }
}

/// The file the server keeps shadows in.
pub fn store_path(directory: &Path) -> PathBuf {
    directory.join("umbra.redb")
}

/// Starts `program serve` on `directory` and waits until it listens.
fn launch(program: &Path, directory: &Path, setup: Setup) -> Result<(Child, SocketAddr), Exit> {
    let mut child = spawn(program, directory, setup, &[]);
    await_listening(&mut child, directory).map(|address| (child, address))
}

fn spawn(program: &Path, directory: &Path, setup: Setup, arguments: &[&str]) -> Child {
    let Setup { listener, limits, store } = setup;
    let path = store_path(directory);
    let config = format!(
        "[[listener]]\nname = \"test\"\nbind = \"127.0.0.1:0\"\n{listener}\n\
         [store]\npath = {path:?}\n{store}\n[limits]\n{limits}\n"
    );
    let file = directory.join("broker.toml");
    fs::write(&file, config).expect("a writable directory");
    // The server writes to files, which a thread that copies from a pipe could still do after the next start.
    let output = |name| fs::File::create(directory.join(name)).expect("a writable directory");
    umbrad_of(program, &["serve", "--config"])
        .arg(&file)
        .args(arguments)
        .current_dir(directory)
        .stdout(output("stdout"))
        .stderr(output("stderr"))
        .spawn()
        .expect("the server's binary is built")
}

/// Waits until the server listens, and returns its address.
fn await_listening(child: &mut Child, directory: &Path) -> Result<SocketAddr, Exit> {
    let deadline = Instant::now() + *DEADLINE;
    loop {
        // Asked first: what an ended server has written is complete.
        if let Some(status) = child.try_wait().expect("a child") {
            return Err(Exit { status, log: read_log(directory) });
        }
        if let Some(address) = listening(directory, "test") {
            return Ok(address);
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("no `listening test` line: {}", read_log(directory));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// The address that the server printed for `listener`, once it has.
fn listening(directory: &Path, listener: &str) -> Option<SocketAddr> {
    let prefix = format!("listening {listener} ");
    let output = read_output(directory, "stdout");
    output.split_inclusive('\n').find_map(|line| line.strip_prefix(&prefix)?.strip_suffix('\n')?.parse().ok())
}

fn read_log(directory: &Path) -> String {
    read_output(directory, "stdout") + &read_output(directory, "stderr")
}

fn read_output(directory: &Path, name: &str) -> String {
    String::from_utf8_lossy(&fs::read(directory.join(name)).unwrap_or_default()).into_owned()
}
