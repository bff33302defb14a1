//! `./demo`: the real script and server, with a fleet that says how it was called.

use std::{
    env, fs,
    io::{Read, Write},
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::{Command, Stdio},
    thread,
};

use super::site::get;
use crate::harness::{eventually, program::program};

/// Prints its arguments and comes to rest at an interrupt; at once if a duration is given.
const FLEET: &str = r#"#!/usr/bin/env bash
trap 'echo "fleet: at rest"; exit 0' INT
echo "fleet: $*"
case " $* " in *" --duration "*) exit 0 ;; esac
while :; do sleep 0.05; done
"#;

/// A folder in which the script finds the server and the fleet as built, and a `cargo` that builds nothing.
fn stage(directory: &Path) -> String {
    let release = directory.join("release");
    fs::create_dir(&release).unwrap();
    symlink(program(), release.join("umbrad")).unwrap();
    for (path, text) in [(release.join("firmware-sim"), FLEET), (directory.join("cargo"), "#!/bin/sh\n")] {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    format!("{}:{}", directory.display(), env::var("PATH").unwrap())
}

fn demo(directory: &Path, program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", stage(directory)).env("CARGO_TARGET_DIR", directory).stdout(Stdio::piped());
    command
}

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/demo");

/// Without a terminal nobody can interrupt it, so it ends by itself.
#[test]
fn a_demo_without_a_terminal_ends() {
    let directory = tempfile::tempdir().unwrap();
    let output = demo(directory.path(), SCRIPT).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    let lines: Vec<_> = said.lines().collect();
    assert!(lines[0].starts_with("The dashboard, for your browser: http://127.0.0.1:"), "{said}");
    assert!(lines.iter().any(|line| line.starts_with("fleet: ") && line.contains(" --duration 45")), "{said}");
}

#[test]
fn a_demo_on_a_terminal_runs_until_interrupted() {
    let directory = tempfile::tempdir().unwrap();
    // `script` makes its terminal raw where its own input is none. It runs the command with $SHELL, or with sh where
    // that is unset; a shell that stayed would itself die of the interrupt and hide the demo's exit status.
    let command = format!("stty sane; exec {SCRIPT} --rebase");
    // Tests that run in the background of a script have interrupts ignored, and so would all that they start.
    let mut child = demo(directory.path(), "env")
        .env("SHELL", "/bin/sh")
        .args(["--default-signal=INT", "script", "--quiet", "--return", "--command", &command, "/dev/null"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut keyboard, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let said = directory.path().join("screen");
    fs::write(&said, "").unwrap();
    let copy = said.clone();
    let reader = thread::spawn(move || {
        let (mut all, mut part) = (Vec::new(), [0; 1024]);
        while let Ok(count @ 1..) = screen.read(&mut part) {
            all.extend_from_slice(&part[..count]);
            fs::write(&copy, &all).unwrap();
        }
    });
    let line = |start: &'static str| {
        eventually(start, || {
            let text = fs::read_to_string(&said).unwrap_or_default();
            // A terminal echoes the interrupt, ^C, before what follows it.
            text.lines().find_map(|line| Some(line.trim_start_matches("^C").strip_prefix(start)?.trim_end().to_owned()))
        })
    };
    let dashboard = line("The dashboard, for your browser: http://");
    let arguments = line("fleet: ");
    assert!(!arguments.contains("--duration") && arguments.ends_with("--rebase"), "{arguments}");
    let page = get(dashboard.trim_end_matches('/').parse().unwrap(), "/");
    assert!(page.status == 200 && page.text().contains("<html"), "{page:?}");
    keyboard.write_all(b"\x03").unwrap();
    line("fleet: at rest");
    let status = child.wait().unwrap();
    reader.join().unwrap();
    assert!(status.success(), "{status:?}: {}", fs::read_to_string(&said).unwrap());
}
