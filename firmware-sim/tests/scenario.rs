//! A small scenario of every kind of device, with a kill of the server in the middle, has a clean oracle.
//!
//! It ends after a number of accepted updates, whatever time they take.

#![allow(clippy::indexing_slicing, clippy::panic, missing_docs, reason = "tests")]

mod server;

use std::process::{Command, Output};

use serde_json::Value;
use server::umbrad;

fn firmware_sim(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_firmware-sim")).args(arguments).output().expect("firmware-sim runs")
}

#[test]
fn every_kind_of_device_converges_across_faults_and_a_kill_of_the_server() {
    let server = umbrad();
    let server = server.to_str().expect("a path in UTF-8");
    let scenario = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/every-kind.toml");
    let output = firmware_sim(&["soak", "--scenario", scenario, "--umbrad", server, "--kills", "1", "--json"]);
    let log = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}\n{log}"));
    assert_eq!(report["violations"], Value::Array(Vec::new()), "{report:#}\n{log}");
    assert!(output.status.success(), "{log}");
    let count = |name: &str| report[name].as_u64().unwrap_or_else(|| panic!("no {name} in {report:#}"));
    assert!(count("accepted") >= 1_500, "{report:#}");
    assert_eq!(count("refused"), 0, "{report:#}\n{log}");
    assert_eq!(report["faults"]["kills of the server"], 1);
    assert!(count("commands") > 0 && count("effects") >= count("commands"), "{report:#}");
    // The rollout goes on after the kill, if it was created before, and no device gets more than its wave allows.
    let rollouts = report["rollouts"].as_array().unwrap_or_else(|| panic!("no rollouts in {report:#}"));
    let [rollout] = rollouts.as_slice() else { panic!("not one rollout: {report:#}") };
    assert_eq!((&rollout["state"], &rollout["devices"]), (&"completed".into(), &8.into()), "{report:#}\n{log}");
    assert_eq!(rollout["waves"], serde_json::json!([4, 8]), "{report:#}");
    let groups: Vec<_> = report["convergence"].as_array().into_iter().flatten().map(|times| &times["group"]).collect();
    for group in ["thermostats", "meters", "locks", "pumps"] {
        assert!(groups.contains(&&Value::from(group)), "{group} has no convergence: {report:#}");
    }
}

#[test]
fn a_wrong_file_is_refused_with_its_key() {
    let scratch = std::env::temp_dir().join(format!("umbra-scenario-test-{}.toml", std::process::id()));
    std::fs::write(&scratch, "[[group]]\nname = \"a\"\nkind = \"pump\"\ncount = 0\nevery = \"1m\"\n").expect("written");
    let file = scratch.to_str().expect("a path in UTF-8");
    let output = firmware_sim(&["scenario", "check", file]);
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{log}");
    let expected =
        format!("firmware-sim: in {file}: in group \"a\": count = 0 is out of range; allowed are 1 to 20000\n");
    assert_eq!(log, expected);
    std::fs::remove_file(&scratch).expect("removed");
}
