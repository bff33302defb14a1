//! Event streams that go on at another node.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    cluster::Cluster,
    eventually,
    http::{Http, Reply},
    proxy::Fault,
    server::UNLIMITED,
};

/// A reader of events at a node.
struct Events {
    client: Http,
    text: String,
}

impl Events {
    fn follow(cluster: &Cluster, node: usize, query: &str, last: &str) -> Result<Self, Reply> {
        let mut client = Http::connect(cluster.nodes[node].address_of("web"));
        client.write(&format!("GET /v1/events{query} HTTP/1.1\nLast-Event-ID: {last}"), b"");
        let head = client.head();
        if head.status != 200 {
            return Err(client.body_of(head));
        }
        Ok(Self { client, text: String::new() })
    }

    /// Returns the id of the next event, and the version of its change.
    fn next(&mut self) -> (String, u64) {
        loop {
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
                let (id, data) = (field("id: "), field("data: "));
                self.text = rest.to_owned();
                if let (Some(id), Some(data)) = (id, data) {
                    let change: Value = serde_json::from_str(&data).unwrap();
                    return (id, change["version"].as_u64().unwrap());
                }
            }
            let chunk = self.client.chunk().expect("the stream goes on");
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}

/// Returns a stream; `None` if the log did not answer in time, as on a busy machine.
fn follow_soon(cluster: &Cluster, node: usize, query: &str, last: &str) -> Option<Events> {
    match Events::follow(cluster, node, query, last) {
        Err(reply) if reply.status == 503 => None,
        stream => Some(stream.unwrap_or_else(|reply| panic!("{}", reply.text()))),
    }
}

/// Returns the problem with which a node refuses a stream.
fn refusal(cluster: &Cluster, node: usize, last: &str) -> Option<(u16, Value)> {
    Events::follow(cluster, node, "", last).err().map(|reply| (reply.status, reply.json()))
}

/// A node that had not applied the last event of a client answered that it was gone, or sent it again.
#[test]
fn an_event_stream_goes_on_at_a_node_that_lags() {
    let cluster = Cluster::start(UNLIMITED.limits);
    let ahead = cluster.decider();
    let behind = (ahead + 1) % cluster.nodes.len();
    let put = |n: u64| assert!(matches!(cluster.put(ahead, "lamp", &json!({ "n": n })).status, 200 | 201));
    put(1);
    let mut first = Events::follow(&cluster, ahead, "", "j0").unwrap_or_else(|reply| panic!("{}", reply.text()));
    assert_eq!(first.next().1, 1);
    eventually("the other node to have it", || cluster.document(behind, "lamp"));

    cluster.set_fault(behind, Fault::Delay(Duration::from_millis(600)));
    put(2);
    let (last, version) = first.next();
    assert_eq!(version, 2);
    let mut others: Vec<_> = ["", "?device=lamp"]
        .iter()
        .map(|query| eventually("the log to answer", || follow_soon(&cluster, behind, query, &last)))
        .collect();
    put(3);
    let next = first.next();
    assert_eq!(next.1, 3);
    for stream in &mut others {
        assert_eq!(stream.next(), next, "no event is sent again");
    }
    cluster.set_fault(behind, Fault::None);

    // No node has sent this one.
    let (status, problem) =
        eventually("the log to answer", || refusal(&cluster, behind, "jffffffff").filter(|(status, _)| *status != 503));
    assert_eq!((status, &problem["error"]), (410, &json!("gone")), "{problem}");
    // Without the log, nobody knows.
    cluster.set_fault(behind, Fault::Refused);
    let problem = eventually("the log to be out of reach", || {
        let (status, problem) = refusal(&cluster, behind, "jffffffff").unwrap();
        (status == 503).then_some(problem)
    });
    assert_eq!(problem["error"], "unavailable", "{problem}");
    let message = problem["message"].as_str().unwrap();
    assert!(message.contains("cluster's log") && message.contains("Last-Event-ID"), "{problem}");
    assert!(refusal(&cluster, behind, &next.0).is_none(), "what it has, it sends");
}
