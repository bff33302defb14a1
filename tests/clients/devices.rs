//! The device programs of `examples/devices` as they are, each against a server: they boot without a shadow, obey what
//! is desired while they run, and what was desired while they were away. A program that ends fails its test at once,
//! with what it wrote.
//!
//! `./test` installs what they need. Those for ESP-IDF, Arduino and MicroPython need their toolchains and do not run.

#[allow(dead_code, reason = "its main is that of a program")]
#[path = "../../examples/devices/rust/lamp.rs"]
mod lamp;

use std::{
    fs::File,
    future::Future,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::harness::{eventually, program::umbrad, server::Server};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::{runtime::Runtime, task::JoinHandle};

/// A lamp that runs until it is dropped.
trait Lamp {
    /// How it ended and what it wrote, once it did.
    fn ended(&mut self) -> Option<String>;
}

/// A program of its own.
struct Program {
    child: Child,
    /// Its standard output and standard error.
    output: NamedTempFile,
}

impl Lamp for Program {
    fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().unwrap()?;
        Some(format!("{status}\n{}", String::from_utf8_lossy(&std::fs::read(self.output.path()).unwrap())))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A task of this process.
struct Task<T> {
    runtime: Runtime,
    task: JoinHandle<T>,
}

impl<T: std::fmt::Debug + Send + 'static> Task<T> {
    fn start(lamp: impl Future<Output = T> + Send + 'static) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let task = runtime.spawn(lamp);
        Self { runtime, task }
    }
}

impl<T: std::fmt::Debug> Lamp for Task<T> {
    fn ended(&mut self) -> Option<String> {
        self.task.is_finished().then(|| format!("{:?}", self.runtime.block_on(&mut self.task)))
    }
}

fn example(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/devices").join(path)
}

/// Runs a command against `server`. Returns the JSON that it prints, if any.
fn command(server: &Server, arguments: &[&str]) -> Option<Value> {
    let url = format!("mqtt://{}", server.address);
    let output = umbrad(arguments).args(["--url", &url]).output().unwrap();
    serde_json::from_slice(&output.stdout).ok()
}

/// Waits until the lamp has reported `power`.
fn reports(server: &Server, lamp: &mut impl Lamp, power: &str) {
    let reported = eventually(&format!("the report of {power}"), || {
        if let Some(how) = lamp.ended() {
            return Some(Err(how));
        }
        let shadow = command(server, &["get", "lamp-1"])?;
        (shadow["state"]["reported"]["power"] == power).then_some(Ok(()))
    });
    if let Err(how) = reported {
        panic!("the lamp ended: {how}");
    }
}

fn desire(server: &Server, power: &str) {
    let desired = json!({ "power": power }).to_string();
    command(server, &["update", "lamp-1", "--desired", &desired]).expect("the update is accepted");
}

/// Has a lamp boot, obey, lose its power, and boot again; `boot` starts it.
fn lives<L: Lamp>(boot: impl Fn(&Server) -> L) {
    let server = Server::start();
    let mut lamp = boot(&server);
    reports(&server, &mut lamp, "off");
    for power in ["on", "off"] {
        desire(&server, power);
        reports(&server, &mut lamp, power);
    }
    drop(lamp);
    // A lamp is off when it boots: it is on only because that is desired.
    desire(&server, "on");
    let mut lamp = boot(&server);
    reports(&server, &mut lamp, "on");
}

fn start(command: &mut Command) -> Program {
    let output = NamedTempFile::new().unwrap();
    let writer = || File::options().append(true).open(output.path()).unwrap();
    let child = command.stdin(Stdio::null()).stdout(writer()).stderr(writer()).spawn();
    Program { child: child.expect("./test installs what the examples need"), output }
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
        Task::start(async move { lamp::run("lamp-1", &url).await })
    });
}

#[test]
#[should_panic(expected = "the lamp ended: exit status: 3\nno such module")]
fn a_program_that_ends_fails_its_test_at_once() {
    lives(|_| start(Command::new("sh").args(["-c", "echo no such module >&2; exit 3"])));
}

#[test]
#[should_panic(expected = "the lamp ended: Ok(7)")]
fn a_task_that_ends_fails_its_test_at_once() {
    lives(|_| Task::start(async { 7 }));
}
