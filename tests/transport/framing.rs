//! The framing of requests: chunked bodies, lengths, codings, and the next request on the connection.
//!
//! hyper takes any octet in a chunk extension and a Content-Length beside chunks, and answers 400 to a coding that it
//! does not know. A proxy that reads such a request another way sends on what is after it as a request of its own, so
//! every refusal here is followed by a request that must not be answered.

use std::{
    io::{Read, Write},
    net::Shutdown,
};

use crate::{
    bystander::Bystander,
    exchange::{ask, connect, ended, read_answer, server},
    harness::wire::{Connect, Protocol},
    socket::{BINARY, FIN, SUBPROTOCOL, Socket, UPGRADE, frame},
};

const NEXT: &str = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A write of a shadow without the end of its head.
const PATCH: &str = "PATCH /v1/devices/d/shadows/s?upsert=true HTTP/1.1\r\nHost: localhost\r\n\
                     Content-Type: application/merge-patch+json\r\n";

/// A body of 20 octets.
const STATE: &str = r#"{"desired":{"a":12}}"#;

fn chunked(body: &str) -> String {
    format!("{PATCH}Transfer-Encoding: chunked\r\n\r\n{body}")
}

#[test]
fn accepts_chunked_bodies() {
    let server = server("");
    let address = server.address_of("web");
    for body in [
        format!("14\r\n{STATE}\r\n0\r\n\r\n"),
        format!("0014\r\n{STATE}\r\n000\r\n\r\n"),
        format!("14;a;b=c \t;\td = \"e;\\\"\\\\ f\u{e9}\"\r\n{STATE}\r\n0;g\r\n\r\n"),
        format!("1\r\n{{\r\n13\r\n{}\r\n0\r\n\r\n", &STATE[1..]),
        format!("14\r\n{STATE}\r\n0\r\nA: b\r\nC-D:\r\nE: f \u{e9}\r\n\r\n"),
        STATE.chars().map(|one| format!("1;x=y\r\n{one}\r\n")).collect::<String>() + "0\r\n\r\n",
    ] {
        let mut stream = connect(address);
        // Pipelined: the end of the body was found where it is.
        let bytes = chunked(&body).repeat(2) + NEXT;
        stream.write_all(bytes.as_bytes()).unwrap();
        for _ in 0..2 {
            let answer = read_answer(&mut stream).unwrap();
            assert!([200, 201].contains(&answer.status), "{body}{answer:?}");
        }
        assert_eq!(read_answer(&mut stream).unwrap().body, "ok");
    }
}

#[test]
fn refuses_malformed_chunked_bodies() {
    let mut server = server("");
    let address = server.address_of("web");
    let mut bystander = Bystander::new(&server);
    let end = "0\r\n\r\n";
    // a chunk-size line or more, a part of the detail
    for (body, detail) in [
        (format!("14;\0\r\n{STATE}\r\n{end}"), "found '\\\\x00' after '14;'"),
        (format!("14;a=b\u{7f}\r\n{STATE}\r\n{end}"), "invalid chunk-size line"),
        (format!("14;\r\n{STATE}\r\n{end}"), "expected the name of a chunk extension"),
        (format!("14;a=\r\n{STATE}\r\n{end}"), "expected a token or a quoted string"),
        (format!("14;a=\"\r\n{STATE}\r\n{end}"), "expected text or a closing quote"),
        (format!("14;a b\r\n{STATE}\r\n{end}"), "expected '=' or ';'"),
        (format!("14 \r\n{STATE}\r\n{end}"), "expected ';' after whitespace"),
        (format!("14;a\rb\r\n{STATE}\r\n{end}"), "expected a line feed"),
        (format!("14;a\nb\r\n{STATE}\r\n{end}"), "invalid chunk-size line"),
        (format!("14\n{STATE}\r\n{end}"), "invalid chunk-size line"),
        (format!("0x14\r\n{STATE}\r\n{end}"), "found 'x' after '0'"),
        (format!("{}14\r\n{STATE}\r\n{end}", "0".repeat(20)), "at most 16 digits"),
        (format!("14\r\n{STATE}{end}"), "expected CR LF after the data"),
        (format!("14\r\n{STATE}\n{end}"), "expected CR LF after the data"),
        (format!("14\r\n{STATE}\r\n0\r\n\nA: b\r\n\r\n"), "invalid trailer field"),
        (format!("14\r\n{STATE}\r\n0\r\nA: b\r\n c\r\n\r\n"), "invalid trailer field"),
        (format!("14\r\n{STATE}\r\n0\r\nA: b\nC: d\r\n\r\n"), "invalid trailer field"),
        (format!("14\r\n{STATE}\r\n0\r\nA: \0\r\n\r\n"), "invalid trailer field"),
        (format!("14\r\n{STATE}\r\n0\r\nA : b\r\n\r\n"), "expected a token and ':'"),
    ] {
        let mut stream = connect(address);
        stream.write_all((chunked(&body) + NEXT).as_bytes()).unwrap();
        let answer = read_answer(&mut stream).expect("an answer");
        assert_eq!((answer.status, answer.field("connection")), (400, Some("close")), "{body:?}{answer:?}");
        assert!(answer.body.contains("invalid-framing") && answer.body.contains(detail), "{body:?}{answer:?}");
        assert_eq!(ended(&mut stream), 0, "{body:?}");
        bystander.check_connection(&mut server);
    }
    // Nothing of them was stored.
    let shadow = "GET /v1/devices/d/shadows/s HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(ask(address, shadow).unwrap().status, 404);
}

#[test]
fn refuses_ambiguous_lengths_and_codings() {
    let mut server = server("");
    let address = server.address_of("web");
    let mut bystander = Bystander::new(&server);
    for (fields, status) in [
        ("Transfer-Encoding: gzip", 501),
        ("Transfer-Encoding: identity", 501),
        ("Transfer-Encoding: gzip, chunked", 501),
        ("Transfer-Encoding: chunked, gzip", 501),
        ("Transfer-Encoding: chunked, chunked", 501),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 501),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", 501),
        ("Transfer-Encoding: xchunked", 501),
        ("Transfer-Encoding: \"chunked\"", 501),
        ("Transfer-Encoding: chunked,", 501),
        ("Transfer-Encoding:", 501),
        ("Transfer-Encoding: gzip\r\nExpect: 100-continue", 501),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5", 400),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", 400),
        ("Content-Length: 5\r\nTransfer-Encoding: gzip", 400),
        ("Content-Length: 5\r\nContent-Length: 5", 400),
        ("Content-Length: 5\r\nContent-Length: 0", 400),
        ("Content-Length: 5, 5", 400),
        ("Content-Length: +5", 400),
        ("Content-Length: -5", 400),
        ("Content-Length: 0x5", 400),
        ("Content-Length: 5 5", 400),
        ("Content-Length:", 400),
        ("Content-Length: 99999999999999999999", 400),
    ] {
        for path in ["/v1/devices/d/shadows/s", "/healthz"] {
            let mut stream = connect(address);
            let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n\r\n0\r\n\r\n{NEXT}");
            // A request before it is answered.
            stream.write_all((NEXT.to_owned() + &request).as_bytes()).unwrap();
            // The client that sends no more is answered too.
            stream.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_answer(&mut stream).unwrap().body, "ok");
            let answer = read_answer(&mut stream).expect("an answer");
            assert_eq!((answer.status, answer.field("connection")), (status, Some("close")), "{fields}{answer:?}");
            let code = if status == 501 { "unsupported-transfer-encoding" } else { "invalid-framing" };
            assert!(answer.body.contains(code), "{fields}{answer:?}");
            assert_eq!(ended(&mut stream), 0, "{fields}");
        }
        bystander.check_connection(&mut server);
    }
    for fields in [
        "Content-Length: 5",
        "Content-Length: 0005",
        "Connection: x\r\ncontent-LENGTH:5",
        "X-Refused-Codings: gzip\r\nContent-Length: 5",
    ] {
        let mut stream = connect(address);
        let request = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n\r\nhello{NEXT}");
        stream.write_all(request.as_bytes()).unwrap();
        for _ in 0..2 {
            assert_eq!(read_answer(&mut stream).unwrap().body, "ok", "{fields}");
        }
    }
}

#[test]
fn accepts_requests_octet_by_octet() {
    let server = server("");
    let mut stream = connect(server.address_of("web"));
    let length = format!("{PATCH}Content-Length: {}\r\n\r\n{STATE}\r\n", STATE.len());
    let chunks = chunked(&format!("14;a=\"b\"\r\n{STATE}\r\n0\r\nA: b\r\n\r\n"));
    let refused = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n{NEXT}");
    for octet in format!("{length}{chunks}{NEXT}{refused}").as_bytes() {
        stream.write_all(&[*octet]).unwrap();
    }
    for status in [201, 200, 200, 501] {
        assert_eq!(read_answer(&mut stream).unwrap().status, status);
    }
    assert_eq!(ended(&mut stream), 0);
}

#[test]
fn sends_continue_before_a_body() {
    let server = server("");
    let mut stream = connect(server.address_of("web"));
    for (framing, body) in [
        ("Content-Length: 20", STATE.to_owned()),
        ("Transfer-Encoding: chunked", format!("14\r\n{STATE}\r\n0\r\n\r\n")),
    ] {
        stream.write_all(format!("{PATCH}Expect: 100-continue\r\n{framing}\r\n\r\n").as_bytes()).unwrap();
        assert_eq!(read_answer(&mut stream).unwrap().status, 100);
        stream.write_all(body.as_bytes()).unwrap();
        assert!([200, 201].contains(&read_answer(&mut stream).unwrap().status));
    }
    let head = format!("{PATCH}Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    assert_eq!(read_answer(&mut stream).unwrap().status, 100);
    stream.write_all(format!("14;\x01\r\n{STATE}\r\n0\r\n\r\n").as_bytes()).unwrap();
    assert_eq!(read_answer(&mut stream).unwrap().status, 400);
    assert_eq!(ended(&mut stream), 0);
}

#[test]
fn accepts_a_large_body() {
    let server = server("");
    let mut stream = connect(server.address_of("web"));
    let payload = "x".repeat(500_000);
    let publish = "POST /topics/large?qos=1 HTTP/1.1\r\nHost: localhost\r\n";
    let length = format!("{publish}Content-Length: {}\r\n\r\n{payload}", payload.len());
    let chunks = format!("{publish}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{payload}\r\n0\r\n\r\n", payload.len());
    for request in [length, chunks] {
        stream.write_all(request.as_bytes()).unwrap();
        let answer = read_answer(&mut stream).unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

/// Frames of a client that does not wait for the answer reach the WebSocket.
#[test]
fn passes_frames_sent_before_the_upgrade() {
    let server = server("");
    for protocol in [Protocol::V4, Protocol::V5] {
        let mut stream = connect(server.address_of("web"));
        let packet = Connect::new(protocol, "early").encode();
        let frames = [frame(FIN | BINARY, &packet[..3]), frame(FIN | BINARY, &packet[3..])].concat();
        let request = format!("{UPGRADE}{SUBPROTOCOL}\r\n");
        stream.write_all(&[request.as_bytes(), &frames].concat()).unwrap();
        let answer = read_answer(&mut stream).unwrap();
        assert_eq!(answer.status, 101, "{answer:?}");
        assert_eq!(Socket { stream, protocol }.connack(), 0);
    }
}

/// A refused request does not end the answer to the one before it.
#[test]
fn streams_events_before_a_refused_request() {
    let server = server("");
    let address = server.address_of("web");
    let mut stream = connect(address);
    stream.write_all(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    assert_eq!(read_answer(&mut stream).unwrap().status, 200);
    stream.write_all(format!("{PATCH}Transfer-Encoding: gzip\r\n\r\n").as_bytes()).unwrap();
    assert_eq!(ask(address, chunked(&format!("14\r\n{STATE}\r\n0\r\n\r\n"))).unwrap().status, 201);
    let mut events = String::new();
    while !events.contains("event: change") {
        let mut some = [0; 1024];
        let count = stream.read(&mut some).unwrap();
        assert_ne!(count, 0, "the stream ended: {events}");
        events.push_str(&String::from_utf8_lossy(&some[..count]));
    }
}
