//! Stock rumqttd with an echo engine on its `Broker::link`: a process of this program.

use std::{env, process::Command};

use super::{Peer, Servers};
use crate::bench::process::{Scratch, Server, free_address};

impl Servers {
    /// Starts it; the engine answers with `accepted_bytes`.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub(crate) fn start_rumqttd(&self, accepted_bytes: usize) -> anyhow::Result<Peer> {
        let (scratch, address) = (Scratch::new(&self.directory, "bench-rumqttd")?, free_address()?);
        let mut command = Command::new(env::current_exe()?);
        command.args(["bench", "rumqttd-peer", "--listen", &address.to_string()]);
        command.args(["--accepted-bytes", &accepted_bytes.to_string()]);
        let mut server = Server::start("rumqttd", command, scratch.path())?;
        server.wait_until_it_listens(address)?;
        Ok(Peer { address, http: None, servers: vec![server], scratch })
    }
}
