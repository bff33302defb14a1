//! The outcome of a run, as text and as JSON.

use std::{fmt::Write as _, process::ExitCode, sync::Arc, time::Duration};

use serde::Serialize;
use serde_json::{Map, json};
use umbra_client::DeviceId;

use super::{schedule::Schedule, span::Span};
use crate::{
    oracle::{Oracle, RolledOut, Violation},
    report::Recorder,
};

/// The outcome of a run.
pub(crate) struct Outcome {
    /// The seed.
    pub(crate) seed: u64,
    /// Simulated seconds per second.
    pub(crate) speed: f64,
    /// The time until the devices came to rest.
    pub(crate) elapsed: Duration,
    /// The violations that the oracle found.
    pub(crate) violations: Vec<Violation>,
    /// The records.
    pub(crate) recorder: Arc<Recorder>,
    /// The schedule of each connection, with its devices.
    pub(crate) schedules: Vec<(Vec<DeviceId>, Schedule)>,
}

impl Outcome {
    /// Prints the report, with that of a soak as text and JSON, and returns the exit code.
    pub(crate) fn print(&self, json: bool, soak: Option<(String, serde_json::Value)>) -> ExitCode {
        let (text, value) = soak.unzip();
        if json {
            println!("{:#}", self.json(value));
        } else {
            print!("{}{}", self.text(), text.unwrap_or_default());
        }
        if self.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn text(&self) -> String {
        let counters = &self.recorder.counters;
        let (commands, effects) = self.recorder.with_oracle(Oracle::commands);
        let mut text = self.recorder.report(&self.violations);
        let mut row = |label: &str, count: u64| writeln!(text, "{label:<32}{count:>12}");
        let firmware = [
            ("devices asked to update", counters.firmware_asked.get()),
            ("  failed and rolled back", counters.firmware_rolled_back.get()),
            ("commands accepted", commands),
            ("  effects", effects),
        ];
        for (label, count) in firmware.into_iter().chain(counters.faults.rows()) {
            let _ = row(label, count);
        }
        for rollout in self.recorder.with_oracle(|oracle| oracle.rollouts().to_vec()) {
            let reached = rollout.devices.iter().filter(|device| device.version.is_some()).count();
            let _ = writeln!(text, "rollout of {}: {}, {reached} devices", rollout.firmware, rollout.state);
        }
        let _ = writeln!(text, "simulated time from a change of desired until it is reported:");
        for times in self.recorder.convergence() {
            let [p50, p90, p99, max] = [times.p50, times.p90, times.p99, times.max].map(Span);
            let (group, count) = (times.group, times.count);
            let _ = writeln!(text, "  {group:<30}{count:>12}  p50 {p50}, p90 {p90}, p99 {p99}, max {max}");
        }
        if !self.violations.is_empty() {
            self.write_faults(&mut text);
        }
        text
    }

    /// Writes the faults that the devices of the first violations had.
    fn write_faults(&self, text: &mut String) {
        let _ = writeln!(text, "repeat this run with --seed {}", self.seed);
        let mut shown: Vec<&DeviceId> = self.violations.iter().map(Violation::device).collect();
        shown.sort();
        shown.dedup();
        for device in shown.into_iter().take(DEVICES_SHOWN) {
            let Some((index, schedule)) = self.schedule_of(device) else { continue };
            let _ = writeln!(text, "planned faults of {device}, number {index} of its connection:");
            let until = self.elapsed.as_secs_f64() * self.speed;
            for fault in schedule.clone().take_while(|fault| fault.at.0 <= until).take(FAULTS_SHOWN) {
                let _ = writeln!(text, "  {fault}");
            }
        }
    }

    fn schedule_of(&self, device: &DeviceId) -> Option<(usize, &Schedule)> {
        self.schedules.iter().find_map(|(devices, schedule)| {
            let index = devices.iter().position(|other| other == device)?;
            Some((index, schedule))
        })
    }

    fn json(&self, soak: Option<serde_json::Value>) -> serde_json::Value {
        let counters = &self.recorder.counters;
        let (commands, effects) = self.recorder.with_oracle(Oracle::commands);
        let faults: Map<_, _> =
            counters.faults.rows().into_iter().map(|(label, n)| (label.to_owned(), json!(n))).collect();
        let violations: Vec<_> = self.violations.iter().map(Violation::to_string).collect();
        let report = Report {
            seed: self.seed,
            speed: self.speed,
            elapsed_seconds: self.elapsed.as_secs_f64(),
            clients: counters.connected.get(),
            updates: counters.updates.get(),
            accepted: counters.accepted.get(),
            conflicts: counters.conflicts.get(),
            refused: counters.refused.get(),
            outcome_unknown: counters.unanswered.get(),
            deltas: counters.deltas.get(),
            firmware_asked: counters.firmware_asked.get(),
            firmware_rolled_back: counters.firmware_rolled_back.get(),
            rollouts: self.recorder.with_oracle(|oracle| oracle.rollouts().to_vec()),
            commands,
            effects,
            faults,
            convergence: self.recorder.convergence(),
            violations,
            soak,
        };
        json!(report)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    seed: u64,
    speed: f64,
    elapsed_seconds: f64,
    clients: u64,
    updates: u64,
    accepted: u64,
    conflicts: u64,
    refused: u64,
    outcome_unknown: u64,
    deltas: u64,
    firmware_asked: u64,
    firmware_rolled_back: u64,
    rollouts: Vec<RolledOut>,
    commands: u64,
    effects: u64,
    faults: Map<String, serde_json::Value>,
    convergence: Vec<crate::oracle::ConvergenceTimes>,
    violations: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    soak: Option<serde_json::Value>,
}

const DEVICES_SHOWN: usize = 5;
const FAULTS_SHOWN: usize = 50;
