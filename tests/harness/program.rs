//! The program `umbrad` as a child process.
//!
//! `UMBRA_TEST_BINARY` names another program to test in its place, such as an installed release.

use std::{
    ops::{Deref, DerefMut},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use super::eventually;

/// The path of the program.
pub fn program() -> PathBuf {
    std::env::var_os("UMBRA_TEST_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_umbrad").into(), PathBuf::from)
}

/// Returns a command that runs `umbrad` without standard input, and without the contexts and secrets of the user who
/// runs the tests.
pub fn umbrad(arguments: &[&str]) -> Command {
    umbrad_of(&program(), arguments)
}

/// As [`umbrad`], by the program at `path`.
pub fn umbrad_of(path: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(path);
    command.args(arguments).stdin(Stdio::null()).env("XDG_CONFIG_HOME", "/nonexistent");
    for variable in ["UMBRA_CONTEXT", "UMBRA_PASSWORD", "UMBRA_TOKEN"] {
        command.env_remove(variable);
    }
    command
}

/// The end of a command: exit code, standard output and standard error.
pub fn ended(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).expect("the output is text");
    (output.status.code().expect("no signal ended it"), text(output.stdout), text(output.stderr))
}

/// A running process, killed when dropped.
pub struct Running(Child);

impl Running {
    /// Starts `command`.
    pub fn start(command: &mut Command) -> Self {
        Self(command.spawn().expect("the server's binary is built"))
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        kill_process(Pid::from_child(&self.0), Signal::TERM).expect("the process is running");
    }

    /// Waits for the end, with a deadline.
    pub fn end(&mut self) -> ExitStatus {
        eventually("the process to end", || self.0.try_wait().expect("a child"))
    }
}

impl Deref for Running {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
