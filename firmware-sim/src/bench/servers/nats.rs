//! NATS with JetStream, one replica; it syncs its streams before it acknowledges (`sync_interval: always`).

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;

use super::{Peer, Servers, write_settings};
use crate::bench::process::{Scratch, Server, free_address};

impl Servers {
    /// Starts NATS with MQTT, whose sessions and messages are in streams. The peer's address is that of MQTT.
    ///
    /// # Errors
    ///
    /// It is not installed, or does not start.
    pub(crate) fn start_nats_mqtt(&self) -> anyhow::Result<Peer> {
        let address = free_address()?;
        let mqtt = format!("server_name: bench\nmqtt {{ listen: \"{address}\", js_api_timeout: 60s }}\n");
        self.start_nats(free_address()?, address, &mqtt)
    }

    /// Starts NATS for clients of its own protocol.
    ///
    /// # Errors
    ///
    /// It is not installed, or does not start.
    pub(crate) fn start_nats_keys(&self) -> anyhow::Result<Peer> {
        let address = free_address()?;
        self.start_nats(address, address, "")
    }

    fn start_nats(&self, own: SocketAddr, address: SocketAddr, mqtt: &str) -> anyhow::Result<Peer> {
        let scratch = Scratch::new(&self.directory, "bench-nats")?;
        let directory = scratch.path().display();
        let settings =
            format!("listen: \"{own}\"\n{mqtt}jetstream {{ store_dir: \"{directory}\", sync_interval: always }}\n");
        let mut command = Command::new(&self.nats);
        command.arg("-c").arg(write_settings(&scratch, "nats.conf", &settings)?);
        let mut broker = Server::start("nats", command, scratch.path()).context("starting NATS")?;
        broker.wait_until_it_listens(address)?;
        Ok(Peer { address, http: None, servers: vec![broker], scratch })
    }
}

/// Returns the server that `./bench` installs into the directory of the builds; `beside` is the one of this program.
pub(super) fn installed_beside(beside: &Path) -> PathBuf {
    beside.parent().unwrap_or(beside).join("nats/bin/nats-server")
}
