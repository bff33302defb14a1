//! What the server does around its routes, with routes made for it.

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

/// Serves no WebSocket.
#[derive(Clone)]
struct NoWebSocket;

impl ConnectionHandler for NoWebSocket {
    async fn serve<S: Stream>(self, _: S, _: Peer, _: Instant) {}
}

/// A connection to a server, the end of it, and how to have the server end.
struct Fixture {
    client: DuplexStream,
    served: JoinHandle<()>,
    closing: watch::Sender<bool>,
}

fn serve(routes: Router, timeout: Duration) -> Fixture {
    serve_over(duplex(), routes, timeout, Instant::now() + timeout)
}

/// As [`serve`], for a connection whose first request must be there by `deadline`.
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
    let door = HttpHandler::new(routes, Arc::default(), NoWebSocket, quotas, options, closed);
    let served = tokio::spawn(door.serve(server, peer, deadline));
    Fixture { client, served, closing }
}

fn duplex() -> (DuplexStream, DuplexStream) {
    tokio::io::duplex(64 * 1024)
}

impl Fixture {
    /// Sends the head of a last POST to `/`, with a body of `length` bytes of which these are the first.
    async fn post(&mut self, length: usize, body: &[u8]) {
        let head =
            format!("POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
        self.client.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
    }

    /// All that the server sends until it ends the connection.
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
async fn a_request_carries_its_peer() {
    let mut fixture = serve(echo(), PATIENCE);
    fixture.post(5, b"hello").await;
    let all = fixture.all().await;
    assert!(all.starts_with("HTTP/1.1 200 ") && all.ends_with("hello of 192.0.2.7:4660"), "{all}");
    fixture.served.await.unwrap();
}

#[tokio::test]
async fn bodies_that_are_too_slow_or_too_large() {
    let short = Duration::from_millis(200);
    // announced, sent, waited for
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

/// The time between two requests was what was left of the time for the first one, such as after a slow TLS handshake.
#[tokio::test]
async fn what_is_left_of_the_first_deadline_is_for_the_first_request() {
    const HEAD: &[u8] = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello";
    const HOUR: Duration = Duration::from_secs(3600);
    let (mut client, server) = duplex();
    client.write_all(HEAD).await.unwrap();
    let mut fixture = serve_over((client, server), echo(), HOUR, Instant::now());
    let mut first = [0; 12];
    fixture.client.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    tokio::time::sleep(Duration::from_millis(100)).await; // more than was left
    fixture.post(5, b"again").await;
    assert!(fixture.all().await.ends_with("again of 192.0.2.7:4660"));
    fixture.served.await.unwrap();

    for sent in ["", "POST / HTTP/1.1\r\nHo"] {
        let mut fixture = serve_over(duplex(), echo(), HOUR, Instant::now());
        let _ = fixture.client.write_all(sent.as_bytes()).await; // it may have ended
        assert_eq!(fixture.all().await, "");
    }
}

/// A client that asks and does not read is not waited for.
#[tokio::test]
async fn an_answer_that_is_not_read() {
    let large = async || vec![b'x'; 1 << 20];
    let mut fixture = serve(Router::new().route("/", post(large)), Duration::from_millis(200));
    fixture.post(0, b"").await;
    tokio::time::timeout(PATIENCE, fixture.served).await.unwrap().unwrap();
}

/// A request that is being answered when the server ends is answered; one that is not there yet is not waited for.
#[tokio::test]
async fn an_end_of_the_server() {
    let (asked, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let handler = {
        let (asked, go_on) = (asked.clone(), go_on.clone());
        async move || {
            asked.notify_one();
            go_on.notified().await;
            "done"
        }
    };
    let mut fixture = serve(Router::new().route("/", post(handler)), PATIENCE);
    fixture.post(0, b"").await;
    asked.notified().await;
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
