//! HTTP itself: what is there, and requests that are too much.

use std::io::Write;

use crate::{
    bystander::Bystander,
    exchange::{ask, connect, ended, read_answer, server},
};

fn get(target: &str, more: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n")
}

#[test]
fn routes_and_methods() {
    let server = server("");
    let address = server.address_of("web");
    for (request, status, body) in [
        (get("/healthz", ""), 200, Some("ok")),
        (get("http://localhost/healthz", ""), 200, Some("ok")),
        (get("/healthz?x=1", ""), 200, Some("ok")),
        (get("/", ""), 200, None),
        (get("/healthz/", ""), 404, None),
        (get("/../healthz", ""), 404, None),
        (get("/mqtt", ""), 400, None),
        ("POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".to_owned(), 405, None),
        ("CONNECT localhost:22 HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 404, None),
        ("OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 204, None),
        ("GET * HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 400, None),
        // As load balancers ask.
        ("GET /healthz HTTP/1.1\r\nHost: 10.1.2.3:8080\r\n\r\n".to_owned(), 200, Some("ok")),
        ("GET /readyz HTTP/1.1\r\nHost: 10.1.2.3\r\n\r\n".to_owned(), 200, Some("ready\n")),
        ("GET /healthz HTTP/1.0\r\n\r\n".to_owned(), 200, Some("ok")),
        ("GET /readyz HTTP/1.0\r\n\r\n".to_owned(), 200, Some("ready\n")),
        ("GET /healthz HTTP/1.1\r\n\r\n".to_owned(), 400, None),
        ("GET /metrics HTTP/1.0\r\n\r\n".to_owned(), 400, None),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned(), 400, None),
        ("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_owned(), 403, None),
    ] {
        let answer = ask(address, &request).expect("an answer");
        assert_eq!(answer.status, status, "{request}{answer:?}");
        if let Some(body) = body {
            assert_eq!(answer.body, body);
        }
    }
}

/// One after another, and one behind the other, on one connection.
#[test]
fn a_connection_serves_many_requests() {
    let server = server("");
    let mut stream = connect(server.address_of("web"));
    for _ in 0..3 {
        stream.write_all(get("/healthz", "").as_bytes()).unwrap();
        assert_eq!(read_answer(&mut stream).unwrap().status, 200);
    }
    stream.write_all(get("/healthz", "").repeat(100).as_bytes()).unwrap();
    for _ in 0..100 {
        assert_eq!(read_answer(&mut stream).unwrap().body, "ok");
    }
    stream.write_all(get("/healthz", "Connection: close\r\n").as_bytes()).unwrap();
    assert_eq!(read_answer(&mut stream).unwrap().status, 200);
    assert_eq!(ended(&mut stream), 0);
}

fn coded(coding: &str) -> Vec<u8> {
    let head = format!("POST /v1/backup HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: {coding}\r\n\r\n");
    [head.as_bytes(), b"0\r\n\r\n"].concat()
}

#[test]
fn oversized_and_malformed_requests() {
    let mut server = server("");
    let address = server.address_of("web");
    let mut bystander = Bystander::new(&server);
    let fields = |count: usize| (0..count).map(|number| format!("X-{number}: x\r\n")).collect::<String>();
    // the request, the status; `None`: the connection ends without one
    for (what, bytes, statuses) in [
        ("a head of 20 KB", get("/healthz", &format!("X: {}\r\n", "x".repeat(20_000))).into_bytes(), &[431][..]),
        ("a head without end", [b"GET /healthz HTTP/1.1\r\nX: ", &[b'x'; 1 << 20][..]].concat(), &[431]),
        ("a target of 20 KB", get(&format!("/{}", "x".repeat(20_000)), "").into_bytes(), &[431]),
        ("100 fields", get("/healthz", &fields(100)).into_bytes(), &[431]),
        ("no HTTP", b"\x10\x0c\0\x04MQTT\x04\x02\0\0\0\0\r\n\r\n".to_vec(), &[400]),
        ("a TLS hello", [&[0x16, 3, 1, 0, 5][..], b"\r\n\r\n\r\n"].concat(), &[400]),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), &[]),
        ("a NUL in a field", get("/healthz", "X: a\0b\r\n").into_bytes(), &[400]),
        ("a field over two lines", get("/healthz", "X: a\r\n b\r\n").into_bytes(), &[400]),
        ("no name of a field", get("/healthz", ": x\r\n").into_bytes(), &[400]),
        (
            "two lengths",
            b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx".to_vec(),
            &[400],
        ),
        (
            "a length and chunks",
            b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: xchunked\r\n\r\nabcd"
                .to_vec(),
            &[400],
        ),
        ("a coding beside chunked", coded("gzip, chunked"), &[501]),
        ("chunked twice", coded("chunked, chunked"), &[501]),
        ("two fields of codings", coded("identity\r\nTransfer-Encoding: chunked"), &[501]),
    ] {
        let found = ask(address, &bytes).map(|answer| answer.status);
        assert!(found.map_or(statuses.is_empty(), |status| statuses.contains(&status)), "{what}: {found:?}");
        bystander.check_connection(&mut server);
    }
    for (head, detail) in [
        (get("/healthz", &format!("X: {}\r\n", "x".repeat(20_000))), "exceed 16384 bytes"),
        (get("/healthz", &fields(100)), "more than 64 header fields"),
    ] {
        let answer = ask(address, head.as_bytes()).unwrap();
        assert_eq!((answer.status, answer.field("connection")), (431, Some("close")), "{answer:?}");
        assert_eq!(answer.field("content-type"), Some("application/problem+json"), "{answer:?}");
        assert!(answer.body.contains("head-too-large") && answer.body.contains(detail), "{answer:?}");
    }
    // 60 fields are not too many.
    assert_eq!(ask(address, get("/healthz", &fields(60))).unwrap().status, 200);
    bystander.check(&mut server);
}
