//! The sessions of all nodes, as operators see and end them at any node.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::harness::{
    client::Client,
    cluster::{Cluster, NODES},
    eventually,
    http::Http,
    program::{ended, umbrad},
    server::UNLIMITED,
    wire::{Connect, V5},
};

const ADMINISTRATIVE_ACTION: u8 = 0x98;

fn path(client: &str) -> String {
    format!("/v1/sessions/anonymous%2F{client}/{client}")
}

/// Returns the sessions that a node lists in pages of two, by client: the node that has it, and true while it is connected.
fn listed(cluster: &Cluster, node: usize) -> BTreeMap<String, (u64, bool)> {
    let (mut found, mut cursor) = (BTreeMap::new(), String::new());
    loop {
        let page = cluster.get(node, &format!("/v1/sessions?limit=2{cursor}")).json();
        for session in page["sessions"].as_array().unwrap_or_else(|| panic!("{page}")) {
            let client = session["client"].as_str().unwrap().to_owned();
            let state = (session["node"].as_u64().unwrap(), session["connected"].as_bool().unwrap());
            assert!(found.insert(client, state).is_none(), "listed twice: {session}");
        }
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return found,
        }
    }
}

fn expected(sessions: &[(&str, u64, bool)]) -> BTreeMap<String, (u64, bool)> {
    sessions.iter().map(|(client, node, connected)| ((*client).to_owned(), (*node, *connected))).collect()
}

fn wait_for(cluster: &Cluster, nodes: &[usize], sessions: &[(&str, u64, bool)]) {
    for node in nodes {
        eventually(&format!("node {} to list {sessions:?}", node + 1), || {
            (listed(cluster, *node) == expected(sessions)).then_some(())
        });
    }
}

const ALL: [usize; NODES] = [0, 1, 2];

#[test]
fn operators_see_and_end_the_sessions_of_all_nodes_at_any_node() {
    let cluster = Cluster::start(UNLIMITED.limits);
    let persistent = |node: usize, client: &str| {
        let (mut connected, _) = Client::connect_as(&cluster.nodes[node], &Connect::persistent(V5, client));
        connected.subscribe(&[(&format!("{client}/#"), 1), ("$share/g/jobs", 0)]);
        connected
    };
    let mut kept = persistent(0, "kept");
    let mut clean = Client::connect(&cluster.nodes[1], V5, "clean");
    persistent(1, "away").disconnect();
    let _roams = (persistent(0, "roams"), persistent(2, "roams"));
    let all = [("away", 2, false), ("clean", 2, true), ("kept", 1, true), ("roams", 3, true)];
    wait_for(&cluster, &ALL, &all);
    for node in ALL {
        let shown = cluster.get(node, &path("kept")).json();
        assert_eq!((&shown["node"], &shown["address"]), (&json!(1), &json!("127.0.0.1")), "{shown}");
        let filters = json!([{ "filter": "$share/g/jobs", "qos": 0 }, { "filter": "kept/#", "qos": 1 }]);
        assert_eq!(shown["filters"], filters, "{shown}");
        assert_eq!(cluster.get(node, &path("nobody")).status, 404);
    }
    let url = format!("http://{}", cluster.nodes[2].address_of("web"));
    let (code, out, err) =
        ended(umbrad(&["sessions", "list", "--connected", "false", "--url", &url]).output().unwrap());
    assert!(
        code == 0 && err.is_empty() && out.starts_with("anonymous/away away away ") && out.ends_with(" node 2\n"),
        "{out}{err}"
    );

    // From a node that does not have them.
    for (client, rest) in [("kept", &[0, 1, 3][..]), ("clean", &[0, 3]), ("away", &[3])] {
        let reply = cluster.send(2, &format!("DELETE {}", path(client)), &Value::Null);
        assert_eq!(reply.status, 204, "{client}: {}", reply.text());
        let rest: Vec<_> = rest.iter().map(|at| all[*at]).collect();
        let rest = rest.into_iter().filter(|(other, ..)| *other != client).collect::<Vec<_>>();
        wait_for(&cluster, &ALL, &rest);
        assert_eq!(cluster.send(2, &format!("DELETE {}", path(client)), &Value::Null).status, 404, "{client}");
    }
    assert_eq!([kept.closed(), clean.closed()], [Some(ADMINISTRATIVE_ACTION); 2]);
    for client in ["kept", "away"] {
        let (_, answer) = Client::connect_as(&cluster.nodes[1], &Connect::persistent(V5, client));
        assert!(!answer.session_present, "{client}");
    }
}

#[test]
fn everything_of_a_principal_ends_at_all_nodes() {
    let cluster = Cluster::start(UNLIMITED.limits);
    // The principal of an anonymous client has its name, over MQTT and HTTP.
    let (mut client, _) = Client::connect_as(&cluster.nodes[0], &Connect::persistent(V5, "lamp"));
    let mut streams: Vec<_> = [0, 2]
        .iter()
        .map(|node| {
            let mut stream = Http::connect(cluster.nodes[*node].address_of("web"));
            stream.write("GET /v1/events HTTP/1.1\nAccept: text/event-stream\nUmbra-Client: lamp", b"");
            assert_eq!(stream.head().status, 200);
            stream
        })
        .collect();
    let reply = cluster.send(1, "DELETE /v1/principals/anonymous%2Flamp/connections", &Value::Null);
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.json(), json!({ "connections": 1, "sessions": 1, "streams": 2, "signIns": 0 }));
    assert_eq!(client.closed(), Some(ADMINISTRATIVE_ACTION));
    for stream in &mut streams {
        while stream.chunk().is_some() {}
    }
    // The log has that before the answer.
    let (_, answer) = Client::connect_as(&cluster.nodes[2], &Connect::persistent(V5, "lamp"));
    assert!(!answer.session_present);
}

#[test]
fn the_sessions_of_a_node_that_is_gone_are_listed_and_ended_elsewhere() {
    let mut cluster = Cluster::start(UNLIMITED.limits);
    let dead = ALL.into_iter().find(|node| *node != cluster.decider()).unwrap();
    let others: Vec<_> = ALL.into_iter().filter(|node| *node != dead).collect();
    for client in ["first", "second", "third"] {
        Client::connect_as(&cluster.nodes[dead], &Connect::persistent(V5, client)).0.disconnect();
    }
    let number = dead as u64 + 1;
    wait_for(&cluster, &ALL, &["first", "second", "third"].map(|client| (client, number, false)));
    cluster.nodes[dead].kill();
    // Until they are taken over, a list says that some may be missing, and one of them can be ended at once.
    let page = |node: usize| cluster.get(node, "/v1/sessions").json();
    let shown =
        eventually("a node to notice", || Some(page(others[0])).filter(|page| page["unreachable"] == json!([number])));
    assert!(shown["sessions"].as_array().is_some_and(Vec::is_empty), "{shown}");
    let reply = eventually("its end", || {
        let reply = cluster.send(others[1], &format!("DELETE {}", path("second")), &Value::Null);
        assert!([204, 503].contains(&reply.status), "{}", reply.text());
        (reply.status == 204).then_some(reply)
    });
    drop(reply);
    for node in &others {
        eventually("the sessions to be taken over", || {
            let page = page(*node);
            let clients: Vec<_> = page["sessions"].as_array()?.iter().map(|it| it["client"].clone()).collect();
            (clients == ["first", "third"] && page["unreachable"] == Value::Null).then_some(())
        });
    }
    let (_, answer) = Client::connect_as(&cluster.nodes[others[0]], &Connect::persistent(V5, "first"));
    assert!(answer.session_present);
    let (_, answer) = Client::connect_as(&cluster.nodes[others[0]], &Connect::persistent(V5, "second"));
    assert!(!answer.session_present);
}
