//! `/metrics`, and the dashboard that draws them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

use super::site::{get, start};
use crate::harness::{
    client::Client,
    cluster::Cluster,
    eventually,
    shadow::Requester,
    wire::{V4, V5},
};

/// The samples of a page, by name and labels as they are written.
fn samples(page: &str) -> BTreeMap<String, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
        (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
    };
    lines.map(sample).collect()
}

#[test]
fn counters_match_the_traffic() {
    let server = start();
    let web = server.address_of("web");
    let mut client = Client::connect(&server, V4, "lamp-1");
    client.publish("shadow/lamp-1/get", "", 1);
    let mut setter = Requester::new(&server, V5, "setter", "shadow/lamp-1");
    setter.update(json!({"state": {"desired": {"n": 1}}}));
    setter.update(json!({"state": {"desired": {"n": 1}}}));
    setter.rejected("update", json!({"state": {"desired": {"n": 2}}, "version": 7}), 409, "version-conflict");
    setter.accepted("delete", json!({}));

    let reply = get(web, "/metrics");
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let page = reply.text();
    let found = samples(&page);
    for (name, expected) in [
        ("umbra_requests_total{operation=\"update\",outcome=\"accepted\"}", 1.0),
        ("umbra_requests_total{operation=\"update\",outcome=\"unchanged\"}", 1.0),
        ("umbra_requests_total{operation=\"update\",outcome=\"version-conflict\"}", 1.0),
        ("umbra_requests_total{operation=\"delete\",outcome=\"accepted\"}", 1.0),
        ("umbra_sessions{state=\"connected\"}", 2.0),
        ("umbra_sessions{state=\"disconnected\"}", 0.0),
        ("umbra_devices_connected", 1.0),
        ("umbra_journal_head", 2.0),
        ("umbra_journal_entries", 2.0),
        ("umbra_batch_commands_count", 4.0),
        ("umbra_batch_commands_sum", 4.0),
        ("umbra_commits_failed_total", 0.0),
        ("umbra_store_writable", 1.0),
        ("umbra_shadows{state=\"live\"}", 0.0),
        ("umbra_shadows{state=\"deleted\"}", 1.0),
        ("umbra_principal_new_shadows{principal=\"anonymous/setter\"}", 1.0),
    ] {
        assert_eq!(found.get(name), Some(&expected), "{name}: {page}");
    }
    for name in [
        "umbra_mqtt_bytes_total{direction=\"received\"}",
        "umbra_mqtt_bytes_total{direction=\"sent\"}",
        "umbra_store_file_bytes",
        "umbra_store_free_disk_bytes",
        "umbra_journal_bytes",
        "umbra_commit_seconds_sum",
        "process_cpu_seconds_total",
        "process_open_fds",
    ] {
        assert!(found[name] > 0.0, "{name}: {page}");
    }
    let near = |name: &str, expected: f64| {
        assert!((expected / 2.0..expected * 2.0).contains(&found[name]), "{name}, {expected}: {page}");
    };
    near("process_resident_memory_bytes", server.resident_bytes() as f64);
    near("process_open_fds", server.open_files() as f64);
    assert!(found["process_max_fds"] >= found["process_open_fds"]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((now - 600.0..=now).contains(&found["process_start_time_seconds"]), "{now}: {page}");
    assert_eq!(found["umbra_commit_seconds_bucket{le=\"+Inf\"}"], found["umbra_commit_seconds_count"]);
    // Every family is explained and typed, once, before its samples.
    let families: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let names: BTreeSet<_> = families.iter().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(names.len(), families.len());
    for name in found.keys() {
        let bare = name.split('{').next().unwrap();
        let family = ["_bucket", "_sum", "_count", ""].into_iter().find_map(|end| names.get(bare.strip_suffix(end)?));
        assert!(family.is_some(), "{name}");
    }
    client.disconnect();
    eventually("the end of a connection to be counted", || {
        (samples(&get(web, "/metrics").text())["umbra_devices_connected"] == 0.0).then_some(())
    });
}

#[test]
fn metrics_need_the_right_to_read_them() {
    let server = start();
    for (listener, status) in [("web", 200), ("viewers", 403), ("scraped", 200)] {
        let reply = get(server.address_of(listener), "/metrics");
        assert_eq!(reply.status, status, "{listener}: {reply:?}");
    }
    // For all means metrics alone.
    assert_eq!(get(server.address_of("scraped"), "/v1/devices").status, 401);
}

/// The names of the metrics of a single node and of a node of a cluster. Neither has TLS, and their principals use little.
pub(crate) fn metrics_of_all_kinds() -> BTreeSet<String> {
    let server = start();
    Requester::new(&server, V5, "setter", "shadow/lamp-1").update(json!({"state": {"desired": {"n": 1}}}));
    let cluster = Cluster::start("");
    let pages = [get(server.address_of("web"), "/metrics").text(), cluster.get(0, "/metrics").text()];
    let names = pages.iter().flat_map(|page| samples(page).into_keys());
    names.map(|name| name.split('{').next().unwrap().to_owned()).collect()
}

#[test]
fn the_grafana_dashboard_uses_existing_metrics() {
    let there = metrics_of_all_kinds();
    let dashboard: Value = serde_json::from_str(include_str!("../../docs/grafana.json")).unwrap();
    let mut drawn = BTreeSet::new();
    names(&dashboard, &mut drawn);
    assert!(drawn.len() > 30, "{drawn:?}");
    let absent =
        ["umbra_tls_certificate_expiry_seconds", "umbra_principal_memory_bytes", "umbra_principal_throttled_total"];
    for name in &drawn {
        assert!(there.contains(name) || absent.contains(&&**name), "{name} is drawn, and is not there");
    }
    // What is measured is drawn, but for what is a part of a histogram.
    let part = |name: &str| ["_bucket", "_sum", "_count"].iter().any(|end| name.ends_with(end));
    let forgotten: Vec<_> = there.iter().filter(|name| !part(name) && !drawn.contains(*name)).collect();
    assert!(forgotten.is_empty(), "{forgotten:?}");
}

/// Collects the names of metrics in an expression.
pub(crate) fn names_in(text: &str, found: &mut BTreeSet<String>) {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let named = words.filter(|word| word.starts_with("umbra_") || word.starts_with("process_"));
    found.extend(named.map(str::to_owned));
}

/// Collects the names of metrics in the expressions of a dashboard.
fn names(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => members.iter().for_each(|(key, value)| match value.as_str() {
            Some(text) if key == "expr" || key == "query" => {
                names_in(text, found);
            }
            _ => names(value, found),
        }),
        Value::Array(items) => items.iter().for_each(|item| names(item, found)),
        _ => {}
    }
}
