//! paho for C; what it does is in `paho_c_client.c`.

use std::{env, path::Path, process::Command};

use crate::{
    WITH_WEB,
    harness::server::{Server, Setup, UNLIMITED},
};

/// Compiles the client into `directory`.
fn build(directory: &Path) -> std::path::PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/paho_c_client.c");
    let program = directory.join("paho_c_client");
    let compiler = env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let output = Command::new(&compiler)
        .args(["-Wall", "-Werror", "-o"])
        .args([program.as_path(), &source])
        .arg("-lpaho-mqtt3c")
        .output()
        .unwrap_or_else(|error| panic!("{compiler}: {error}: run ./test, which installs it"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "paho for C is needed: run ./test, which installs it: {said}");
    program
}

fn run(version: &str) {
    let server = Server::with(Setup { limits: UNLIMITED.limits, ..WITH_WEB });
    let program = build(server.directory());
    for url in [format!("tcp://{}", server.address), format!("ws://{}/mqtt", server.address_of("web"))] {
        let output = Command::new(&program).args([&url, version]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{url} {version}: {said}{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn paho_c_3_1_1() {
    run("3.1.1");
}

#[test]
fn paho_c_5() {
    run("5");
}
