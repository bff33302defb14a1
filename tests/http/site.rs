//! The server under test, and requests to it.

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt};

use serde_json::{Value, json};

use crate::harness::{
    http::{Http, Reply},
    server::{Server, Setup, UNLIMITED},
};

/// A listener for HTTP beside that for MQTT. What a test does between two requests, or before it reads an answer, takes
/// as long as it takes.
const WEB: &str = r#"
[[listener]]
name = "web"
kind = "http"
bind = "127.0.0.1:0"
connect_timeout = "5m"
"#;

/// The same, and what the access key may do.
const SIGNED: &str = r#"
[[listener]]
name = "web"
kind = "http"
bind = "127.0.0.1:0"
connect_timeout = "5m"

[auth]
aws_keys = "aws_keys"

[[grant]]
role = "admin"
principals = ["back-end"]
"#;

/// The access key of `back-end`.
pub(crate) const ACCESS_KEY: &str = "AKIAUMBRATEST";
pub(crate) const SECRET: &str = "a+secret/of=the-tests";

pub(crate) struct Site {
    pub(crate) address: SocketAddr,
    pub(crate) server: Server,
}

impl Site {
    pub(crate) fn open() -> Self {
        Self::of(Server::with(Setup { listener: WEB, ..UNLIMITED }))
    }

    /// With a quota of `rate` requests a second of one client to one shadow.
    pub(crate) fn with(rate: u32) -> Self {
        let limits = format!("requests_rate = \"{rate}/s burst {}\"", 2 * rate);
        Self::of(Server::with(Setup { listener: WEB, limits: Box::leak(limits.into_boxed_str()), ..Setup::default() }))
    }

    /// With these limits.
    pub(crate) fn limited(limits: &'static str) -> Self {
        Self::of(Server::with(Setup { listener: WEB, limits, ..Setup::default() }))
    }

    /// With a file of AWS access keys: one stands for the principal `back-end`, the other for one without a role.
    pub(crate) fn with_access_key() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("aws_keys");
        fs::write(&file, format!("{ACCESS_KEY} {SECRET} back-end\nAKIANOROLE {SECRET} nobody\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let setup = Setup { listener: SIGNED, ..UNLIMITED };
        let started = Server::within(directory, setup);
        Self::of(started.unwrap_or_else(|(exit, _)| panic!("the server did not start: {exit:?}")))
    }

    fn of(server: Server) -> Self {
        Self { address: server.address_of("web"), server }
    }

    /// The same after a restart.
    pub(crate) fn restarted(mut self) -> Self {
        self.server.kill();
        self.server.restart();
        Self::of(self.server)
    }

    pub(crate) fn client(&self) -> Http {
        Http::connect(self.address)
    }

    /// A request on a connection of its own.
    pub(crate) fn send(&self, head: &str, body: &str) -> Reply {
        self.client().send(head, body.as_bytes())
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.send(&format!("GET {path} HTTP/1.1"), "")
    }

    /// Replaces sections of a shadow, whatever is there; creates it if nothing is.
    pub(crate) fn put(&self, path: &str, state: Value) -> Reply {
        let put = |condition: &str| {
            let head = format!("PUT {path} HTTP/1.1\n{condition}\nContent-Type: application/json");
            self.send(&head, &state.to_string())
        };
        let reply = put("If-Match: *");
        let reply = if reply.status == 412 { put("If-None-Match: *") } else { reply };
        assert!(reply.status == 200 || reply.status == 201, "{reply:?}");
        reply
    }

    /// Merges into a shadow that is there.
    pub(crate) fn merge(&self, path: &str, state: Value) -> Reply {
        let head = format!("PATCH {path} HTTP/1.1\nIf-Match: *\nContent-Type: application/merge-patch+json");
        let reply = self.send(&head, &state.to_string());
        assert_eq!(reply.status, 200, "{reply:?}");
        reply
    }

    pub(crate) fn state(&self, path: &str) -> Value {
        let reply = self.get(path);
        if reply.status == 404 { json!(null) } else { reply.json()["state"].clone() }
    }
}
