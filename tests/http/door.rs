//! The server under test, and requests to it.

use std::{net::SocketAddr, sync::Arc, thread};

use axum::Extension;
use serde_json::{Value, json};
use tempfile::TempDir;
use umbrad::{
    auth::Principal,
    changes::Changes,
    clock::Clock,
    config::Limits,
    quota::Rate,
    service::{Service, ServiceLimits},
    store::StoreOptions,
};

use crate::harness::http::{Http, Reply};

/// An AWS access key that stands for a principal.
pub(crate) const ACCESS_KEY: &str = "AKIAUMBRATEST";
pub(crate) const SECRET: &str = "a+secret/of=the-tests";

pub(crate) struct Door {
    pub(crate) address: SocketAddr,
    _directory: TempDir,
    _runtime: tokio::runtime::Runtime,
}

impl Door {
    pub(crate) fn open() -> Self {
        Self::with(1_000_000)
    }

    pub(crate) fn with(rate: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let options = StoreOptions::new(directory.path().join("umbra.redb"));
        let limits = ServiceLimits { requests: Rate::new(rate, 2 * rate), requests_in_flight_max: 64 };
        let (service, decided) = Service::open(options, limits, Clock::system()).unwrap();
        let changes = Arc::new(Changes::new(service.head()));
        let announcer = changes.clone();
        thread::spawn(move || decided.announce(announcer));
        let mut api = umbrad::http::Api::new(Arc::new(service), changes, Arc::new(()), &Limits::default());
        api.aws_keys.insert(ACCESS_KEY, SECRET, Principal::anonymous("back-end"));
        let api = Arc::new(api);
        let known = umbrad::http::Known { certified: None, anonymous: true };
        let router = umbrad::http::router(api).layer(Extension(known));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, router).await.unwrap();
        });
        Self { address, _directory: directory, _runtime: runtime }
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
