//! Python's paho; what it does is in `paho_client.py`.

use std::{env, path::PathBuf, process::Command};

use crate::{WITH_WEB, harness::server::Server};

/// As paho calls them.
const TRANSPORTS: [&str; 2] = ["tcp", "websockets"];

fn run(version: &str) {
    for transport in TRANSPORTS {
        run_over(version, transport);
    }
}

fn run_over(version: &str, transport: &str) {
    let python = env::var("UMBRA_TEST_PYTHON").unwrap_or_else(|_| {
        panic!("UMBRA_TEST_PYTHON names no interpreter with paho-mqtt: run ./test, which installs it")
    });
    let server = Server::with(WITH_WEB);
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clients/paho_client.py");
    let address = if transport == "tcp" { server.address } else { server.address_of("web") };
    let port = address.port().to_string();
    let output = Command::new(&python)
        .arg(script)
        .args(["127.0.0.1", &port, version, transport])
        .output()
        .unwrap_or_else(|error| panic!("{python}: {error}: run ./test, which installs it"));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    println!("{said}");
}

#[test]
fn paho_3_1_1() {
    run("3.1.1");
}

#[test]
fn paho_5() {
    run("5");
}
