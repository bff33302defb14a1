//! The dashboard in a real browser, and what its pages are given to sign in with.
//!
//! `run.mjs` drives Chromium through what a person would do and fails with what it saw. It needs Node, Chromium and the
//! packages of `dashboard/`, which `./test` installs.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

#[path = "../harness/mod.rs"]
mod harness;

mod session;

use std::{
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    harness::{
        cluster::Cluster,
        server::{Server, Setup, UNLIMITED},
    },
    session::Site,
};

/// A listener for pages beside that for devices.
const WEB: &str = r#"
[[listener]]
name = "web"
kind = "http"
bind = "127.0.0.1:0"
"#;

/// Has the browser go through `scenario` at `server`.
fn drive(scenario: &str, server: &mut Server) {
    drive_with(scenario, server, &[]);
}

/// Has the browser go through `scenario` at `server`, with more `arguments`.
fn drive_with(scenario: &str, server: &mut Server, arguments: &[String]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let ran = Command::new("node")
        .arg(root.join("tests/dashboard/run.mjs"))
        .arg(scenario)
        .arg(format!("http://{}", server.address_of("web")))
        .arg(format!("mqtt://{}", server.address))
        .args(arguments)
        .current_dir(root)
        .stdin(Stdio::null())
        .output()
        .expect("node is installed, as by ./test");
    let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{scenario}: {said}");
    println!("{said}");
    server.assert_alive();
}

#[test]
fn concurrent_edits_lose_nothing() {
    drive("merge", &mut Server::with(Setup { listener: WEB, ..UNLIMITED }));
}

#[test]
fn a_fleet_of_a_thousand_stays_live() {
    drive("fleet", &mut Server::with(Setup { listener: WEB, ..UNLIMITED }));
}

#[test]
fn a_large_fleet_loads_what_is_in_sight() {
    drive("large", &mut Server::with(Setup { listener: WEB, ..UNLIMITED }));
}

#[test]
fn a_chart_has_every_value() {
    drive("charts", &mut Server::with(Setup { listener: WEB, ..UNLIMITED }));
}

#[test]
fn a_device_is_created_tagged_and_deleted() {
    drive("device", &mut Server::with(Setup { listener: WEB, ..UNLIMITED }));
}

#[test]
fn an_empty_fleet_shows_how_to_connect_a_device() {
    drive("first", &mut Server::with(Setup { listener: WEB, ..UNLIMITED }));
    drive("first", &mut Site::open().server);
}

#[test]
fn an_operator_looks_after_sessions_and_topics() {
    drive("operate", &mut Server::with(Setup { listener: WEB, ..UNLIMITED }));
}

#[test]
fn an_operator_sees_the_nodes_of_a_cluster() {
    // One has other limits than the others.
    let mut cluster = Cluster::with(|node| if node == 1 { "depth_max = 7" } else { "" });
    let last = cluster.nodes[2].pid().as_raw_nonzero().to_string();
    drive_with("cluster", &mut cluster.nodes[0], &[last]);
}

#[test]
fn changes_during_an_outage_appear_after_it() {
    drive("outage", &mut Server::with(Setup { listener: WEB, ..UNLIMITED }));
}

#[test]
fn a_change_is_rolled_out_and_back_by_keyboard() {
    drive("rollout", &mut Server::with(Setup { listener: WEB, ..UNLIMITED }));
}

#[test]
fn a_person_signs_in_and_out() {
    drive("sign-in", &mut Site::open().server);
}

#[test]
fn the_page_shows_only_what_the_user_may_read_and_do() {
    drive("rights", &mut Site::open().server);
}
