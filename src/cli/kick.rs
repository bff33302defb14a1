//! `umbrad kick`

use clap::Args;
use serde_json::json;

use super::{
    Exit,
    command_failure::CommandFailure,
    connect_args::ContextArgs,
    output::{complain, print},
};

/// End all connections, event streams, browser sessions and MQTT sessions of a principal, over HTTP. Its clients may
/// connect again, unless the principal is in the file `auth.banned` first.
#[derive(Debug, Args)]
pub(super) struct Kick {
    /// Name of the principal; of an anonymous client, anonymous/ and its client id.
    principal: String,
    /// End the connections only: MQTT sessions wait for their clients as after any lost connection.
    #[arg(long)]
    keep_sessions: bool,
    #[command(flatten)]
    server: ContextArgs,
}

impl Kick {
    pub(super) async fn run(self) -> Exit {
        match self.ended().await {
            Ok(ended) => print(&ended),
            Err(failure) => complain(&failure, failure.exit),
        }
    }

    async fn ended(&self) -> Result<serde_json::Value, CommandFailure> {
        let http = self.server.resolve()?.http_client()?;
        let ended = http.end_connections(&self.principal, self.keep_sessions).await;
        let ended = ended.map_err(|error| CommandFailure::http(&error))?;
        Ok(json!({
            "connections": ended.connections,
            "sessions": ended.sessions,
            "streams": ended.streams,
            "signIns": ended.sign_ins,
        }))
    }
}
