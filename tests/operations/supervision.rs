//! A server under a service manager: what it is sent on its socket, the unit for systemd, and the alerts for Prometheus.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::{fd::AsRawFd, unix::net::UnixDatagram},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::io::{FdFlags, fcntl_setfd};
use serde_json::{Value, json};
use umbrad::config::{Arguments, Config, Host, ListenerKind};

use super::metrics::{metrics_of_all_kinds, names_in};
use crate::harness::{
    DEADLINE,
    program::{Running, ended, umbrad},
    wire::{Connect, V5},
};

#[test]
fn notifies_the_service_manager_of_ready_watchdog_and_stopping() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(*DEADLINE)).unwrap();
    let mut command = umbrad(&["serve", "--bind", "127.0.0.1:0"]);
    command.current_dir(directory.path()).env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "100000");
    let mut server = Running::start(command.stdout(Stdio::null()).stderr(Stdio::null()));
    let next = || {
        let mut buffer = [0; 256];
        let count = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..count]).trim_end().to_owned()
    };
    assert_eq!([next(), next(), next()], ["READY=1", "WATCHDOG=1", "WATCHDOG=1"]);
    server.terminate();
    let last = loop {
        match next() {
            said if said == "WATCHDOG=1" => {}
            said => break said,
        }
    };
    assert_eq!(last, "STOPPING=1");
    assert_eq!(server.end().code(), Some(0));
}

/// A command that runs `umbrad serve` at `bind`, with `socket` as the only one that its service manager has opened.
fn activated(directory: &Path, socket: &TcpListener, bind: &str) -> Command {
    fcntl_setfd(socket, FdFlags::empty()).unwrap();
    let mut command = umbrad(&["serve", "--bind", bind]);
    command.env("LISTEN_FDS", "1").env("LISTEN_FDS_FIRST_FD", socket.as_raw_fd().to_string());
    command.current_dir(directory);
    command
}

#[test]
fn a_socket_of_the_service_manager_stays_open_over_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let ask = |client_id: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(*DEADLINE)).unwrap();
        stream.write_all(&Connect::persistent(V5, client_id).encode()).unwrap();
        stream
    };
    let connack = |mut stream: TcpStream| {
        let mut head = [0; 4];
        stream.read_exact(&mut head).unwrap();
        assert_eq!((head[0], head[3]), (0x20, 0), "{head:?}");
    };
    let start = || {
        let mut command = activated(directory.path(), &socket, &address.to_string());
        Running::start(command.stdout(Stdio::null()).stderr(Stdio::null()))
    };
    let mut server = start();
    connack(ask("first"));
    server.terminate();
    assert_eq!(server.end().code(), Some(0));
    // Refused before: nobody listened.
    let waiting = ask("second");
    let _server = start();
    connack(waiting);
}

#[test]
fn a_socket_that_no_listener_has_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let output = activated(directory.path(), &socket, "127.0.0.1:0").output().unwrap();
    let (code, _, err) = ended(output);
    let said = format!("the service manager passed a socket at {}", socket.local_addr().unwrap());
    assert!(code == 2 && err.contains(&said), "{code} {err}");
}

/// A check before the start ended with its own status, which systemd does not compare with `RestartPreventExitStatus`: a
/// wrong configuration was tried again for ever.
#[test]
fn the_systemd_unit_has_the_documented_settings() {
    let unit = include_str!("../../packaging/umbrad.service");
    let has = |line: &str| unit.lines().any(|given| given == line);
    assert!(!unit.lines().any(|line| line.starts_with("ExecStartPre")), "{unit}");
    for line in ["Type=notify", "WatchdogSec=30s", "RestartPreventExitStatus=2 4", "Restart=on-failure"] {
        assert!(has(line), "{line}");
    }
}

/// Returns the files below `folder`.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

/// The unit hid `/proc/meminfo` (`ProcSubset=pid`), from which the server took the memory of the machine: without an
/// error, its limits were those of a machine with 1 GiB.
#[test]
fn the_systemd_unit_leaves_what_the_server_reads_of_the_kernel() {
    let unit = include_str!("../../packaging/umbrad.service");
    let has = |line: &str| unit.lines().any(|given| given == line);
    for (hardening, left) in [
        // Folders of processes; those of other users are hidden.
        (["ProcSubset=pid", "ProtectProc=invisible"], "/proc/self/"),
        // Files that cannot be written.
        (["ProtectControlGroups=yes", "ProtectKernelTunables=yes"], "/sys/fs/cgroup"),
    ] {
        assert!(hardening.iter().all(|line| has(line)), "{hardening:?}");
        let root = left.split_inclusive('/').take(2).collect::<String>();
        let mut read = 0;
        for path in files_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
            let source = fs::read_to_string(&path).unwrap_or_default();
            let code = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
            for (at, _) in code.match_indices(&format!("\"{root}")) {
                assert!(code[at + 1..].starts_with(left), "{}: {}", path.display(), code[at..].lines().next().unwrap());
                read += 1;
            }
        }
        assert!(read > 0, "{left}");
    }
}

fn promtool(what: &str, file: &str) {
    let path = format!("{}/packaging/{file}", env!("CARGO_MANIFEST_DIR"));
    let output =
        Command::new("promtool").args([what, "rules", &path]).output().expect("promtool is installed: run ./test");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

/// Nobody runs a cluster for a test; what is in the manifest is read, and the server says what it thinks of its own part.
///
/// The annotations had Prometheus scrape the pod, whose address was none of the hosts: it got 403.
#[test]
fn the_kubernetes_manifest_fits_the_server() {
    const READ: &str = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(sys.stdin))))";
    let python = std::env::var("UMBRA_TEST_PYTHON").expect("UMBRA_TEST_PYTHON names an interpreter: run ./test");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/kubernetes.yaml");
    let output = Command::new(python).args(["-c", READ]).stdin(fs::File::open(path).unwrap()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let documents: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let of_kind = |kind: &str| documents.iter().find(|document| document["kind"] == kind).unwrap();
    let spec = &of_kind("StatefulSet")["spec"]["template"]["spec"];
    let container = &spec["containers"][0];
    assert_eq!(container["args"], json!(["serve", "--config", "/etc/umbra/umbra.toml"]));
    assert_eq!(spec["volumes"][1]["secret"]["defaultMode"], 0o400);
    for (probe, path) in [("livenessProbe", "/healthz"), ("readinessProbe", "/readyz"), ("startupProbe", "/healthz")] {
        assert_eq!(container[probe]["httpGet"], json!({"path": path, "port": "http"}));
    }

    let text = of_kind("ConfigMap")["data"]["umbra.toml"].as_str().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("umbra.toml");
    fs::write(&file, text).unwrap();
    // The kubelet replaces a variable that is defined further up.
    let [pod, hosts] = container["env"].as_array().unwrap().as_slice() else { panic!("{container}") };
    assert_eq!(pod, &json!({"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}));
    let value = hosts["value"].as_str().unwrap();
    assert!(value.contains("$(POD_IP)"), "{value}");
    let load = |address: &str| {
        let variable = (hosts["name"].as_str().unwrap().to_owned(), value.replace("$(POD_IP)", address));
        Config::load(Some(&file), [variable], &Arguments::default()).unwrap()
    };
    for address in ["10.1.2.3", "fd00::7"] {
        let ListenerKind::Http(http) = &load(address).listeners[1].kind else { panic!("{address}") };
        let hosts = ["umbra.example.com", address].map(|host| Host::parse(host).unwrap());
        assert_eq!((&*http.hosts, http.metrics), (&hosts[..], true));
    }
    let config = load("10.1.2.3");
    let scraped = &of_kind("StatefulSet")["spec"]["template"]["metadata"]["annotations"]["prometheus.io/port"];
    assert_eq!(*scraped, config.listeners[1].bind.port().to_string());
    let ports: Vec<_> = config.listeners.iter().map(|listener| json!(listener.bind.port())).collect();
    let exposed: Vec<_> =
        container["ports"].as_array().unwrap().iter().map(|port| port["containerPort"].clone()).collect();
    assert_eq!(ports, exposed);
    // Its files are those of the Secret and the volume, and no others.
    let mounts: Vec<_> = container["volumeMounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mount| mount["mountPath"].as_str().unwrap())
        .collect();
    let tls = config.listeners[0].tls.clone().unwrap();
    let clients = tls.clients.unwrap();
    let files =
        [config.store.path, config.auth.users.unwrap(), tls.certificate, tls.key, clients.ca, clients.crl.unwrap()];
    for file in files {
        assert!(mounts.iter().any(|mount| file.parent() == Some(std::path::Path::new(mount))), "{}", file.display());
    }
}

#[test]
fn the_alerts_are_valid_and_fire() {
    promtool("check", "umbra-alerts.yml");
    promtool("test", "umbra-alerts-test.yml");
    let read = |file: &str| fs::read_to_string(format!("{}/packaging/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let named = |text: &str, key: &str| -> BTreeSet<String> {
        text.lines()
            .filter_map(|line| Some(line.trim().trim_start_matches("- ").strip_prefix(key)?.trim().to_owned()))
            .collect()
    };
    let (rules, tests) = (read("umbra-alerts.yml"), read("umbra-alerts-test.yml"));
    let alerts = named(&rules, "alert:");
    assert!(alerts.len() >= 10, "{alerts:?}");
    assert_eq!(alerts, named(&tests, "alertname:"), "each alert is tested");

    // What they look at is there.
    let there = metrics_of_all_kinds();
    let mut used = BTreeSet::new();
    names_in(&rules, &mut used);
    // Without TLS there is no certificate either, which has a test of its own.
    used.remove("umbra_tls_certificate_expiry_seconds");
    assert!(used.len() >= 10, "{used:?}");
    for name in used {
        assert!(there.iter().any(|metric| metric.starts_with(&name)), "{name} is not there");
    }
}
