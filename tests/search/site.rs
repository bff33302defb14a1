//! A server with a few listeners for HTTP, each with another role, and requests to it.

use std::{fs, path::PathBuf};

use serde_json::Value;

use crate::harness::{
    http::{Http, Reply, put, write_many},
    server::{Server, Setup, UNLIMITED},
};

/// Besides the administrator's: `partial` may read a part of the lamps, `shop` all of what begins with `shop-`, `slow` may
/// cause little work, and for `small` and `follower` little is kept. Over MQTT, `blind` may read no device, and `few` have few streams.
pub(crate) const LISTENERS: &str = r#"
[[listener]]
name = "web"
kind = "http"
bind = "127.0.0.1:0"

[[listener]]
name = "partial"
kind = "http"
bind = "127.0.0.1:0"
anonymous_role = "partial"

[[listener]]
name = "shop"
kind = "http"
bind = "127.0.0.1:0"
anonymous_role = "shop"

[[listener]]
name = "slow"
kind = "http"
bind = "127.0.0.1:0"
anonymous_role = "slow"

[[listener]]
name = "idle"
kind = "http"
bind = "127.0.0.1:0"
anonymous_role = "slow"

[[listener]]
name = "small"
kind = "http"
bind = "127.0.0.1:0"
anonymous_role = "small"

[[listener]]
name = "partial-mqtt"
kind = "mqtt"
bind = "127.0.0.1:0"
anonymous_role = "partial"

[[listener]]
name = "blind-mqtt"
kind = "mqtt"
bind = "127.0.0.1:0"
anonymous_role = "blind"

[[listener]]
name = "few-mqtt"
kind = "mqtt"
bind = "127.0.0.1:0"
anonymous_role = "few"

[[listener]]
name = "follower"
kind = "http"
bind = "127.0.0.1:0"
anonymous_role = "follower"

[[listener]]
name = "follower-mqtt"
kind = "mqtt"
bind = "127.0.0.1:0"
anonymous_role = "follower"

[[rule]]
role = "blind"
subscribe = ["news"]

[[rule]]
role = "few"
devices = ["*"]
read = ["/reported"]

[[rule]]
role = "follower"
devices = ["*"]
read = ["/reported"]

[[rule]]
role = "small"
devices = ["*"]
read = ["/reported"]

[[rule]]
role = "partial"
devices = ["lamp-*"]
read = ["/desired/zone", "/reported/zone/t"]
operations = ["get"]

[[rule]]
role = "shop"
devices = ["shop-*"]
read = ["/desired", "/reported", "/tags"]

[[rule]]
role = "slow"
devices = ["*"]
read = ["/reported"]

[[role]]
role = "app"

[[role]]
role = "slow"
work = 100

[[role]]
role = "few"
sessions = 2

[[role]]
role = "small"
memory = "80KiB"

# As much beside what a live query is charged for changes that wait.
[[role]]
role = "follower"
memory = "455KiB"
"#;

/// Changes of the rules of `partial`, for [`Reloads::replace`].
pub(crate) const MORE_TO_READ: (&str, &str) = ("\"/reported/zone/t\"", "\"/reported\"");
pub(crate) const FEWER_DEVICES: (&str, &str) = ("devices = [\"lamp-*\"]", "devices = [\"lamp-1\"]");

pub(crate) struct Site(pub(crate) Server);

impl Site {
    pub(crate) fn open() -> Self {
        Self(Server::with(Setup { listener: LISTENERS, ..UNLIMITED }))
    }

    pub(crate) fn client(&self, listener: &str) -> Http {
        Http::connect(self.0.address_of(listener))
    }

    /// Writes shadows: the path after `/v1/devices/`, and the state.
    pub(crate) fn write(&self, shadows: &[(&str, Value)]) {
        let mut client = self.client("web");
        for (path, state) in shadows {
            put(&mut client, path, state);
        }
    }

    /// Writes many shadows.
    pub(crate) fn write_many(&self, count: usize, shadow: impl Fn(usize) -> (String, Value) + Sync) {
        write_many(self.0.address_of("web"), count, shadow);
    }

    /// Aggregates as whoever comes to `listener` may.
    pub(crate) fn aggregate_at(&self, listener: &str, parameters: &[(&str, &str)]) -> Reply {
        let head = format!("GET /v1/aggregate?{} HTTP/1.1\nUmbra-Client: {listener}", encoded(parameters));
        self.client(listener).send(&head, b"")
    }

    /// Searches as whoever comes to `listener` may.
    pub(crate) fn search_at(&self, listener: &str, parameters: &[(&str, &str)]) -> Reply {
        // Each listener's callers are a principal of their own.
        let head = format!("GET /v1/search?{} HTTP/1.1\nUmbra-Client: {listener}", encoded(parameters));
        self.client(listener).send(&head, b"")
    }

    /// Searches as an administrator.
    pub(crate) fn search(&self, parameters: &[(&str, &str)]) -> Value {
        let reply = self.search_at("web", parameters);
        assert_eq!(reply.status, 200, "{parameters:?}: {}", reply.text());
        reply.json()
    }

    /// The ids that the query finds at `listener`.
    pub(crate) fn found_at(&self, listener: &str, query: &str) -> String {
        let reply = self.search_at(listener, &[("q", query)]);
        assert_eq!(reply.status, 200, "{query}: {}", reply.text());
        ids(&reply.json())
    }
}

/// Other rules than those at the start, one after the other.
pub(crate) struct Reloads<'a> {
    server: &'a Server,
    file: PathBuf,
    original: String,
    count: usize,
}

impl<'a> Reloads<'a> {
    pub(crate) fn of(site: &'a Site) -> Self {
        let file = site.0.directory().join("broker.toml");
        let original = fs::read_to_string(&file).unwrap();
        Self { server: &site.0, file, original, count: 0 }
    }

    /// Has the server read its configuration as it was at the start, but for this text.
    pub(crate) fn replace(&mut self, (from, to): (&str, &str)) {
        assert!(self.original.contains(from), "{}", self.original);
        fs::write(&self.file, self.original.replace(from, to)).unwrap();
        self.count += 1;
        self.server.hangup(self.count, "roles reloaded");
    }
}

/// The ids in a page, in order.
pub(crate) fn ids(page: &Value) -> String {
    let ids = page["devices"].as_array().unwrap().iter().map(|device| device["id"].as_str().unwrap());
    ids.collect::<Vec<_>>().join(" ")
}

/// Parameters, percent-encoded but for letters and digits.
pub(crate) fn encoded(parameters: &[(&str, &str)]) -> String {
    let encode = |text: &str| {
        let byte = |byte: u8| match byte.is_ascii_alphanumeric() {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        };
        text.bytes().map(byte).collect::<String>()
    };
    let pairs = parameters.iter().map(|(name, value)| format!("{name}={}", encode(value)));
    pairs.collect::<Vec<_>>().join("&")
}
