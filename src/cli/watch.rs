//! `umbrad watch`

use std::io::{self, Write};

use clap::Args;
use serde_json::{Value, json};
use umbra_client::{Message, Qos, Rejection};

use super::{
    Exit,
    command_failure::CommandFailure,
    connect_args::BrokerArgs,
    output::{complain, printable},
};
use crate::shadow::name::{DeviceId, ShadowName};

/// Events that may wait to be printed.
const CAPACITY: usize = 1_024;
/// The watched events, by the end of their topics.
const EVENTS: [&str; 4] = ["update/documents", "update/delta", "update/rejected", "delete/accepted"];

/// Print each change, delta and rejection of a shadow as it arrives, one per line, until interrupted.
///
/// Ends with exit code 1 when the connection is lost, so that a gap does not go unnoticed.
#[derive(Debug, Args)]
pub(super) struct Watch {
    /// Device id, or + for every device.
    #[arg(value_parser = device)]
    device: String,
    /// Name of a named shadow, or + for every one; without it, the classic shadow.
    #[arg(long, value_parser = name)]
    name: Option<String>,
    /// Print one JSON object per line: the topic and the message as the server sent it.
    #[arg(long)]
    json: bool,
    /// End after this many events.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    broker: BrokerArgs,
}

impl Watch {
    pub(super) async fn run(self) -> Exit {
        match self.watch().await {
            Ok(exit) => exit,
            Err(failure) => complain(&failure, failure.exit),
        }
    }

    async fn watch(&self) -> Result<Exit, CommandFailure> {
        let connection = self.broker.connect().await?;
        let filters = self.filters();
        let filters = filters.each_ref().map(String::as_str);
        let subscribed = connection.client.subscribe(&filters, Qos::AtLeastOnce, CAPACITY).await;
        let messages = subscribed.map_err(|error| connection.failure(error))?;
        eprintln!("umbrad: watching; interrupt to end");
        let print = |message: &Message| writeln!(io::stdout().lock(), "{}", self.line(message));
        connection.print(messages, self.count, "events", print).await
    }

    fn filters(&self) -> [String; 4] {
        let shadow = match &self.name {
            None => format!("shadow/{}", self.device),
            Some(name) => format!("shadow/{}/name/{name}", self.device),
        };
        EVENTS.map(|event| format!("{shadow}/{event}"))
    }

    fn line(&self, message: &Message) -> String {
        let topic = &*message.topic;
        let body = serde_json::from_slice(&message.payload)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&message.payload).into_owned()));
        match self.json {
            true => json!({ "topic": topic, "message": body }).to_string(),
            false => printable(&describe(topic, &body)),
        }
    }
}

/// Returns an event formatted for people: the shadow, its version, and the change.
fn describe(topic: &str, body: &Value) -> String {
    let part = |name| body.get(name).unwrap_or(&Value::Null);
    let event = EVENTS.iter().find_map(|event| Some((*event, topic.strip_suffix(event)?.strip_suffix('/')?)));
    let Some((event, shadow)) = event else { return format!("{topic} {body}") };
    let shadow = shadow.trim_start_matches("shadow/").replace("/name/", "~");
    let current = part("current");
    match event {
        "update/documents" => {
            format!("{shadow} version {} {}", current["version"], current["state"])
        }
        "update/delta" => format!("{shadow} version {} delta {}", part("version"), part("state")),
        "delete/accepted" => format!("{shadow} version {} deleted", part("version")),
        _ => match Rejection::from_reply(body) {
            Some(rejection) => format!("{shadow} rejected: {rejection}"),
            None => format!("{shadow} rejected {body}"),
        },
    }
}

fn device(text: &str) -> Result<String, String> {
    match text {
        "+" => Ok(text.to_owned()),
        id => DeviceId::new(id).map(|id| id.as_str().to_owned()).map_err(|error| error.to_string()),
    }
}

fn name(text: &str) -> Result<String, String> {
    match text {
        "+" => Ok(text.to_owned()),
        name => ShadowName::new(name).map(|name| name.as_str().to_owned()).map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_an_event_on_one_line() {
        for (topic, body, expected) in [
            (
                "shadow/t-1/update/documents",
                json!({"previous": null, "current": {"state": {"desired": {"a": 1}}, "version": 1}, "timestamp": 5}),
                "t-1 version 1 {\"desired\":{\"a\":1}}",
            ),
            (
                "shadow/t-1/name/wifi/update/delta",
                json!({"state": {"a": 1}, "version": 2}),
                "t-1~wifi version 2 delta {\"a\":1}",
            ),
            (
                "shadow/t-1/update/rejected",
                json!({"code": 409, "error": "version-conflict", "message": "Version conflict", "version": 9}),
                "t-1 rejected: 409 version-conflict: Version conflict; current version 9",
            ),
            ("shadow/t-1/delete/accepted", json!({"version": 10}), "t-1 version 10 deleted"),
            ("shadow/t-1/update/delta", json!("odd"), "t-1 version null delta null"),
            ("other", json!([1]), "other [1]"),
        ] {
            assert_eq!(describe(topic, &body), expected);
        }
    }
}
