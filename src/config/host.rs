//! Host names and origins of HTTP: `Host` and `Origin`, as configured and as sent in requests.
//!
//! Different spellings of a name are equal: upper and lower case, a dot at the end, an explicit default port, an IPv4
//! address mapped into IPv6. A text that is not a plain name or address, such as `0x7f.1` or `user@host`, is refused.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

/// A host name in lower case, or an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A DNS name without a final dot.
    Name(String),
    /// An IP address; a mapped IPv4 address is an IPv4 address.
    Address(IpAddr),
}

/// A host with an optional port: the value of a `Host` field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// The host.
    pub host: Host,
    /// The port; `None` for the default of the scheme.
    pub port: Option<u16>,
}

/// The origin of a web page: the value of an `Origin` field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The scheme in lower case, such as `https`.
    pub scheme: String,
    /// The host.
    pub host: Host,
    /// The port; always present for `http` and `https`.
    pub port: Option<u16>,
}

impl Host {
    /// Parses a name, an IPv4 address, or an IPv6 address with or without brackets.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        match (bare.unwrap_or(text).parse::<Ipv6Addr>(), bare) {
            (Ok(address), _) => return Some(Self::Address(IpAddr::V6(address).to_canonical())),
            (Err(_), Some(_)) => return None,
            (Err(_), None) => {}
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if let Ok(address) = name.parse() {
            return Some(Self::Address(IpAddr::V4(address)));
        }
        let labels = name.split('.').collect::<Vec<_>>();
        let plain = |label: &&str| !label.is_empty() && label.len() <= LABEL_MAX && label.bytes().all(is_of_a_name);
        // Browsers read a name whose last label is a decimal or hexadecimal number as an address.
        let number = |label: &&str| label.starts_with("0x") || label.bytes().all(|byte| byte.is_ascii_digit());
        let sound = name.len() <= NAME_MAX && labels.iter().all(plain) && !labels.last().is_some_and(number);
        sound.then_some(Self::Name(name))
    }

    /// Returns true if it is the local machine: `localhost`, 127.0.0.0/8 or `::1`.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Name(name) => name == "localhost",
            Self::Address(address) => address.is_loopback(),
        }
    }
}

impl fmt::Display for Host {
    /// As in a URL: an IPv6 address in brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl Authority {
    /// Parses `host` or `host:port`; an IPv6 address must be in brackets.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let end_of_host =
            if text.starts_with('[') { text.find(']')? + 1 } else { text.find(':').unwrap_or(text.len()) };
        let (host, port) = text.split_at_checked(end_of_host)?;
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => None,
            Some("") => None, // a port that is empty is the default one, RFC 3986 section 3.2.3
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(digits.parse().ok()?),
            _ => return None,
        };
        Some(Self { host: Host::parse(host)?, port })
    }
}

impl Authority {
    /// Returns true if `text` has the form of a host with or without a port, of whatever server. RFC 3986 section 3.2.
    #[must_use]
    pub fn is_well_formed(text: &str) -> bool {
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, port)) => (address.parse::<Ipv6Addr>().is_ok(), port),
            None => {
                let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
                (is_reg_name(name), port)
            }
        };
        let digits = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
        host && (port.is_empty() || port.strip_prefix(':').is_some_and(digits))
    }
}

/// RFC 3986 section 3.2.2; an IPv4 address is one as well.
fn is_reg_name(text: &str) -> bool {
    let mut parts = text.split('%');
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte);
    let escaped = |part: &str| part.get(..2).is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    parts.next().is_some_and(|first| first.bytes().all(plain))
        && parts.all(|part| escaped(part) && part.bytes().all(plain))
}

impl Origin {
    /// Parses `scheme://host` or `scheme://host:port`. Returns `None` for other texts, including `null`, which a page
    /// without an origin sends.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let of_a_scheme = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
        if !scheme.starts_with(|first: char| first.is_ascii_alphabetic()) || !scheme.bytes().all(of_a_scheme) {
            return None;
        }
        let (scheme, Authority { host, port }) = (scheme.to_ascii_lowercase(), Authority::parse(authority)?);
        let port = port.or_else(|| default_port(&scheme));
        Some(Self { scheme, host, port })
    }

    /// Returns true if a page of this origin and the server `authority` have the same origin. An authority without a
    /// port has the default port of this origin's scheme.
    #[must_use]
    pub fn is_of(&self, authority: &Authority) -> bool {
        self.host == authority.host && self.port == authority.port.or_else(|| default_port(&self.scheme))
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

fn is_of_a_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

const NAME_MAX: usize = 253;
const LABEL_MAX: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Option<Host> {
        Some(Host::Name(text.to_owned()))
    }

    fn address(text: &str) -> Option<Host> {
        text.parse().ok().map(Host::Address)
    }

    #[test]
    fn hosts() {
        let long = "x".repeat(64);
        for (text, expected) in [
            ("localhost", name("localhost")),
            ("LocalHost.", name("localhost")),
            ("umbra_1.Example.com", name("umbra_1.example.com")),
            ("xn--mnchen-3ya.de", name("xn--mnchen-3ya.de")),
            ("127.0.0.1", address("127.0.0.1")),
            ("127.0.0.1.", address("127.0.0.1")),
            ("[::1]", address("::1")),
            ("::1", address("::1")),
            ("[0:0:0::0:1]", address("::1")),
            ("[::ffff:127.0.0.1]", address("127.0.0.1")),
            ("", None),
            (".", None),
            ("a..b", None),
            ("localhost..", None),
            (long.as_str(), None),
            ("münchen.de", None),
            ("a b", None),
            ("user@localhost", None),
            ("localhost/x", None),
            ("localhost:80", None),
            ("[localhost]", None),
            ("[::1", None),
            ("[fe80::1%eth0]", None),
            // Browsers read this as an address; it is refused in a configuration.
            ("127.1", None),
            ("2130706433", None),
            ("0x7f000001", None),
            ("0177.0.0.01", None),
            ("a.0x7f", None),
        ] {
            assert_eq!(Host::parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn loopback() {
        for (text, expected) in [
            ("localhost", true),
            ("LOCALHOST.", true),
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("localhost.example.com", false),
            ("evil.localhost", false),
            ("0.0.0.0", false),
            ("::", false),
            ("128.0.0.1", false),
        ] {
            assert_eq!(Host::parse(text).map(|host| host.is_loopback()), Some(expected), "{text}");
        }
    }

    #[test]
    fn authorities() {
        for (text, expected) in [
            ("localhost", Some((name("localhost"), None))),
            ("localhost:8080", Some((name("localhost"), Some(8080)))),
            ("localhost:", Some((name("localhost"), None))),
            ("[::1]:8080", Some((address("::1"), Some(8080)))),
            ("[::1]", Some((address("::1"), None))),
            ("::1", None),
            ("::1:8080", None),
            ("[::1]8080", None),
            ("localhost:80:80", None),
            ("localhost:65536", None),
            ("localhost:+80", None),
            (":80", None),
            ("", None),
            ("a@localhost:80", None),
            ("localhost, evil.example", None),
            ("é:1", None),
        ] {
            let found = Authority::parse(text).map(|found| (Some(found.host), found.port));
            assert_eq!(found, expected, "{text:?}");
        }
    }

    #[test]
    fn origins_match_their_servers() {
        // origin, authority, true if both are the same origin; `None` if it is not an origin
        for (origin, authority, expected) in [
            ("http://localhost:8080", "localhost:8080", Some(true)),
            ("http://LOCALHOST.:8080", "localhost:8080", Some(true)),
            ("http://umbra.example.com", "umbra.example.com", Some(true)),
            ("http://umbra.example.com:80", "umbra.example.com", Some(true)),
            ("https://umbra.example.com", "umbra.example.com:443", Some(true)),
            ("https://umbra.example.com", "umbra.example.com:80", Some(false)),
            ("http://localhost:3000", "localhost:8080", Some(false)),
            ("http://127.0.0.1:8080", "localhost:8080", Some(false)),
            ("http://evil.example", "localhost", Some(false)),
            ("app://localhost", "localhost", Some(true)),
            ("null", "localhost", None),
            ("", "localhost", None),
            ("http://", "localhost", None),
            ("http://localhost/", "localhost", None),
            ("http://localhost http://localhost", "localhost", None),
            ("localhost", "localhost", None),
            ("ht tp://localhost", "localhost", None),
            ("http://user@localhost", "localhost", None),
        ] {
            let of = |origin: Origin| Authority::parse(authority).is_some_and(|authority| origin.is_of(&authority));
            assert_eq!(Origin::parse(origin).map(of), expected, "{origin:?} {authority}");
        }
    }
}
