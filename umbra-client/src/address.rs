//! The address of a broker as a URL, or as `HOST:PORT`.
//!
//! `http` and `https` URLs name the same listener as `ws` and `wss`: the service accepts MQTT over WebSocket on its HTTP
//! listeners. Credentials in a URL are refused, since URLs end up in process lists, shell histories and logs.

use std::{fmt, str::FromStr};

use http::Uri;
use serde::{Deserialize, Serialize};

/// The address of a broker, such as `mqtts://broker.example:8883` or `wss://broker.example/mqtt`.
///
/// ```
/// use umbra_client::{Address, Transport};
///
/// let address: Address = "wss://broker.example".parse()?;
/// assert_eq!(address.to_string(), "wss://broker.example:443/mqtt");
/// assert_eq!((address.transport(), address.host(), address.port()), (Transport::SecureWebSocket, "broker.example", 443));
/// assert!(address.is_encrypted());
/// assert_eq!(address.http_url().as_deref(), Some("https://broker.example:443"));
/// # Ok::<(), umbra_client::InvalidAddress>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Address {
    transport: Transport,
    /// A name or an IP address, IPv6 without brackets.
    host: String,
    port: u16,
    /// The path of a WebSocket; empty for the others.
    path: String,
}

/// The protocol below MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Transport {
    /// TCP: `mqtt://`, port 1883.
    Tcp,
    /// TLS: `mqtts://`, port 8883.
    Tls,
    /// WebSocket: `ws://` or `http://`, port 80.
    WebSocket,
    /// WebSocket over TLS: `wss://` or `https://`, port 443.
    SecureWebSocket,
}

/// A malformed address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{address}' is not a broker address: {reason}; expected mqtt://HOST[:PORT], mqtts://, ws://, wss:// or HOST:PORT"
)]
pub struct InvalidAddress {
    address: String,
    reason: &'static str,
}

impl Address {
    /// Returns the protocol below MQTT.
    #[must_use]
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// Returns the host: a name or an IP address, IPv6 without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns true if the connection is encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        matches!(self.transport, Transport::Tls | Transport::SecureWebSocket)
    }

    /// Returns the base URL of the HTTP interface of the same listener, without a trailing slash; `None` if the address
    /// is not for a WebSocket.
    #[must_use]
    pub fn http_url(&self) -> Option<String> {
        let scheme = match self.transport {
            Transport::Tcp | Transport::Tls => return None,
            Transport::WebSocket => "http",
            Transport::SecureWebSocket => "https",
        };
        let prefix = self.path.strip_suffix(WEBSOCKET_PATH).unwrap_or(&self.path).trim_end_matches('/');
        Some(format!("{scheme}://{}{prefix}", self.authority()))
    }

    /// Returns host and port in the form of a URL.
    fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl Transport {
    fn of_scheme(scheme: &str) -> Option<Self> {
        Some(match scheme {
            "mqtt" => Self::Tcp,
            "mqtts" => Self::Tls,
            "ws" | "http" => Self::WebSocket,
            "wss" | "https" => Self::SecureWebSocket,
            _ => return None,
        })
    }

    fn scheme(self) -> &'static str {
        match self {
            Self::Tcp => "mqtt",
            Self::Tls => "mqtts",
            Self::WebSocket => "ws",
            Self::SecureWebSocket => "wss",
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Self::Tcp => 1883,
            Self::Tls => 8883,
            Self::WebSocket => 80,
            Self::SecureWebSocket => 443,
        }
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let wrong = |reason| InvalidAddress { address: text.chars().take(ADDRESS_SHOWN_MAX).collect(), reason };
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        if rest.contains('@') {
            // The text is left out: it may hold a password.
            return Err(InvalidAddress {
                address: format!("{scheme}://…@…"),
                reason: "credentials are not allowed in it",
            });
        }
        let transport = match scheme {
            "" => Transport::Tcp,
            scheme => Transport::of_scheme(scheme).ok_or_else(|| wrong("unknown scheme"))?,
        };
        let url = if scheme.is_empty() { format!("mqtt://{text}") } else { text.to_owned() };
        let uri: Uri = url.parse().map_err(|_| wrong("no valid host and port"))?;
        let authority = uri.authority().ok_or_else(|| wrong("no host"))?;
        let host = authority.host();
        let port = match (authority.as_str().strip_prefix(host), authority.port_u16()) {
            (Some(""), _) if scheme.is_empty() => return Err(wrong("no port")),
            (Some(""), _) => transport.default_port(),
            (_, Some(port)) if port > 0 => port,
            _ => return Err(wrong("the port must be from 1 to 65535")),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if bare.is_empty() {
            return Err(wrong("no host"));
        }
        Ok(Self { transport, host: bare.to_owned(), port, path: path(transport, &uri).map_err(wrong)? })
    }
}

/// Returns the path of a WebSocket: `/mqtt` unless the URL has one.
fn path(transport: Transport, uri: &Uri) -> Result<String, &'static str> {
    let given = uri.path_and_query().map_or("/", |given| given.as_str());
    match (transport, given) {
        (Transport::Tcp | Transport::Tls, "/") => Ok(String::new()),
        (Transport::Tcp | Transport::Tls, _) => Err("only a WebSocket has a path"),
        (_, "/") => Ok(WEBSOCKET_PATH.to_owned()),
        (_, given) => Ok(given.to_owned()),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.transport.scheme(), self.authority(), self.path)
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl TryFrom<String> for Address {
    type Error = InvalidAddress;

    fn try_from(text: String) -> Result<Self, InvalidAddress> {
        text.parse()
    }
}

/// The path at which the service accepts MQTT over WebSocket.
const WEBSOCKET_PATH: &str = "/mqtt";
/// Characters of a malformed address that its error repeats.
const ADDRESS_SHOWN_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed() {
        for (text, url, http) in [
            ("127.0.0.1:1883", "mqtt://127.0.0.1:1883", None),
            ("localhost:1", "mqtt://localhost:1", None),
            ("[::1]:1883", "mqtt://[::1]:1883", None),
            ("mqtt://broker", "mqtt://broker:1883", None),
            ("mqtt://broker/", "mqtt://broker:1883", None),
            ("mqtts://broker", "mqtts://broker:8883", None),
            ("mqtts://[::1]:8884", "mqtts://[::1]:8884", None),
            ("ws://broker", "ws://broker:80/mqtt", Some("http://broker:80")),
            ("ws://broker:8080/", "ws://broker:8080/mqtt", Some("http://broker:8080")),
            ("http://broker:8080", "ws://broker:8080/mqtt", Some("http://broker:8080")),
            ("wss://broker/mqtt", "wss://broker:443/mqtt", Some("https://broker:443")),
            ("https://[::1]:8443/umbra/mqtt", "wss://[::1]:8443/umbra/mqtt", Some("https://[::1]:8443/umbra")),
            ("https://broker/umbra/", "wss://broker:443/umbra/", Some("https://broker:443/umbra")),
        ] {
            let address: Address = text.parse().expect(text);
            assert_eq!((address.to_string().as_str(), address.http_url().as_deref()), (url, http), "{text}");
            assert_eq!(url.parse(), Ok(address), "{url} is parsed as the same");
        }
    }

    #[test]
    fn malformed_addresses_are_refused_with_the_reason() {
        for (text, reason) in [
            ("", "no valid host and port"),
            ("broker", "no port"),
            ("::1", "no valid host and port"),
            (":1883", "no host"),
            ("host:", "the port must be from 1 to 65535"),
            ("host:65536", "the port must be from 1 to 65535"),
            ("mqtt://host:0", "the port must be from 1 to 65535"),
            ("host:mqtt", "the port must be from 1 to 65535"),
            ("mqtt://", "no valid host and port"),
            ("mqtt://:1883", "no host"),
            ("ftp://broker", "unknown scheme"),
            ("mqtt://broker/path", "only a WebSocket has a path"),
            ("mqtt://bro ker", "no valid host and port"),
        ] {
            let error = text.parse::<Address>().expect_err(text).to_string();
            assert!(error.starts_with(&format!("'{text}' is not a broker address: {reason}")), "{error}");
        }
        let error = "mqtts://user:secret@broker".parse::<Address>().expect_err("credentials").to_string();
        assert!(error.contains("credentials are not allowed") && !error.contains("secret"), "{error}");
    }
}
