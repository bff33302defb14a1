//! Payloads of requests made to break a parser.

use serde_json::{Value, json};

use crate::{
    bystander::Bystander,
    harness::{
        client::Client,
        server::{Server, Setup},
        wire::{BOTH, Publish, V5},
    },
};

/// Name, payload, and the codes it may be rejected with.
fn payloads() -> Vec<(&'static str, Vec<u8>, &'static [u64])> {
    let nested = |open: &str, close: &str, times: usize| {
        format!(r#"{{"state":{{"desired":{{"a":{}1{}}}}}}}"#, open.repeat(times), close.repeat(times)).into_bytes()
    };
    let padded = |length: usize| format!(r#"{{"state":{{}}{}}}"#, " ".repeat(length)).into_bytes();
    vec![
        ("100 KB of arrays nested 10,000 deep", [nested("[", "]", 10_000), vec![b' '; 80_000]].concat(), &[400, 413]),
        ("objects nested 10,000 deep", nested(r#"{"a":"#, "}", 10_000), &[400, 413]),
        ("50,000 opening brackets", "[".repeat(50_000).into_bytes(), &[400, 413]),
        ("60,000 opening braces", r#"{"":"#.repeat(15_000).into_bytes(), &[400, 413]),
        (
            "nested deep in an unknown field",
            format!(r#"{{"x":{}{}}}"#, "[".repeat(9_000), "]".repeat(9_000)).into(),
            &[400, 413],
        ),
        ("a duplicate key", br#"{"state":{"desired":{"a":1}},"state":{"desired":{"a":2}}}"#.to_vec(), &[400]),
        ("a duplicate key deep down", br#"{"state":{"desired":{"a":{"b":[{"c":1,"c":1}]}}}}"#.to_vec(), &[400]),
        ("trailing bytes", b"{\"state\":{}}\0".to_vec(), &[400]),
        ("invalid UTF-8 in a value", b"{\"state\":{\"desired\":{\"a\":\"\xC3\x28\"}}}".to_vec(), &[415]),
        ("invalid UTF-8 in a key", b"{\"state\":{\"desired\":{\"\xED\xA0\x80\":1}}}".to_vec(), &[415]),
        ("1e999", br#"{"state":{"desired":{"a":1e999}}}"#.to_vec(), &[400]),
        ("-1e999", br#"{"state":{"desired":{"a":-1e999}}}"#.to_vec(), &[400]),
        (
            "a number of 10,000 digits",
            format!(r#"{{"state":{{"desired":{{"a":{}}}}}}}"#, "9".repeat(10_000)).into(),
            &[400, 413],
        ),
        (
            "an exponent of 10,000 digits",
            format!(r#"{{"state":{{"desired":{{"a":1e{}}}}}}}"#, "9".repeat(10_000)).into(),
            &[400, 413],
        ),
        (
            "40,000 empty arrays",
            format!(r#"{{"state":{{"desired":{{"a":[{}[]]}}}}}}"#, "[],".repeat(39_999)).into(),
            &[400, 413],
        ),
        (
            "20,000 escapes",
            format!(r#"{{"state":{{"desired":{{"a":"{}"}}}}}}"#, r"\u0001".repeat(20_000)).into(),
            &[400, 413],
        ),
        (
            "5,000 conditions",
            format!(r#"{{"state":{{}},"expect":[{}{{}}]}}"#, r#"{"path":"/desired/a"},"#.repeat(4_999)).into(),
            &[400, 413],
        ),
        ("a version beyond 64 bits", br#"{"state":{},"version":99999999999999999999999}"#.to_vec(), &[400]),
        ("a version of 1e300", br#"{"state":{},"version":1e300}"#.to_vec(), &[400]),
        ("100 KB of white space and a typo", [padded(100_000), b"x".to_vec()].concat(), &[400, 413]),
        ("10,000 keys", keys(10_000), &[400, 413]),
        ("a key of 60 KB", format!(r#"{{"state":{{"desired":{{"{}":1}}}}}}"#, "k".repeat(60_000)).into(), &[400, 413]),
        ("a NUL in a key", br#"{"state":{"x\u0000":{}}}"#.to_vec(), &[400]),
        ("an unknown field of 60 KB", format!(r#"{{"state":{{}},"{}":1}}"#, "f".repeat(60_000)).into(), &[400, 413]),
        ("bytes", (0..=255).cycle().take(60_000).collect(), &[400, 415]),
    ]
}

fn keys(count: usize) -> Vec<u8> {
    let members: Vec<String> = (0..count).map(|number| format!("\"{number}\":1")).collect();
    format!(r#"{{"state":{{"desired":{{{}}}}}}}"#, members.join(",")).into()
}

#[test]
fn payloads_that_break_parsers() {
    // More requests to one shadow than a device makes.
    let limits = "requests_rate = \"1000000/s burst 1000000\"";
    let mut server = Server::with(Setup { limits, ..Setup::default() });
    let mut bystander = Bystander::new(&server);
    for protocol in BOTH {
        let mut client = Client::connect(&server, protocol, "client");
        client.subscribe(&[("shadow/hostile/+/rejected", 1)]);
        for (what, payload, codes) in payloads() {
            for operation in ["update", "delete"] {
                let code = client.publish(&format!("shadow/hostile/{operation}"), &payload, 1);
                assert!(protocol != V5 || matches!(code, 0x83 | 0x99), "{what}: {code:#x}");
                let body = client.message().json();
                let allowed = if operation == "update" { codes } else { &[400, 404, 413, 415] };
                assert!(allowed.contains(&body["code"].as_u64().unwrap()), "{what} as {operation}: {body}");
                assert!(body.to_string().len() < 4_096, "{what}: the answer is {} bytes", body.to_string().len());
            }
        }
        bystander.check(&mut server);
    }
    println!("{} payloads", payloads().len());
}

/// Unusual but allowed values are kept as they are.
#[test]
fn unusual_but_valid_payloads() {
    let mut server = Server::start();
    let mut bystander = Bystander::new(&server);
    let mut client = Client::connect(&server, V5, "client");
    client.subscribe(&[("shadow/odd/get/accepted", 1)]);
    let desired =
        json!({"": "empty", "__proto__": 1, "a/b~c": [[], {}], "\u{0}": "\u{10FFFF}", "n": 1e-320, "big": 1e308});
    let body = json!({"state": {"desired": desired}}).to_string();
    assert_eq!(client.publish("shadow/odd/update", body, 1), 0);
    client.publish_message(&Publish::new("shadow/odd/get", ""), 1);
    let found: Value = client.message().json();
    assert_eq!(found["state"]["desired"], desired);
    bystander.check(&mut server);
}
