//! The recipe for three machines in `docs/cluster.md`: its commands, NATS configuration and section of `broker.toml`.
//!
//! Nothing of them is changed but addresses and folders, since the three machines are one here.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use tempfile::TempDir;

use crate::harness::{
    eventually,
    http::Http,
    nats::{NatsServers, free_port, write_private},
    server::{Server, Setup},
};

/// The ports of a machine's NATS server: for clients and for routes.
type Ports = (u16, u16);

/// The texts of the recipe.
struct Recipe {
    commands: String,
    nats: String,
    broker: String,
}

impl Recipe {
    fn read() -> Self {
        let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cluster.md")).unwrap();
        let section = page.split("\n## ").find(|section| section.starts_with("Three machines")).unwrap();
        // The blocks are parts of a numbered list.
        let section = section.replace("\n   ", "\n");
        let block = |begin: &str| {
            let (_, rest) = section.split_once(&format!("```{begin}")).unwrap_or_else(|| panic!("no {begin}"));
            rest.split_once("\n```").unwrap().0.to_owned()
        };
        let nats = format!("server_name:{}", block("\nserver_name:"));
        Self { commands: block("sh\n"), nats, broker: block("toml\n") }
    }

    /// Makes the certificates, which are valid for the addresses here as well.
    fn make_certificates(&self, folder: &Path) {
        let commands = self.commands.replace("DNS:$server", "DNS:$server, IP:127.0.0.1");
        assert_ne!(commands, self.commands);
        let mut command = Command::new("bash");
        command.args(["-euc", &commands]).current_dir(folder).stdin(Stdio::null());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Writes the configuration of a server and what it names, as on a machine of its own.
    fn lay_out(&self, folder: &Path, number: usize, ports: &[Ports]) -> PathBuf {
        let machine = folder.join(format!("machine-{number}"));
        fs::create_dir(&machine).unwrap();
        for (file, copy) in [
            ("nats-ca.pem".to_owned(), "ca.pem"),
            (format!("nats-{number}.pem"), "server.pem"),
            (format!("nats-{number}.key"), "server.key"),
        ] {
            fs::copy(folder.join(file), machine.join(copy)).unwrap();
        }
        let (client, route) = ports[number - 1];
        let mut text = self.nats.replace("server_name: nats-1", &format!("server_name: nats-{number}"));
        text = text.replace("/etc/nats", machine.to_str().unwrap());
        text = text.replace("/var/lib/nats", machine.join("store").to_str().unwrap());
        text = text.replace("0.0.0.0:4222", &format!("127.0.0.1:{client}"));
        text = moved(&text.replace("0.0.0.0:6222", &format!("127.0.0.1:{route}")), ports);
        let configuration = machine.join("nats.conf");
        fs::write(&configuration, text).unwrap();
        configuration
    }

    /// The section of a node, with its credentials.
    fn section(&self, folder: &Path, number: usize, ports: &[Ports]) -> String {
        let credentials = folder.join("credentials");
        write_private(&credentials, "node NODE_PASSWORD\n");
        let text = moved(&self.broker, ports).replace("node = 1", &format!("node = {number}"));
        let text = text.replace("/etc/umbrad/nats-ca.pem", folder.join("nats-ca.pem").to_str().unwrap());
        text.replace("\"/etc/umbrad/nats\"", &format!("{credentials:?}"))
    }
}

/// `text`, with the addresses of the servers on this machine.
fn moved(text: &str, ports: &[Ports]) -> String {
    let names = (1..).zip(ports);
    names.fold(text.to_owned(), |text, (number, (client, route))| {
        let text = text.replace(&format!("nats-{number}:4222"), &format!("127.0.0.1:{client}"));
        text.replace(&format!("nats-{number}:6222"), &format!("127.0.0.1:{route}"))
    })
}

/// The nodes of the recipe had addresses with `tls://`, its servers no certificate: none started. Its port for routes was open to
/// everybody, who could join the servers and write the log.
#[test]
fn the_recipe_for_three_machines_makes_a_cluster() {
    let directory = TempDir::new().unwrap();
    let folder = directory.path().to_owned();
    let recipe = Recipe::read();
    recipe.make_certificates(&folder);
    let ports = [(); 3].map(|()| (free_port(), free_port()));
    let mut servers: Vec<_> =
        (1..=3).map(|number| (ports[number - 1].0, recipe.lay_out(&folder, number, &ports))).collect();
    let intruders = intruders(&servers[0].1, ports[0]);
    servers.extend(intruders);
    let mut nats = NatsServers::of(directory, servers);
    (0..3).for_each(|number| nats.launch(number));

    let setup = |number| {
        let section = recipe.section(&folder, number, &ports);
        let web = "[[listener]]\nname = \"web\"\nkind = \"http\"\nbind = \"127.0.0.1:0\"\n";
        Setup { listener: format!("{web}{section}\n").leak(), ..Setup::default() }
    };
    let nodes: Vec<_> = thread::scope(|scope| {
        let starting: Vec<_> = (1..=3).map(|number| scope.spawn(move || Server::with(setup(number)))).collect();
        starting.into_iter().map(|node| node.join().expect("a node starts")).collect()
    });
    let get =
        |node: &Server, path: &str| Http::connect(node.address_of("web")).send(&format!("GET {path} HTTP/1.1"), b"");
    for node in &nodes {
        eventually("a node to be ready", || (get(node, "/readyz").status == 200).then_some(()));
    }
    // The log is on all three, and nothing is wrong.
    eventually("a sound cluster", || {
        let state = get(&nodes[0], "/v1/cluster").json();
        let mut names: Vec<_> =
            state["log"]["servers"].as_array()?.iter().filter_map(|server| server["name"].as_str()).collect();
        names.sort_unstable();
        let is_sound = state["problems"].as_array()?.is_empty() && state["nodes"].as_array()?.len() == 3;
        (is_sound && names == ["nats-1", "nats-2", "nats-3"]).then_some(())
    });

    // Neither a server without a certificate nor one without the password becomes a part of it.
    for (intruder, refusal) in [(3, "TLS route handshake error"), (4, "authentication error")] {
        assert!(!nats.logs().contains(refusal), "{}", nats.logs());
        nats.launch(intruder);
        eventually(refusal, || nats.logs().contains(refusal).then_some(()));
        nats.kill(intruder);
    }
}

/// The configurations of two more servers: one as the recipe was, and one with a certificate and another password.
fn intruders(first: &Path, (client, route): Ports) -> [(u16, PathBuf); 2] {
    let text = fs::read_to_string(first).unwrap();
    let without = |text: &str, key: &str| {
        let lines = text.lines().filter(|line| !line.trim_start().starts_with(key));
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    let open = without(&without(&text, "tls {"), "authorization {").replace("route:ROUTE_PASSWORD@", "");
    let other = text.replace("ROUTE_PASSWORD", "guessed");
    assert!(!open.contains("tls") && !open.contains("ROUTE_PASSWORD"), "{open}");
    [("open", open), ("other", other)].map(|(name, text)| {
        let (own_client, own_route) = (free_port(), free_port());
        let text = text.replace("server_name: nats-1", &format!("server_name: {name}"));
        let text =
            text.replace(&format!("listen: \"127.0.0.1:{client}\""), &format!("listen: \"127.0.0.1:{own_client}\""));
        let text =
            text.replace(&format!("listen: \"127.0.0.1:{route}\""), &format!("listen: \"127.0.0.1:{own_route}\""));
        let text = text.replace("/store\"", &format!("/store-{name}\""));
        let configuration = first.with_file_name(format!("{name}.conf"));
        fs::write(&configuration, text).unwrap();
        (own_client, configuration)
    })
}
