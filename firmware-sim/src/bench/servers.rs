//! The two servers of a comparison, each started fresh, on a port and in a directory of its own.
//!
//! Both are tuned for the load, neither is crippled: umbrad keeps every default but the quotas (a benchmark is what
//! they are there to stop), and commits to disk; mosquitto has no persistence, no log, no limit to its queues, and
//! TCP_NODELAY.

use std::{
    env, fs,
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail, ensure};

use super::{
    ECHO_READY,
    frame::Login,
    process::{Scratch, Server, cpu_time, free_address, resident_bytes},
};

/// Something to measure. Its processes and files go with it.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Processes whose CPU time is the price of an answer; the first is the broker. Ended in this order.
    servers: Vec<Server>,
    // After the processes that use it.
    _scratch: Scratch,
}

impl Peer {
    /// CPU time of all its processes.
    pub(crate) fn cpu_time(&self) -> anyhow::Result<Duration> {
        self.servers.iter().map(|server| cpu_time(server.pid())).sum()
    }

    /// Resident memory of the broker, in bytes.
    pub(crate) fn resident_bytes(&self) -> anyhow::Result<u64> {
        resident_bytes(self.broker()?.pid())
    }

    /// The end of the broker's log, to explain a failure.
    pub(crate) fn log_end(&self) -> String {
        self.broker().map(Server::log_end).unwrap_or_default()
    }

    fn broker(&self) -> anyhow::Result<&Server> {
        self.servers.first().context("a peer has a broker")
    }
}

/// How to start both.
#[derive(Debug)]
pub(crate) struct Servers {
    umbrad: PathBuf,
    mosquitto: PathBuf,
    directory: PathBuf,
}

impl Servers {
    /// Finds the programs: umbrad beside this one unless given, mosquitto on the path unless given. Stores go below
    /// `directory`, or else beside the programs, since a temporary directory may be memory that costs no sync.
    ///
    /// # Errors
    ///
    /// umbrad is not there; the text says how to build it.
    pub(crate) fn find(
        umbrad: Option<&Path>,
        mosquitto: Option<&Path>,
        directory: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let own = env::current_exe().context("finding this program")?;
        let beside = own.parent().unwrap_or(Path::new("."));
        let umbrad = umbrad.map_or_else(|| beside.join("umbrad"), Path::to_owned);
        if !umbrad.is_file() {
            bail!("{} is not there: `cargo build --release` builds it", umbrad.display());
        }
        let mosquitto = mosquitto.map_or_else(find_mosquitto, Path::to_owned);
        Ok(Self { umbrad, mosquitto, directory: directory.unwrap_or(beside).to_owned() })
    }

    /// The settings that differ from what umbrad ships with, as TOML.
    pub(crate) fn umbrad_settings(address: SocketAddr, store: &Path) -> String {
        format!(
            "[store]\npath = {:?}\n\n[[listener]]\nname = \"bench\"\n{}\n\n{QUOTAS}",
            store.display().to_string(),
            bind(address)
        )
    }

    /// A fresh umbrad with an empty store.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub(crate) fn start_umbrad(&self) -> anyhow::Result<Peer> {
        let (scratch, address) = (Scratch::new(&self.directory, "bench-umbrad")?, free_address()?);
        let settings = Self::umbrad_settings(address, &scratch.path().join("umbra.redb"));
        self.start_umbrad_with(scratch, address, &settings)
    }

    fn start_umbrad_with(&self, scratch: Scratch, address: SocketAddr, settings: &str) -> anyhow::Result<Peer> {
        let file = scratch.path().join("broker.toml");
        fs::write(&file, settings)?;
        let mut command = Command::new(&self.umbrad);
        command.arg("serve").arg("--config").arg(&file);
        // What the environment says wins over the file, and would make this another measurement.
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("UMBRA__")) {
            command.env_remove(name);
        }
        let mut server = Server::start("umbrad", command, scratch.path())?;
        server.wait_until_it_listens(address)?;
        Ok(Peer { address, servers: vec![server], _scratch: scratch })
    }

    /// A fresh umbrad that takes no clients but `login`, which may do everything.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub(crate) fn start_guarded_umbrad(&self, login: Login<'_>) -> anyhow::Result<Peer> {
        let (scratch, address) = (Scratch::new(&self.directory, "bench-umbrad")?, free_address()?);
        let users = scratch.path().join("users");
        let mut adding = Command::new(&self.umbrad)
            .args(["passwd", "add", login.user, "--stdin", "--file"])
            .arg(&users)
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        adding.stdin.take().context("standard input is piped")?.write_all(login.password.as_bytes())?;
        ensure!(adding.wait()?.success(), "umbrad passwd add failed");
        let settings = Self::umbrad_settings(address, &scratch.path().join("umbra.redb"));
        let settings = settings.replacen(&bind(address), &format!("{}\nanonymous = false", bind(address)), 1);
        let guard = format!(
            "\n[auth]\nusers = {:?}\n\n[[grant]]\nrole = \"admin\"\nprincipals = [{:?}]\n",
            users.display().to_string(),
            login.user
        );
        self.start_umbrad_with(scratch, address, &format!("{settings}{guard}"))
    }

    /// A fresh mosquitto with an echo engine that answers with `accepted_bytes` at `qos`.
    ///
    /// # Errors
    ///
    /// It is not installed, or does not start.
    pub(crate) fn start_mosquitto(&self, accepted_bytes: usize, qos: u8) -> anyhow::Result<Peer> {
        let (scratch, address) = (Scratch::new(&self.directory, "bench-mosquitto")?, free_address()?);
        let file = scratch.path().join("mosquitto.conf");
        fs::write(&file, format!("listener {} {}\n{MOSQUITTO}", address.port(), address.ip()))?;
        let mut command = Command::new(&self.mosquitto);
        command.arg("-c").arg(&file);
        let mut broker = Server::start("mosquitto", command, scratch.path())
            .context("mosquitto is the yardstick: `apt install mosquitto`, or --mosquitto PATH")?;
        broker.wait_until_it_listens(address)?;
        let mut command = Command::new(env::current_exe()?);
        command.args(["bench", "echo", "--broker", &address.to_string()]);
        command.args(["--accepted-bytes", &accepted_bytes.to_string(), "--qos", &qos.to_string()]);
        let mut echo = Server::start("echo", command, scratch.path())?;
        // An update that is published before it has subscribed goes to nobody.
        echo.wait_until_it_says(ECHO_READY)?;
        Ok(Peer { address, servers: vec![broker, echo], _scratch: scratch })
    }
}

/// The line of a listener that says where it listens.
fn bind(address: SocketAddr) -> String {
    format!("bind = \"{address}\"")
}

/// Debian installs it where only root's path looks.
fn find_mosquitto() -> PathBuf {
    let sbin = PathBuf::from("/usr/sbin/mosquitto");
    if sbin.is_file() { sbin } else { "mosquitto".into() }
}

/// The shipped quotas keep one device from taking the service for itself; here each takes all it can get.
const QUOTAS: &str = "\
[limits]
requests_per_second = 1_000_000
requests_burst = 1_000_000
publishes_per_second = 10_000_000
principal_requests_per_second = 1_000_000
shadow_writes_per_second = 1_000_000

[log]
level = \"warn\"
";

const MOSQUITTO: &str = "\
allow_anonymous true
persistence false
log_dest none
sys_interval 0
max_inflight_messages 0
max_queued_messages 0
set_tcp_nodelay true
";
