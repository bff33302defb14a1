//! The two servers of a comparison, each with its own port and an empty directory.
//!
//! Both are tuned for the load: umbrad keeps every default but the quotas (which exist to stop a benchmark), and commits
//! to disk; mosquitto has no persistence, no log, unlimited queues, and TCP_NODELAY.

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
    echo::ECHO_READY,
    frame::Login,
    process::{Scratch, Server, cpu_time, free_address, resident_bytes},
};

/// A measured broker. Its processes are ended and its files removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Its address.
    pub(crate) address: SocketAddr,
    /// The processes whose CPU time is measured; the first is the broker. Ended in this order.
    servers: Vec<Server>,
    // Dropped after the processes that use it.
    _scratch: Scratch,
}

impl Peer {
    /// Returns the CPU time of all its processes.
    pub(crate) fn cpu_time(&self) -> anyhow::Result<Duration> {
        self.servers.iter().map(|server| cpu_time(server.pid())).sum()
    }

    /// Returns the resident memory of the broker, in bytes.
    pub(crate) fn resident_bytes(&self) -> anyhow::Result<u64> {
        resident_bytes(self.broker()?.pid())
    }

    /// Returns the end of the broker's log.
    pub(crate) fn log_end(&self) -> String {
        self.broker().map(Server::log_end).unwrap_or_default()
    }

    fn broker(&self) -> anyhow::Result<&Server> {
        self.servers.first().context("a peer has a broker")
    }
}

/// The programs and the directory for their stores.
#[derive(Debug)]
pub(crate) struct Servers {
    umbrad: PathBuf,
    mosquitto: PathBuf,
    directory: PathBuf,
}

impl Servers {
    /// Finds the programs: umbrad beside this one and mosquitto on the path, unless given. Stores are below `directory`,
    /// by default beside the programs: a temporary directory may be in memory, where a sync is free.
    ///
    /// # Errors
    ///
    /// umbrad is missing; the text says how to build it.
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

    /// Returns the settings that differ from umbrad's defaults, as TOML.
    pub(crate) fn umbrad_settings(address: SocketAddr, store: &Path) -> String {
        format!(
            "[store]\npath = {:?}\n\n[[listener]]\nname = \"bench\"\n{}\n\n{QUOTAS}",
            store.display().to_string(),
            bind(address)
        )
    }

    /// Starts umbrad with an empty store.
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
        // Variables of the environment override the file, and would change the measurement.
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("UMBRA__")) {
            command.env_remove(name);
        }
        let mut server = Server::start("umbrad", command, scratch.path())?;
        server.wait_until_it_listens(address)?;
        Ok(Peer { address, servers: vec![server], _scratch: scratch })
    }

    /// Starts umbrad with an empty store and one user, `login`, who may do everything.
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

    /// Starts mosquitto with an echo engine that answers with `accepted_bytes` at `qos`.
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
        // Updates published before the echo engine has subscribed would be lost.
        echo.wait_for_line(ECHO_READY)?;
        Ok(Peer { address, servers: vec![broker, echo], _scratch: scratch })
    }
}

/// Returns the address in the line of a listener.
fn bind(address: SocketAddr) -> String {
    format!("bind = \"{address}\"")
}

/// The directory in which Debian installs it; only root's PATH has it.
fn find_mosquitto() -> PathBuf {
    let sbin = PathBuf::from("/usr/sbin/mosquitto");
    if sbin.is_file() { sbin } else { "mosquitto".into() }
}

/// Limits that no measurement reaches: the defaults keep one device from using all of the service.
const QUOTAS: &str = "\
[limits]
requests_rate = \"1000000/s burst 1000000\"
publishes_rate = \"10000000/s burst 5000\"

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
