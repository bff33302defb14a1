//! Arguments that say which broker.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use crate::config;

/// Which broker, as whom, and how long to wait.
#[derive(Debug, Args)]
pub(super) struct BrokerArgs {
    /// The broker's address. It is spoken to over plain TCP, without TLS.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:1883", value_parser = broker)]
    pub(super) broker: Broker,
    /// MQTT client id; without it, one that nobody else has.
    #[arg(long, value_name = "ID", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(super) client_id: Option<String>,
    /// The user to log in as.
    #[arg(long, value_name = "NAME", requires = "password_file")]
    pub(super) user: Option<String>,
    /// A file with the user's password, or a token, in its first line.
    #[arg(long, value_name = "FILE", requires = "user")]
    pub(super) password_file: Option<PathBuf>,
    /// How long to wait for the connection and for the reply, such as 500ms or 10s.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub(super) timeout: Duration,
}

/// A host, an IPv6 address in its brackets, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Broker {
    pub(super) host: String,
    pub(super) port: u16,
}

fn broker(text: &str) -> Result<Broker, String> {
    let parts = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    // A colon in a host that is not in brackets is an IPv6 address without a port.
    let parts = parts.filter(|(host, _)| !host.is_empty() && (host.ends_with(']') || !host.contains(':')));
    let (host, port) = parts.ok_or("must be HOST:PORT, such as localhost:1883 or [::1]:1883")?;
    Ok(Broker { host: host.to_owned(), port })
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = config::parse_duration(text).filter(|duration| !duration.is_zero());
    duration.ok_or_else(|| "must be a duration such as 500ms or 10s".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_are_read() {
        for (text, expected) in [
            ("localhost:1883", Some(("localhost", 1883))),
            ("127.0.0.1:1", Some(("127.0.0.1", 1))),
            ("[::1]:1883", Some(("[::1]", 1883))),
            ("::1", None),
            ("localhost", None),
            (":1883", None),
            ("host:65536", None),
            ("host:", None),
        ] {
            let expected = expected.map(|(host, port)| Broker { host: host.to_owned(), port });
            assert_eq!(broker(text).ok(), expected, "{text}");
        }
    }
}
