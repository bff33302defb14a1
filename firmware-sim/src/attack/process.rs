//! The processes around an attack: the server that is started for it, the attacker, and the watch over memory.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail, ensure};

use super::{
    packet::Credentials,
    stage::{Counts, Event, Orders},
    web,
};
use crate::bench::process::{Scratch, Server, cpu_time, free_address};

/// A server that was started for one attack. It ends, and its files are removed, when this is dropped.
pub(super) struct Spawned {
    server: Server,
    /// Its addresses.
    pub(super) mqtt: SocketAddr,
    /// Its HTTP address.
    pub(super) http: SocketAddr,
    cgroup: Option<Cgroup>,
    _scratch: Scratch,
}

impl Spawned {
    /// Starts `umbrad` with an empty store, users for `devices` and `admins`, and otherwise the shipped configuration and
    /// `settings`.
    ///
    /// # Errors
    ///
    /// It does not start, or there is no cgroup for it.
    pub(super) fn start(
        umbrad: &Path,
        devices: &[&Credentials],
        admins: &[&Credentials],
        settings: &str,
        memory_max: Option<u64>,
    ) -> anyhow::Result<Self> {
        let umbrad = umbrad.canonicalize().with_context(|| format!("{} is not there", umbrad.display()))?;
        let own = std::env::current_exe()?;
        // Beside this program: a temporary directory may be in memory, where a sync is free.
        let scratch = Scratch::new(own.parent().unwrap_or(Path::new(".")), "attack-umbrad")?;
        let users = scratch.path().join("users");
        let list: String =
            devices.iter().chain(admins).map(|login| format!("{}:{}\n", login.name, login.password)).collect();
        let mut import = Command::new(&umbrad)
            .args(["passwd", "import", "--file"])
            .arg(&users)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        import.stdin.take().context("standard input is piped")?.write_all(list.as_bytes())?;
        ensure!(import.wait()?.success(), "umbrad passwd import failed");
        let (mqtt, http) = (free_address()?, free_address()?);
        let names = |logins: &[&Credentials]| logins.iter().map(|login| login.name.clone()).collect::<Vec<_>>();
        let config = format!(
            "[store]\npath = \"umbra.redb\"\n\n[auth]\nusers = \"users\"\n\n\
             [[listener]]\nname = \"devices\"\nbind = \"{mqtt}\"\nanonymous = false\n\n\
             [[listener]]\nname = \"web\"\nkind = \"http\"\nbind = \"{http}\"\nanonymous = false\nmetrics = true\n\n\
             [[grant]]\nrole = \"device\"\nprincipals = {:?}\n\n\
             [[grant]]\nrole = \"admin\"\nprincipals = {:?}\n\n[log]\nlevel = \"warn\"\n\n{settings}",
            names(devices),
            names(admins)
        );
        let file = scratch.path().join("umbra.toml");
        fs::write(&file, config)?;
        let mut command = Command::new(&umbrad);
        command.arg("serve").arg("--config").arg(&file);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("UMBRA__")) {
            command.env_remove(name);
        }
        let cgroup = memory_max.map(Cgroup::new).transpose()?;
        let mut server = Server::start("umbrad", command, scratch.path())?;
        if let Some(cgroup) = &cgroup {
            cgroup.add(server.pid())?;
        }
        server.wait_until_it_listens(mqtt)?;
        server.wait_until_it_listens(http)?;
        Ok(Self { server, mqtt, http, cgroup, _scratch: scratch })
    }

    /// Returns the process id.
    pub(super) fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Returns the last lines of its log.
    pub(super) fn log_end(&self) -> String {
        self.server.log_end()
    }

    /// Returns true if its cgroup ended it for its memory.
    pub(super) fn was_killed(&self) -> bool {
        self.cgroup.as_ref().is_some_and(Cgroup::has_killed)
    }
}

/// A cgroup of version 2 with a limit of memory, removed when this is dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(memory_max: u64) -> anyhow::Result<Self> {
        let path = Path::new("/sys/fs/cgroup").join(format!("umbra-attack-{}", std::process::id()));
        let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
        ensure!(
            controllers.split_whitespace().any(|name| name == "memory"),
            "--cgroup-memory is not possible here: /sys/fs/cgroup is no cgroup of version 2 with the memory controller"
        );
        fs::create_dir(&path)
            .with_context(|| format!("--cgroup-memory is not possible here: creating {}", path.display()))?;
        let cgroup = Self(path);
        fs::write(cgroup.0.join("memory.max"), memory_max.to_string())
            .context("--cgroup-memory is not possible here: the memory controller is not delegated")?;
        let _ = fs::write(cgroup.0.join("memory.swap.max"), "0");
        Ok(cgroup)
    }

    fn add(&self, pid: u32) -> anyhow::Result<()> {
        Ok(fs::write(self.0.join("cgroup.procs"), pid.to_string())?)
    }

    fn has_killed(&self) -> bool {
        let events = fs::read_to_string(self.0.join("memory.events")).unwrap_or_default();
        events.lines().any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count != "0"))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Only succeeds once the server in it has ended; it is dropped after it.
        let _ = fs::remove_dir(&self.0);
    }
}

/// The attacker's process. It is ended when this is dropped.
pub(super) struct Attacker {
    child: Child,
    stdin: ChildStdin,
    events: mpsc::Receiver<Event>,
}

impl Attacker {
    /// Starts it, with its orders.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub(super) fn start(orders: &Orders) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("attack-process")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the attacker")?;
        let mut stdin = child.stdin.take().context("standard input is piped")?;
        writeln!(stdin, "{}", serde_json::to_string(orders)?)?;
        let output = BufReader::new(child.stdout.take().context("standard output is piped")?);
        let (sender, events) = mpsc::channel();
        thread::spawn(move || {
            let lines = output.lines().map_while(Result::ok);
            for event in lines.filter_map(|line| serde_json::from_str(&line).ok()) {
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, stdin, events })
    }

    /// Waits until it reports its next event, which must be as expected.
    ///
    /// # Errors
    ///
    /// It failed, ended or took too long.
    pub(super) fn wait_until(&self, expected: impl Fn(&Event) -> bool, deadline: Duration) -> anyhow::Result<()> {
        match self.events.recv_timeout(deadline) {
            Ok(event) if expected(&event) => Ok(()),
            Ok(Event::Failed(error)) => Err(anyhow!(error).context("the attacker failed")),
            Ok(event) => bail!("the attacker reported {event:?} too early"),
            Err(_) => bail!("the attacker did not report in {deadline:?}"),
        }
    }

    /// Orders it to attack.
    pub(super) fn attack(&mut self) -> anyhow::Result<()> {
        Ok(writeln!(self.stdin, "attack")?)
    }

    /// Orders it to stop, and returns its counts.
    pub(super) fn stop(mut self) -> anyhow::Result<Counts> {
        let _ = writeln!(self.stdin, "stop");
        match self.events.recv_timeout(STOP_DEADLINE) {
            Ok(Event::Done(counts)) => Ok(counts),
            Ok(event) => bail!("the attacker reported {event:?} in the place of its counts"),
            Err(_) => bail!("the attacker did not stop in {STOP_DEADLINE:?}"),
        }
    }

    /// Returns the CPU time of its process so far.
    pub(super) fn cpu_time(&self) -> Duration {
        cpu_time(self.child.id()).unwrap_or_default()
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The resources of the server at a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Usage {
    /// The time.
    pub(super) at: Instant,
    /// Resident memory in bytes.
    pub(super) bytes: u64,
    /// Threads, if they are known.
    pub(super) threads: u64,
}

/// The place to read the server's memory.
#[derive(Debug, Clone)]
pub(super) enum Gauge {
    /// A process of this machine.
    Process(u32),
    /// The page `/metrics`, with the credential of an admin.
    Metrics(SocketAddr, Option<Credentials>),
}

impl Gauge {
    fn read(&self) -> anyhow::Result<(u64, u64)> {
        match self {
            Self::Process(pid) => {
                let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
                let field = |name: &str| {
                    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
                    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()
                };
                // A process that has ended, and is not waited for, has no VmRSS.
                Ok((field("VmRSS:").context("no VmRSS")? * 1024, field("Threads:").unwrap_or_default()))
            }
            Self::Metrics(address, login) => {
                let login = login.clone().unwrap_or(Credentials { name: String::new(), password: String::new() });
                let mut stream = TcpStream::connect_timeout(address, METRICS)?;
                stream.set_read_timeout(Some(METRICS))?;
                stream.write_all(&web::request(&login, "GET", "/metrics", &[("Connection", "close")], b""))?;
                let mut page = String::new();
                stream.read_to_string(&mut page)?;
                let value = page.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
                Ok((value.context("no memory in /metrics")?.trim().parse::<f64>()? as u64, 0))
            }
        }
    }
}

/// A thread that reads the server's memory.
pub(super) struct Watch {
    stop: Arc<AtomicBool>,
    readings: Arc<Mutex<Vec<Usage>>>,
    thread: JoinHandle<()>,
}

impl Watch {
    /// Starts it.
    pub(super) fn start(gauge: Gauge) -> Self {
        let (stop, readings) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (stopped, list) = (stop.clone(), readings.clone());
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((bytes, threads)) = gauge.read() {
                    let usage = Usage { at: Instant::now(), bytes, threads };
                    list.lock().unwrap_or_else(PoisonError::into_inner).push(usage);
                }
                thread::sleep(READING);
            }
        });
        Self { stop, readings, thread }
    }

    /// Ends it and returns its readings.
    pub(super) fn finish(self) -> Vec<Usage> {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
        std::mem::take(&mut self.readings.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

const READING: Duration = Duration::from_millis(50);
const METRICS: Duration = Duration::from_secs(5);
const STOP_DEADLINE: Duration = Duration::from_secs(20);
