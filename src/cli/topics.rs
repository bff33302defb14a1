//! `umbrad pub` and `umbrad sub`

use std::io::{self, Read, Write};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use clap::Args;
use serde_json::{Value, json};
use umbra_client::{Error, Message, Qos};

use super::{
    Exit,
    command_failure::CommandFailure,
    connect_args::{BrokerArgs, Connection},
    output::complain,
};

/// Publish one message.
#[derive(Debug, Args)]
pub(super) struct Publish {
    /// Topic name.
    topic: String,
    /// Payload, unchanged. Without it, or as -, it is read from standard input. "" with --retain removes a retained
    /// message.
    message: Option<String>,
    /// Quality of service.
    #[arg(short, long, value_name = "0|1|2", default_value = "1", value_parser = qos)]
    qos: Qos,
    /// Make the broker retain the message for later subscribers.
    #[arg(short, long)]
    retain: bool,
    #[command(flatten)]
    broker: BrokerArgs,
}

/// Print the messages of topics as they arrive, the payload of each on a line, until interrupted.
///
/// Ends with exit code 1 when the connection is lost, so that a gap does not go unnoticed.
#[derive(Debug, Args)]
pub(super) struct Subscribe {
    /// Topic filters, with + for one level and # for all further levels.
    #[arg(required = true)]
    filters: Vec<String>,
    /// Maximum quality of service of received messages.
    #[arg(short, long, value_name = "0|1|2", default_value = "1", value_parser = qos)]
    qos: Qos,
    /// Print the topic before each payload.
    #[arg(short, long, conflicts_with = "json")]
    verbose: bool,
    /// Print one JSON object per line: topic, qos, retain, and the payload as text, or as base64 if it is not UTF-8.
    #[arg(long)]
    json: bool,
    /// End after this many messages.
    #[arg(short = 'C', long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    broker: BrokerArgs,
}

impl Publish {
    pub(super) async fn run(self) -> Exit {
        match self.publish().await {
            Ok(()) => Exit::Done,
            Err(failure) => complain(&failure, failure.exit),
        }
    }

    async fn publish(self) -> Result<(), CommandFailure> {
        let payload = match self.message {
            Some(text) if text != "-" => Bytes::from(text),
            _ => read_input()?,
        };
        let connection = self.broker.connect().await?;
        let message = Message::new(self.topic, payload).qos(self.qos);
        let message = if self.retain { message.retain() } else { message };
        connection.client.publish(message).await.map_err(|error| refusal(&connection, error))?;
        connection.client.close().await;
        Ok(())
    }
}

impl Subscribe {
    pub(super) async fn run(self) -> Exit {
        match self.subscribe().await {
            Ok(exit) => exit,
            Err(failure) => complain(&failure, failure.exit),
        }
    }

    async fn subscribe(&self) -> Result<Exit, CommandFailure> {
        let connection = self.broker.connect().await?;
        let filters: Vec<_> = self.filters.iter().map(String::as_str).collect();
        let subscribed = connection.client.subscribe(&filters, self.qos, CAPACITY).await;
        let messages = subscribed.map_err(|error| refusal(&connection, error))?;
        connection.print(messages, self.count, "messages", |message| self.write(message)).await
    }

    fn write(&self, message: &Message) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.json {
            return writeln!(out, "{}", as_json(message));
        }
        if self.verbose {
            write!(out, "{} ", message.topic)?;
        }
        out.write_all(&message.payload)?;
        out.write_all(b"\n")
    }
}

fn qos(text: &str) -> Result<Qos, String> {
    match text {
        "0" => Ok(Qos::AtMostOnce),
        "1" => Ok(Qos::AtLeastOnce),
        "2" => Ok(Qos::ExactlyOnce),
        _ => Err("must be 0, 1 or 2".to_owned()),
    }
}

/// Returns the failure for an error; a refusal is the final answer of the broker.
fn refusal(connection: &Connection, error: Error) -> CommandFailure {
    match error {
        Error::Refused(reason) => {
            CommandFailure { message: format!("the broker refused the request: {reason}"), exit: Exit::Rejected }
        }
        error => connection.failure(error),
    }
}

fn as_json(message: &Message) -> Value {
    let Message { topic, qos, retain, payload, .. } = message;
    let qos = *qos as u8;
    match str::from_utf8(payload) {
        Ok(text) => json!({ "topic": topic, "qos": qos, "retain": retain, "payload": text }),
        Err(_) => {
            let encoded = BASE64_STANDARD.encode(payload);
            json!({ "topic": topic, "qos": qos, "retain": retain, "payloadBase64": encoded })
        }
    }
}

fn read_input() -> Result<Bytes, CommandFailure> {
    let mut payload = Vec::new();
    let read = io::stdin().lock().read_to_end(&mut payload);
    read.map_err(|error| CommandFailure::failed(format!("cannot read standard input: {error}")))?;
    Ok(payload.into())
}

/// Messages that may wait to be printed.
const CAPACITY: usize = 1_024;
