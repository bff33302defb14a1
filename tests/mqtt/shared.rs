//! Shared subscriptions.

use crate::harness::{
    client::Client,
    packet::Packet,
    server::{Server, UNLIMITED},
    wire::{self, BOTH, Connect, Properties, Publish, V4, V5, Value, prop},
};

#[test]
fn a_group_gets_each_message_once() {
    let server = Server::with(UNLIMITED);
    for qos in [0, 1] {
        let mut members: Vec<Client> = BOTH
            .iter()
            .chain(&[V5])
            .enumerate()
            .map(|(n, p)| Client::connect(&server, *p, &format!("member-{n}")))
            .collect();
        for member in &mut members {
            member.subscribe(&[("$share/group/work/#", qos), ("end", 1)]);
        }
        let mut alone = Client::connect(&server, V5, "alone");
        alone.subscribe(&[("work/#", qos)]);
        let mut sender = Client::connect(&server, V4, "sender");
        for number in 0..300 {
            sender.publish("work/t", number.to_string(), qos);
            assert_eq!(alone.message().text(), number.to_string(), "one outside the group gets all");
        }
        sender.publish("end", "", 1);
        let shares = members.iter_mut().map(until_end).collect::<Vec<_>>();
        let mut all: Vec<u32> = shares.concat();
        all.sort_unstable();
        assert_eq!(all, (0..300).collect::<Vec<_>>(), "each message to one member");
        assert!(shares.iter().all(|share| !share.is_empty()), "every member works: {shares:?}");
        println!("QoS {qos}: 300 messages as {:?}", shares.iter().map(Vec::len).collect::<Vec<_>>());
    }
}

fn until_end(client: &mut Client) -> Vec<u32> {
    let mut numbers = Vec::new();
    loop {
        let message = client.message();
        if message.topic == "end" {
            return numbers;
        }
        numbers.push(message.text().parse().unwrap());
    }
}

#[test]
fn groups_are_independent_and_a_member_may_leave() {
    let server = Server::start();
    let mut first = Client::connect(&server, V5, "first");
    let mut second = Client::connect(&server, V4, "second");
    let mut other = Client::connect(&server, V5, "other");
    first.subscribe(&[("$share/a/g/+", 1)]);
    second.subscribe(&[("$share/a/g/+", 1), ("end", 1)]);
    other.subscribe(&[("$share/b/g/+", 1)]);
    first.disconnect();
    let mut sender = Client::connect(&server, V5, "sender");
    for number in 0..10 {
        sender.publish("g/t", number.to_string(), 1);
    }
    sender.publish("end", "", 1);
    assert_eq!(until_end(&mut second), (0..10).collect::<Vec<_>>(), "the one that is left gets all");
    assert_eq!(other.messages(10).last().unwrap().1, "9", "another group gets all, too");
    second.unsubscribe(&["$share/a/g/+"]);
    sender.publish("g/t", "10", 1);
    sender.publish("end", "", 1);
    assert!(until_end(&mut second).is_empty());
}

#[test]
fn a_shared_subscription_sends_no_retained_messages() {
    let server = Server::start();
    let mut sender = Client::connect(&server, V5, "sender");
    sender.publish_message(&Publish::new("kept/t", "kept").retain(), 1);
    let mut member = Client::connect(&server, V5, "member");
    member.subscribe(&[("$share/g/kept/#", 1)]);
    sender.publish("kept/t", "live", 1);
    assert_eq!(member.message().text(), "live");
}

#[test]
fn malformed_shared_filters_are_refused() {
    let server = Server::start();
    for filter in ["$share/", "$share/g", "$share/g/", "$share//t", "$share/g+/t", "$share/#/t"] {
        let mut client = Client::connect(&server, V5, "client");
        client.send(wire::subscribe(V5, 1, &[(filter, 0)], &Properties::none()));
        match client.try_recv() {
            Some(Packet::SubAck { codes, .. }) => assert_eq!(codes, [0x8F], "{filter}"),
            Some(Packet::Disconnect { code, .. }) => assert!(matches!(code, 0x81 | 0x82 | 0x8F), "{filter}: {code:#x}"),
            other => panic!("{filter}: {other:?}"),
        }
    }
    // [MQTT-3.8.3-4]: no-local and shared do not go together.
    let mut client = Client::connect(&server, V5, "client");
    client.send(wire::subscribe(V5, 1, &[("$share/g/t", 0x04)], &Properties::none()));
    assert_eq!(client.closed(), Some(0x82));
}

/// A member that had as much as it took held what was given to it, while another was free.
#[test]
fn a_member_with_a_full_window_is_skipped() {
    let server = Server::with(UNLIMITED);
    for qos in [1, 2] {
        let narrow = Connect::new(V5, "full").property(prop::RECEIVE_MAXIMUM, Value::Two(2));
        let (mut full, _) = Client::connect_as(&server, &narrow);
        let mut free = Client::connect(&server, V4, "free");
        full.subscribe(&[("$share/g/work/#", qos)]);
        free.subscribe(&[("$share/g/work/#", qos), ("end", 1)]);
        let mut sender = Client::connect(&server, V5, "sender");
        for number in 0..50 {
            sender.publish("work/t", number.to_string(), qos);
        }
        sender.publish("end", "", 1);
        let mut all = until_end(&mut free);
        assert_eq!(all.len(), 48, "QoS {qos}: {all:?}");
        for _ in 0..2 {
            all.push(full.message().text().parse().unwrap());
        }
        all.sort_unstable();
        assert_eq!(all, (0..50).collect::<Vec<_>>());
    }
}

/// [MQTT-4.8.2]: messages that a member had not acknowledged were lost with its session.
#[test]
fn unacknowledged_messages_of_a_member_go_to_another() {
    let server = Server::with(UNLIMITED);
    type Leave = fn(Client, &Server);
    let leave: [(&str, Leave); 3] = [
        ("connection lost", |member, _| member.abandon()),
        ("disconnect", |member, _| member.disconnect()),
        ("clean start", |member, server| {
            drop(Client::connect(server, V5, "leaves"));
            member.drop_connection();
        }),
    ];
    for (name, leave) in leave {
        for qos in [1, 2] {
            let connect = Connect::new(V5, "leaves").property(prop::RECEIVE_MAXIMUM, Value::Two(2));
            let (mut leaves, _) = Client::connect_as(&server, &connect);
            leaves.subscribe(&[("$share/g/work/#", qos)]);
            leaves.subscribe(&[("work/#", qos)]); // its own, which goes with it
            let mut sender = Client::connect(&server, V5, "sender");
            for number in 0..10 {
                sender.publish("work/t", number.to_string(), qos);
            }
            // Of the first message one copy is the group's and one its own.
            let both = [leaves.peek_message().id, leaves.peek_message().id];
            let mut heir = Client::connect(&server, V4, "heir");
            heir.subscribe(&[("$share/g/work/#", qos), ("end", 1)]);
            leave(leaves, &server);
            sender.ping();
            // QoS 2 that was sent goes to nobody else.
            let expected: Vec<u32> = if qos == 1 { (0..10).collect() } else { (1..10).collect() };
            let mut got = Vec::new();
            while got.len() < expected.len() {
                let message = heir.message();
                assert!(!message.dup, "new to this client");
                got.push(message.text().parse::<u32>().unwrap());
            }
            got.sort_unstable();
            assert_eq!(got, expected, "{name} QoS {qos} {both:?}");
            sender.publish("end", "", 1);
            assert!(until_end(&mut heir).is_empty(), "{name} QoS {qos}: none twice");
        }
    }
}
