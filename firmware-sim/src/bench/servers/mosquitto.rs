//! mosquitto: no log, unlimited queues, TCP_NODELAY; with sessions that it keeps only where the comparison is about them.

use std::{env, net::SocketAddr, path::PathBuf, process::Command};

use anyhow::Context;

use super::{Peer, Servers, write_settings};
use crate::bench::{
    peers::ENGINE_READY,
    process::{Scratch, Server, free_address},
};

impl Servers {
    /// Starts mosquitto with an echo engine that answers with `accepted_bytes` at `qos`.
    ///
    /// # Errors
    ///
    /// It is not installed, or does not start.
    pub(crate) fn start_mosquitto(&self, accepted_bytes: usize, qos: u8) -> anyhow::Result<Peer> {
        let mut peer = self.start_plain_mosquitto("persistence false\n")?;
        let echo = engine("echo", peer.address, accepted_bytes, qos)?;
        peer.start_engine("echo", echo)?;
        Ok(peer)
    }

    /// Starts mosquitto with sessions that are saved now and then, and at its end.
    ///
    /// # Errors
    ///
    /// It is not installed, or does not start.
    pub(crate) fn start_persistent_mosquitto(&self) -> anyhow::Result<Peer> {
        self.start_plain_mosquitto("persistence true\n")
    }

    pub(super) fn start_plain_mosquitto(&self, persistence: &str) -> anyhow::Result<Peer> {
        let (scratch, address) = (Scratch::new(&self.directory, "bench-mosquitto")?, free_address()?);
        let directory = scratch.path().display();
        let listener = format!("listener {} {}\npersistence_location {directory}/\n", address.port(), address.ip());
        let file = write_settings(&scratch, "mosquitto.conf", &format!("{listener}{persistence}{SETTINGS}"))?;
        let mut command = Command::new(&self.mosquitto);
        command.arg("-c").arg(&file);
        let mut broker = Server::start("mosquitto", command, scratch.path()).context("starting mosquitto")?;
        broker.wait_until_it_listens(address)?;
        Ok(Peer { address, http: None, servers: vec![broker], scratch })
    }
}

impl Peer {
    /// Starts a process that answers the updates, and waits until it has subscribed: earlier updates would be lost.
    pub(super) fn start_engine(&mut self, name: &str, command: Command) -> anyhow::Result<()> {
        let mut engine = Server::start(name, command, self.scratch.path())?;
        engine.wait_for_line(ENGINE_READY)?;
        self.servers.push(engine);
        Ok(())
    }
}

/// Returns the command of an engine of this program behind the broker at `address`.
pub(super) fn engine(name: &str, broker: SocketAddr, accepted_bytes: usize, qos: u8) -> anyhow::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.args(["bench", name, "--broker", &broker.to_string()]);
    command.args(["--accepted-bytes", &accepted_bytes.to_string(), "--qos", &qos.to_string()]);
    Ok(command)
}

/// Returns the program in the directory in which Debian installs it, which only root's PATH has.
pub(super) fn find() -> PathBuf {
    let sbin = PathBuf::from("/usr/sbin/mosquitto");
    if sbin.is_file() { sbin } else { "mosquitto".into() }
}

const SETTINGS: &str = "\
allow_anonymous true
log_dest none
sys_interval 0
max_inflight_messages 0
max_queued_messages 0
set_tcp_nodelay true
";
