//! The servers of a comparison, each with its own port and an empty directory.
//!
//! All are tuned for the load: umbrad keeps every default but the quotas (which exist to stop a benchmark), and commits
//! to disk; mosquitto has no log, unlimited queues, and TCP_NODELAY, and keeps sessions only where the comparison is about
//! them; NATS syncs its streams before it acknowledges.

use std::{
    env, fs,
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
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

    /// Returns the resident memory once it no longer grows: the highest of five readings in a row without a new highest.
    pub(crate) fn settled_bytes(&self) -> anyhow::Result<u64> {
        let deadline = Instant::now() + Duration::from_secs(10);
        let (mut highest, mut without_growth) = (0, 0);
        while without_growth < 5 && Instant::now() < deadline {
            let now = self.resident_bytes()?;
            without_growth = if now > highest { 0 } else { without_growth + 1 };
            highest = highest.max(now);
            sleep(Duration::from_millis(100));
        }
        Ok(highest)
    }

    /// Ends the broker, without notice if `kill` is set, and starts it again on its store. Returns the time until it
    /// accepts connections.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub(crate) fn restart(&mut self, kill: bool) -> anyhow::Result<Duration> {
        let address = self.address;
        let broker = self.servers.first_mut().context("a peer has a broker")?;
        broker.restart(kill)?;
        let started = Instant::now();
        broker.wait_until_it_listens(address)?;
        Ok(started.elapsed())
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
    nats: PathBuf,
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
        let nats = beside.parent().unwrap_or(beside).join(NATS_PATH);
        Ok(Self { umbrad, mosquitto, nats, directory: directory.unwrap_or(beside).to_owned() })
    }

    /// Returns the programs with another NATS server.
    pub(crate) fn with_nats(self, nats: Option<&Path>) -> Self {
        Self { nats: nats.map_or(self.nats, Path::to_owned), ..self }
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
        let Peer { address, mut servers, _scratch: scratch } = self.start_plain_mosquitto("persistence false\n")?;
        let mut command = Command::new(env::current_exe()?);
        command.args(["bench", "echo", "--broker", &address.to_string()]);
        command.args(["--accepted-bytes", &accepted_bytes.to_string(), "--qos", &qos.to_string()]);
        let mut echo = Server::start("echo", command, scratch.path())?;
        // Updates published before the echo engine has subscribed would be lost.
        echo.wait_for_line(ECHO_READY)?;
        servers.push(echo);
        Ok(Peer { address, servers, _scratch: scratch })
    }

    /// Starts mosquitto with sessions that are saved now and then, and at its end.
    ///
    /// # Errors
    ///
    /// It is not installed, or does not start.
    pub(crate) fn start_persistent_mosquitto(&self) -> anyhow::Result<Peer> {
        self.start_plain_mosquitto("persistence true\n")
    }

    fn start_plain_mosquitto(&self, persistence: &str) -> anyhow::Result<Peer> {
        let (scratch, address) = (Scratch::new(&self.directory, "bench-mosquitto")?, free_address()?);
        let (file, directory) = (scratch.path().join("mosquitto.conf"), scratch.path().display());
        let listener = format!("listener {} {}\npersistence_location {directory}/\n", address.port(), address.ip());
        fs::write(&file, format!("{listener}{persistence}{MOSQUITTO}"))?;
        let mut command = Command::new(&self.mosquitto);
        command.arg("-c").arg(&file);
        let mut broker = Server::start("mosquitto", command, scratch.path())
            .context("mosquitto is a yardstick: `apt install mosquitto`, or --mosquitto PATH")?;
        broker.wait_until_it_listens(address)?;
        Ok(Peer { address, servers: vec![broker], _scratch: scratch })
    }

    /// Starts NATS with MQTT. Its sessions and messages are in streams, which are synced at each message.
    ///
    /// # Errors
    ///
    /// It is not installed, or does not start.
    pub(crate) fn start_nats(&self) -> anyhow::Result<Peer> {
        let (scratch, address, other) =
            (Scratch::new(&self.directory, "bench-nats")?, free_address()?, free_address()?);
        let (file, directory) = (scratch.path().join("nats.conf"), scratch.path().display());
        let settings = format!(
            "listen: \"{other}\"\nserver_name: bench\nmqtt {{ listen: \"{address}\", js_api_timeout: 60s }}\n\
             jetstream {{ store_dir: \"{directory}\", sync_interval: always }}\n"
        );
        fs::write(&file, settings)?;
        let mut command = Command::new(&self.nats);
        command.arg("-c").arg(&file);
        let mut broker = Server::start("nats", command, scratch.path()).with_context(|| {
            format!("{} is a yardstick: ./bench-sessions installs it, or --nats PATH", self.nats.display())
        })?;
        broker.wait_until_it_listens(address)?;
        Ok(Peer { address, servers: vec![broker], _scratch: scratch })
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

/// The NATS server that `bench-sessions` installs, from the directory of the builds.
const NATS_PATH: &str = "bench-nats/bin/nats-server";

const MOSQUITTO: &str = "\
allow_anonymous true
log_dest none
sys_interval 0
max_inflight_messages 0
max_queued_messages 0
set_tcp_nodelay true
";
