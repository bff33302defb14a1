//! Shared subscriptions of several nodes: one group, of which one member receives each message, wherever it is.

use std::{collections::BTreeMap, time::Duration};

use crate::harness::{
    client::{Client, Received},
    cluster::{Cluster, NODES, connect_at},
    eventually,
    http::Http,
    packet::{Message, Packet},
    server::UNLIMITED,
    wire::{Connect, V5},
};

const GROUP: &str = "$share/workers/jobs/+";
const TURN: Duration = Duration::from_millis(20);

/// Connects a member at a node, which may have to wait for another node to decide.
fn member(cluster: &Cluster, node: usize, connect: &Connect) -> Client {
    let mut client = resumed(cluster, node, connect);
    client.subscribe(&[(GROUP, 2)]);
    client
}

fn resumed(cluster: &Cluster, node: usize, connect: &Connect) -> Client {
    connect_at(cluster.nodes[node].address, connect).0
}

/// Waits until each node has what the others have written before: a device of each is shown by all.
fn settle(cluster: &Cluster, round: &str) {
    for node in 0..NODES {
        let id = format!("settle-{round}-{node}");
        let mut client = Client::connect(&cluster.nodes[node], V5, &id);
        client.publish(&format!("shadow/{id}/update"), r#"{"state":{"reported":{"n":1}}}"#, 1);
        for other in 0..NODES {
            eventually("the device at each node", || {
                let shown = cluster.get(other, &format!("/v1/devices/{id}"));
                (shown.status == 200 && shown.json()["connected"] == true).then_some(())
            });
        }
    }
}

/// Takes the messages that members receive until there are `count` different ones. Returns those of each member, as (payload, DUP).
fn collect(members: &mut [Client], count: usize) -> Vec<Vec<(String, bool)>> {
    let mut received = vec![Vec::new(); members.len()];
    let mut seen = BTreeMap::<String, u32>::new();
    eventually(&format!("{count} messages"), || {
        for (member, received) in members.iter_mut().zip(&mut received) {
            while let Some(message) = next(member) {
                *seen.entry(message.text().to_owned()).or_default() += 1;
                received.push((message.text().to_owned(), message.dup));
            }
        }
        (seen.len() >= count).then_some(())
    });
    received
}

/// The next message, acknowledged, if it comes soon.
fn next(member: &mut Client) -> Option<Message> {
    loop {
        match member.recv_within(TURN) {
            Received::Packet(Packet::Publish(message)) => {
                member.acknowledge(&message);
                return Some(message);
            }
            Received::Packet(_) => {}
            Received::Late | Received::Closed => return None,
        }
    }
}

/// Nothing else is on its way to a member: what is sent now comes next.
fn expect_nothing(members: &mut [Client], cluster: &Cluster) {
    for (node, member) in members.iter_mut().enumerate() {
        member.subscribe(&[("end", 1)]);
        Client::connect(&cluster.nodes[(node + 1) % NODES], V5, "ender").publish("end", "end", 1);
        assert_eq!(member.message().topic, "end", "member {node}");
        member.unsubscribe(&["end"]);
    }
}

#[test]
fn one_member_of_all_nodes_receives_each_message() {
    let cluster = Cluster::start(UNLIMITED.limits);
    for (round, is_persistent) in [("clean", [false; 3]), ("persistent", [true; 3]), ("mixed", [false, true, false])] {
        let connect = |node: usize| {
            let id = format!("{round}-{node}");
            if is_persistent[node] { Connect::persistent(V5, &id) } else { Connect::new(V5, &id) }
        };
        let mut members: Vec<_> = (0..NODES).map(|node| member(&cluster, node, &connect(node))).collect();
        settle(&cluster, round);
        for qos in 0..=2 {
            for from in 0..NODES {
                let mut publisher = Client::connect(&cluster.nodes[from], V5, "publisher");
                for number in 0..40 {
                    assert_eq!(publisher.publish("jobs/x", format!("{qos}-{from}-{number}"), qos), 0);
                }
            }
        }
        let received = collect(&mut members, 3 * NODES * 40);
        assert_eq!(received.iter().map(Vec::len).sum::<usize>(), 3 * NODES * 40, "{round}: {received:?}");
        assert!(
            received.iter().all(|one| one.len() > 40),
            "{round}: {:?}",
            received.iter().map(Vec::len).collect::<Vec<_>>()
        );
        expect_nothing(&mut members, &cluster);
        // Without two of them, the third has the group for itself.
        let last = members.pop().unwrap();
        for mut leaving in members {
            leaving.unsubscribe(&[GROUP]);
            leaving.disconnect();
        }
        settle(&cluster, &format!("{round}-left"));
        let mut publisher = Client::connect(&cluster.nodes[0], V5, "publisher");
        (0..20).for_each(|number| assert_eq!(publisher.publish("jobs/y", number.to_string(), 1), 0));
        let mut last = [last];
        assert_eq!(collect(&mut last, 20)[0].len(), 20, "{round}");
        last.iter_mut().for_each(|last| drop(last.unsubscribe(&[GROUP])));
    }
}

#[test]
fn events_of_shadows_reach_one_member() {
    let cluster = Cluster::start(UNLIMITED.limits);
    let mut members: Vec<_> = (0..NODES)
        .map(|node| {
            let mut client = Client::connect(&cluster.nodes[node], V5, &format!("member-{node}"));
            client.subscribe(&[("$share/g/shadow/+/update/documents", 1)]);
            client
        })
        .collect();
    settle(&cluster, "events");
    let _of_these_devices = collect(&mut members, 0);
    members.iter_mut().for_each(|member| while next(member).is_some() {});
    for number in 0..60 {
        let mut http = Http::connect(cluster.nodes[number % NODES].address_of("web"));
        let head = format!("PUT /v1/devices/lamp-{number}/shadow?upsert=true HTTP/1.1\nContent-Type: application/json");
        assert_eq!(http.send(&head, br#"{"reported":{"n":1}}"#).status, 201);
    }
    let mut topics = BTreeMap::<String, u32>::new();
    eventually("all events", || {
        for member in &mut members {
            while let Some(message) = next(member) {
                if message.topic.starts_with("shadow/lamp-") {
                    *topics.entry(message.topic).or_default() += 1;
                }
            }
        }
        (topics.len() == 60).then_some(())
    });
    assert!(topics.values().all(|times| *times == 1), "{topics:?}");
    expect_nothing(&mut members, &cluster);
}

#[test]
fn what_was_acknowledged_comes_to_a_member_whichever_node_dies() {
    let mut cluster = Cluster::start(UNLIMITED.limits);
    let connect = |node: usize| Connect::persistent(V5, &format!("member-{node}"));
    let mut members: Vec<_> = (0..NODES).map(|node| member(&cluster, node, &connect(node))).collect();
    settle(&cluster, "before");
    let dead = 2;
    let mut publisher = Client::connect(&cluster.nodes[0], V5, "publisher");
    let mut seen = BTreeMap::<String, Vec<bool>>::new();
    for number in 0..300 {
        if number == 100 {
            cluster.nodes[dead].kill();
        }
        let qos = 1 + u8::try_from(number % 2).unwrap();
        assert_eq!(publisher.publish("jobs/x", number.to_string(), qos), 0, "{number}");
        if number == 200 {
            // The member of the node that died comes back elsewhere, with what waits for it.
            members[dead] = resumed(&cluster, 1, &connect(dead));
        }
    }
    eventually("all messages", || {
        for member in &mut members {
            while let Some(message) = next(member) {
                seen.entry(message.text().to_owned()).or_default().push(message.dup);
            }
        }
        (seen.len() == 300).then_some(())
    });
    // One that its member had, and whose acknowledgement died with the node, comes again, and says so.
    let twice = seen.iter().filter(|(_, dups)| dups.len() > 1 && !dups.iter().skip(1).all(|dup| *dup));
    assert_eq!(twice.count(), 0, "{seen:?}");
    cluster.nodes[dead].restart();
    cluster.wait_until_ready(dead);
    expect_nothing(&mut members, &cluster);
}

#[test]
fn unacknowledged_messages_of_a_member_that_leaves_go_to_another_node() {
    let cluster = Cluster::start(UNLIMITED.limits);
    for (round, is_persistent) in [("clean", false), ("persistent", true)] {
        let connect = |id: &str| {
            let id = format!("{round}-{id}");
            if is_persistent { Connect::persistent(V5, &id) } else { Connect::new(V5, &id) }
        };
        let mut leaves = member(&cluster, 0, &connect("leaves"));
        settle(&cluster, &format!("{round}-one"));
        let mut publisher = Client::connect(&cluster.nodes[1], V5, "publisher");
        (0..20).for_each(|number| assert_eq!(publisher.publish("jobs/x", number.to_string(), 1), 0));
        // It has received some, and acknowledges none.
        assert_eq!(leaves.peek_message().text(), "0");
        let mut other = [member(&cluster, 2, &connect("stays"))];
        settle(&cluster, &format!("{round}-two"));
        // Its session ends.
        if is_persistent {
            let path = format!("/v1/sessions/anonymous%2F{round}-leaves/{round}-leaves");
            let mut http = Http::connect(cluster.nodes[1].address_of("web"));
            assert_eq!(http.send(&format!("DELETE {path} HTTP/1.1"), b"").status, 204);
        } else {
            leaves.disconnect();
        }
        let received = collect(&mut other, 20);
        assert_eq!(received[0].len(), 20, "{round}: {received:?}");
        other[0].unsubscribe(&[GROUP]);
    }
}
