//! NATS servers as child processes, in one NATS cluster or alone, each with a directory of its own. `UMBRA_TEST_NATS` names
//! the program.
//!
//! The unit tests of `src/cluster/nats` use this file too.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// The accounts: the one of the nodes may ask for the settings of servers, the other may not.
const ACCOUNTS: &str = r#"
accounts {
  SYS: {
    users: [{ user: sys, password: sys }]
    exports: [{ service: "$SYS.REQ.SERVER.PING.VARZ", response_type: stream, accounts: [UMBRA] }]
  }
  UMBRA: {
    jetstream: enabled
    users: [{ user: node, password: secret }]
    imports: [{ service: { account: SYS, subject: "$SYS.REQ.SERVER.PING.VARZ" } }]
  }
  OTHER: { jetstream: enabled, users: [{ user: other, password: secret }] }
}
system_account: SYS
"#;

/// A variation of the servers.
#[derive(Clone, Copy)]
pub struct Variation {
    pub count: usize,
    pub sync_interval: &'static str,
    pub max_payload: &'static str,
    /// More lines of the configuration.
    pub more: &'static str,
}

/// Three servers as they should be.
pub const SOUND: Variation = Variation { count: 3, sync_interval: "always", max_payload: "8MB", more: "" };

/// Running servers; dropped, they are killed.
pub struct NatsServers {
    servers: Vec<NatsServer>,
    directory: TempDir,
}

struct NatsServer {
    port: u16,
    configuration: PathBuf,
    child: Option<Child>,
}

impl NatsServers {
    pub fn start(variation: Variation) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let ports: Vec<_> = (0..variation.count).map(|_| (free_port(), free_port())).collect();
        let routes: Vec<_> = ports.iter().map(|(_, cluster)| format!("\"nats://127.0.0.1:{cluster}\"")).collect();
        let server = |(number, (port, cluster)): (usize, &(u16, u16))| {
            let store = directory.path().join(format!("n{number}"));
            let Variation { count, sync_interval, max_payload, more } = variation;
            let mut text = format!(
                "server_name: n{number}\nlisten: \"127.0.0.1:{port}\"\nmax_payload: {max_payload}\n\
                 jetstream {{ store_dir: {store:?}, sync_interval: {sync_interval} }}\n{ACCOUNTS}{more}\n"
            );
            if count > 1 {
                let routes = routes.join(", ");
                text += &format!("cluster {{ name: tests, listen: \"127.0.0.1:{cluster}\", routes: [{routes}] }}\n");
            }
            let configuration = directory.path().join(format!("n{number}.conf"));
            fs::write(&configuration, text).expect("a writable directory");
            NatsServer { port: *port, configuration, child: None }
        };
        let servers = ports.iter().enumerate().map(server).collect();
        write_private(&directory.path().join("credentials"), "node secret\n");
        let mut all = Self { servers, directory };
        (0..variation.count).for_each(|number| all.launch(number));
        all
    }

    /// Servers that are not launched yet, with their ports and configurations, which are files in `directory`.
    #[allow(dead_code, reason = "not all tests have configurations of their own")]
    pub fn of(directory: TempDir, servers: impl IntoIterator<Item = (u16, PathBuf)>) -> Self {
        let server = |(port, configuration)| NatsServer { port, configuration, child: None };
        Self { servers: servers.into_iter().map(server).collect(), directory }
    }

    /// Starts a server, with the files that it had.
    pub fn launch(&mut self, number: usize) {
        let server = &mut self.servers[number];
        let log = fs::File::options().create(true).append(true).open(server.configuration.with_extension("log"));
        let child = Command::new(program())
            .arg("-c")
            .arg(&server.configuration)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("a writable directory"))
            .spawn();
        server.child = Some(child.expect("UMBRA_TEST_NATS is a program"));
    }

    /// Ends a server with SIGKILL.
    pub fn kill(&mut self, number: usize) {
        if let Some(mut child) = self.servers[number].child.take() {
            child.kill().expect("the server is running");
            child.wait().expect("a child");
        }
    }

    /// Removes what a server has stored, which has ended.
    pub fn empty(&self, number: usize) {
        fs::remove_dir_all(self.file(&format!("n{number}"))).expect("the directory of a server");
    }

    /// Ends a server with SIGTERM, and waits for its end.
    pub fn terminate(&mut self, number: usize) {
        self.signal(number, Signal::TERM);
        if let Some(mut child) = self.servers[number].child.take() {
            child.wait().expect("a child");
        }
    }

    /// Sends a signal, such as SIGSTOP, to a running server.
    pub fn signal(&self, number: usize, signal: Signal) {
        let child = self.servers[number].child.as_ref().expect("the server is running");
        kill_process(Pid::from_child(child), signal).expect("the server is running");
    }

    /// The addresses for nodes.
    pub fn urls(&self) -> Vec<String> {
        self.ports().map(|port| format!("nats://127.0.0.1:{port}")).collect()
    }

    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.servers.iter().map(|server| server.port)
    }

    /// The path of another file in the directory of the servers; `credentials` has those of a node.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Returns the logs of the servers.
    pub fn logs(&self) -> String {
        let logs = self.servers.iter().map(|server| fs::read_to_string(server.configuration.with_extension("log")));
        logs.map(Result::unwrap_or_default).collect()
    }
}

impl Drop for NatsServers {
    fn drop(&mut self) {
        for child in self.servers.iter_mut().filter_map(|server| server.child.as_mut()) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Writes a file that only its owner may read.
pub fn write_private(path: &Path, text: &str) {
    fs::write(path, text).expect("a writable directory");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("an own file");
}

/// Returns a port that nobody listens on, below those that the system gives to clients: it must still be free after a restart.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = (std::process::id() % 500) as u16 * 20;
    loop {
        let port = 20_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

fn program() -> PathBuf {
    let path = std::env::var_os("UMBRA_TEST_NATS");
    path.expect("UMBRA_TEST_NATS names no nats-server: run ./test, which installs it").into()
}
