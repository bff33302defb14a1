//! `umbrad list` and `umbrad history`. They use HTTP, since MQTT has no such request.

use clap::Args;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{
    Exit,
    connect_args::ContextArgs,
    http_client::{self, Server},
    output::{complain, printable, say},
    shadow_args::{ShadowArgs, device},
};
use crate::shadow::name::DeviceId;

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

/// Entries per request; the server returns no more.
const PAGE: usize = 100;

impl List {
    pub(super) async fn run(self) -> Exit {
        let (path, member, line) = match &self.device {
            None => ("/v1/devices".to_owned(), "devices", device_line as fn(&Value) -> String),
            Some(device) => {
                (format!("/v1/devices/{}/shadows", device.as_str()), "shadows", shadow_line as fn(&Value) -> String)
            }
        };
        let mut query = String::new();
        let mut add = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                query.push_str(&format!("&{name}={}", utf8_percent_encode(&value, NON_ALPHANUMERIC)));
            }
        };
        add("prefix", self.prefix.clone());
        add("connected", self.connected.map(|connected| connected.to_string()));
        add("drift", self.drift.map(|drift| drift.to_string()));
        let listing = Listing { server: &self.server, member, line, json: self.json };
        let limit = self.limit.unwrap_or(usize::MAX);
        listing
            .run(
                limit,
                |next, count| match next {
                    None => format!("{path}?limit={count}{query}"),
                    Some(next) => {
                        format!("{path}?limit={count}{query}&cursor={}", utf8_percent_encode(next, NON_ALPHANUMERIC))
                    }
                },
                |page| page.get("next")?.as_str().map(str::to_owned),
            )
            .await
    }
}

impl History {
    pub(super) async fn run(self) -> Exit {
        let device = self.shadow.device.as_str();
        let path = match &self.shadow.name {
            None => format!("/v1/devices/{device}/shadow/history"),
            Some(name) => {
                let name = utf8_percent_encode(name.as_str(), NON_ALPHANUMERIC);
                format!("/v1/devices/{device}/shadows/{name}/history")
            }
        };
        let before = self.before.map(|before| before.to_string());
        let listing = Listing { server: &self.server, member: "entries", line: change_line, json: self.json };
        listing
            .run(
                self.limit,
                |next, count| match next.or(before.as_deref()) {
                    None => format!("{path}?limit={count}"),
                    Some(before) => format!("{path}?limit={count}&before={before}"),
                },
                oldest_version,
            )
            .await
    }
}

/// A list that is read page by page.
struct Listing<'a> {
    server: &'a ContextArgs,
    /// The member of a page with its entries.
    member: &'static str,
    line: fn(&Value) -> String,
    json: bool,
}

impl Listing<'_> {
    /// Prints up to `limit` entries. `path` returns the path of a page, given the result of `next` for the previous
    /// page.
    async fn run(
        &self,
        limit: usize,
        path: impl Fn(Option<&str>, usize) -> String,
        next: impl Fn(&Value) -> Option<String>,
    ) -> Exit {
        let server = match self.server.resolve().and_then(|options| Server::new(&options)) {
            Ok(server) => server,
            Err(failure) => return complain(&failure, failure.exit),
        };
        let (mut left, mut cursor) = (limit, None::<String>);
        while left > 0 {
            let page: Value = match server.get(&path(cursor.as_deref(), left.min(PAGE))).await {
                Ok(page) => page,
                Err(failure) => return complain(&failure, http_client::exit_of(&failure)),
            };
            for entry in page.get(self.member).and_then(Value::as_array).into_iter().flatten().take(left) {
                let line = if self.json { entry.to_string() } else { printable(&(self.line)(entry)) };
                match say(&line, Exit::Done) {
                    Exit::Done => left -= 1,
                    exit => return exit,
                }
            }
            cursor = next(&page);
            if cursor.is_none() {
                break;
            }
        }
        Exit::Done
    }
}

/// Returns the version before which the next page begins: the oldest one of this page, if that has a successor.
fn oldest_version(page: &Value) -> Option<String> {
    (page.get("end")? == "more").then_some(())?;
    Some(page.get("entries")?.as_array()?.last()?.get("version")?.as_u64()?.to_string())
}

fn device_line(device: &Value) -> String {
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

fn change_line(change: &Value) -> String {
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

    #[test]
    fn pages_a_history_until_the_service_ends_it() {
        let page = |end| json!({"entries": [{"version": 9}, {"version": 8}], "end": end});
        assert_eq!(oldest_version(&page("more")), Some("8".to_owned()));
        assert_eq!(oldest_version(&page("first")), None);
        assert_eq!(oldest_version(&page("gone")), None);
    }
}
