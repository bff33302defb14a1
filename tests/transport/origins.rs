//! Requests to the listener on loopback that a foreign page can cause a browser on this machine to send.

use crate::{
    exchange::{ask, server},
    socket::{SUBPROTOCOL, UPGRADE},
};

#[test]
fn refuses_another_origin() {
    let server = server("");
    let address = server.address_of("web");
    let port = address.port();
    let own = format!("http://localhost:{port}");
    let upgrade = |host: &str, origin: &str| {
        let request = UPGRADE.replace("Host: localhost", &format!("Host: {host}"));
        format!("{request}{SUBPROTOCOL}{origin}\r\n")
    };
    // What a page may send without asking: a form, as plain text, with a body that is an update.
    let body = r#"{"state":{"desired":{"lock":"open"}}}"#;
    let post = |host: &str, origin: &str| {
        let (length, kind) = (body.len(), "Content-Type: text/plain");
        format!("POST /healthz HTTP/1.1\r\nHost: {host}\r\n{origin}{kind}\r\nContent-Length: {length}\r\n\r\n{body}")
    };
    let get = |host: &str| format!("GET /openapi.json HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let local = format!("localhost:{port}");
    for (what, request, status) in [
        ("its own page's WebSocket", upgrade(&local, &format!("Origin: {own}\r\n")), 101),
        ("no browser's WebSocket", upgrade(&local, ""), 101),
        ("another page's WebSocket", upgrade(&local, "Origin: https://evil.example\r\n"), 403),
        ("a sandboxed page's WebSocket", upgrade(&local, "Origin: null\r\n"), 403),
        ("another local port's WebSocket", upgrade(&local, "Origin: http://localhost:3000\r\n"), 403),
        ("its own page's POST, of which there is none", post(&local, &format!("Origin: {own}\r\n")), 405),
        ("no browser's POST", post(&local, ""), 405),
        ("another page's POST of plain text", post(&local, "Origin: https://evil.example\r\n"), 403),
        ("a sandboxed page's POST", post(&local, "Origin: null\r\n"), 403),
        ("two origins", post(&local, &format!("Origin: {own}\r\nOrigin: https://evil.example\r\n")), 403),
        // DNS rebinding: the page's own name leads here, so its requests are of its own origin.
        ("a rebound page's GET", get("evil.example"), 403),
        ("a rebound page's GET with a port", get(&format!("evil.example:{port}")), 403),
        ("a rebound page's POST", post("evil.example", "Origin: http://evil.example\r\n"), 403),
        ("a rebound page's WebSocket", upgrade("evil.example", "Origin: http://evil.example\r\n"), 403),
        ("a name that begins like a local one", get("localhost.evil.example"), 403),
        ("a rebound address in another spelling", get("0x7f.1"), 403),
        ("by address", get(&address.to_string()), 200),
        ("by a name in capitals", get("LocalHost."), 200),
        ("no host", "GET /healthz HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("two hosts", "GET /openapi.json HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n".to_owned(), 400),
        (
            "another host in the target",
            get("localhost").replace("/openapi.json", "http://evil.example/openapi.json"),
            403,
        ),
        ("what is not there", get("evil.example").replace("/openapi.json", "/other"), 403),
    ] {
        let answer = ask(address, &request).expect("an answer");
        assert_eq!(answer.status, status, "{what}: {request}\n{answer:?}");
        if matches!(status, 400 | 403) {
            assert_eq!(answer.field("content-type"), Some("application/problem+json"), "{what}");
        }
        if status == 403 {
            assert!(answer.body.contains("'hosts'") || answer.body.contains("'origins'"), "{what}: {answer:?}");
        }
    }
}

#[test]
fn hosts_and_origins_that_are_configured() {
    let server = server("hosts = [\"umbra.example.com\"]\norigins = [\"https://app.example.com\"]");
    let address = server.address_of("web");
    for (host, origin, status) in [
        ("umbra.example.com", "https://app.example.com", 101),
        ("Umbra.Example.com:443", "https://umbra.example.com", 101),
        ("localhost", "https://app.example.com", 101),
        ("umbra.example.com", "https://other.example.com", 403),
        ("app.example.com", "https://app.example.com", 403),
    ] {
        let request = UPGRADE.replace("Host: localhost", &format!("Host: {host}"));
        let answer = ask(address, format!("{request}{SUBPROTOCOL}Origin: {origin}\r\n\r\n")).expect("an answer");
        assert_eq!(answer.status, status, "{host} {origin}");
    }
}
