//! The schemas of rollouts and bulk changes.

use serde_json::{Map, Value, json};

use super::{closed, list, put, reference, set, time, version};
use crate::fleet::rollout::{
    DeviceState, State,
    spec::{DEADLINE_MAX, DEVICES_MAX, RATE_MAX, WAVES_MAX},
};

/// Adds the schemas.
pub(super) fn all(schemas: &mut Map<String, Value>) {
    specs(schemas);
    let (text, count) = (json!({ "type": "string" }), version(0));
    let wave = [("size", version(1)), ("state", json!({ "enum": ["done", "running", "stopped", "waiting"] }))];
    put(schemas, "RolloutWave", closed(wave, &["size", "state"]));
    let names = DeviceState::ALL.map(DeviceState::count_name);
    put(schemas, "RolloutCounts", closed(names.map(|name| (name, count.clone())), &names));
    let spec = json!({ "type": "object", "description": "As it was sent" });
    let rollout = [
        ("id", text.clone()),
        ("state", json!({ "type": "string", "enum": State::ALL.map(State::name) })),
        ("reason", text.clone()),
        ("createdBy", text.clone()),
        ("createdAt", time()),
        ("updatedAt", time()),
        ("spec", spec),
        ("wave", json!({ "type": "integer", "minimum": 0, "description": "The present wave, from 0" })),
        ("waves", list("RolloutWave")),
        ("devices", count.clone()),
        ("counts", reference("RolloutCounts")),
    ];
    let needs = ["id", "state", "createdBy", "createdAt", "updatedAt", "spec", "wave", "waves", "devices", "counts"];
    put(schemas, "Rollout", closed(rollout, &needs));
    put(schemas, "Rollouts", closed([("rollouts", list("Rollout")), ("next", text.clone())], &["rollouts"]));
    let device = [
        ("device", text.clone()),
        ("state", json!({ "type": "string", "enum": DeviceState::ALL.map(DeviceState::name) })),
        ("wave", count.clone()),
        ("version", version(1)),
        ("updatedAt", time()),
        ("reason", text.clone()),
    ];
    put(schemas, "RolloutDevice", closed(device, &["device", "state", "wave"]));
    let page = [("devices", list("RolloutDevice")), ("next", text.clone())];
    put(schemas, "RolloutDevices", closed(page, &["devices"]));
    let counts = ["devices", "wouldChange", "unchanged", "conflicts", "forbidden", "refused", "absent"];
    let sample = json!({ "type": "array", "items": text });
    let waves = json!({ "type": "array", "items": version(1) });
    let more = [("dryRun", json!({ "type": "boolean" })), ("sample", sample), ("waves", waves)];
    let needs: Vec<_> = counts.into_iter().chain(["dryRun", "sample", "waves"]).collect();
    let dry_run = counts.map(|name| (name, count.clone())).into_iter().chain(more);
    put(schemas, "RolloutDryRun", closed(dry_run, &needs));
    put(schemas, "RolloutOrDryRun", json!({ "anyOf": [reference("Rollout"), reference("RolloutDryRun")] }));
}

/// Adds the schemas of what a client sends.
fn specs(schemas: &mut Map<String, Value>) {
    let text = json!({ "type": "string" });
    let patch = closed(["desired", "tags"].map(|name| (name, reference("Section"))), &[]);
    put(schemas, "RolloutPatch", patch);
    let expectation = [
        ("path", text.clone()),
        ("value", json!({})),
        ("absent", json!({ "type": "boolean" })),
        ("version", version(0)),
    ];
    put(schemas, "Expectation", closed(expectation, &["path"]));
    let device = json!({ "type": "string", "pattern": "^[A-Za-z0-9:_-]{1,128}$" });
    let devices =
        json!({ "type": "array", "items": device, "minItems": 1, "maxItems": DEVICES_MAX, "uniqueItems": true });
    let change = [
        ("query", json!({ "type": "string", "description": "The devices for which it is true; or `devices`" })),
        ("devices", devices),
        ("shadow", json!({ "type": "string", "pattern": "^[A-Za-z0-9:_$-]{0,64}$" })),
        ("patch", reference("RolloutPatch")),
        ("expect", list("Expectation")),
        ("rate", json!({ "type": "integer", "minimum": 1, "maximum": RATE_MAX })),
    ];
    put(schemas, "BulkChange", closed(change.clone(), &["patch"]));
    let wave = json!({ "type": ["integer", "string"], "minimum": 1, "description": "A number, or such as \"10%\"" });
    let waves = json!({ "type": "array", "items": wave, "minItems": 1, "maxItems": WAVES_MAX });
    let success = json!({ "type": "string", "description": "`converged`, `accepted`, or `query: ` and a query" });
    let percent = json!({ "type": "number", "minimum": 0, "maximum": 100 });
    let mut abort = closed([("failures", version(0)), ("percent", percent)], &[]);
    set(&mut abort, "minProperties", json!(1));
    put(schemas, "RolloutAbort", abort);
    let more = [
        ("waves", waves),
        ("success", success),
        ("deadlineSeconds", json!({ "type": "integer", "minimum": 1, "maximum": DEADLINE_MAX })),
        ("abort", reference("RolloutAbort")),
        ("laterDevices", json!({ "type": "boolean" })),
        ("paused", json!({ "type": "boolean" })),
    ];
    let mut spec = closed(change.into_iter().chain(more), &["patch"]);
    set(&mut spec, "description", json!("Exactly one of `query` and `devices` selects the devices"));
    put(schemas, "NewRollout", spec);
}
