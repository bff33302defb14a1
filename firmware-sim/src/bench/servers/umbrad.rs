//! umbrad with its defaults, but for the quotas.

use std::{
    env,
    io::Write,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, ensure};

use super::{Peer, Servers, write_settings};
use crate::bench::{
    frame::Login,
    process::{Scratch, Server, free_address},
};

impl Servers {
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
        self.start_umbrad_in(&self.directory)
    }

    /// Starts umbrad with an empty store below `directory`.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub(crate) fn start_umbrad_in(&self, directory: &Path) -> anyhow::Result<Peer> {
        let (scratch, address) = (Scratch::new(directory, "bench-umbrad")?, free_address()?);
        let settings = Self::umbrad_settings(address, &scratch.path().join("umbra.redb"));
        self.start_umbrad_with(scratch, address, None, &settings)
    }

    /// Starts umbrad with an empty store and a listener for HTTP.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub(crate) fn start_umbrad_with_http(&self) -> anyhow::Result<Peer> {
        self.start_indexed_umbrad(&[])
    }

    /// Starts umbrad with an empty store, a listener for HTTP, and an index of these paths.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub(crate) fn start_indexed_umbrad(&self, indexed: &[&str]) -> anyhow::Result<Peer> {
        let scratch = Scratch::new(&self.directory, "bench-umbrad")?;
        let (address, http) = (free_address()?, free_address()?);
        let settings = Self::umbrad_settings(address, &scratch.path().join("umbra.redb"));
        let web = format!("[[listener]]\nname = \"web\"\nkind = \"http\"\n{}\n", bind(http));
        let settings = format!("{settings}\n{web}\n[search]\nindexed = {indexed:?}\n");
        self.start_umbrad_with(scratch, address, Some(http), &settings)
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
        self.start_umbrad_with(scratch, address, None, &format!("{settings}{guard}"))
    }

    fn start_umbrad_with(
        &self,
        scratch: Scratch,
        address: SocketAddr,
        http: Option<SocketAddr>,
        settings: &str,
    ) -> anyhow::Result<Peer> {
        let mut command = Command::new(&self.umbrad);
        command.arg("serve").arg("--config").arg(write_settings(&scratch, "broker.toml", settings)?);
        // Variables of the environment override the file, and would change the measurement.
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("UMBRA__")) {
            command.env_remove(name);
        }
        let mut server = Server::start("umbrad", command, scratch.path())?;
        for address in [Some(address), http].into_iter().flatten() {
            server.wait_until_it_listens(address)?;
        }
        Ok(Peer { address, http, servers: vec![server], scratch })
    }
}

/// Returns the address in the line of a listener.
fn bind(address: SocketAddr) -> String {
    format!("bind = \"{address}\"")
}

/// Limits that no measurement reaches: the defaults keep one device, and one address, from using all of the service. Here
/// all clients have few addresses.
const QUOTAS: &str = "\
[limits]
requests_rate = \"1000000/s burst 1000000\"
publishes_rate = \"10000000/s burst 5000\"
address_connects_rate = \"1000000/s burst 1000000\"

[log]
level = \"warn\"
";
