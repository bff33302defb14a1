//! QoS 2 across a kill: a message that is sent again after the restart is neither decided nor delivered twice.

use crate::harness::{
    client::Client,
    packet::Message,
    server::Server,
    wire::{BOTH, Connect, Protocol, Publish, ack},
};

const PUBREC: u8 = 0x50;
const PUBREL: u8 = 0x62;
const PUBCOMP: u8 = 0x70;

fn resume(server: &Server, protocol: Protocol, client_id: &str) -> Client {
    let (client, connack) = Client::connect_as(server, &Connect::persistent(protocol, client_id));
    assert!(connack.session_present, "{protocol:?} {client_id}");
    client
}

fn open(server: &Server, protocol: Protocol, client_id: &str, filters: &[(&str, u8)]) -> Client {
    let (mut client, _) = Client::connect_as(server, &Connect::persistent(protocol, client_id));
    if !filters.is_empty() {
        client.subscribe(filters);
    }
    client
}

fn restart(server: &mut Server) {
    server.kill();
    server.restart();
}

/// The messages that wait for `client`, up to one that `marker` publishes now.
fn waiting(server: &Server, client: &mut Client) -> Vec<String> {
    let protocol = Protocol::V5;
    Client::connect(server, protocol, "marker").publish("t/marker", "marker", 2);
    let mut texts = Vec::new();
    loop {
        let message = client.message();
        match message.text() {
            "marker" => return texts,
            text => texts.push(text.to_owned()),
        }
    }
}

#[test]
fn a_message_that_comes_again_after_a_kill_is_known() {
    for protocol in BOTH {
        let mut server = Server::start();
        open(&server, protocol, "reader", &[("t/#", 2)]).disconnect();
        let message = Publish::new("t/1", "once");
        let mut sender = open(&server, protocol, "sender", &[]);
        sender.send(message.encode(protocol, 2, 7));
        assert_eq!(sender.pubrec(7).code, 0, "{protocol:?}");
        restart(&mut server);
        // PUBREC may have been lost.
        let mut sender = resume(&server, protocol, "sender");
        sender.send(message.clone().dup().encode(protocol, 2, 7));
        assert_eq!(sender.pubrec(7).code, 0, "{protocol:?}");
        sender.send(ack(PUBREL, 7));
        assert_eq!(sender.pubcomp(7).code, 0, "{protocol:?}: the identifier was known");
        restart(&mut server);
        // From PUBCOMP on, the identifier is another message's.
        let mut sender = resume(&server, protocol, "sender");
        sender.send(Publish::new("t/1", "another").encode(protocol, 2, 7));
        sender.pubrec(7);
        restart(&mut server);
        // PUBREL may come first.
        let mut sender = resume(&server, protocol, "sender");
        sender.send(ack(PUBREL, 7));
        assert_eq!(sender.pubcomp(7).code, 0, "{protocol:?}: the identifier was known");
        let mut reader = resume(&server, protocol, "reader");
        assert_eq!(waiting(&server, &mut reader), ["once", "another"], "{protocol:?}");
    }
}

#[test]
fn a_request_that_comes_again_after_a_kill_is_not_decided_twice() {
    let update = "shadow/lamp-1/update";
    for protocol in BOTH {
        let mut server = Server::start();
        let mut sender = open(&server, protocol, "sender", &[]);
        for (id, state) in [(7, r#"{"state": {"desired": {"n": 1}}}"#), (8, r#"{"state": {"desired": {"n": 2}}}"#)] {
            sender.send(Publish::new(update, state).encode(protocol, 2, id));
            sender.pubrec(id);
        }
        restart(&mut server);
        let mut sender = resume(&server, protocol, "sender");
        for (id, state) in [(7, r#"{"state": {"desired": {"n": 1}}}"#), (8, r#"{"state": {"desired": {"n": 2}}}"#)] {
            sender.send(Publish::new(update, state).dup().encode(protocol, 2, id));
            assert_eq!(sender.pubrec(id).code, 0, "{protocol:?}");
        }
        sender.subscribe(&[("shadow/lamp-1/get/accepted", 0)]);
        sender.publish("shadow/lamp-1/get", "{}", 1);
        let document = sender.message().json();
        assert_eq!((&document["version"], &document["state"]["desired"]["n"]), (&2.into(), &2.into()), "{protocol:?}");
    }
}

/// Lets `reader` receive one of three messages and release another, kills the server, and checks that each is continued.
fn continue_after_kill(
    server: &mut Server,
    protocol: Protocol,
    mut reader: Client,
    [seen, received, released]: [Message; 3],
) {
    for message in [&received, &released] {
        reader.send(ack(PUBREC, message.id));
        reader.pubrel(message.id);
    }
    reader.send(ack(PUBCOMP, released.id));
    // The SUBACK comes when everything before it is on disk.
    reader.subscribe(&[("other", 0)]);
    restart(server);
    let mut reader = resume(server, protocol, "reader");
    let again = reader.peek_message();
    assert_eq!((again.text(), again.id, again.dup), (seen.text(), seen.id, true), "{protocol:?}");
    reader.pubrel(received.id);
    reader.send(ack(PUBCOMP, received.id));
    reader.acknowledge(&again);
    assert_eq!(waiting(server, &mut reader), [""; 0], "{protocol:?}");
}

#[test]
fn a_message_that_was_sent_is_continued_after_a_kill() {
    for protocol in BOTH {
        let mut server = Server::start();
        let mut reader = open(&server, protocol, "reader", &[("t/#", 2)]);
        let mut sender = Client::connect(&server, protocol, "sender");
        for text in ["seen", "received", "released"] {
            sender.publish("t/1", text, 2);
        }
        let messages = [0; 3].map(|_| reader.peek_message());
        assert_eq!(messages[0].text(), "seen", "{protocol:?}");
        continue_after_kill(&mut server, protocol, reader, messages);
    }
}

/// A retained message that a SUBSCRIBE asks for had no row. After a kill its identifier was that of the next message, which a client that
/// has answered PUBREC takes for a repetition, and drops.
#[test]
fn a_retained_message_that_was_sent_is_continued_after_a_kill() {
    for protocol in BOTH {
        let mut server = Server::start();
        let mut sender = Client::connect(&server, protocol, "sender");
        for topic in ["t/seen", "t/received", "t/released"] {
            sender.publish_message(&Publish::new(topic, topic).retain(), 2);
        }
        let mut reader = open(&server, protocol, "reader", &[("t/#", 2)]);
        let mut messages = [0; 3].map(|_| reader.peek_message());
        assert!(messages.iter().all(|message| message.retain && message.qos == 2), "{protocol:?}");
        messages.sort_by_key(|message| message.topic.clone());
        let [received, released, seen] = messages;
        assert_eq!(seen.text(), "t/seen", "{protocol:?}");
        continue_after_kill(&mut server, protocol, reader, [seen, received, released]);
    }
}
