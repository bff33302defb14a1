//! `umbrad trace`: what happens to one device, as it happens.

use std::{
    io::{BufRead, BufReader, Lines},
    process::{ChildStdout, Stdio},
};

use serde_json::{Value, json};

use super::site::{run, url};
use crate::harness::{
    client::Client,
    http::Http,
    program::{Running, umbrad},
    server::{Server, Setup, UNLIMITED},
    wire::V5,
};

const WEB: &str = r#"
[[listener]]
name = "web"
kind = "http"
bind = "127.0.0.1:0"
"#;

/// The command, once it follows the device.
struct Tracing {
    program: Running,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Tracing {
    fn start(server: &Server, arguments: &[&str]) -> Self {
        let web = url(server.address_of("web"));
        let mut command = umbrad(&["trace", "lamp-1", "--url", &web]);
        let mut program = Running::start(command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()));
        let stderr = BufReader::new(program.stderr.take().expect("standard error is piped"));
        let begun = stderr.lines().next().expect("a line").expect("text");
        assert_eq!(begun, "umbrad: tracing; interrupt to end");
        let lines = BufReader::new(program.stdout.take().expect("standard output is piped")).lines();
        Self { program, lines }
    }

    fn line(&mut self) -> String {
        self.lines.next().expect("another line").expect("text")
    }
}

fn write(server: &Server, device: &str, condition: &str) -> u16 {
    let head = format!(
        "PATCH /v1/devices/{device}/shadow HTTP/1.1\n{condition}\nContent-Type: application/merge-patch+json\nUmbra-Client: app"
    );
    Http::connect(server.address_of("web")).send(&head, br#"{"desired":{"on":true}}"#).status
}

#[test]
fn trace_prints_connections_changes_and_rejections_of_one_device() {
    let server = Server::with(Setup { listener: WEB, ..UNLIMITED });
    let mut tracing = Tracing::start(&server, &[]);
    assert_eq!(tracing.line(), "- away");

    let mut client = Client::connect(&server, V5, "lamp-1");
    let mut other = Client::connect(&server, V5, "other");
    other.publish("shadow/other/update", r#"{"state":{"reported":{"on":false}}}"#, 1);
    client.publish("shadow/lamp-1/update", r#"{"state":{"reported":{"on":false}}}"#, 1);
    let (first, second) = (tracing.line(), tracing.line());
    // Changes are sent, and the connection is asked about: it may be seen after the change.
    let (accepted, connected) = if first.contains("accepted") { (first, second) } else { (second, first) };
    assert!(
        accepted.contains(" accepted version 1 at ")
            && accepted.ends_with(" by anonymous/lamp-1 /reported={\"on\":false}"),
        "{accepted}"
    );
    assert!(connected.ends_with(" connected 127.0.0.1 mqtt-5"), "{connected}");

    let stale = "If-Match: \"7-00000000000000000000000000000000\"";
    assert_eq!((write(&server, "other", stale), write(&server, "lamp-1", stale)), (412, 412));
    let rejected = tracing.line();
    assert!(rejected.contains(" rejected by anonymous/app over http: 409 version-conflict: "), "{rejected}");
    client.publish("shadow/lamp-1/name/wifi/update", r#"{"state":{"reported":{"rssi":-60}}}"#, 1);
    let named = tracing.line();
    assert!(named.contains(" accepted wifi version 1 at "), "{named}");
    client.disconnect();
    let away = tracing.line();
    assert!(away.ends_with(" away") && !away.starts_with('-'), "{away}");
    other.ping();
}

#[test]
fn trace_ends_by_count_and_with_its_server() {
    let mut server = Server::with(Setup { listener: WEB, ..UNLIMITED });
    let mut tracing = Tracing::start(&server, &["--json", "--count", "2"]);
    let now: Value = serde_json::from_str(&tracing.line()).unwrap();
    assert_eq!(now, json!({"event": "away"}));
    assert_eq!(write(&server, "lamp-1", "If-None-Match: *"), 201);
    let change: Value = serde_json::from_str(&tracing.line()).unwrap();
    assert_eq!(
        (&change["event"], &change["device"], &change["version"]),
        (&json!("accepted"), &json!("lamp-1"), &json!(1))
    );
    assert_eq!(tracing.program.end().code(), Some(0));

    let mut tracing = Tracing::start(&server, &[]);
    tracing.line();
    server.kill();
    assert_eq!(tracing.program.end().code(), Some(1));
    let web = url(server.address_of("web"));
    let (_, err) = run(&["trace", "not a device", "--url", &web], 2);
    assert!(err.contains("not a device"), "{err}");
}
