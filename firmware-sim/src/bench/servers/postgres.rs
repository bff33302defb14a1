//! mosquitto with a worker that keeps the shadows in PostgreSQL.
//!
//! PostgreSQL commits to disk (`fsync`, `synchronous_commit`), with more shared memory than its default. It refuses to run
//! as root; then it runs as the user `postgres`, or `nobody`.

use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;

use super::{Peer, Servers, mosquitto::engine};
use crate::bench::process::{Server, free_address};

impl Servers {
    /// Starts mosquitto, PostgreSQL, and the worker, which answers with `accepted_bytes` at `qos`.
    ///
    /// # Errors
    ///
    /// One of them is not installed, or does not start.
    pub(crate) fn start_postgres(&self, accepted_bytes: usize, qos: u8) -> anyhow::Result<Peer> {
        let mut peer = self.start_plain_mosquitto("persistence false\n")?;
        let (directory, address) = (peer.scratch.path().join("postgres"), free_address()?);
        fs::create_dir(&directory)?;
        let user = unprivileged_user();
        if let Some((uid, gid)) = user {
            chown(&directory, Some(uid), Some(gid)).context("giving PostgreSQL its directory")?;
        }
        let program = |name: &str| {
            let mut command = Command::new(self.postgres.join(name));
            // Its user may not enter the directory of this process.
            command.arg("-D").arg(&directory).current_dir("/");
            if let Some((uid, gid)) = user {
                command.uid(uid).gid(gid);
            }
            command
        };
        let mut creating = program("initdb");
        creating.args(["--auth", "trust", "--username", "bench", "--encoding", "UTF8", "--no-locale"]);
        Server::run_to_end(&mut creating).context("creating a database: --directory must be open to its user")?;
        let mut command = program("postgres");
        command.args(["-h", "127.0.0.1", "-p", &address.port().to_string()]).arg("-k").arg(&directory);
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        let mut server = Server::start("postgres", command, peer.scratch.path())?;
        server.wait_for_line("ready to accept connections")?;
        peer.servers.push(server);
        let mut worker = engine("postgres-worker", peer.address, accepted_bytes, qos)?;
        worker.args(["--postgres", &address.to_string()]);
        peer.start_engine("postgres-worker", worker)?;
        Ok(peer)
    }
}

/// Returns the ids of a user and its group for PostgreSQL, if this process is root.
fn unprivileged_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    ["postgres", "nobody"].iter().find_map(|wanted| {
        let fields = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
        fields.into_iter().find_map(|fields| match fields.as_slice() {
            [name, _, uid, gid, ..] if name == wanted => Some((uid.parse().ok()?, gid.parse().ok()?)),
            _ => None,
        })
    })
}

/// Returns the directory of the newest version that Debian has installed, or that of `initdb` on the path.
pub(super) fn find() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let directories = versions.map(|version| version.path()).filter(|version| version.join("bin/initdb").is_file());
    let number = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    let newest = directories.max_by_key(number).map(|version| version.join("bin"));
    let on_path = || super::on_path(Path::new("initdb"))?.parent().map(Path::to_owned);
    newest.or_else(on_path).unwrap_or_else(|| "/usr/lib/postgresql/bin".into())
}

/// Durable commits, and shared memory for a dedicated machine.
const SETTINGS: [&str; 4] = ["fsync=on", "synchronous_commit=on", "shared_buffers=512MB", "max_wal_size=4GB"];
