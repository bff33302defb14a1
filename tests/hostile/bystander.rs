//! The client that has nothing to do with it.

use serde_json::json;

use crate::harness::{
    server::Server,
    shadow::{Requester, version},
    wire::{V4, V5},
};

/// A client whose shadow must go on changing by one version at a time.
pub(crate) struct Bystander {
    client: Requester,
    shadow: String,
    version: u64,
}

impl Bystander {
    pub(crate) fn new(server: &Server) -> Self {
        Self::named(server, "bystander")
    }

    /// One of several, with a quota of its own.
    pub(crate) fn named(server: &Server, name: &str) -> Self {
        let shadow = format!("shadow/{name}");
        let mut bystander = Self { client: Requester::new(server, V5, name, &shadow), shadow, version: 0 };
        bystander.update();
        bystander
    }

    /// One more change.
    pub(crate) fn update(&mut self) {
        let body = json!({"state": {"reported": {"n": self.version + 1}}, "version": self.version});
        self.version = version(&self.client.update(body));
    }

    /// Fails if the service or this connection has suffered.
    pub(crate) fn check_connection(&mut self, server: &mut Server) {
        server.assert_alive();
        self.update();
    }

    /// Fails if the service has suffered, or takes no one new.
    pub(crate) fn check(&mut self, server: &mut Server) {
        self.check_connection(server);
        let mut newcomer = Requester::new(server, V4, "newcomer", &self.shadow);
        assert_eq!(version(&newcomer.get()), self.version);
        newcomer.client.disconnect();
    }
}
