//! Every attack runs, in its smallest form, and the server takes its packets as the attack means them.
//!
//! No time is asserted: the verdicts of such short runs say nothing.

#![allow(clippy::indexing_slicing, clippy::panic, missing_docs, reason = "tests")]

mod server;

use std::{
    fs,
    process::{Command, Output},
    thread,
};

use serde_json::Value;
use server::umbrad;

fn attack(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_firmware-sim")).arg("attack").args(arguments).output().expect("firmware-sim runs")
}

#[test]
fn every_attack_runs_and_is_accepted_as_intended() {
    let server = umbrad();
    let server = server.to_str().expect("a path in UTF-8");
    let list = attack(&["--list"]);
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    let names: Vec<_> = list.lines().filter_map(|line| line.split_whitespace().next()).collect();
    // Mostly waiting, so several at a time.
    let run = |names: &[&str]| -> Vec<Value> {
        let flags = ["--smallest", "--seconds", "1", "--json", "--spawn", server];
        let output = attack(&[names, &flags[..]].concat());
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{log}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {log}"))
    };
    let reports: Vec<Value> = thread::scope(|scope| {
        let threads: Vec<_> = names.chunks(names.len().div_ceil(4)).map(|part| scope.spawn(|| run(part))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("the attacks run")).collect()
    });
    let run: Vec<_> = reports.iter().map(|report| report["attack"].as_str().expect("a name")).collect();
    assert_eq!(run, names);
    assert!(run.len() >= 30, "{} attacks", run.len());
    for report in &reports {
        let (name, attacker) = (&report["label"], &report["attacker"]);
        let count = |field: &str| attacker[field].as_u64().unwrap_or_else(|| panic!("{name}: no {field}"));
        assert_eq!(count("prepared"), count("wanted"), "{name}: {attacker}");
        assert!(count("accepted") + count("prepared") > 0, "{name}: {attacker}");
        // A fast machine may reach a rate.
        let by_rate = attacker["firstError"].as_str().is_some_and(|why| why.contains("0x97") || why.contains("429"));
        assert!(count("refused") == 0 || by_rate, "{name}: {attacker}");
        for phase in ["before", "during"] {
            assert!(report[phase]["samples"].as_u64() > Some(0), "{name}: {report}");
        }
        assert!(report["memoryPeak"].as_u64() > Some(0), "{name}: {report}");
    }
    // The attacks that are about deliveries cause some.
    for name in ["fan-out", "event-fan-out", "shared-groups", "response-topics", "event-streams"] {
        let report = reports.iter().find(|report| report["attack"] == name).expect(name);
        assert!(report["attacker"]["deliveries"].as_u64() > Some(0), "{name}: {report}");
    }
}

#[test]
fn a_limit_that_is_not_kept_is_a_failure() {
    let server = umbrad();
    let server = server.to_str().expect("a path in UTF-8");
    let arguments = ["ping-flood", "--smallest", "--seconds", "1", "--memory-max", "1K", "--spawn", server];
    assert!(attack(&arguments).status.success(), "without --assert a verdict is no failure");
    let output = attack(&[&arguments[..], &["--assert"]].concat());
    assert_eq!(output.status.code(), Some(1));
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(log.contains("FAILED (") && log.contains("MiB, at most 0 MiB"), "{log}");
}

#[test]
fn a_running_server_is_attacked_with_the_credentials_of_files() {
    let scratch = std::env::temp_dir().join(format!("umbra-attack-test-{}", std::process::id()));
    fs::create_dir_all(&scratch).expect("a directory");
    let file = |name: &str, text: &str| {
        let path = scratch.join(name);
        fs::write(&path, text).expect("written");
        path.to_str().expect("a path in UTF-8").to_owned()
    };
    let (device, victims) = (file("device", "lamp-1:a\n"), file("victims", "no-colon\n"));
    let server = ["--server", "127.0.0.1:9", "--device-credentials", &device, "--victim-credentials", &victims];
    let rows = [
        (vec!["wills"], "--spawn"),
        (vec!["no-such-attack", "--spawn", "umbrad"], "no attack is named no-such-attack"),
        (vec!["wills", "-p", "no=1", "--spawn", "umbrad"], "wills has no parameter no"),
        ([&["wills"], &server[..]].concat(), "is not NAME:PASSWORD"),
        (vec!["wills", "--server", "127.0.0.1:9"], "--device-credentials"),
    ];
    for (arguments, expected) in rows {
        let output = attack(&arguments);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(text.contains(expected), "{arguments:?}: {text}");
    }
    fs::remove_dir_all(&scratch).expect("removed");
}
