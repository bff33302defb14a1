//! A server with listeners for HTTP of different roles, and requests to its rollouts.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    eventually,
    http::{Http, Reply, write_many},
    server::{Server, Setup, UNLIMITED},
};

/// Besides the administrator's: `lamps` may change a part of the lamps, `viewer` only reads, for `small` little is kept, `slow` has
/// little work, and `users` needs a password.
const LISTENERS: &str = r#"
anonymous_role = "admin"

[[listener]]
name = "web"
kind = "http"
bind = "127.0.0.1:0"
anonymous_role = "admin"

[[listener]]
name = "lamps"
kind = "http"
bind = "127.0.0.1:0"
anonymous_role = "lamps"

[[listener]]
name = "viewer"
kind = "http"
bind = "127.0.0.1:0"
anonymous_role = "reader"

[[listener]]
name = "users"
kind = "http"
bind = "127.0.0.1:0"
anonymous = false

[[listener]]
name = "small"
kind = "http"
bind = "127.0.0.1:0"
anonymous_role = "small"

[[listener]]
name = "slow"
kind = "http"
bind = "127.0.0.1:0"
anonymous_role = "slow"

[[rule]]
role = "slow"
devices = ["*"]
read = ["/desired", "/reported"]
write = ["/desired"]

[[role]]
role = "slow"
work = 100

[[rule]]
role = "small"
devices = ["*"]
read = ["/desired", "/reported"]
write = ["/desired"]

[[role]]
role = "small"
memory = "128 KiB"

[[rule]]
role = "lamps"
devices = ["lamp-*"]
read = ["/desired", "/reported/mode"]
write = ["/desired/mode", "/desired/level"]

[[rule]]
role = "reader"
devices = ["*"]
read = ["/desired", "/reported", "/tags"]

[[grant]]
role = "admin"
principals = ["alice", "bob"]

[[grant]]
role = "reader"
principals = ["bob"]

[auth]
users = "users"
"#;

pub(crate) struct Site(pub(crate) Server);

impl Site {
    pub(crate) fn open() -> Self {
        Self::within(tempfile::tempdir().unwrap())
    }

    /// A server on the store in `directory`.
    pub(crate) fn within(directory: TempDir) -> Self {
        for name in ["alice", "bob"] {
            crate::harness::users::passwd(directory.path(), &["add", name, "--stdin"], &format!("password of {name}"));
        }
        let setup = Setup { listener: LISTENERS, ..UNLIMITED };
        Self(Server::within(directory, setup).unwrap_or_else(|(exit, _)| panic!("{exit:?}")))
    }

    pub(crate) fn client(&self, listener: &str) -> Http {
        Http::connect(self.0.address_of(listener))
    }

    /// Sends a request as whoever comes to `listener` may. Its callers are a principal of their own.
    pub(crate) fn send(&self, listener: &str, head: &str, body: &Value) -> Reply {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let (line, headers) = head.split_once('\n').unwrap_or((head, ""));
        let media = if body.is_empty() { "" } else { "\nContent-Type: application/json" };
        self.client(listener).send(&format!("{line} HTTP/1.1\nUmbra-Client: {listener}{media}\n{headers}"), &body)
    }

    /// Creates a rollout.
    pub(crate) fn create(&self, listener: &str, id: &str, spec: &Value) -> Reply {
        self.send(listener, &format!("PUT /v1/rollouts/{id}\nIf-None-Match: *"), spec)
    }

    /// The rollout, as an administrator sees it.
    pub(crate) fn rollout(&self, id: &str) -> Value {
        let reply = self.send("web", &format!("GET /v1/rollouts/{id}"), &Value::Null);
        assert_eq!(reply.status, 200, "{id}: {}", reply.text());
        reply.json()
    }

    /// Commands a rollout as an administrator.
    pub(crate) fn command(&self, id: &str, command: &str) -> Value {
        let reply = self.send("web", &format!("POST /v1/rollouts/{id}/{command}"), &Value::Null);
        assert_eq!(reply.status, 200, "{id} {command}: {}", reply.text());
        reply.json()
    }

    /// Waits until the rollout has this state.
    pub(crate) fn wait_for(&self, id: &str, state: &str) -> Value {
        eventually(&format!("{id} to be {state}"), || {
            let rollout = self.rollout(id);
            (rollout["state"] == state).then_some(rollout)
        })
    }

    /// All devices of a rollout: the members of each, in order.
    pub(crate) fn devices(&self, id: &str) -> Vec<Value> {
        let (mut devices, mut cursor) = (Vec::new(), String::new());
        loop {
            let reply = self.send("web", &format!("GET /v1/rollouts/{id}/devices?limit=100{cursor}"), &Value::Null);
            assert_eq!(reply.status, 200, "{}", reply.text());
            let page = reply.json();
            devices.extend(page["devices"].as_array().unwrap().iter().cloned());
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return devices,
            }
        }
    }

    /// The states of the devices of a rollout, with the reason where there is one: `a converged, b skipped (forbidden)`.
    pub(crate) fn states(&self, id: &str) -> String {
        let text = |device: &Value| {
            let (id, state) = (device["device"].as_str().unwrap(), device["state"].as_str().unwrap());
            let reason = device["reason"].as_str().map(|reason| format!(" ({reason})")).unwrap_or_default();
            format!("{id} {state}{reason}")
        };
        self.devices(id).iter().map(text).collect::<Vec<_>>().join(", ")
    }

    /// The state of a shadow: the path after `/v1/devices/`.
    pub(crate) fn state(&self, path: &str) -> Value {
        let reply = self.send("web", &format!("GET /v1/devices/{path}"), &Value::Null);
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        reply.json()["state"].clone()
    }

    /// Merges into a shadow, whatever is there.
    pub(crate) fn merge(&self, path: &str, state: &Value) {
        let mut client = self.client("web");
        let head = format!("PATCH /v1/devices/{path}?upsert=true HTTP/1.1\nContent-Type: application/merge-patch+json");
        let reply = client.send(&head, state.to_string().as_bytes());
        assert!(matches!(reply.status, 200 | 201), "{path}: {}", reply.text());
    }

    /// Writes many shadows.
    pub(crate) fn write_many(&self, count: usize, shadow: impl Fn(usize) -> (String, Value) + Sync) {
        write_many(self.0.address_of("web"), count, shadow);
    }

    /// The journal from its beginning: the data of each change, in order.
    pub(crate) fn journal(&self) -> Vec<Value> {
        static MARKS: AtomicU64 = AtomicU64::new(1);
        let mark = json!(format!("mark {}", MARKS.fetch_add(1, Ordering::Relaxed)));
        self.merge("end-of-journal/shadow", &json!({"tags": {"end": mark}}));
        self.client("web").journal_until(&mark.to_string())
    }
}

/// The error of a refusal, with its status.
pub(crate) fn error(reply: &Reply) -> String {
    format!("{} {}", reply.status, reply.json()["error"].as_str().unwrap_or_default())
}
