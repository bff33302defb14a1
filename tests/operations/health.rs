//! `/healthz` and `/readyz`.

use super::site::{LISTENERS, get, start};
use crate::harness::server::{Server, Setup, UNLIMITED};

#[test]
fn a_server_that_takes_updates_is_ready() {
    let server = start();
    for listener in ["web", "viewers", "scraped"] {
        let address = server.address_of(listener);
        let found = ["/healthz", "/readyz"].map(|path| {
            let reply = get(address, path);
            (reply.status, reply.text())
        });
        assert_eq!(found, [(200, "ok".to_owned()), (200, "ready\n".to_owned())], "{listener}");
    }
}

#[test]
fn a_server_with_a_full_disk_is_alive_and_not_ready() {
    let server = Server::with(Setup { listener: LISTENERS, store: "free_disk_min = \"16 TiB\"", ..UNLIMITED });
    let web = server.address_of("web");
    assert_eq!(get(web, "/healthz").status, 200);
    let reply = get(web, "/readyz");
    assert_eq!((reply.status, reply.header("content-type")), (503, Some("application/problem+json")));
    let problem = reply.json();
    let said = problem.to_string();
    let used = "sessions and messages take 0 bytes, and the log of their changes 0";
    assert!(said.contains(used), "{said}");
    assert!(said.contains("not-ready") && said.contains("17592186044416 are needed"), "{said}");
    let metrics = get(web, "/metrics").text();
    assert!(metrics.contains("\numbra_store_writable 0\n"), "{metrics}");
}
