//! Arguments that name a broker, and the connection of one command.
//!
//! A connection serves one command and is never restored: a request that may have been carried out must not be repeated
//! unasked, and a gap in the output of `watch` and `sub` must not go unnoticed.

use std::{
    hash::{BuildHasher, RandomState},
    io::{self, ErrorKind},
    time::Duration,
};

use clap::Args;
use umbra_client::{Client, ConnectOptions, Error, HttpClient, Message, Messages};

use super::{Exit, command_failure::CommandFailure, contexts::Contexts, output::complain};
use crate::config;

/// The broker, from flags or a stored context.
#[derive(Debug, Args)]
pub(super) struct ContextArgs {
    #[command(flatten)]
    pub(super) options: ConnectOptions,
    /// Stored connection to use (see `umbrad context`); flags override it. Default: UMBRA_CONTEXT in the environment,
    /// else the selected context, which is ignored if the command line has a URL.
    #[arg(long, value_name = "NAME", help_heading = CONNECTION)]
    pub(super) context: Option<String>,
}

/// The broker, the client id, and the timeout.
#[derive(Debug, Args)]
pub(super) struct BrokerArgs {
    #[command(flatten)]
    context: ContextArgs,
    /// MQTT client id; without it, a unique one.
    #[arg(long, value_name = "ID", value_parser = clap::builder::NonEmptyStringValueParser::new(), help_heading = CONNECTION)]
    client_id: Option<String>,
    /// Maximum time to wait for the connection and for the reply, such as 500ms or 10s.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration, help_heading = CONNECTION)]
    timeout: Duration,
}

/// An open connection.
pub(super) struct Connection {
    pub(super) client: Client,
    broker: String,
    timeout: Duration,
}

/// Heading of these flags in the help.
const CONNECTION: &str = "Connection";

impl ContextArgs {
    /// Returns the connection options: the flags, completed from the context.
    pub(super) fn resolve(&self) -> Result<ConnectOptions, CommandFailure> {
        let from_environment = || std::env::var("UMBRA_CONTEXT").ok().filter(|name| !name.is_empty());
        let given = &self.options;
        let addressed = given.url.is_some() || given.http_url.is_some();
        let stored = match (&self.context, addressed) {
            (Some(name), _) => Some(Contexts::open()?.load(name)?),
            // The login for another broker must not be sent to this one.
            (None, true) => None,
            (None, false) => match from_environment() {
                Some(name) => Some(Contexts::open()?.load(&name)?),
                None => Contexts::selected_options()?,
            },
        };
        Ok(given.clone().or(stored.unwrap_or_default()))
    }
}

impl BrokerArgs {
    /// Returns a client of the broker's HTTP interface.
    pub(super) fn http_client(&self) -> Result<HttpClient, CommandFailure> {
        Ok(self.context.resolve()?.http_client()?.timeout(self.timeout))
    }

    /// Connects, with a clean session.
    pub(super) async fn connect(&self) -> Result<Connection, CommandFailure> {
        let options = self.context.resolve()?;
        let broker = options.address().to_string();
        let id = self.client_id.clone().unwrap_or_else(|| format!("umbrad-{}", nonce()));
        let options = options.options(&id)?.reply_deadline(self.timeout).connect_once();
        let connected = Client::connect(options).await;
        let client = connected.map_err(|error| match error {
            Error::Offline(reason) => CommandFailure::failed(format!("{broker}: {reason:#}")),
            error => CommandFailure::failed(format!("{broker}: {error:#}")),
        })?;
        Ok(Connection { client, broker, timeout: self.timeout })
    }
}

impl Connection {
    /// Returns the failure for an error of the client.
    pub(super) fn failure(&self, error: Error) -> CommandFailure {
        match (error, self.client.connection_error()) {
            (error @ Error::Refused(_), _) => CommandFailure::failed(error.to_string()),
            (error @ Error::Topic(_), _) => CommandFailure::usage(error.to_string()),
            (_, Some(reason)) => CommandFailure::failed(format!("{}: connection lost: {reason:#}", self.broker)),
            (Error::Unanswered, None) => {
                CommandFailure::failed(format!("{}: no reply within {:?}", self.broker, self.timeout))
            }
            (error, None) => CommandFailure::failed(format!("{}: {error:#}", self.broker)),
        }
    }

    /// Prints `messages` with `print` until there were `count`, or without it until the connection is lost, and closes the
    /// connection. `what` names them in the failure of a reader that is too slow.
    pub(super) async fn print(
        self,
        mut messages: Messages,
        count: Option<u64>,
        what: &str,
        print: impl Fn(&Message) -> io::Result<()>,
    ) -> Result<Exit, CommandFailure> {
        let mut left = count.unwrap_or(u64::MAX);
        while left > 0 {
            let message = messages.recv().await.ok_or_else(|| self.failure(Error::Closed))?;
            match print(&message) {
                Ok(()) => left -= 1,
                // The reader has enough: `umbrad sub … | head`.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => break,
                Err(error) => return Ok(complain(&error, Exit::Failed)),
            }
            if messages.missed() > 0 {
                let lost = format!("standard output was not read in time; {what} were lost");
                return Err(CommandFailure::failed(lost));
            }
        }
        self.client.close().await;
        Ok(Exit::Done)
    }
}

/// Returns 16 hex digits that differ for every call and process.
fn nonce() -> String {
    format!("{:016x}", RandomState::new().hash_one(std::process::id()))
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = config::parse_duration(text).filter(|duration| !duration.is_zero());
    duration.ok_or_else(|| "must be a duration such as 500ms or 10s".to_owned())
}
