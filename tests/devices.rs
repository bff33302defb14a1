//! The device programs of `examples/devices` as they are, each against a server: they boot without a shadow, obey what
//! is desired while they run, and what was desired while they were away.
//!
//! `./test` installs what they need. Those for ESP-IDF, Arduino and MicroPython need their toolchains and do not run.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod harness;

#[allow(dead_code, reason = "its main is that of a program")]
#[path = "../examples/devices/rust/lamp.rs"]
mod lamp;

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use harness::{eventually, server::Server};
use serde_json::{Value, json};

/// A program that runs; killed when it is dropped.
struct Device(Child);

impl Drop for Device {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn example(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/devices").join(path)
}

fn umbrad(server: &Server, arguments: &[&str]) -> Option<Value> {
    let url = format!("mqtt://{}", server.address);
    let output = Command::new(env!("CARGO_BIN_EXE_umbrad")).args(arguments).args(["--url", &url]).output().unwrap();
    serde_json::from_slice(&output.stdout).ok()
}

/// Waits until the lamp has reported `power`.
fn reports(server: &Server, power: &str) {
    eventually(&format!("the report of {power}"), || {
        let shadow = umbrad(server, &["get", "lamp-1"])?;
        (shadow["state"]["reported"]["power"] == power).then_some(())
    });
}

fn desire(server: &Server, power: &str) {
    let desired = json!({ "power": power }).to_string();
    umbrad(server, &["update", "lamp-1", "--desired", &desired]).expect("the update is accepted");
}

/// Has a lamp boot, obey, lose its power, and boot again; `boot` starts it.
fn lives<D>(boot: impl Fn(&Server) -> D) {
    let server = Server::start();
    let device = boot(&server);
    reports(&server, "off");
    desire(&server, "on");
    reports(&server, "on");
    drop(device);
    desire(&server, "off");
    let _device = boot(&server);
    reports(&server, "off");
}

fn start(command: &mut Command) -> Device {
    Device(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("./test installs what the examples need"))
}

#[test]
fn the_lamp_in_python_obeys() {
    let python = std::env::var_os("UMBRA_TEST_PYTHON").unwrap_or_else(|| "python3".into());
    lives(|server| {
        let (host, port) = (server.address.ip().to_string(), server.address.port().to_string());
        start(Command::new(&python).arg(example("python/lamp.py")).args(["lamp-1", &host, &port]))
    });
}

#[test]
fn the_lamp_in_javascript_obeys() {
    lives(|server| {
        let url = format!("mqtt://{}", server.address);
        let mut command = Command::new("node");
        if let Some(modules) = std::env::var_os("UMBRA_TEST_NODE") {
            command.env("NODE_PATH", modules);
        }
        start(command.arg(example("node/lamp.js")).args(["lamp-1", &url]))
    });
}

#[test]
fn the_lamp_in_c_obeys() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("lamp");
    // As the head of the file says.
    let build = "cc -Wall -Wextra -Werror \"$1\" -o \"$2\" $(pkg-config --cflags --libs libmosquitto libcjson)";
    let built = Command::new("sh").args(["-c", build, "sh"]).arg(example("c/lamp.c")).arg(&program).status().unwrap();
    assert!(built.success(), "libmosquitto-dev, libcjson-dev and pkg-config are installed by ./test");
    lives(|server| {
        let (host, port) = (server.address.ip().to_string(), server.address.port().to_string());
        start(Command::new(&program).args(["lamp-1", &host, &port]))
    });
}

#[test]
fn the_lamp_in_rust_obeys() {
    lives(|server| {
        let url = format!("mqtt://{}", server.address);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.spawn(async move { lamp::run("lamp-1", &url).await.expect("the lamp runs until it is dropped") });
        runtime
    });
}
