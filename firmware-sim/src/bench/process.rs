//! The server processes of a measurement, and their CPU time and memory.
//!
//! *Invariant:* a process is ended and waited for when its [`Server`] is dropped, however the measurement ends. An
//! interrupt from a terminal reaches it too: it is in the same process group.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    name: String,
    command: Command,
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts `command` with its output in a file in `directory`.
    ///
    /// # Errors
    ///
    /// It could not be started.
    pub(crate) fn start(name: &str, mut command: Command, directory: &Path) -> anyhow::Result<Self> {
        let log = directory.join(format!("{name}.log"));
        let output = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().with_context(|| format!("starting {}", command.get_program().display()))?;
        Ok(Self { name: name.to_owned(), command, child, log })
    }

    /// Runs `command` to its end.
    ///
    /// # Errors
    ///
    /// It could not be started, or failed; the text has its output.
    pub(crate) fn run_to_end(command: &mut Command) -> anyhow::Result<()> {
        let name = command.get_program().display().to_string();
        let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting {name}"))?;
        ensure!(output.status.success(), "{name} failed: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Ends it, without notice if `kill` is set, and starts it again.
    ///
    /// # Errors
    ///
    /// It could not be started.
    pub(crate) fn restart(&mut self, kill: bool) -> anyhow::Result<()> {
        if kill {
            self.child.kill()?;
        }
        self.end();
        self.child = self.command.spawn()?;
        Ok(())
    }

    /// Returns the CPU time of the process and of its children.
    ///
    /// # Errors
    ///
    /// The process has ended.
    pub(crate) fn cpu_time(&self) -> anyhow::Result<Duration> {
        let pid = self.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let children = children.split_whitespace().filter_map(|child| child.parse().ok());
        // A child may end in between.
        Ok(cpu_time(pid)? + children.filter_map(|child| cpu_time(child).ok()).sum())
    }

    /// Waits until it accepts connections.
    ///
    /// # Errors
    ///
    /// It ended, or took too long; the text has the end of its log.
    pub(crate) fn wait_until_it_listens(&mut self, address: SocketAddr) -> anyhow::Result<()> {
        self.wait_until("listens", |_| TcpStream::connect(address).is_ok())
    }

    /// Waits until its output contains `text`.
    ///
    /// # Errors
    ///
    /// As [`Self::wait_until_it_listens`].
    pub(crate) fn wait_for_line(&mut self, text: &str) -> anyhow::Result<()> {
        self.wait_until("is ready", |log| fs::read_to_string(log).is_ok_and(|log| log.contains(text)))
    }

    fn wait_until(&mut self, what: &str, happened: impl Fn(&Path) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_DEADLINE;
        while !happened(&self.log) {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status} before it {what}:\n{}", self.name, self.log_end());
            }
            if Instant::now() > deadline {
                bail!("{} has not come so far that it {what}:\n{}", self.name, self.log_end());
            }
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Returns the process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the last lines of its output.
    pub(crate) fn log_end(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(10).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    fn end(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // The child was not waited for yet, so the id is still its own.
            let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
            let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
            if !self.ended_within(STOP_DEADLINE) {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
    }

    fn ended_within(&mut self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return true;
            }
            sleep(Duration::from_millis(10));
        }
        false
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// A directory that is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Creates one inside `parent`.
    ///
    /// # Errors
    ///
    /// It could not be created.
    pub(crate) fn new(parent: &Path, name: &str) -> anyhow::Result<Self> {
        let path = parent.join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Self(path))
    }

    /// Returns its path.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Returns a free address on loopback.
///
/// # Errors
///
/// There is none.
pub(crate) fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}

/// Returns the resident memory of a process, in bytes.
///
/// # Errors
///
/// There is no such process.
pub(crate) fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kilobytes * 1024)
}

/// Returns the bytes that a process caused to be written to a disk.
///
/// # Errors
///
/// There is no such process, or it belongs to another user.
pub(crate) fn written_bytes(pid: u32) -> anyhow::Result<u64> {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).context("reading the bytes written by the server")?;
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes:")).context("no write_bytes")?;
    Ok(line.trim().parse()?)
}

/// Returns the CPU time of a process, user and kernel.
///
/// # Errors
///
/// There is no such process.
pub(crate) fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is a name in parentheses that may contain any character; utime and stime are the 12th and 13th after it.
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

const START_DEADLINE: Duration = Duration::from_secs(60);
const STOP_DEADLINE: Duration = Duration::from_secs(10);
