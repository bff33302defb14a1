//! Refuses requests that a browser sends for a foreign web page: the last lines of PROTOCOL section 5.
//!
//! Every page in a browser can reach a listener on the browser's loopback address. `Host`, which a page cannot choose,
//! reveals a page whose own name resolves to this server (DNS rebinding). `Origin`, which it cannot choose either,
//! reveals a cross-site request that needs no CORS preflight: a POST of plain text or a WebSocket. Other clients can
//! set both fields freely, and authenticate in another way.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{
        HeaderMap, Version,
        header::{HOST, ORIGIN, UPGRADE},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::{
    clock::Clock,
    config::{Authority, Host, HttpConfig, ListenerConfig, Origin},
    http::problem::Problem,
    shadow::{Timestamp, excerpt},
};

/// The hosts and origins that a listener accepts.
#[derive(Clone, Debug)]
pub(in crate::http) struct Guard {
    hosts: Vec<Host>,
    origins: Vec<Origin>,
    /// True if it listens on loopback, so that loopback names are its own.
    loopback: bool,
    /// True if it has TLS itself. Otherwise a reverse proxy may have.
    tls: bool,
    clock: Clock,
}

/// The reason for refusing a request, shown to users of browsers.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    /// RFC 9112 section 3.2.
    #[error("a request must have one Host field")]
    HostMissing,
    /// `Host`, or the host of the target, is malformed. RFC 9112 section 3.2.
    #[error("{0:?} is not a valid host and port")]
    HostMalformed(String),
    /// `Host`, or the host of the target, is not one of the listener's.
    #[error("{0:?} is not a host of this server; its operator can list it in 'hosts'")]
    HostUnknown(String),
    /// The page has a foreign origin.
    #[error("requests from pages of {0:?} are not allowed; the server's operator can list it in 'origins'")]
    OriginForeign(String),
}

impl Guard {
    pub(in crate::http) fn new(listener: &ListenerConfig, http: &HttpConfig) -> Self {
        Self {
            hosts: http.hosts.clone(),
            origins: http.origins.clone(),
            loopback: listener.bind.ip().to_canonical().is_loopback(),
            tls: listener.tls.is_some(),
            clock: Clock::system(),
        }
    }

    /// Returns true if the listener has TLS.
    pub(in crate::http) fn has_tls(&self) -> bool {
        self.tls
    }

    fn check(&self, request: &Request) -> Result<(), Refusal> {
        if HEALTH_PATHS.contains(&request.uri().path()) && request.method().is_safe() {
            return check_any_host(request);
        }
        let mut host = self.host(request.headers())?;
        // The host of an absolute target, as sent to a proxy, overrides the field. Both must be valid.
        if let Some(target) = request.uri().authority() {
            host = self.own(target.as_str())?;
        }
        let is_unsafe = !request.method().is_safe() || request.headers().contains_key(UPGRADE);
        if is_unsafe { self.check_origin(request.headers(), &host) } else { Ok(()) }
    }

    fn host(&self, headers: &HeaderMap) -> Result<Authority, Refusal> {
        self.own(&host_field(headers)?.ok_or(Refusal::HostMissing)?)
    }

    /// Parses a host and checks that it is one of the listener's.
    fn own(&self, text: &str) -> Result<Authority, Refusal> {
        let is_own = |host: &Host| self.hosts.contains(host) || (self.loopback && host.is_loopback());
        let authority = Authority::parse(text).filter(|authority| is_own(&authority.host));
        authority.ok_or_else(|| match Authority::is_well_formed(text) {
            true => Refusal::HostUnknown(shown(text)),
            false => Refusal::HostMalformed(shown(text)),
        })
    }

    /// Checks `Origin`, which only browsers send.
    fn check_origin(&self, headers: &HeaderMap, host: &Authority) -> Result<(), Refusal> {
        let fields = headers.get_all(ORIGIN).iter().map(|field| String::from_utf8_lossy(field.as_bytes()));
        let fields = fields.collect::<Vec<_>>();
        let origin = match fields.as_slice() {
            [] => return Ok(()),
            [field] => Origin::parse(field),
            _ => None,
        };
        let is_allowed = |origin: &Origin| self.is_same(origin, host) || self.origins.contains(origin);
        match origin.as_ref().is_some_and(is_allowed) {
            true => Ok(()),
            false => Err(Refusal::OriginForeign(shown(&fields.join(", ")))),
        }
    }

    /// Returns true if `origin` is this server's own.
    fn is_same(&self, origin: &Origin, host: &Authority) -> bool {
        let scheme = origin.scheme == "https" || (origin.scheme == "http" && !self.tls);
        scheme && origin.is_of(host)
    }
}

/// The paths that load balancers request, with any host or, in HTTP/1.0, without one. A foreign page learns from them
/// only that the server is up.
const HEALTH_PATHS: [&str; 2] = ["/healthz", "/readyz"];

/// Checks only that the host is well-formed.
fn check_any_host(request: &Request) -> Result<(), Refusal> {
    let field = host_field(request.headers())?;
    if field.is_none() && request.version() >= Version::HTTP_11 {
        return Err(Refusal::HostMissing);
    }
    let target = request.uri().authority().map(|target| target.to_string());
    match [field, target].into_iter().flatten().find(|host| !Authority::is_well_formed(host)) {
        None => Ok(()),
        Some(host) => Err(Refusal::HostMalformed(shown(&host))),
    }
}

/// Returns the value of the single `Host` field.
fn host_field(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let mut fields = headers.get_all(HOST).iter();
    match (fields.next(), fields.next()) {
        (field, None) => Ok(field.map(|field| String::from_utf8_lossy(field.as_bytes()).into_owned())),
        _ => Err(Refusal::HostMissing),
    }
}

/// Runs the guard as a layer before every route.
pub(in crate::http) async fn guard(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    match guard.check(&request) {
        Ok(()) => next.run(request).await,
        Err(refusal) => {
            tracing::debug!(%refusal, path = request.uri().path(), "refused");
            refusal.problem(guard.clock.now()).into_response()
        }
    }
}

impl Refusal {
    fn problem(&self, now: Timestamp) -> Problem {
        match self {
            Self::HostMissing => Problem::parameter("Host", "must be present exactly once", now),
            Self::HostMalformed(_) => Problem::parameter("Host", &self.to_string(), now),
            Self::HostUnknown(_) | Self::OriginForeign(_) => Problem::forbidden(&self.to_string(), now),
        }
    }
}

/// Returns the beginning of a value, for an error text.
fn shown(text: &str) -> String {
    excerpt(text, EXCERPT_CHARS_MAX).to_owned()
}

const EXCERPT_CHARS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use axum::body::Body;

    use super::*;

    fn guard(hosts: &[&str], origins: &[&str], loopback: bool, tls: bool) -> Guard {
        Guard {
            hosts: hosts.iter().map(|host| Host::parse(host).unwrap()).collect(),
            origins: origins.iter().map(|origin| Origin::parse(origin).unwrap()).collect(),
            loopback,
            tls,
            clock: Clock::system(),
        }
    }

    /// Returns the status of a refusal, or 200.
    fn checked(guard: &Guard, method: &str, target: &str, fields: &[(&str, &str)]) -> u16 {
        let request = Request::builder().method(method).uri(target);
        let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        match guard.check(&request.body(Body::empty()).unwrap()) {
            Ok(()) => 200,
            Err(refusal) => refusal.problem(Timestamp(0)).into_response().status().as_u16(),
        }
    }

    #[test]
    fn refuses_foreign_and_malformed_hosts() {
        let local = guard(&[], &[], true, false);
        let named = guard(&["umbra.example.com", "192.0.2.7"], &[], false, true);
        let both = guard(&["umbra.example.com"], &[], true, false);
        // target, Host, status on: loopback, another address with names, loopback with a name
        for (target, host, expected) in [
            ("/", "localhost", [200, 403, 200]),
            ("/", "localhost:8080", [200, 403, 200]),
            ("/", "LOCALHOST.", [200, 403, 200]),
            ("/", "127.0.0.1:1", [200, 403, 200]),
            ("/", "[::1]", [200, 403, 200]),
            ("/", "umbra.example.com", [403, 200, 200]),
            ("/", "Umbra.Example.com.:443", [403, 200, 200]),
            ("/", "192.0.2.7", [403, 200, 403]),
            ("/", "evil.example", [403, 403, 403]),
            ("/", "localhost.evil.example", [403, 403, 403]),
            ("/", "localhost@evil.example", [400, 400, 400]),
            ("/", "local host", [400, 400, 400]),
            ("/", "localhost/", [400, 400, 400]),
            ("/", "localhost, localhost", [400, 400, 400]),
            ("/", "localhost:80:80", [400, 400, 400]),
            ("/", "localhost:x", [400, 400, 400]),
            ("/", "[::1", [400, 400, 400]),
            ("/", "::1", [400, 400, 400]),
            ("/", "lamp%zz", [400, 400, 400]),
            ("/", "lamp%20", [403, 403, 403]),
            ("/", "localhost:99999", [403, 403, 403]),
            ("/", "0.0.0.0", [403, 403, 403]),
            ("/", "2130706433", [403, 403, 403]),
            ("/", "", [403, 403, 403]),
            // absolute targets
            ("http://localhost/", "localhost", [200, 403, 200]),
            ("http://localhost:99/", "127.0.0.1", [200, 403, 200]),
            ("http://evil.example/", "localhost", [403, 403, 403]),
            ("http://localhost/", "evil.example", [403, 403, 403]),
            ("http://evil@localhost/", "localhost", [400, 403, 400]),
            // health checks accept any host
            ("/healthz", "10.1.2.3:8080", [200, 200, 200]),
            ("/readyz", "evil.example", [200, 200, 200]),
            ("http://10.1.2.3/readyz", "", [200, 200, 200]),
            ("/readyz", "a b", [400, 400, 400]),
            ("/readyz/", "evil.example", [403, 403, 403]),
        ] {
            let found = [&local, &named, &both].map(|guard| checked(guard, "GET", target, &[("host", host)]));
            assert_eq!(found, expected, "{target} {host:?}");
        }
        assert_eq!(checked(&local, "GET", "/", &[]), 400, "no Host");
        assert_eq!(checked(&local, "GET", "/", &[("host", "localhost"), ("host", "localhost")]), 400, "two");
        assert_eq!(checked(&local, "GET", "http://localhost/", &[]), 400, "only the target");
        assert_eq!(checked(&local, "GET", "/healthz", &[]), 400, "no Host in HTTP/1.1");
        assert_eq!(checked(&local, "POST", "/healthz", &[("host", "evil.example")]), 403, "no health check");
    }

    #[test]
    fn refuses_foreign_origins_of_unsafe_requests() {
        let plain = guard(&["umbra.example.com"], &["https://app.example.com"], true, false);
        let tls = guard(&["umbra.example.com"], &["https://app.example.com"], true, true);
        // Host, Origin, status without TLS and with it
        for (host, origin, expected) in [
            ("localhost:8080", None, [200, 200]),
            ("localhost:8080", Some("http://localhost:8080"), [200, 403]),
            ("localhost:8080", Some("https://localhost:8080"), [200, 200]),
            ("LOCALHOST:8080", Some("http://localhost.:8080"), [200, 403]),
            ("umbra.example.com", Some("https://umbra.example.com"), [200, 200]),
            ("umbra.example.com", Some("http://umbra.example.com"), [200, 403]),
            ("umbra.example.com", Some("https://app.example.com"), [200, 200]),
            ("umbra.example.com", Some("https://APP.example.com:443"), [200, 200]),
            ("umbra.example.com", Some("http://app.example.com"), [403, 403]),
            ("umbra.example.com", Some("https://app.example.com:8443"), [403, 403]),
            ("localhost:8080", Some("http://localhost:3000"), [403, 403]),
            ("localhost:8080", Some("http://localhost"), [403, 403]),
            ("localhost:8080", Some("http://127.0.0.1:8080"), [403, 403]),
            ("localhost:8080", Some("http://evil.example"), [403, 403]),
            ("localhost:8080", Some("null"), [403, 403]),
            ("localhost:8080", Some(""), [403, 403]),
            ("localhost:8080", Some("app://localhost:8080"), [403, 403]),
        ] {
            let fields = |more: &[(&'static str, &'static str)]| {
                let origin = origin.map(|origin| ("origin", origin));
                [("host", host)].into_iter().chain(origin).chain(more.iter().copied()).collect::<Vec<_>>()
            };
            for (guard, expected) in [&plain, &tls].into_iter().zip(expected) {
                for method in ["POST", "PUT", "PATCH", "DELETE", "ODD"] {
                    assert_eq!(checked(guard, method, "/", &fields(&[])), expected, "{method} {host} {origin:?}");
                }
                let socket = fields(&[("upgrade", "websocket")]);
                assert_eq!(checked(guard, "GET", "/mqtt", &socket), expected, "WebSocket {host} {origin:?}");
                // The browser keeps the responses of safe requests from the page.
                for method in ["GET", "HEAD", "OPTIONS"] {
                    assert_eq!(checked(guard, method, "/", &fields(&[])), 200, "{method} {host} {origin:?}");
                }
            }
        }
        let twice = [("host", "localhost"), ("origin", "http://localhost"), ("origin", "http://localhost")];
        assert_eq!(checked(&plain, "POST", "/", &twice), 403);
    }
}
