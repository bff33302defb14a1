//! Tests of connections, with routes of their own.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Extension, Router, body::Bytes, routing::post};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::{Notify, watch},
    task::JoinHandle,
};

use super::{HttpHandler, HttpOptions};
use crate::{
    admission::Quotas,
    auth::authn::certificate::PeerCertificate,
    config::{Config, HttpConfig, Limits},
    net::{ConnectionHandler, Peer, handler::Stream},
};

/// A handler that closes WebSockets at once.
#[derive(Clone)]
struct NoWebSocket;

impl ConnectionHandler for NoWebSocket {
    async fn serve<S: Stream>(self, _: S, _: Peer, _: Instant) {}
}

/// A connection to a server and the signal that shuts the server down.
struct Fixture {
    client: DuplexStream,
    served: JoinHandle<()>,
    closing: watch::Sender<bool>,
}

fn serve(routes: Router, timeout: Duration) -> Fixture {
    serve_over(duplex(), routes, timeout, Instant::now() + timeout)
}

/// Serves like [`serve`] over a given stream. The first request must arrive by `deadline`.
fn serve_over(
    (client, server): (DuplexStream, DuplexStream),
    routes: Router,
    timeout: Duration,
    deadline: Instant,
) -> Fixture {
    let mut listener = Config::default().listeners.remove(0);
    listener.connect_timeout = timeout;
    let limits = Limits { packet_bytes_max: 1024, ..Limits::default() };
    let (closing, closed) = watch::channel(false);
    let options = HttpOptions::of(&listener, &HttpConfig::default(), &limits);
    let quotas = Arc::new(Quotas::new(&limits));
    let peer = Peer {
        address: "192.0.2.7:4660".parse().unwrap(),
        proof: PeerCertificate::None,
        listener: "web".into(),
        signed_in: None,
        preauth_permit: quotas.stranger([192, 0, 2, 7].into(), Instant::now()),
    };
    let handler = HttpHandler::new(routes, Arc::default(), Some(NoWebSocket), quotas, options, closed);
    let served = tokio::spawn(handler.serve(server, peer, deadline));
    Fixture { client, served, closing }
}

fn duplex() -> (DuplexStream, DuplexStream) {
    tokio::io::duplex(64 * 1024)
}

impl Fixture {
    /// Sends the head of a final POST to `/` that announces a body of `length` bytes, and then `body`.
    async fn post(&mut self, length: usize, body: &[u8]) {
        let head =
            format!("POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
        self.client.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
    }

    /// Returns everything that the server sends until it closes the connection.
    async fn all(&mut self) -> String {
        let mut all = String::new();
        let read = self.client.read_to_string(&mut all);
        tokio::time::timeout(PATIENCE, read).await.unwrap().unwrap();
        all
    }
}

const PATIENCE: Duration = Duration::from_secs(60);

fn echo() -> Router {
    let echo = async |Extension(peer): Extension<Peer>, body: Bytes| {
        format!("{} of {}", String::from_utf8_lossy(&body), peer.address)
    };
    Router::new().route("/", post(echo))
}

#[tokio::test]
async fn requests_carry_their_peer() {
    let mut fixture = serve(echo(), PATIENCE);
    fixture.post(5, b"hello").await;
    let all = fixture.all().await;
    assert!(all.starts_with("HTTP/1.1 200 ") && all.ends_with("hello of 192.0.2.7:4660"), "{all}");
    fixture.served.await.unwrap();
}

#[tokio::test]
async fn refuses_slow_and_large_bodies() {
    let short = Duration::from_millis(200);
    // announced, sent, timeout, status
    for (length, sent, timeout, status) in
        [(5, 4, short, "400"), (1024, 1024, PATIENCE, "200"), (1025, 1025, PATIENCE, "413")]
    {
        let mut fixture = serve(echo(), timeout);
        fixture.post(length, &vec![b'x'; sent]).await;
        let all = fixture.all().await;
        assert!(all.starts_with(&format!("HTTP/1.1 {status} ")), "{length} {sent}: {all}");
        fixture.served.await.unwrap();
    }
}

/// The rest of the first deadline, such as after a slow TLS handshake, used to limit the time to the second request.
#[tokio::test]
async fn first_deadline_applies_to_the_first_request_only() {
    const HEAD: &[u8] = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello";
    const HOUR: Duration = Duration::from_secs(3600);
    let (mut client, server) = duplex();
    client.write_all(HEAD).await.unwrap();
    let mut fixture = serve_over((client, server), echo(), HOUR, Instant::now());
    let mut first = [0; 12];
    fixture.client.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    tokio::time::sleep(Duration::from_millis(100)).await; // past the first deadline
    fixture.post(5, b"again").await;
    assert!(fixture.all().await.ends_with("again of 192.0.2.7:4660"));
    fixture.served.await.unwrap();

    for sent in ["", "POST / HTTP/1.1\r\nHo"] {
        let mut fixture = serve_over(duplex(), echo(), HOUR, Instant::now());
        let _ = fixture.client.write_all(sent.as_bytes()).await; // the connection may have ended
        assert_eq!(fixture.all().await, "");
    }
}

#[tokio::test]
async fn closes_connections_whose_client_does_not_read() {
    let large = async || vec![b'x'; 1 << 20];
    let mut fixture = serve(Router::new().route("/", post(large)), Duration::from_millis(200));
    fixture.post(0, b"").await;
    tokio::time::timeout(PATIENCE, fixture.served).await.unwrap().unwrap();
}

/// A login that waits for a hash of its password leaves the queue when its client has gone.
#[tokio::test]
async fn the_request_of_a_client_that_has_gone_ends() {
    let called = Arc::new(Notify::new());
    let handler = {
        let called = called.clone();
        async move |_: Bytes| {
            called.notify_one();
            std::future::pending::<Bytes>().await
        }
    };
    let mut fixture = serve(Router::new().route("/", post(handler)), PATIENCE);
    fixture.post(5, b"hello").await;
    called.notified().await;
    let Fixture { client, served, closing: _closing } = fixture;
    drop(client);
    tokio::time::timeout(PATIENCE, served).await.unwrap().unwrap();
}

/// A request in flight at shutdown is answered. An incomplete one is not waited for.
#[tokio::test]
async fn shutdown_answers_requests_in_flight() {
    let (called, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let handler = {
        let (called, go_on) = (called.clone(), go_on.clone());
        async move || {
            called.notify_one();
            go_on.notified().await;
            "done"
        }
    };
    let mut fixture = serve(Router::new().route("/", post(handler)), PATIENCE);
    fixture.post(0, b"").await;
    called.notified().await;
    fixture.closing.send_replace(true);
    go_on.notify_one();
    assert!(fixture.all().await.ends_with("done"));
    fixture.served.await.unwrap();

    for sent in ["", "POST / HTTP/1.1\r\nHo"] {
        let mut fixture = serve(echo(), PATIENCE);
        fixture.client.write_all(sent.as_bytes()).await.unwrap();
        fixture.closing.send_replace(true);
        assert_eq!(fixture.all().await, "");
        fixture.served.await.unwrap();
    }
}
