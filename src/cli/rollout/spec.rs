//! The arguments that describe a rollout.

use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};

use crate::{cli::command_failure::CommandFailure, config};

/// The devices and the change.
#[derive(Debug, Args)]
pub(super) struct ChangeArgs {
    /// The devices for which this query is true, such as 'tags.region:west'.
    #[arg(long, value_name = "QUERY", required_unless_present = "devices", conflicts_with = "devices")]
    query: Option<String>,
    /// Ids of devices, separated by commas, in the order of the waves.
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    devices: Vec<String>,
    /// The change of desired and tags as a merge patch, such as '{"desired": {"firmware": "1.5.0"}}'.
    #[arg(long, value_name = "JSON", value_parser = value)]
    patch: Value,
    /// Name of the shadow; the classic one without it.
    #[arg(long, value_name = "NAME")]
    shadow: Option<String>,
    /// A value that each device must have, such as '/desired/firmware="1.4.0"'; its devices are a conflict otherwise.
    #[arg(long, value_name = "PATH=JSON", value_parser = expectation)]
    expect: Vec<Value>,
    /// Most devices a second.
    #[arg(long, value_name = "N")]
    rate: Option<u32>,
}

/// The waves, and the conditions under which they go on.
#[derive(Debug, Args)]
pub(super) struct RolloutArgs {
    /// Devices reached in all by the end of each wave, such as 10,10%,100%.
    #[arg(long, value_name = "WAVES", value_delimiter = ',', value_parser = wave)]
    waves: Vec<Value>,
    /// The success of a device: converged, accepted, or 'query: ' and a query.
    #[arg(long, value_name = "SUCCESS")]
    success: Option<String>,
    /// The time after its update in which a device must succeed, such as 10m.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    deadline: Option<Duration>,
    /// Abort when more devices have failed.
    #[arg(long, value_name = "N")]
    abort_failures: Option<u64>,
    /// Abort when more of the devices reached so far have failed, in percent.
    #[arg(long, value_name = "PERCENT")]
    abort_percent: Option<f64>,
    /// Include devices that begin to match while the rollout runs.
    #[arg(long)]
    later_devices: bool,
    /// Begin paused.
    #[arg(long)]
    paused: bool,
}

impl ChangeArgs {
    /// Returns the description.
    pub(super) fn spec(&self) -> Result<Map<String, Value>, CommandFailure> {
        let mut spec = Map::new();
        let mut set = |name: &str, value: Option<Value>| spec.extend(value.map(|value| (name.to_owned(), value)));
        set("query", self.query.as_ref().map(|query| json!(query)));
        set("devices", (!self.devices.is_empty()).then(|| json!(self.devices)));
        set("patch", Some(self.patch.clone()));
        set("shadow", self.shadow.as_ref().map(|shadow| json!(shadow)));
        set("expect", (!self.expect.is_empty()).then(|| json!(self.expect)));
        set("rate", self.rate.map(|rate| json!(rate)));
        match &self.patch {
            Value::Object(_) => Ok(spec),
            _ => Err(CommandFailure::usage("--patch must be an object with 'desired', 'tags' or both".to_owned())),
        }
    }
}

impl RolloutArgs {
    /// Returns the description of the rollout that makes the change of `spec`.
    pub(super) fn spec(&self, mut spec: Map<String, Value>) -> Map<String, Value> {
        let mut set = |name: &str, value: Option<Value>| spec.extend(value.map(|value| (name.to_owned(), value)));
        set("waves", (!self.waves.is_empty()).then(|| json!(self.waves)));
        set("success", self.success.as_ref().map(|success| json!(success)));
        set("deadlineSeconds", self.deadline.map(|deadline| json!(deadline.as_secs().max(1))));
        let mut abort = Map::new();
        abort.extend(self.abort_failures.map(|failures| ("failures".to_owned(), json!(failures))));
        abort.extend(self.abort_percent.map(|percent| ("percent".to_owned(), json!(percent))));
        set("abort", (!abort.is_empty()).then_some(Value::Object(abort)));
        set("laterDevices", self.later_devices.then_some(Value::Bool(true)));
        set("paused", self.paused.then_some(Value::Bool(true)));
        spec
    }
}

fn value(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

fn wave(text: &str) -> Result<Value, String> {
    match text.trim() {
        percent if percent.ends_with('%') => Ok(json!(percent)),
        count => count.parse::<u64>().map(|count| json!(count)).map_err(|_| "must be such as 10 or 10%".to_owned()),
    }
}

fn expectation(text: &str) -> Result<Value, String> {
    let (path, value) = text.split_once('=').ok_or("must be PATH=JSON, such as /desired/mode=\"eco\"")?;
    Ok(json!({ "path": path, "value": self::value(value)? }))
}

fn duration(text: &str) -> Result<Duration, String> {
    config::parse_duration(text).ok_or_else(|| "must be a time such as 10m or 12h".to_owned())
}
