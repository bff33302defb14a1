//! Lists in pages, each at another node.

use serde_json::json;

use crate::harness::{
    cluster::{Cluster, NODES},
    eventually,
    http::{Http, Reply, write_many},
    server::UNLIMITED,
};

/// Only devices that no range has.
const SCATTERED: &str = r#"
[[listener]]
name = "eu"
kind = "http"
bind = "127.0.0.1:0"
anonymous_role = "eu"

[[rule]]
role = "eu"
devices = ["*-eu"]
read = ["/desired"]
"#;

/// More shadows than a page examines.
const HIDDEN: usize = 2_100;

/// A page that ends at a hidden device has an encrypted cursor. Each node had a key of its own, so a client whose next request came to
/// another node was refused, and after a restart of the same one.
#[test]
fn a_list_goes_on_at_any_node() {
    let mut cluster = Cluster::start(format!("{}\n{SCATTERED}", UNLIMITED.limits).leak());
    let hidden = |n: usize| (format!("d{n:04}-us/shadow"), json!({"desired": {"n": n}}));
    write_many(cluster.nodes[0].address_of("web"), HIDDEN, hidden);
    cluster.put(0, "z-eu", &json!({"n": 1}));
    (0..NODES).for_each(|node| _ = eventually("the last device", || cluster.document(node, "z-eu")));
    let page = |cluster: &Cluster, node: usize, cursor: &str| -> Reply {
        let line = format!("GET /v1/devices?limit=5{cursor} HTTP/1.1\nUmbra-Client: reader");
        Http::connect(cluster.nodes[node].address_of("eu")).send(&line, b"")
    };
    let next = |cluster: &Cluster, node: usize| {
        let first = page(cluster, node, "").json();
        let next = first["next"].as_str().unwrap_or_else(|| panic!("no cursor: {first}")).to_owned();
        assert!(first["devices"] == json!([]) && next.starts_with('~'), "{first}");
        format!("&cursor={next}")
    };
    // The nodes have agreed on the secret once each can go on where another one was.
    let cursors = eventually("one secret", || {
        let cursors: Vec<_> = (0..NODES).map(|node| next(&cluster, node)).collect();
        let goes_on = |node: usize| cursors.iter().all(|cursor| page(&cluster, node, cursor).status == 200);
        (0..NODES).all(goes_on).then_some(cursors)
    });
    cluster.nodes[0].kill();
    cluster.nodes[0].restart();
    cluster.wait_until_ready(0);
    for node in 0..NODES {
        for cursor in &cursors {
            let last = page(&cluster, node, cursor);
            assert_eq!((last.status, &last.json()["devices"][0]["id"]), (200, &json!("z-eu")), "{}", last.text());
        }
    }
}
