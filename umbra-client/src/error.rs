//! The errors of the library.
//!
//! [`Error::kind`] is for programs that decide by it; the variants hold the details. The text of an error does not
//! repeat its source's: `{error:#}` writes the whole chain on one line.

use std::{error::Error as StdError, fmt, io, sync::Arc, time::Duration};

use crate::{
    address::{Address, InvalidAddress},
    names::InvalidName,
    rejection::{RecoveryAction, Rejection},
};

/// A request that failed, or whose outcome is unknown.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Error {
    /// The service rejected the request, and would reject it again.
    Rejected(Box<Rejection>),
    /// The broker refused the packet before it was handled as a request. Holds the broker's reason.
    Refused(String),
    /// No reply came within the reply deadline. A write may be applied or not.
    Unanswered,
    /// The connection broke before the reply came. A write may be applied or not.
    Disconnected(ConnectionError),
    /// The last of the tries failed, or left it unknown whether an earlier one was applied.
    GaveUp {
        /// The number of tries.
        tries: u32,
        /// The error of the last try.
        last: Box<Error>,
        /// True if one of the tries may be applied.
        outcome_unknown: bool,
    },
    /// There is no connection; nothing was sent.
    Offline(ConnectionError),
    /// A reply that does not have the expected shape.
    Unreadable(Arc<serde_json::Error>),
    /// A state that cannot be written as JSON; nothing was sent.
    InvalidState(Arc<serde_json::Error>),
    /// The watches and subscriptions need more filters than one session may have.
    TooManyWatches(usize),
    /// The client was closed.
    Closed,
    /// A malformed address.
    Address(InvalidAddress),
    /// A malformed topic or filter.
    Topic(String),
    /// A malformed device id or shadow name.
    Name(InvalidName),
    /// An HTTP request without a response.
    Http {
        /// The URL of the HTTP interface.
        url: String,
        /// The cause.
        source: Arc<dyn StdError + Send + Sync>,
    },
    /// The client knows no HTTP URL ([`crate::Options::http_url`]).
    NoHttp,
    /// An address that is not an HTTP URL.
    NotHttp(Address),
}

/// The kind of an [`Error`], without its details.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// See [`Error::Rejected`].
    Rejected,
    /// See [`Error::Refused`].
    Refused,
    /// See [`Error::Unanswered`].
    Unanswered,
    /// See [`Error::Disconnected`].
    Disconnected,
    /// See [`Error::GaveUp`].
    GaveUp,
    /// See [`Error::Offline`].
    Offline,
    /// See [`Error::Unreadable`].
    Unreadable,
    /// An address, name, topic or state that is not sent: see [`Error::Address`], [`Error::Name`], [`Error::Topic`],
    /// [`Error::InvalidState`], [`Error::NotHttp`].
    InvalidInput,
    /// See [`Error::TooManyWatches`].
    TooManyWatches,
    /// See [`Error::Closed`].
    Closed,
    /// See [`Error::Http`].
    Http,
    /// See [`Error::NoHttp`].
    NoHttp,
}

/// The failure of a connection, or of an attempt to connect.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The first attempt has not ended yet.
    Connecting,
    /// The broker did not answer in time.
    NoAnswer(Option<Duration>),
    /// The broker refused the connection. Holds the CONNACK reason.
    Refused(String),
    /// The socket failed.
    Io(Arc<io::Error>),
    /// TLS failed.
    Tls(Arc<dyn StdError + Send + Sync>),
    /// The WebSocket failed.
    WebSocket(Arc<dyn StdError + Send + Sync>),
    /// The broker, or this client, violated MQTT or a limit of the other.
    Protocol(Arc<dyn StdError + Send + Sync>),
}

impl Error {
    /// Returns the kind of this error.
    ///
    /// ```
    /// use umbra_client::{DeviceId, Error, ErrorKind};
    ///
    /// let error = Error::from(DeviceId::new("no/device").unwrap_err());
    /// assert_eq!(error.kind(), ErrorKind::InvalidInput);
    /// ```
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Rejected(_) => ErrorKind::Rejected,
            Self::Refused(_) => ErrorKind::Refused,
            Self::Unanswered => ErrorKind::Unanswered,
            Self::Disconnected(_) => ErrorKind::Disconnected,
            Self::GaveUp { .. } => ErrorKind::GaveUp,
            Self::Offline(_) => ErrorKind::Offline,
            Self::Unreadable(_) => ErrorKind::Unreadable,
            Self::Address(_) | Self::Name(_) | Self::Topic(_) | Self::InvalidState(_) | Self::NotHttp(_) => {
                ErrorKind::InvalidInput
            }
            Self::TooManyWatches(_) => ErrorKind::TooManyWatches,
            Self::Closed => ErrorKind::Closed,
            Self::Http { .. } => ErrorKind::Http,
            Self::NoHttp => ErrorKind::NoHttp,
        }
    }

    /// Returns the rejection, if the request, or its last try, was rejected.
    ///
    /// ```no_run
    /// # async fn example(shadow: umbra_client::Shadow) {
    /// use umbra_client::Version;
    ///
    /// if let Err(error) = shadow.delete(Some(Version(3))).await
    ///     && let Some(rejection) = error.rejection()
    /// {
    ///     println!("still version {:?}: {}", rejection.version, rejection.message);
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn rejection(&self) -> Option<&Rejection> {
        match self {
            Self::Rejected(rejection) => Some(rejection),
            Self::GaveUp { last, .. } => last.rejection(),
            _ => None,
        }
    }

    /// Returns true if a write that failed with this error may be applied all the same.
    ///
    /// ```
    /// use umbra_client::Error;
    ///
    /// assert!(Error::Unanswered.is_outcome_unknown());
    /// assert!(!Error::Closed.is_outcome_unknown());
    /// ```
    #[must_use]
    pub fn is_outcome_unknown(&self) -> bool {
        match self {
            Self::Unanswered | Self::Disconnected(_) | Self::Unreadable(_) => true,
            Self::Rejected(rejection) => rejection.recovery() == RecoveryAction::Find,
            Self::GaveUp { outcome_unknown, .. } => *outcome_unknown,
            _ => false,
        }
    }

    pub(crate) fn unreadable(error: serde_json::Error) -> Self {
        Self::Unreadable(Arc::new(error))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(rejection) => write!(f, "rejected: {rejection}")?,
            Self::Refused(reason) => write!(f, "the broker refused the request: {reason}")?,
            Self::Unanswered => f.write_str("no reply in time")?,
            Self::Disconnected(_) => f.write_str("connection lost before the reply")?,
            Self::GaveUp { tries, outcome_unknown, .. } => {
                let unknown = if *outcome_unknown { "; the write may be applied" } else { "" };
                write!(f, "gave up after {tries} tries{unknown}")?;
            }
            Self::Offline(_) => f.write_str("not connected")?,
            Self::Unreadable(_) => f.write_str("unreadable reply")?,
            Self::InvalidState(_) => f.write_str("the state cannot be written as JSON")?,
            Self::TooManyWatches(max) => write!(f, "watches and subscriptions exceed {max} filters")?,
            Self::Closed => f.write_str("the client is closed")?,
            Self::Address(error) => error.fmt(f)?,
            Self::Topic(topic) => write!(f, "'{topic}' is not a valid topic or filter")?,
            Self::Name(error) => error.fmt(f)?,
            Self::Http { url, .. } => write!(f, "{url}")?,
            Self::NoHttp => f.write_str("no HTTP URL is known; set Options::http_url")?,
            Self::NotHttp(address) => write!(f, "'{address}' is not an http:// or https:// URL")?,
        }
        sources(self, f)
    }
}

impl ConnectionError {
    /// Returns the error of the MQTT library without its names for its own parts.
    pub(crate) fn new(error: rumqttc::v5::ConnectionError) -> Self {
        use rumqttc::v5::{ConnectionError as Mqtt, StateError};
        match error {
            Mqtt::Io(error) | Mqtt::MqttState(StateError::Io(error)) => Self::Io(Arc::new(error)),
            Mqtt::Tls(rumqttc::TlsError::Io(error)) => Self::Tls(Arc::new(error)),
            Mqtt::Tls(error) => Self::Tls(Arc::new(error)),
            Mqtt::Websocket(error) => Self::WebSocket(Arc::new(error)),
            Mqtt::ResponseValidation(error) => Self::WebSocket(Arc::new(error)),
            Mqtt::ConnectionRefused(code) => Self::Refused(format!("{code:?}")),
            Mqtt::Timeout(_) => Self::NoAnswer(None),
            error => Self::Protocol(Arc::new(error)),
        }
    }
}

impl fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting => f.write_str("not connected yet")?,
            Self::NoAnswer(None) => f.write_str("no answer in time")?,
            Self::NoAnswer(Some(limit)) => write!(f, "no answer within {limit:?}")?,
            Self::Refused(reason) => write!(f, "the broker refuses the connection: {reason}")?,
            Self::Io(error) => error.fmt(f)?,
            Self::Tls(_) => f.write_str("TLS")?,
            Self::WebSocket(_) => f.write_str("WebSocket")?,
            Self::Protocol(error) => error.fmt(f)?,
        }
        sources(self, f)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Disconnected(error) | Self::Offline(error) => Some(error),
            Self::GaveUp { last, .. } => Some(last),
            Self::Unreadable(error) | Self::InvalidState(error) => Some(error),
            Self::Http { source, .. } => Some(source),
            // Written by this error itself.
            Self::Address(error) => error.source(),
            Self::Name(error) => error.source(),
            _ => None,
        }
    }
}

impl StdError for ConnectionError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Tls(error) | Self::WebSocket(error) => Some(error),
            // Written by this error itself.
            Self::Io(error) => error.source(),
            Self::Protocol(error) => error.source(),
            Self::Connecting | Self::NoAnswer(_) | Self::Refused(_) => None,
        }
    }
}

impl From<InvalidAddress> for Error {
    fn from(error: InvalidAddress) -> Self {
        Self::Address(error)
    }
}

impl From<InvalidName> for Error {
    fn from(error: InvalidName) -> Self {
        Self::Name(error)
    }
}

/// Writes the sources of `error`, if `f` has the alternate flag.
fn sources(error: &dyn StdError, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut source = error.source().filter(|_| f.alternate());
    while let Some(error) = source {
        // Without the flag: it would write the rest of the chain.
        write!(f, ": {error}")?;
        source = error.source();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alternate_form_writes_each_source_once() {
        let refused = || ConnectionError::Io(Arc::new(io::Error::other("refused")));
        let tls = ConnectionError::Tls(Arc::new(io::Error::other("UnknownIssuer")));
        for (error, short, whole) in [
            (Error::Offline(refused()), "not connected", "not connected: refused"),
            (Error::Offline(tls), "not connected", "not connected: TLS: UnknownIssuer"),
            (
                Error::GaveUp { tries: 3, last: Box::new(Error::Disconnected(refused())), outcome_unknown: true },
                "gave up after 3 tries; the write may be applied",
                "gave up after 3 tries; the write may be applied: connection lost before the reply: refused",
            ),
            (Error::Closed, "the client is closed", "the client is closed"),
        ] {
            assert_eq!((error.to_string().as_str(), format!("{error:#}").as_str()), (short, whole));
        }
    }

    #[test]
    fn sources_can_be_walked_to_the_cause() {
        let cause = serde_json::from_str::<u8>("x").expect_err("not a number");
        let last = Box::new(Error::unreadable(cause));
        let error = Error::GaveUp { tries: 1, last, outcome_unknown: false };
        let unreadable = error.source().expect("the last try");
        let cause = unreadable.source().expect("the parser's error");
        assert!(cause.to_string().contains("expected value"), "{cause}");
    }
}
