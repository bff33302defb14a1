//! `umbrad trace`

use std::{
    io::{self, ErrorKind, Write},
    time::Duration,
};

use clap::Args;
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};
use umbra_client::{Changes, DeviceDetail, DeviceId, Error, HttpClient, InvalidName, Rejection};

use super::{
    Exit,
    command_failure::CommandFailure,
    connect_args::ContextArgs,
    list::change_line,
    output::{complain, printable},
};

/// The pause between two questions about rejections and the connection, which the server does not send by itself over HTTP.
const PAUSE: Duration = Duration::from_secs(1);
/// The server sends a heartbeat every 15 seconds.
const TIMEOUT: Duration = Duration::from_secs(45);

/// Print what happens to a device, one event per line, until interrupted: its connections, the changes of all its shadows, and
/// rejected writes over MQTT and HTTP. Over HTTP.
///
/// Ends with exit code 1 when the connection to the server is lost, so that a gap does not go unnoticed.
#[derive(Debug, Args)]
pub(super) struct Trace {
    /// Device id.
    #[arg(value_parser = device)]
    device: DeviceId,
    /// Print one JSON object per line.
    #[arg(long)]
    json: bool,
    /// End after this many events.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    server: ContextArgs,
}

/// The state that the questions go on from.
struct Tracer {
    http: HttpClient,
    device: DeviceId,
    /// The position after the last rejection.
    rejections: String,
    /// The connection, as it was when it was last asked about.
    connection: Connection,
}

/// The connection of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Connection {
    /// The time of the connection; `None` while there is none.
    since: Option<u64>,
    last_seen: Option<u64>,
    from: String,
}

/// A kind of event, and its members: `timestamp`, in seconds since the epoch, where the server says when it was.
type Event = (&'static str, Value);

impl Trace {
    pub(super) async fn run(self) -> Exit {
        match self.trace().await {
            Ok(exit) => exit,
            Err(failure) => complain(&failure, failure.exit),
        }
    }

    async fn trace(&self) -> Result<Exit, CommandFailure> {
        let http = self.server.resolve()?.http_client()?.timeout(TIMEOUT);
        // Opened first, so that nothing between is missed.
        let mut changes = http.changes(&self.device).await.map_err(|error| CommandFailure::http(&error))?;
        let begun = Tracer::begin(http, self.device.clone()).await;
        let (mut tracer, now) = begun.map_err(|error| CommandFailure::http(&error))?;
        eprintln!("umbrad: tracing; interrupt to end");
        let mut left = self.count.unwrap_or(u64::MAX);
        let mut ticks = interval(PAUSE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut events = vec![now];
        loop {
            for event in events {
                if left == 0 {
                    return Ok(Exit::Done);
                }
                match writeln!(io::stdout().lock(), "{}", self.line(&event)) {
                    Ok(()) => left -= 1,
                    // The reader has enough: `umbrad trace … | head`.
                    Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(Exit::Done),
                    Err(error) => return Ok(complain(&error, Exit::Failed)),
                }
            }
            if left == 0 {
                return Ok(Exit::Done);
            }
            let next = tracer.next(&mut changes, &mut ticks).await.map_err(|error| CommandFailure::http(&error))?;
            events = next.ok_or_else(|| CommandFailure::failed("the server ended the stream of events".to_owned()))?;
        }
    }

    fn line(&self, (kind, event): &Event) -> String {
        match self.json {
            true => {
                let mut event = event.clone();
                if let Value::Object(members) = &mut event {
                    members.insert("event".to_owned(), json!(kind));
                }
                event.to_string()
            }
            false => printable(&describe(kind, event)),
        }
    }
}

impl Tracer {
    /// Returns the tracer, and the connection as it is.
    async fn begin(http: HttpClient, device: DeviceId) -> Result<(Self, Event), Error> {
        let rejections = http.rejections(None).await?.next;
        let mut tracer = Self { http, device, rejections, connection: Connection::default() };
        tracer.connection = tracer.ask().await?;
        let now = tracer.connection.event();
        Ok((tracer, now))
    }

    /// Waits for the next events; `None` at the end of the stream.
    async fn next(
        &mut self,
        changes: &mut Changes,
        ticks: &mut tokio::time::Interval,
    ) -> Result<Option<Vec<Event>>, Error> {
        loop {
            tokio::select! {
                change = changes.try_next() => return Ok(change?.map(|change| vec![("accepted", change)])),
                _ = ticks.tick() => {
                    let events = self.look().await?;
                    if !events.is_empty() {
                        return Ok(Some(events));
                    }
                }
            }
        }
    }

    /// Returns the rejections since the last question, and the change of the connection.
    async fn look(&mut self) -> Result<Vec<Event>, Error> {
        let page = self.http.rejections(Some(&self.rejections)).await?;
        self.rejections = page.next;
        let is_own = |rejection: &Value| rejection.get("device").and_then(Value::as_str) == Some(self.device.as_str());
        let mut events: Vec<Event> =
            page.rejections.into_iter().filter(is_own).map(|rejection| ("rejected", rejection)).collect();
        let connection = self.ask().await?;
        if connection.since != self.connection.since {
            events.push(connection.event());
        }
        self.connection = connection;
        Ok(events)
    }

    async fn ask(&self) -> Result<Connection, Error> {
        match self.http.device(&self.device).await {
            Ok(device) => Ok(Connection::of(&device)),
            // One without shadows, so far.
            Err(Error::Rejected(rejection)) if rejection.code == 404 => Ok(Connection::default()),
            Err(error) => Err(error),
        }
    }
}

impl Connection {
    fn of(device: &DeviceDetail) -> Self {
        let part = |text: &Option<String>| text.clone().unwrap_or_else(|| "?".to_owned());
        Self {
            since: device.connected_since,
            last_seen: device.last_seen,
            from: format!("{} {}", part(&device.address), part(&device.protocol)),
        }
    }

    fn event(&self) -> Event {
        match (self.since, self.last_seen) {
            (Some(since), _) => ("connected", json!({ "timestamp": since, "from": self.from })),
            (None, Some(seen)) => ("away", json!({ "timestamp": seen })),
            (None, None) => ("away", json!({})),
        }
    }
}

/// Returns an event formatted for people.
fn describe(kind: &str, event: &Value) -> String {
    let text = |name| event.get(name).and_then(Value::as_str);
    let time = event.get("timestamp").and_then(Value::as_u64).map_or_else(|| "-".to_owned(), |time| time.to_string());
    let shadow = text("name").map(|name| format!(" {name}")).unwrap_or_default();
    match kind {
        "connected" => format!("{time} connected {}", text("from").unwrap_or("?")),
        "accepted" => format!("{time} accepted{shadow} version {}", change_line(event)),
        "rejected" => {
            let reason = Rejection::from_reply(event).map(|rejection| rejection.to_string()).unwrap_or_default();
            format!(
                "{time} rejected{shadow} by {} over {}: {reason}",
                text("by").unwrap_or("?"),
                text("via").unwrap_or("?")
            )
        }
        _ => format!("{time} {kind}"),
    }
}

fn device(text: &str) -> Result<DeviceId, InvalidName> {
    DeviceId::new(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_an_event_on_one_line() {
        for (kind, event, expected) in [
            ("connected", json!({"timestamp": 5, "from": "10.0.0.7 mqtt-5"}), "5 connected 10.0.0.7 mqtt-5"),
            ("away", json!({"timestamp": 6}), "6 away"),
            ("away", json!({}), "- away"),
            (
                "accepted",
                json!({"device": "a", "name": "wifi", "version": 2, "timestamp": 7, "by": "app", "changes": [
                    {"path": "/desired/a", "value": 1}]}),
                "7 accepted wifi version 2 at 7 by app /desired/a=1",
            ),
            (
                "rejected",
                json!({"device": "a", "code": 409, "error": "version-conflict", "message": "Version conflict",
                    "timestamp": 8, "by": "app", "via": "http", "version": 9}),
                "8 rejected by app over http: 409 version-conflict: Version conflict; current version 9",
            ),
        ] {
            assert_eq!(describe(kind, &event), expected);
        }
    }
}
