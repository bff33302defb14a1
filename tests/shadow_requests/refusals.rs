//! Every refusal of a request that says something wrong, with its code, error and text.

use serde_json::{Value, json};

use crate::harness::{
    client::Client,
    packet::Ack,
    server::{Server, Setup, UNLIMITED},
    shadow::{Requester, version},
    wire::{BOTH, Publish, V5},
};

struct Row {
    what: &'static str,
    payload: Vec<u8>,
    code: u64,
    error: &'static str,
    message: &'static str,
    /// The allowed reason codes of the PUBACK.
    reasons: &'static [u8],
}

/// The reason codes for an invalid payload: 0x99 if it cannot be parsed, either if it can and is no request.
const UNREADABLE: &[u8] = &[0x99];
const SENSELESS: &[u8] = &[0x83, 0x99];
const REFUSED: &[u8] = &[0x83];

fn row(
    what: &'static str,
    payload: impl AsRef<[u8]>,
    (code, error, message): (u64, &'static str, &'static str),
    reasons: &'static [u8],
) -> Row {
    Row { what, payload: payload.as_ref().to_vec(), code, error, message, reasons }
}

fn rows() -> Vec<Row> {
    let invalid = (400, "invalid-json", "Invalid JSON");
    let section = |message| (400, "invalid-section", message);
    let node = |message| (400, "invalid-node", message);
    let version = (400, "invalid-version", "Invalid version");
    let token = (400, "invalid-client-token", "Invalid clientToken");
    let deep = (400, "too-deep", "JSON contains too many levels of nesting; maximum is 8");
    let long = format!(r#"{{"state":{{}},"clientToken":"{}"}}"#, "x".repeat(65));
    let nine = r#"{"state":{"desired":{"1":{"2":{"3":{"4":{"5":{"6":{"7":{"8":[[1]]}}}}}}}}}}"#;
    vec![
        row("nothing", "", invalid, UNREADABLE),
        row("half an object", "{", invalid, UNREADABLE),
        row("no JSON", "hello", invalid, UNREADABLE),
        row("trailing bytes", r#"{"state":{}} x"#, invalid, UNREADABLE),
        row("two documents", r#"{"state":{}}{"state":{}}"#, invalid, UNREADABLE),
        row("a trailing comma", r#"{"state":{},}"#, invalid, UNREADABLE),
        row("a duplicate key", r#"{"state":{"desired":{"a":1,"a":2}}}"#, invalid, UNREADABLE),
        row("a duplicate key, escaped", r#"{"state":{"desired":{"a":1,"\u0061":2}}}"#, invalid, UNREADABLE),
        row("a duplicate key at the top", r#"{"version":1,"state":{},"version":2}"#, invalid, UNREADABLE),
        row("infinity", r#"{"state":{"desired":{"a":1e999}}}"#, invalid, UNREADABLE),
        row("NaN", r#"{"state":{"desired":{"a":NaN}}}"#, invalid, UNREADABLE),
        row("no double holds it", r#"{"state":{"desired":{"a":9007199254740993}}}"#, invalid, UNREADABLE),
        row("a lone surrogate", r#"{"state":{"desired":{"a":"\ud800"}}}"#, invalid, UNREADABLE),
        row("an array", "[]", (400, "", ""), SENSELESS),
        row(
            "no UTF-8",
            b"{\"state\":{\"desired\":{\"a\":\"\xFF\"}}}",
            (415, "not-utf8", "Unsupported documented encoding; supported encoding is UTF-8"),
            UNREADABLE,
        ),
        row("no state", "{}", (400, "missing-state", "Missing required node: state"), SENSELESS),
        row("state is a number", r#"{"state":1}"#, section("State node must be an object"), SENSELESS),
        row("desired is an array", r#"{"state":{"desired":[]}}"#, section("Desired node must be an object"), SENSELESS),
        row("reported is text", r#"{"state":{"reported":"x"}}"#, section("Reported node must be an object"), SENSELESS),
        row("another section", r#"{"state":{"x":{}}}"#, node("State contains an invalid node: 'x'"), SENSELESS),
        row("delta", r#"{"state":{"delta":{}}}"#, node("State contains an invalid node: 'delta'"), SENSELESS),
        row("null in an array", r#"{"state":{"desired":{"a":[1,null]}}}"#, (400, "invalid-node", ""), SENSELESS),
        row("version is text", r#"{"state":{},"version":"1"}"#, version, SENSELESS),
        row("version is negative", r#"{"state":{},"version":-1}"#, version, SENSELESS),
        row("version is a fraction", r#"{"state":{},"version":1.5}"#, version, SENSELESS),
        row("clientToken is a number", r#"{"state":{},"clientToken":7}"#, token, SENSELESS),
        row("clientToken is long", long, token, SENSELESS),
        row("nine levels", nine, deep, SENSELESS),
        row("a typo", r#"{"state":{},"versoin":1}"#, (400, "invalid-field", ""), SENSELESS),
        row("replace is text", r#"{"state":{},"replace":"yes"}"#, (400, "invalid-field", ""), SENSELESS),
        row(
            "too large",
            json!({"state": {"desired": {"a": "x".repeat(8 * 1024)}}}).to_string(),
            (413, "too-large", "Json document too large.  Size is 8217, max allowed: 8192"),
            REFUSED,
        ),
        row(
            "too many leaves",
            json!({"state": {"desired": {"a": vec![1; 1_025]}}}).to_string(),
            (413, "too-many-leaves", ""),
            REFUSED,
        ),
    ]
}

#[test]
fn refusals_name_the_mistake() {
    // More requests to one shadow than a device makes.
    let limits = "requests_rate = \"1000000/s burst 1000000\"";
    let server = Server::with(Setup { limits, ..Setup::default() });
    for protocol in BOTH {
        let prefix = format!("shadow/refused-{}", protocol as u8);
        let mut client = Requester::new(&server, protocol, "client", &prefix);
        let before = client.update(json!({"state": {"desired": {"untouched": true}}}));
        for row in rows() {
            let (body, ack) = refused(&mut client.client, &format!("{prefix}/update"), &row.payload);
            let what = row.what;
            assert_eq!(body["code"], json!(row.code), "{what}: {body}");
            if !row.error.is_empty() {
                assert_eq!(body["error"], json!(row.error), "{what}: {body}");
            }
            if !row.message.is_empty() {
                assert_eq!(body["message"], json!(row.message), "{what}: {body}");
            }
            assert!(body["timestamp"].is_u64(), "{what}: {body}");
            if protocol == V5 {
                assert!(row.reasons.contains(&ack.code), "{what}: the PUBACK says {:#04x}", ack.code);
            }
        }
        let after = client.get();
        assert_eq!((&after["version"], &after["etag"]), (&before["version"], &before["etag"]), "nothing was changed");
    }
    println!("{} refusals, each in both versions of MQTT", rows().len());
}

/// Publishes and takes the `rejected` that follows, and the PUBACK after it.
fn refused(client: &mut Client, topic: &str, payload: &[u8]) -> (Value, Ack) {
    let id = client.next_id();
    client.send(Publish::new(topic, payload).encode(client.protocol, 1, id));
    let message = client.message();
    assert_eq!(message.topic, format!("{topic}/rejected"), "{message:?}");
    (message.json(), client.puback(id))
}

/// The size counts after the merge, sections apart: a document may grow to the limit exactly, and tags beside it.
#[test]
fn size_limits_apply_after_the_merge() {
    let limits = "document_bytes_max = 200\ndepth_max = 3";
    let server = Server::with(Setup { limits, ..Setup::default() });
    let mut client = Requester::new(&server, V5, "client", "shadow/size");
    // {"a":"…"} takes 8 bytes besides the text.
    client.update(json!({"state": {"desired": {"a": "x".repeat(92)}}}));
    client.rejected("update", json!({"state": {"reported": {"a": "x".repeat(93)}}}), 413, "too-large");
    client.update(json!({"state": {"reported": {"a": "x".repeat(92)}, "tags": {"a": "x".repeat(192)}}}));
    client.rejected("update", json!({"state": {"tags": {"a": "x".repeat(193)}}}), 413, "too-large");
    client.update(json!({"state": {"reported": null, "desired": {"a": null, "b": "x".repeat(184)}}}));
    client.update(json!({"state": null}));
    client.update(json!({"state": {"desired": {"l": {"a": {"b": {"c": 1}}}}}, "replace": true}));
    client.rejected("update", json!({"state": {"desired": {"l": {"a": {"b": {"c": {"d": 1}}}}}}}), 400, "too-deep");
}

/// Leaves are counted apart from bytes, over all sections.
#[test]
fn leaves_are_those_after_the_merge() {
    let server = Server::start();
    let mut client = Requester::new(&server, V5, "client", "shadow/leaves");
    client.update(json!({"state": {"desired": {"l": vec![1; 1_000]}, "tags": {"l": vec![1; 24]}}}));
    client.rejected("update", json!({"state": {"reported": {"one": 1}}}), 413, "too-many-leaves");
}

/// Fifty requests at once where one a second is allowed: most are refused with a time to wait.
#[test]
fn too_many_requests() {
    let limits = "requests_rate = \"1/s burst 1\"";
    let server = Server::with(Setup { limits, ..Setup::default() });
    let mut client = Client::connect(&server, V5, "hasty");
    client.subscribe(&[("shadow/hasty/update/rejected", 1)]);
    let mut frames = Vec::new();
    for number in 1..=50u16 {
        let body = json!({"state": {"reported": {"n": number}}, "clientToken": number.to_string()}).to_string();
        frames.extend(Publish::new("shadow/hasty/update", body).encode(V5, 1, number + 100));
    }
    client.send(frames);
    let acks: Vec<Ack> = (1..=50).map(|number| client.puback(number + 100)).collect();
    let refused = acks.iter().filter(|ack| ack.code == 0x97).count();
    assert_eq!(acks.iter().filter(|ack| ack.code == 0).count() + refused, 50, "{acks:?}");
    assert!(refused > 0 && acks[0].code == 0, "{acks:?}");
    for _ in 0..refused {
        let body = client.message().json();
        assert_eq!((&body["code"], &body["error"]), (&json!(429), &json!("too-many-requests")));
        let retry = body["retryAfterMs"].as_u64().unwrap();
        assert!((1..=60_000).contains(&retry), "{body}");
    }
    // Another client has a quota of its own.
    let body = json!({"state": {"reported": {"other": 1}}});
    assert!(Requester::private(&server, "patient", "shadow/hasty").request("update", body).accepted);
    println!("{refused} of 50 requests at once were refused");
}

/// A disk with less free space than is to be kept: updates are refused as what to wait for, reads go on.
#[test]
fn writes_are_refused_below_the_minimum_of_free_disk() {
    let mut server = Server::start();
    Requester::new(&server, V5, "client", "shadow/full").update(json!({"state": {"reported": {"a": 1}}}));
    server = restarted(server, Setup { store: "free_disk_min = \"16 TiB\"", ..Setup::default() });
    let mut client = Requester::new(&server, V5, "client", "shadow/full");
    for (operation, body) in [("update", json!({"state": {"reported": {"a": 2}}})), ("delete", json!({}))] {
        let refused = client.rejected(operation, body, 503, "unavailable");
        assert_eq!(refused.ack.code, 0x83);
        assert!(refused.body["message"].as_str().unwrap().len() > 10, "says what to wait for: {:?}", refused.body);
    }
    assert_eq!(client.get()["state"]["reported"]["a"], json!(1));
    server = restarted(server, Setup::default());
    Requester::new(&server, V5, "client", "shadow/full").update(json!({"state": {"reported": {"a": 2}}, "version": 1}));
}

/// A deleted name counts while the journal has its changes. After that, a new name takes its place, and its version goes on.
#[test]
fn deleting_a_name_allows_another() {
    let mut server = Server::with(Setup { store: "journal_bytes_max = \"16 MiB\"", ..UNLIMITED });
    let client = |server: &Server, name: &str| {
        Requester::private(server, &format!("client{}", name.replace('/', "-")), &format!("shadow/freed{name}"))
    };
    let write = json!({"state": {"reported": {"a": 1}}});
    for number in 0..100 {
        client(&server, &format!("/name/n{number}")).update(write.clone());
    }
    assert_eq!(version(&client(&server, "/name/n7").accepted("delete", json!({}))), 2);
    client(&server, "/name/late").rejected("update", write.clone(), 429, "too-many-requests");

    // Each entry has the new and the former value.
    let mut filler = Requester::private(&server, "filler", "shadow/filler");
    for number in 0..1_500 {
        filler.update(json!({"state": {"reported": {"filler": format!("{number:0>7000}")}}}));
    }
    assert_eq!(version(&client(&server, "/name/late").update(write.clone())), 3);
    server.kill();
    server.restart();
    let mut late = client(&server, "/name/late");
    assert_eq!(version(&late.get()), 3);
    client(&server, "/name/n7").rejected("get", json!({}), 404, "not-found");
    client(&server, "/name/n7").rejected("update", write.clone(), 429, "too-many-requests");
    let mut classic = client(&server, "");
    let stale = classic.rejected("update", json!({"state": {"reported": {}}, "version": 1}), 409, "version-conflict");
    assert_eq!(stale.body["version"], json!(2));
    assert_eq!(version(&classic.update(json!({"state": {"reported": {"a": 1}}, "version": 0}))), 3);
}

/// The same store under another configuration.
fn restarted(server: Server, setup: Setup) -> Server {
    Server::within(server.into_directory(), setup).unwrap_or_else(|(exit, _)| panic!("{exit:?}"))
}

/// The limit on the shadow names of a device, including deleted ones in the journal and excluding the classic shadow.
#[test]
fn refuses_names_beyond_the_maximum() {
    let mut server = Server::with(Setup { limits: "shadow_names_max = 3", ..Setup::default() });
    let update = |server: &Server, name: &str| {
        let mut client = Requester::new(server, V5, "client", &format!("shadow/names{name}"));
        client.request("update", json!({"state": {"reported": {"a": name}}}))
    };
    let refused = |server: &Server, what: &str| {
        let answer = update(server, "/name/four");
        assert!(matches!(answer.body["code"].as_u64(), Some(413 | 429)), "{what}: {answer:?}");
    };
    for name in ["/name/one", "", "/name/two", "/name/three"] {
        assert!(update(&server, name).accepted, "{name}");
    }
    refused(&server, "one too many");
    Requester::new(&server, V5, "client", "shadow/names/name/two").accepted("delete", json!({}));
    refused(&server, "a deleted name counts");
    server.stop();
    server.restart();
    refused(&server, "also after a restart");
    assert!(update(&server, "/name/two").accepted, "a name that was there may come back");
}
