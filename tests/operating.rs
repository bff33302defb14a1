//! `docs/operating.md`, run from top to bottom as somebody would who follows it.
//!
//! Nothing of it is changed but where it listens: on free ports of loopback.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::{
    env, fs,
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
};

const PAGE: &str = include_str!("../docs/operating.md");

/// The blocks of code in one language, in order.
fn blocks<'p>(page: &'p str, language: &str) -> Vec<&'p str> {
    let fence = format!("```{language}\n");
    page.split(&fence).skip(1).map(|rest| rest.split("```\n").next().unwrap()).collect()
}

/// The page, with ports that are free in the place of its own.
fn page() -> String {
    let sockets = ["8883", "8443"].map(|port| (port, TcpListener::bind("127.0.0.1:0").unwrap()));
    let page = PAGE.replace("0.0.0.0:", "127.0.0.1:");
    sockets
        .iter()
        .fold(page, |page, (port, socket)| page.replace(port, &socket.local_addr().unwrap().port().to_string()))
}

#[test]
fn the_worked_example_works() {
    let python = env::var("UMBRA_TEST_PYTHON")
        .unwrap_or_else(|_| panic!("UMBRA_TEST_PYTHON names no interpreter with paho: run ./test, which installs it"));
    let directory = tempfile::tempdir().unwrap();
    let page = page();
    let configuration = blocks(&page, "toml");
    assert_eq!(configuration.len(), 1);
    fs::write(directory.path().join("umbra.toml"), configuration[0]).unwrap();

    // A failure in the middle must not leave the server behind.
    let end = "trap 'kill -9 $(cat umbrad.pid 2>/dev/null) 2>/dev/null || true' EXIT";
    let script = format!("set -euo pipefail\n{end}\nset -x\n{}\necho done\n", blocks(&page, "sh").join("\n"));
    fs::write(directory.path().join("script"), script).unwrap();
    let tools =
        [Path::new(env!("CARGO_BIN_EXE_umbrad")), Path::new(&python)].map(|tool| tool.parent().unwrap().display());
    let path = format!("{}:{}:{}", tools[0], tools[1], env::var("PATH").unwrap());
    let output = Command::new("bash")
        .arg("script")
        .current_dir(directory.path())
        .env("PATH", path)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let log = fs::read_to_string(directory.path().join("umbrad.log")).unwrap_or_default();
    let traced = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{traced}\nthe server's log:\n{log}");
    assert!(said.ends_with("done\n"));
    assert!(!log.contains("panicked"), "{log}");
}
