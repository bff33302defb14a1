//! `./demo --cluster`: the real script, servers and fleet. It ends with the verdict over all nodes, one of which was killed.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, missing_docs, reason = "tests")]

mod server;

use std::{
    env, fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use server::umbrad;

/// A folder in which the script finds the programs as built and NATS as installed, and a `cargo` that builds nothing.
fn stage(directory: &Path) {
    let release = directory.join("release");
    fs::create_dir(&release).unwrap();
    symlink(umbrad(), release.join("umbrad")).unwrap();
    symlink(env!("CARGO_BIN_EXE_firmware-sim"), release.join("firmware-sim")).unwrap();
    let nats = PathBuf::from(env::var_os("UMBRA_TEST_NATS").expect("UMBRA_TEST_NATS names no nats-server: run ./test"));
    symlink(nats.canonicalize().unwrap().ancestors().nth(2).unwrap(), directory.join("nats")).unwrap();
    let cargo = directory.join("cargo");
    fs::write(&cargo, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_demo_of_a_cluster_kills_the_decider_and_loses_nothing() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("demo");
    if directory.exists() {
        fs::remove_dir_all(&directory).unwrap();
    }
    fs::create_dir(&directory).unwrap();
    stage(&directory);
    let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../demo"))
        .args(["--cluster", "--devices", "8", "--duration", "25", "--settle", "90"])
        .env("PATH", format!("{}:{}", directory.display(), env::var("PATH").unwrap()))
        .env("CARGO_TARGET_DIR", &directory)
        .output()
        .unwrap();
    let (said, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{log}");
    let lines = |part: &str| said.lines().chain(log.lines()).filter(|line| line.contains(part)).count();
    assert_eq!(lines("The dashboard of node "), 3, "{said}");
    assert_eq!(lines("which decides. Its clients go to other nodes"), 1, "{said}");
    assert_eq!(lines("is back and has what it missed"), 1, "{said}");
    assert_eq!(lines("has 8 of 8 shadows as the devices have read them"), 3, "{said}\n{log}");
    assert_eq!(lines("oracle: every accepted update is accounted for"), 1, "{said}\n{log}");
}
