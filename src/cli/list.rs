//! `umbrad list` and `umbrad history`. They use HTTP, since MQTT has no such request.

use clap::Args;
use serde_json::Value;
use umbra_client::{DeviceId, DeviceQuery, HistoryQuery, HttpClient, InvalidName, Pages, Version};

use super::{
    Exit,
    command_failure::CommandFailure,
    connect_args::ContextArgs,
    output::{complain, printable, say},
    shadow_args::ShadowArgs,
};

/// List the devices that have shadows, or the shadows of one device, over HTTP.
#[derive(Debug, Args)]
pub(super) struct List {
    /// Device id, to list the shadows of the device.
    #[arg(value_parser = device, conflicts_with_all = ["prefix", "connected", "drift"])]
    device: Option<DeviceId>,
    /// Only devices whose ids begin with this.
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// Only devices that are connected (true) or not (false).
    #[arg(long, value_name = "BOOL")]
    connected: Option<bool>,
    /// Only devices with (true) or without (false) a difference between desired and reported state.
    #[arg(long, value_name = "BOOL")]
    drift: Option<bool>,
    #[command(flatten)]
    entries: EntriesArgs,
}

/// The number and form of the entries that a command prints, and the server.
#[derive(Debug, Args)]
pub(super) struct EntriesArgs {
    /// Maximum number of entries.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Print one JSON object per line, as the server sent it.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ContextArgs,
}

/// Print the changes of a shadow over HTTP, newest first.
#[derive(Debug, Args)]
pub(super) struct History {
    #[command(flatten)]
    shadow: ShadowArgs,
    /// Only changes before this version.
    #[arg(long, value_name = "VERSION")]
    before: Option<u64>,
    /// Maximum number of entries.
    #[arg(long, value_name = "N", default_value = "25")]
    limit: usize,
    /// Print one JSON object per line, as the server sent it.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ContextArgs,
}

impl EntriesArgs {
    /// Returns a client of the server.
    pub(super) fn http_client(&self) -> Result<HttpClient, CommandFailure> {
        http_client(&self.server)
    }

    /// Prints `entries`, each on one line.
    pub(super) async fn print(&self, entries: Pages<Value>, line: fn(&Value) -> String) -> Exit {
        print_entries(entries, self.limit.unwrap_or(usize::MAX), self.json, line).await
    }
}

impl List {
    pub(super) async fn run(self) -> Exit {
        let http = match self.entries.http_client() {
            Ok(http) => http,
            Err(failure) => return complain(&failure, failure.exit),
        };
        match &self.device {
            None => {
                let mut query = DeviceQuery::new();
                (query.prefix, query.connected, query.drift) = (self.prefix, self.connected, self.drift);
                self.entries.print(http.devices(&query).raw(), device_line).await
            }
            Some(device) => self.entries.print(http.shadows(device).raw(), shadow_line).await,
        }
    }
}

impl History {
    pub(super) async fn run(self) -> Exit {
        let http = match http_client(&self.server) {
            Ok(http) => http,
            Err(failure) => return complain(&failure, failure.exit),
        };
        let mut query = HistoryQuery::new();
        query.before = self.before.map(Version);
        match self.shadow.id() {
            Ok(shadow) => print_entries(http.history(&shadow, &query).raw(), self.limit, self.json, change_line).await,
            Err(error) => complain(&error, Exit::Usage),
        }
    }
}

pub(super) fn http_client(server: &ContextArgs) -> Result<HttpClient, CommandFailure> {
    Ok(server.resolve()?.http_client()?)
}

/// Prints up to `limit` entries, each on one line.
pub(super) async fn print_entries(entries: Pages<Value>, limit: usize, json: bool, line: fn(&Value) -> String) -> Exit {
    let mut entries = entries.page_size(limit);
    for _ in 0..limit {
        let entry = match entries.try_next().await {
            Ok(Some(entry)) => entry,
            Ok(None) => break,
            Err(error) => {
                let failure = CommandFailure::http(&error);
                return complain(&failure, failure.exit);
            }
        };
        let line = if json { entry.to_string() } else { printable(&line(&entry)) };
        match say(&line, Exit::Done) {
            Exit::Done => {}
            exit => return exit,
        }
    }
    for node in entries.unreachable() {
        complain(&format!("warning: node {node} has not answered, what it has may be missing"), Exit::Done);
    }
    Exit::Done
}

fn device(text: &str) -> Result<DeviceId, InvalidName> {
    DeviceId::new(text)
}

pub(super) fn device_line(device: &Value) -> String {
    let text = |name| device.get(name).and_then(Value::as_str).unwrap_or("?");
    let connected = match device.get("connected").and_then(Value::as_bool) {
        Some(true) => "connected",
        Some(false) => "away",
        None => "-",
    };
    format!("{} {connected} {}", text("id"), state(device))
}

fn shadow_line(shadow: &Value) -> String {
    let name = shadow.get("name").and_then(Value::as_str).unwrap_or("(classic)");
    format!("{name} version {} {}", number(shadow, "version"), state(shadow))
}

fn state(entry: &Value) -> &'static str {
    if entry.get("drift").and_then(Value::as_bool) == Some(true) { "differs" } else { "converged" }
}

pub(super) fn change_line(change: &Value) -> String {
    let text = |name| change.get(name).and_then(Value::as_str).unwrap_or("?");
    let mut line = format!("{} at {} by {}", number(change, "version"), number(change, "timestamp"), text("by"));
    if change.get("deleted").and_then(Value::as_bool) == Some(true) {
        line.push_str(" deleted");
    }
    for path in change.get("changes").and_then(Value::as_array).into_iter().flatten() {
        line.push_str(&format!(" {}", path.get("path").and_then(Value::as_str).unwrap_or("?")));
        match path.get("value") {
            Some(value) => line.push_str(&format!("={value}")),
            None => line.push_str(" removed"),
        }
    }
    line
}

fn number(entry: &Value, name: &str) -> u64 {
    entry.get(name).and_then(Value::as_u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn formats_each_entry_on_one_line() {
        for (line, entry, expected) in [
            (device_line as fn(&Value) -> String, json!({"id": "a", "drift": true, "shadows": 1}), "a - differs"),
            (device_line, json!({"id": "a", "connected": true, "drift": false}), "a connected converged"),
            (device_line, json!({"id": "a", "connected": false, "drift": false}), "a away converged"),
            (shadow_line, json!({"version": 3, "drift": false}), "(classic) version 3 converged"),
            (shadow_line, json!({"name": "wifi", "version": 4, "drift": true}), "wifi version 4 differs"),
            (
                change_line,
                json!({"version": 2, "timestamp": 5, "by": "app", "changes": [
                    {"path": "/desired/a", "value": 1}, {"path": "/desired/b", "removed": true}]}),
                "2 at 5 by app /desired/a=1 /desired/b removed",
            ),
            (
                change_line,
                json!({"version": 3, "timestamp": 5, "by": "app", "deleted": true, "changes": []}),
                "3 at 5 by app deleted",
            ),
        ] {
            assert_eq!(line(&entry), expected);
        }
    }
}
