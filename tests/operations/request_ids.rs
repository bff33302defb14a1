//! The id of a request is in the reply to its client and in the log.

use std::fs;

use serde_json::json;

use super::site::{LISTENERS, get};
use crate::harness::{
    client::Client,
    eventually,
    server::{Server, Setup, UNLIMITED, store_path},
    shadow::Requester,
    wire::{Publish, V5},
};

const REASON_STRING: u8 = 0x1F;

/// The lines of the log that are about the request `id`.
fn lines(server: &Server, id: &str) -> Vec<String> {
    let field = format!("request={id}");
    server.log().lines().filter(|line| line.split(' ').any(|word| word == field)).map(str::to_owned).collect()
}

#[test]
fn refusals_are_logged_at_debug_level() {
    let server = Server::with(Setup { listener: LISTENERS, store: "[log]\nlevel = \"debug\"", ..UNLIMITED });
    let reply = get(server.address_of("web"), "/v1/devices/never/shadow");
    assert_eq!(reply.status, 404);
    let id = reply.header("x-request-id").unwrap();
    eventually("a line about the request", || {
        lines(&server, id).iter().any(|line| line.contains("status=404")).then_some(())
    });
    let mut setter = Requester::new(&server, V5, "setter", "shadow/lamp-1");
    setter.rejected("update", json!({"state": {"desired": {"n": 2}}, "version": 7}), 409, "version-conflict");
    eventually("a line about the refusal", || {
        let log = server.log();
        let line = log.lines().find(|line| line.contains("a request is refused"))?;
        assert!(line.contains("request=") && line.contains("key=lamp-1"), "{line}");
        assert!(line.contains("error=\"version-conflict\"") && line.contains("client=\"setter\""), "{line}");
        Some(())
    });
}

/// A byte of a shadow on the disk has changed: readers and writers receive a fixed sentence, the log has the details.
#[test]
fn internal_errors_are_logged_with_the_request_id() {
    let mut server = Server::with(Setup { listener: LISTENERS, ..UNLIMITED });
    Requester::new(&server, V5, "setter", "shadow/lamp-1").update(json!({"state": {"desired": {"text": "easily"}}}));
    // Other changes follow in the journal: a server does not start with a journal whose end is damaged.
    let mut other = Requester::new(&server, V5, "other", "shadow/other");
    for n in 0..100 {
        other.update(json!({"state": {"desired": {"n": n, "filler": "x".repeat(400)}}}));
    }
    server.stop();
    let path = store_path(server.directory());
    let mut image = fs::read(&path).unwrap();
    let places: Vec<_> = (0..image.len() - 6).filter(|place| &image[*place..*place + 6] == b"easily").collect();
    places.iter().for_each(|place| image[*place] ^= 1);
    fs::write(&path, image).unwrap();
    server.restart();

    let reply = get(server.address_of("web"), "/v1/devices/lamp-1/shadow");
    assert_eq!(reply.status, 500, "{reply:?}");
    let logged = lines(&server, reply.header("x-request-id").unwrap());
    assert!(logged.iter().any(|line| line.contains("is damaged")), "{logged:?}");

    let mut client = Client::connect(&server, V5, "setter");
    let update = Publish::new("shadow/lamp-1/update", r#"{"state":{"desired":{"n":1}}}"#);
    let ack = client.publish_message(&update, 1);
    let said = ack.properties.text(REASON_STRING).unwrap().to_owned();
    assert_eq!(ack.code, 0x83, "{said}");
    let id = said.strip_prefix("Internal service failure (request ").and_then(|rest| rest.strip_suffix(')')).unwrap();
    let logged = lines(&server, id);
    assert!(logged.iter().any(|line| line.contains("is damaged")), "{logged:?}");
    assert!(logged.iter().any(|line| line.contains("a request failed") && line.contains("key=lamp-1")), "{logged:?}");
}
