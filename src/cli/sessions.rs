//! `umbrad sessions`

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use umbra_client::SessionQuery;

use super::{
    Exit,
    command_failure::CommandFailure,
    connect_args::ContextArgs,
    list::{EntriesArgs, http_client},
    output::{complain, print},
};

/// List, show or end MQTT sessions, over HTTP.
#[derive(Debug, Args)]
pub(super) struct Sessions {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(List),
    Show(Show),
    End(End),
}

/// List sessions in the order of their principals and client ids.
#[derive(Debug, Args)]
struct List {
    /// Only sessions of principals whose names begin with this.
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// Only sessions that are connected (true) or not (false).
    #[arg(long, value_name = "BOOL")]
    connected: Option<bool>,
    #[command(flatten)]
    entries: EntriesArgs,
}

/// Print one session as JSON, with its filters.
#[derive(Debug, Args)]
struct Show {
    #[command(flatten)]
    session: SessionArgs,
    #[command(flatten)]
    server: ContextArgs,
}

/// End a session and its connection. Its queued messages are lost and its will is published; its client may connect again.
#[derive(Debug, Args)]
struct End {
    #[command(flatten)]
    session: SessionArgs,
    #[command(flatten)]
    server: ContextArgs,
}

#[derive(Debug, Args)]
struct SessionArgs {
    /// Name of the principal; of an anonymous client, anonymous/ and its client id.
    principal: String,
    /// Client id.
    client: String,
}

impl Sessions {
    pub(super) async fn run(self) -> Exit {
        let done = match self.command {
            Command::List(list) => list.run().await,
            Command::Show(show) => show.run().await,
            Command::End(end) => end.run().await,
        };
        done.unwrap_or_else(|failure| complain(&failure, failure.exit))
    }
}

impl List {
    async fn run(self) -> Result<Exit, CommandFailure> {
        let http = self.entries.http_client()?;
        let mut query = SessionQuery::new();
        (query.prefix, query.connected) = (self.prefix, self.connected);
        Ok(self.entries.print(http.sessions(&query).raw(), session_line).await)
    }
}

impl Show {
    async fn run(self) -> Result<Exit, CommandFailure> {
        let SessionArgs { principal, client } = &self.session;
        let session = http_client(&self.server)?.session(principal, client).await;
        let session = session.map_err(|error| CommandFailure::http(&error))?;
        Ok(print(&json!(session)))
    }
}

impl End {
    async fn run(self) -> Result<Exit, CommandFailure> {
        let SessionArgs { principal, client } = &self.session;
        let ended = http_client(&self.server)?.end_session(principal, client).await;
        ended.map_err(|error| CommandFailure::http(&error))?;
        Ok(print(&json!({ "principal": principal, "client": client, "ended": true })))
    }
}

fn session_line(session: &Value) -> String {
    let text = |name| session.get(name).and_then(Value::as_str).unwrap_or("-");
    let number = |name| session.get(name).and_then(Value::as_u64);
    let count = |name| number(name).unwrap_or_default();
    let state = match session.get("connected").and_then(Value::as_bool) {
        Some(true) => "connected",
        _ => "away",
    };
    let mut line = format!(
        "{} {} {state} {} {} filters {} queued {} bytes {} in-flight {}",
        text("principal"),
        text("client"),
        text("address"),
        text("protocol"),
        count("filters"),
        count("queued"),
        count("queuedBytes"),
        count("inFlight"),
    );
    for name in ["expires", "node"] {
        if let Some(value) = number(name) {
            line.push_str(&format!(" {name} {value}"));
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_a_session_on_one_line() {
        let mut session = json!({
            "principal": "app-1", "client": "a", "connected": true, "address": "127.0.0.1", "protocol": "mqtt-5",
            "filters": 2, "queued": 3, "queuedBytes": 400, "inFlight": 1, "sessionExpiry": 60
        });
        let expected = "app-1 a connected 127.0.0.1 mqtt-5 filters 2 queued 3 bytes 400 in-flight 1";
        assert_eq!(session_line(&session), expected);
        session = json!({ "principal": "app-1", "client": "a", "connected": false, "expires": 160, "queued": 5 });
        assert_eq!(session_line(&session), "app-1 a away - - filters 0 queued 5 bytes 0 in-flight 0 expires 160");
        session = json!({ "principal": "p", "client": "a", "node": 3, "connected": false, "expires": 160 });
        assert_eq!(session_line(&session), "p a away - - filters 0 queued 0 bytes 0 in-flight 0 expires 160 node 3");
    }
}
