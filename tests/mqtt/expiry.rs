//! Message expiry.

use crate::harness::{
    client::Client,
    eventually,
    server::Server,
    wire::{Connect, Publish, V4, V5, Value, prop},
};

fn expiring(topic: &str, payload: &str, seconds: u32) -> Publish {
    Publish::new(topic, payload).property(prop::MESSAGE_EXPIRY, Value::Four(seconds))
}

#[test]
fn a_queued_message_carries_its_remaining_expiry() {
    let server = Server::start();
    let connect = Connect::persistent(V5, "absent");
    let (mut client, _) = Client::connect_as(&server, &connect);
    client.subscribe(&[("left/#", 1)]);
    client.disconnect();
    let mut sender = Client::connect(&server, V5, "sender");
    sender.publish_message(&expiring("left/t", "long", 3_600), 1);
    sender.publish("left/t", "for ever", 1);
    let (mut client, _) = Client::connect_as(&server, &connect);
    let long = client.message();
    let left = long.properties.number(prop::MESSAGE_EXPIRY).unwrap();
    assert!((3_400..=3_600).contains(&left), "{left} s left");
    assert_eq!(client.message().properties.number(prop::MESSAGE_EXPIRY), None);
    println!("{left} of 3,600 s left");
}

/// A message that waits for a client longer than it lasts is not delivered. Whether it has expired is seen on a
/// retained one that was published later with the same interval.
#[test]
fn an_expired_message_is_not_delivered() {
    let server = Server::start();
    let connect = Connect::persistent(V5, "absent");
    let (mut client, _) = Client::connect_as(&server, &connect);
    client.subscribe(&[("gone/#", 1)]);
    client.disconnect();
    let mut sender = Client::connect(&server, V5, "sender");
    sender.publish_message(&expiring("gone/t", "short", 1), 1);
    sender.publish("gone/t", "long", 1);
    sender.publish_message(&expiring("kept/t", "short", 1).retain(), 1);
    sender.publish_message(&Publish::new("kept/u", "stays").retain(), 1);

    let looks = std::cell::Cell::new(0);
    eventually("the retained message to expire", || {
        looks.set(looks.get() + 1);
        let mut looker = Client::connect(&server, V4, "looker");
        looker.subscribe(&[("kept/t", 1)]);
        looker.subscribe(&[("kept/u", 1)]);
        let gone = looker.message().topic == "kept/u";
        looker.disconnect();
        gone.then_some(())
    });
    let (mut client, _) = Client::connect_as(&server, &connect);
    assert_eq!(client.message().text(), "long");
    println!("expired at look {}", looks.get());
}

#[test]
fn properties_travel_with_the_message() {
    let server = Server::start();
    let mut old = Client::connect(&server, V4, "old");
    let mut new = Client::connect(&server, V5, "new");
    let mut sender = Client::connect(&server, V5, "sender");
    old.subscribe(&[("p/#", 1)]);
    new.subscribe(&[("p/#", 1)]);
    let user = |name: &str, value: &str| Value::Pair(name.to_owned(), value.to_owned());
    let message = Publish::new("p/t", "ü")
        .property(prop::PAYLOAD_FORMAT, Value::Byte(1))
        .property(prop::CONTENT_TYPE, Value::Text("text/plain".to_owned()))
        .property(prop::RESPONSE_TOPIC, Value::Text("answers/here".to_owned()))
        .property(prop::CORRELATION_DATA, Value::Binary(vec![0, 1, 255]))
        .property(prop::USER, user("b", "2"))
        .property(prop::USER, user("a", "1"))
        .property(prop::USER, user("b", "2"));
    assert!(sender.publish_message(&message, 1).code < 0x80);
    let heard = new.message();
    for (id, value) in &message.properties.0 {
        assert!(heard.properties.all(*id).contains(&value), "{id:#04x} in {heard:?}");
    }
    let users = [&user("b", "2"), &user("a", "1"), &user("b", "2")];
    assert_eq!(heard.properties.all(prop::USER), users, "user properties keep their order [MQTT-3.3.2-18]");
    assert_eq!(heard.properties.0.len(), message.properties.0.len());
    assert_eq!(old.message().text(), "ü");
}

/// An interval of 0 says: to whom it can be delivered now. It was delivered to nobody.
#[test]
fn an_expiry_of_0_delivers_only_to_connected_subscribers() {
    let server = Server::start();
    let absent = Connect::persistent(V5, "absent");
    let (mut client, _) = Client::connect_as(&server, &absent);
    client.subscribe(&[("now/#", 1)]);
    client.disconnect();
    let mut sender = Client::connect(&server, V5, "sender");
    let mut here: Vec<Client> =
        [V4, V5].map(|protocol| Client::connect(&server, protocol, &format!("{protocol:?}"))).into();
    here.iter_mut().for_each(|client| client.subscribe(&[("now/#", 2)]));
    sender.publish_message(&Publish::new("now/t", "retained before").retain(), 1);
    for qos in 0..3 {
        sender.publish_message(&expiring("now/t", "at once", 0).retain(), qos);
    }
    for client in &mut here {
        assert_eq!(client.message().text(), "retained before");
        for qos in 0..3 {
            let message = client.message();
            let left = (client.protocol == V5).then_some(0);
            assert_eq!((message.text(), message.qos), ("at once", qos), "{:?}", client.protocol);
            assert_eq!(message.properties.number(prop::MESSAGE_EXPIRY), left);
        }
    }
    sender.publish("now/t", "later", 1);
    let (mut client, _) = Client::connect_as(&server, &absent);
    assert_eq!(client.message().text(), "retained before");
    assert_eq!(client.message().text(), "later", "what was for others at once is gone");
    let mut late = Client::connect(&server, V5, "late");
    late.subscribe(&[("now/#", 1)]);
    sender.publish("now/t", "end", 1);
    assert_eq!(late.message().text(), "end", "it is not retained, nor is what it replaced");
}
