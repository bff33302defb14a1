//! The sessions of clients that go from node to node, while nodes die: subscriptions and messages come along, and what was
//! acknowledged is kept.

use std::{collections::BTreeMap, time::Duration};

use crate::harness::{
    Seed,
    client::{Client, ConnAck, Received, disconnect_with},
    cluster::{Cluster, NODES, connect_at},
    eventually,
    packet::{Message, Packet},
    server::UNLIMITED,
    wire::{self, Connect, Properties, Publish, V4, V5, Value, prop},
};

const SESSION_TAKEN_OVER: u8 = 0x8E;

/// Connects at a node, which may have to wait for another node to decide.
fn connect(cluster: &Cluster, node: usize, connect: &Connect) -> (Client, ConnAck) {
    connect_at(cluster.nodes[node].address, connect)
}

fn resume(cluster: &Cluster, node: usize, client_id: &str) -> Client {
    let (client, answer) = connect(cluster, node, &Connect::persistent(V5, client_id));
    assert!(answer.session_present, "{client_id} at node {}", node + 1);
    client
}

/// Publishes messages with the numbers `range` at QoS 1 and 2 in turn; each is acknowledged.
fn publish(cluster: &Cluster, node: usize, topic: &str, range: std::ops::Range<u32>) {
    let (mut publisher, _) = connect(cluster, node, &Connect::new(V5, &format!("publisher-{node}")));
    for number in range {
        assert_eq!(publisher.publish(topic, number.to_string(), 1 + u8::from(number % 2 == 1)), 0, "{number}");
    }
    publisher.disconnect();
}

fn number(message: &Message) -> u32 {
    message.text().parse().unwrap()
}

/// Takes messages until the last of `range` has come, which must be all of it, each once, or again with DUP at QoS 1.
fn expect(client: &mut Client, range: std::ops::Range<u32>) {
    let mut seen = BTreeMap::<u32, u32>::new();
    while seen.len() < range.len() {
        let message = client.message();
        let number = number(&message);
        assert!(range.contains(&number), "{number} is not of {range:?}");
        let times = seen.entry(number).or_default();
        assert!(*times == 0 || (message.dup && message.qos == 1), "{message:?} came before");
        *times += 1;
    }
}

/// Nothing else is on its way.
fn expect_nothing(client: &mut Client, cluster: &Cluster, node: usize, topic: &str) {
    let (mut publisher, _) = connect(cluster, node, &Connect::new(V5, "ender"));
    assert_eq!(publisher.publish(topic, "end", 1), 0);
    assert_eq!(client.message().text(), "end");
}

#[test]
fn a_session_goes_with_its_client_from_node_to_node() {
    let cluster = Cluster::start(UNLIMITED.limits);
    let (mut client, answer) = connect(&cluster, 0, &Connect::persistent(V5, "roamer"));
    assert!(!answer.session_present);
    client.subscribe(&[("plant/+/state", 2), ("line", 1)]);
    client.disconnect();
    publish(&cluster, 1, "plant/1/state", 0..10);

    let mut former: Option<Client> = None;
    for (turn, node) in [1, 2, 0, 1, 0].into_iter().enumerate() {
        let turn = u32::try_from(turn).unwrap();
        let mut client = resume(&cluster, node, "roamer");
        if let Some(mut former) = former.take() {
            assert_eq!(former.closed(), Some(SESSION_TAKEN_OVER), "turn {turn}");
        }
        expect(&mut client, turn * 10..turn * 10 + 10);
        // From each node, while it is connected.
        (0..3).for_each(|from| publish(&cluster, from, "line", 1_000..1_002));
        for _ in 0..3 {
            expect(&mut client, 1_000..1_002);
        }
        client.ping();
        publish(&cluster, (node + 1) % 3, "plant/2/state", turn * 10 + 10..turn * 10 + 11);
        expect(&mut client, turn * 10 + 10..turn * 10 + 11);
        expect_nothing(&mut client, &cluster, node, "line");
        client.ping();
        // Unacknowledged ones go along. Those that it had go along with it, too.
        client.send(wire::DISCONNECT);
        client.discard_until_closed();
        publish(&cluster, node, "plant/3/state", turn * 10 + 10..turn * 10 + 20);
        if turn == 2 {
            former = Some(resume(&cluster, 0, "roamer"));
        }
    }
    // A clean start ends it everywhere.
    let (clean, answer) = connect(&cluster, 2, &Connect::persistent(V5, "roamer").clean(true));
    assert!(!answer.session_present);
    drop(clean);
    publish(&cluster, 0, "line", 0..2);
    let mut client = resume(&cluster, 1, "roamer");
    client.subscribe(&[("end", 1)]);
    expect_nothing(&mut client, &cluster, 0, "end");
    // One that its client ended does not come back, however soon that connects again.
    for turn in 0..10 {
        let (mut client, answer) = connect(&cluster, 2, &Connect::persistent(V5, "brief"));
        assert!(!answer.session_present, "turn {turn}");
        client.subscribe(&[("line", 1)]);
        let ends = Properties::none().with(prop::SESSION_EXPIRY, Value::Four(0));
        client.send(disconnect_with(0, &ends));
        client.discard_until_closed();
    }
}

#[test]
fn what_was_acknowledged_survives_the_death_of_any_node() {
    let mut cluster = Cluster::start(UNLIMITED.limits);
    let (mut client, _) = connect(&cluster, 0, &Connect::persistent(V5, "survivor"));
    client.subscribe(&[("work", 2)]);
    publish(&cluster, 1, "work", 0..20);
    expect(&mut client, 0..20);
    // Connected, with messages that it has not acknowledged; its node dies.
    client.ping();
    publish(&cluster, 0, "work", 20..40);
    let unacknowledged = client.peek_message();
    assert_eq!(number(&unacknowledged), 20);
    cluster.nodes[0].kill();

    // Its new node dies right after the CONNACK.
    drop(resume(&cluster, 1, "survivor"));
    cluster.nodes[0].restart();
    cluster.wait_until_ready(0);
    cluster.nodes[1].kill();
    let mut client = resume(&cluster, 2, "survivor");
    publish(&cluster, 0, "work", 40..50);
    expect(&mut client, 20..50);
    expect_nothing(&mut client, &cluster, 0, "work");
    cluster.nodes[1].restart();
    cluster.wait_until_ready(1);

    // All nodes die while it is away.
    client.disconnect();
    publish(&cluster, 1, "work", 50..60);
    cluster.nodes.iter_mut().for_each(crate::harness::server::Server::kill);
    cluster.nodes.iter_mut().for_each(crate::harness::server::Server::restart);
    (0..3).for_each(|node| cluster.wait_until_ready(node));
    let mut client = resume(&cluster, 1, "survivor");
    expect(&mut client, 50..60);
    expect_nothing(&mut client, &cluster, 2, "work");
}

/// A client roams, with and without a clean end of its connection, while its nodes are killed. Everything that was acknowledged to the
/// publisher comes, in order.
#[test]
fn a_client_that_roams_among_dying_nodes_misses_nothing() {
    let mut cluster = Cluster::start(UNLIMITED.limits);
    let seed = std::env::var("UMBRA_TEST_ROAMING_SEED").map_or(23, |seed| seed.parse().unwrap());
    println!("UMBRA_TEST_ROAMING_SEED={seed}");
    let mut random = Seed(seed);
    let (mut client, _) = connect(&cluster, 0, &Connect::persistent(V5, "nomad"));
    client.subscribe(&[("road/#", 1)]);
    let (mut published, mut next, mut dead) = (0, 0, None);
    for _ in 0..24 {
        let alive: Vec<_> = (0..NODES).filter(|node| Some(*node) != dead).collect();
        let pick = |random: &mut Seed| alive[usize::try_from(random.below(alive.len() as u64)).unwrap()];
        let (from, to, count) = (pick(&mut random), pick(&mut random), u32::try_from(random.below(20)).unwrap());
        publish(&cluster, from, "road/x", published..published + count);
        published += count;
        let is_elsewhere = random.below(2) == 0;
        match random.below(4) {
            0 => client.disconnect(),
            1 => client.drop_connection(),
            _ => drop(client),
        }
        match dead.take() {
            Some(node) => {
                cluster.nodes[node].restart();
                cluster.wait_until_ready(node);
            }
            None if is_elsewhere => {
                let node = (to + 1) % NODES;
                cluster.nodes[node].kill();
                dead = Some(node);
            }
            None => {}
        }
        client = resume(&cluster, to, "nomad");
        // Some of what waits is acknowledged, the rest stays for the next node.
        let taken = random.below(u64::from(published - next) + 1);
        let mut first = true;
        let mut expected = next;
        for _ in 0..taken {
            let message = client.message();
            let number = number(&message);
            assert!(number == expected || (first && number < expected), "{number} in the place of {expected}");
            (expected, first) = (number + 1, false);
            next = next.max(expected);
        }
        client.ping();
    }
    let mut rest = resume(&cluster, (0..NODES).find(|node| Some(*node) != dead).unwrap(), "nomad");
    while next < published {
        let number = number(&rest.message());
        assert!(number <= next, "{number} in the place of {next}");
        next = next.max(number + 1);
    }
}

#[test]
fn a_message_at_qos_2_is_published_once_by_a_client_that_changes_its_node() {
    let mut cluster = Cluster::start(UNLIMITED.limits);
    let (mut subscriber, _) = connect(&cluster, 2, &Connect::persistent(V5, "subscriber"));
    subscriber.subscribe(&[("once", 2)]);
    let message = Publish::new("once", "0");
    for (turn, is_killed) in [(0, false), (1, true)] {
        let (mut publisher, _) = connect(&cluster, turn, &Connect::persistent(V4, "publisher"));
        let id = 7;
        publisher.send(message.encode(V4, 2, id));
        publisher.pubrec(id);
        if is_killed {
            cluster.nodes[turn].kill();
        }
        // As a client that has not received the PUBREC.
        let (mut publisher, answer) = connect(&cluster, turn + 1, &Connect::persistent(V4, "publisher"));
        assert!(answer.session_present);
        publisher.send(message.clone().dup().encode(V4, 2, id));
        publisher.pubrec(id);
        publisher.send(wire::ack(0x62, id));
        publisher.pubcomp(id);
        expect(&mut subscriber, 0..1);
        publisher.disconnect();
        expect_nothing(&mut subscriber, &cluster, 2, "once");
    }
}

#[test]
fn an_update_at_qos_2_is_applied_once_by_a_client_that_changes_its_node() {
    let mut cluster = Cluster::start(UNLIMITED.limits);
    for (turn, is_killed) in [(0, false), (1, true)] {
        let id = 7;
        let (mut writer, _) = connect(&cluster, turn, &Connect::persistent(V4, "lamp"));
        let update = Publish::new("shadow/lamp/update", r#"{"state":{"reported":{"on":true}}}"#);
        writer.send(update.encode(V4, 2, id));
        writer.pubrec(id);
        let version = cluster.document(turn, "lamp").unwrap()["version"].clone();
        if is_killed {
            cluster.nodes[turn].kill();
        }
        // As a client that has not received the PUBREC. Another changed it meanwhile, so it is not the same state again.
        let (mut other, _) = connect(&cluster, turn + 1, &Connect::new(V4, "other"));
        other.publish("shadow/lamp/update", r#"{"state":{"reported":{"on":false}}}"#, 1);
        let (mut writer, answer) = connect(&cluster, turn + 1, &Connect::persistent(V4, "lamp"));
        assert!(answer.session_present);
        writer.send(update.clone().dup().encode(V4, 2, id));
        writer.pubrec(id);
        writer.send(wire::ack(0x62, id));
        writer.pubcomp(id);
        let document = cluster.document(turn + 1, "lamp").unwrap();
        assert_eq!(
            (&document["state"]["reported"]["on"], document["version"].as_u64()),
            (&false.into(), version.as_u64().map(|it| it + 1))
        );
        writer.disconnect();
    }
}

#[test]
fn wills_and_expiries_go_on_when_a_node_does_not_come_back() {
    let mut cluster = Cluster::start(UNLIMITED.limits);
    let mut watcher = Client::connect(&cluster.nodes[0], V5, "watcher");
    watcher.subscribe(&[("will/#", 1)]);
    let with_will = |client: &str, expiry: u32, delay: u32| {
        let will = Publish::new(&format!("will/{client}"), "gone").property(prop::WILL_DELAY, Value::Four(delay));
        let connect = Connect::new(V5, client).clean(false).will(will, 1);
        if expiry > 0 { connect.property(prop::SESSION_EXPIRY, Value::Four(expiry)) } else { connect }
    };
    let node = (0..3).find(|node| *node != 0 && *node != cluster.decider()).unwrap();
    let mut clients: Vec<_> = [("lost", 0, 0), ("expired", 1, 3_600), ("back", 3_600, 0), ("delayed", 3_600, 2)]
        .map(|(client, expiry, delay)| connect(&cluster, node, &with_will(client, expiry, delay)).0)
        .into();
    // A will may be an update of a shadow.
    let update = Publish::new("shadow/dimmer/update", r#"{"state":{"reported":{"online":false}}}"#);
    clients.push(connect(&cluster, node, &Connect::new(V4, "dimmer").clean(false).will(update, 1)).0);
    clients.iter_mut().for_each(Client::ping);
    cluster.nodes[node].kill();
    // It comes back elsewhere before its will is due.
    let mut back = resume(&cluster, 0, "back");
    let mut wills: Vec<_> = (0..3).map(|_| watcher.message().topic).collect();
    wills.sort_unstable();
    assert_eq!(wills, ["will/delayed", "will/expired", "will/lost"]);
    let (_, answer) = connect(&cluster, 0, &Connect::persistent(V5, "expired"));
    assert!(!answer.session_present, "it has expired");
    back.ping();
    eventually("the update of the will", || {
        let document = cluster.document(0, "dimmer")?;
        (document["state"]["reported"]["online"] == false).then_some(())
    });
    // The node that comes back publishes none of them again.
    cluster.nodes[node].restart();
    cluster.wait_until_ready(node);
    drop(resume(&cluster, node, "delayed"));
    Client::connect(&cluster.nodes[node], V5, "ender").publish("will/end", "", 1);
    assert_eq!(watcher.message().topic, "will/end");
    assert!(!matches!(watcher.recv_within(Duration::from_millis(200)), Received::Packet(Packet::Publish(_))));
}
