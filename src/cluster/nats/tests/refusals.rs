//! Servers and streams with which a node does not start, and secured connections.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::watch,
};

use super::{
    NatsLog, api, append_all,
    servers::{SOUND, Servers, Variation, free_port, write_private},
    within,
};
use crate::{cluster::nats::patience::Patience, config::ClusterSettings};

async fn error_of(settings: &ClusterSettings) -> String {
    error_within(settings, Duration::from_secs(20), &watch::Sender::default()).await
}

/// Returns the error of a start that waits for `limit`, and sends its reasons to `state`.
async fn error_within(settings: &ClusterSettings, limit: Duration, state: &watch::Sender<String>) -> String {
    let patience = Patience::new(settings, limit, state);
    let connected = within("an error", NatsLog::connect_within(settings, 0, patience)).await;
    connected.err().map_or_else(|| "connected".to_owned(), |error| error.to_string())
}

fn assert_has(error: &str, parts: &[&str]) {
    assert!(parts.iter().all(|part| error.contains(part)), "{error:?} has not all of {parts:?}");
}

#[tokio::test]
async fn servers_that_sync_later_are_refused() {
    let servers = Servers::start(Variation { sync_interval: "\"2m\"", ..SOUND }).await;
    assert_has(
        &error_of(&servers.settings(1)).await,
        &["sync_interval = 120s", "sync_interval: always", "allow_unsafe_sync"],
    );
    let settings = ClusterSettings { allow_unsafe_sync: true, ..servers.settings(1) };
    append_all(&servers.try_connect(&settings).await.unwrap(), 0, 3).await;
}

#[tokio::test]
async fn servers_whose_settings_cannot_be_seen_are_refused() {
    let servers = Servers::start(SOUND).await;
    write_private(&servers.file("other"), "other secret");
    let mut settings = servers.settings(1);
    settings.credentials_file = Some(servers.file("other"));
    assert_has(&error_of(&settings).await, &["n0", "n1", "n2", "none of", "$SYS.REQ.SERVER.PING.VARZ"]);

    settings.credentials_file = None;
    assert_has(&error_of(&settings).await, &["refuse this node", "nats://127.0.0.1:"]);
    write_private(&servers.file("wrong"), "node wrong-secret");
    settings.credentials_file = Some(servers.file("wrong"));
    let error = error_of(&settings).await;
    assert_has(&error, &["refuse this node"]);
    assert!(!error.contains("wrong-secret"));
    write_private(&servers.file("words"), "one two three-secret");
    settings.credentials_file = Some(servers.file("words"));
    let error = error_of(&settings).await;
    assert_has(
        &error,
        &["words", "must be a file of NATS credentials (.creds), or have two words, a user and a password, and not 3"],
    );
    assert!(!error.contains("three-secret"));
    settings.credentials_file = Some(servers.file("none"));
    assert_has(&error_of(&settings).await, &["none", "cannot be", "No such file"]);
}

#[tokio::test]
async fn a_stream_with_one_replica_is_refused() {
    let servers = Servers::start(SOUND).await;
    let log = servers.connect(1).await;
    append_all(&log, 0, 3).await;
    let mut info = api::stream_info(&log).await.unwrap();
    info.config.as_object_mut().unwrap().insert("num_replicas".into(), 1.into());
    let changed = async { while api::update_stream(&log, &info.config).await.is_err() {} };
    within("a change of the stream", changed).await;
    assert_has(&error_of(&servers.settings(2)).await, &["\"umbra-test\"", "num_replicas = 1, but needs 3"]);
}

/// Limits of the log follow the node that started last, and keep its records.
#[tokio::test]
async fn a_stream_with_other_limits_is_adjusted() {
    let servers = Servers::start(SOUND).await;
    let log = servers.connect(1).await;
    append_all(&log, 0, 3).await;
    let settings = ClusterSettings { log_bytes_max: 300 << 20, ..servers.settings(2) };
    let other = servers.try_connect(&settings).await.unwrap();
    let info = api::stream_info(&other).await.unwrap();
    assert_eq!(info.config.get("max_bytes").and_then(serde_json::Value::as_u64), Some(300 << 20));
    assert_eq!(other.tail().await, Ok(3));
}

#[tokio::test]
async fn a_single_server_is_for_tries_only() {
    let servers = Servers::start(Variation { count: 1, ..SOUND }).await;
    assert_has(&error_of(&servers.settings(1)).await, &["n0 is not in a NATS cluster", "allow_unsafe_sync"]);
    let settings = ClusterSettings { allow_unsafe_sync: true, ..servers.settings(1) };
    append_all(&servers.try_connect(&settings).await.unwrap(), 0, 3).await;
    let settings = ClusterSettings { record_bytes_max: 8 << 20, ..settings };
    assert_has(&error_of(&settings).await, &["n0 has max_payload = 8388608 bytes, but 8454144 are needed"]);
}

#[tokio::test]
async fn nobody_there_is_an_error_after_some_time() {
    let servers = Servers::start(Variation { count: 1, ..SOUND }).await;
    let server = format!("nats://127.0.0.1:{}", free_port());
    let settings = ClusterSettings { servers: vec![server.clone()], ..servers.settings(1) };
    let state = watch::Sender::default();
    let error = error_within(&settings, Duration::from_secs(1), &state).await;
    assert_has(&error, &[&server, "within 1 s", "Connection refused"]);
    assert_has(&state.borrow(), &["no NATS server can be used yet", "Connection refused"]);
}

/// It was "NATS did not answer in time" alone.
#[tokio::test]
async fn a_start_without_a_majority_names_the_servers_that_answer() {
    let mut servers = Servers::start(SOUND).await;
    [1, 2].into_iter().for_each(|number| servers.kill(number));
    let (settings, state) = (servers.settings(1), watch::Sender::default());
    let error = error_within(&settings, Duration::from_secs(5), &state).await;
    let reason = "of 3 NATS servers only n0 can be reached, but most must run and reach each other";
    assert_has(&error, &[reason, "within 5 s"]);
    assert_has(&state.borrow(), &["the log is not ready yet", reason]);
}

/// A server of an earlier version, as its greeting shows.
#[tokio::test]
async fn an_old_server_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let greeting = r#"{"server_id":"x","server_name":"old","version":"2.12.3","max_payload":8388608,"headers":true,"jetstream":true,"cluster":"c"}"#;
        socket.write_all(format!("INFO {greeting}\r\n").as_bytes()).await.unwrap();
        let mut received = [0; 4096];
        while let Ok(1..) = socket.read(&mut received).await {
            let _ = socket.write_all(b"PONG\r\n").await;
        }
    });
    let servers = Servers::start(Variation { count: 1, ..SOUND }).await;
    let settings = ClusterSettings { servers: vec![format!("nats://127.0.0.1:{port}")], ..servers.settings(1) };
    assert_has(&error_of(&settings).await, &["NATS server old has version 2.12.3, but 2.15.0 or newer is needed"]);
    server.abort();
}

#[tokio::test]
async fn certificates_of_servers_are_verified() {
    let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let files = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let path = files.path().join(name);
        write_private(&path, &text);
        path
    };
    let (certificate, key) = (file("cert.pem", own.cert.pem()), file("key.pem", own.signing_key.serialize_pem()));
    let more: &'static str = format!("tls {{ cert_file: {certificate:?}, key_file: {key:?} }}").leak();
    let servers = Servers::start(Variation { count: 1, more, ..SOUND }).await;
    let address = format!("tls://127.0.0.1:{}", servers.ports().next().unwrap());
    let settings = ClusterSettings {
        servers: vec![address],
        tls: true,
        ca_file: Some(certificate),
        allow_unsafe_sync: true,
        ..servers.settings(1)
    };
    append_all(&servers.try_connect(&settings).await.unwrap(), 0, 3).await;
    let settings = ClusterSettings { ca_file: Some(file("other.pem", other.cert.pem())), ..settings };
    let error = error_within(&settings, Duration::from_secs(2), &watch::Sender::default()).await;
    assert_has(&error, &["invalid peer certificate"]);
}
