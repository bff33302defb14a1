//! Searches and aggregates by an index: equal to those without one, whatever is written meanwhile, declared or lost. The
//! metrics say that the index is complete, and that it was used.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use serde_json::{Value, json};

use crate::{
    harness::{
        eventually,
        http::{Http, put},
        program::umbrad,
        server::{Server, Setup, UNLIMITED, store_path},
    },
    site::{LISTENERS, Site, ids},
};

const INDEXED: &str = "[search]\nindexed = [\"reported.firmware\", \"tags.*\", \"shadow.name.cfg.reported.rate\"]\n";

/// Queries of which an index proposes the devices.
const QUERIES: [&str; 16] = [
    "reported.firmware:1.4*",
    "reported.firmware:<1.10",
    "reported.firmware:[1.4.1 TO 1.10.0]",
    "reported.firmware:>\"1.4.2\"",
    "reported.firmware:RC*",
    "reported.firmware:(1.4.1 OR rc-2)",
    "reported.firmware:7",
    "reported.firmware:1.4* AND tags.region:west",
    "tags.region:West reported.other:>3",
    "tags.region:east NOT reported.firmware:1*",
    "tags.site.floor:>=2",
    "tags.list:b",
    "shadow.name.cfg.reported.rate:<5",
    "shadow.name.cfg.reported.rate:3 OR shadow.name.cfg.reported.rate:7",
    "tags.region:w* drift:true",
    "tags.region:nowhere",
];

const FIELDS: [&str; 4] = ["reported.firmware", "tags.region", "tags.site.floor", "shadow.name.cfg.reported.rate"];

/// The value of a metric, with its labels.
fn metric(site: &Site, name: &str) -> f64 {
    let page = site.client("web").send("GET /metrics HTTP/1.1", b"").text();
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {page}"))
}

fn wait_for(site: &Site, state: &str) {
    let name = format!("umbra_search_index{{state=\"{state}\"}}");
    eventually(&format!("the index to be {state}"), || (metric(site, &name) == 1.0).then_some(()));
}

/// Restarts the server, so that the index knows each device in its newest state.
fn flush(site: &mut Site) {
    site.0.stop();
    site.0.restart();
    wait_for(site, "complete");
}

/// The reads of the index for which it was used.
fn uses(site: &Site) -> f64 {
    metric(site, "umbra_search_index_lookups_total{outcome=\"used\"}")
}

fn setup(search: &str) -> Setup {
    Setup { listener: Box::leak(format!("{LISTENERS}\n{search}").into_boxed_str()), ..UNLIMITED }
}

fn open(search: &str) -> Site {
    Site(Server::with(setup(search)))
}

/// The state of a device that depends on its number and on `step`.
fn state(number: usize, step: usize) -> Value {
    let mixed = number.wrapping_mul(31).wrapping_add(step.wrapping_mul(17));
    let firmware = [json!("1.4.1"), json!("1.4.2"), json!("1.10.0"), json!("RC-2"), json!(7), json!(["1.9", "x"])];
    let regions = [json!("west"), json!("West"), json!("east"), json!(null), json!(5)];
    json!({
        "desired": {"mode": if mixed.is_multiple_of(3) { "eco" } else { "heat" }},
        "reported": {"firmware": firmware[mixed % 6], "other": mixed % 7, "mode": "heat"},
        "tags": {"region": regions[mixed % 5], "site": {"floor": mixed % 4}, "list": ["a", if mixed.is_multiple_of(2) { "b" } else { "c" }]},
    })
}

/// All ids that a query finds, and the total, by pages of a few.
fn found(site: &Site, query: &str) -> (Vec<String>, Value) {
    let (mut all, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let mut parameters = vec![("q", query), ("limit", "7")];
        parameters.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
        let page = site.search(&parameters);
        all.extend(ids(&page).split_whitespace().map(str::to_owned));
        cursor = page["next"].as_str().map(str::to_owned);
        if cursor.is_none() {
            return (all, site.search(&[("q", query), ("total", "true"), ("limit", "1")])["total"].clone());
        }
    }
}

/// The same query, of which no index helps.
fn unindexed(query: &str) -> String {
    format!("({query}) OR reported.never:never")
}

fn compare(site: &Site, about: &str) {
    for query in QUERIES {
        assert_eq!(found(site, query), found(site, &unindexed(query)), "{about}: {query}");
        let sorted = |query: &str| ids(&site.search(&[("q", query), ("sort", "-tags.region"), ("limit", "100")]));
        assert_eq!(sorted(query), sorted(&unindexed(query)), "{about}: {query}, sorted");
    }
    for field in FIELDS {
        for kind in ["count", "terms", "percentiles", "cardinality"] {
            let aggregate = |query: Option<&str>| {
                let mut parameters = vec![("type", kind), ("field", field)];
                parameters.extend(query.map(|query| ("q", query)));
                let reply = site.aggregate_at("web", &parameters);
                assert_eq!(reply.status, 200, "{about}: {field}: {}", reply.text());
                reply.json()
            };
            assert_eq!(aggregate(None), aggregate(Some("device:* OR tags.x:x")), "{about}: {kind} {field}");
            assert_eq!(aggregate(Some("*")), aggregate(None), "{about}: {kind} {field}");
        }
    }
}

/// Compares, and shows that the index was used for each kind of answer.
fn compare_by_index(site: &Site, about: &str) {
    let before = uses(site);
    found(site, "tags.region:west");
    let searched = uses(site);
    let aggregate = site.aggregate_at("web", &[("type", "terms"), ("field", "tags.region")]);
    assert_eq!(aggregate.status, 200, "{}", aggregate.text());
    let aggregated = uses(site);
    found(site, &unindexed("tags.region:west"));
    assert!(before < searched && searched < aggregated, "{about}: used {before} {searched} {aggregated} times");
    assert_eq!(uses(site), aggregated, "{about}: no index helps");
    compare(site, about);
}

fn write(client: &mut Http, number: usize, step: usize) {
    put(client, &format!("dev-{number:03}/shadow"), &state(number, step));
    if number.is_multiple_of(3) {
        put(client, &format!("dev-{number:03}/shadows/cfg"), &json!({"reported": {"rate": (number + step) % 9}}));
    }
    if (number + step).is_multiple_of(11) {
        client.send(&format!("DELETE /v1/devices/dev-{number:03}/shadow HTTP/1.1\nIf-Match: *"), b"");
    }
}

const DEVICES: usize = 120;

/// At rest, after a kill, and with other declarations.
#[test]
fn an_index_gives_the_answers_of_a_scan() {
    let mut site = open(INDEXED);
    for step in 0..3 {
        let mut client = site.client("web");
        (0..DEVICES)
            .filter(|number| step == 0 || number % 4 == step)
            .for_each(|number| write(&mut client, number, step));
        wait_for(&site, "complete");
        compare_by_index(&site, &format!("step {step}"));
    }
    site.0.kill();
    site.0.restart();
    compare(&site, "killed");
    wait_for(&site, "complete");
    compare_by_index(&site, "killed, and complete");
    for declared in ["[search]\nindexed = [\"tags.region\", \"reported.*\"]\n", "", INDEXED] {
        site = Site(Server::within(site.0.into_directory(), setup(declared)).unwrap());
        compare(&site, &format!("declared {declared:?}"));
        let mut client = site.client("web");
        (0..DEVICES).step_by(5).for_each(|number| write(&mut client, number, 7));
        compare(&site, &format!("declared {declared:?}, written"));
        if declared.is_empty() {
            wait_for(&site, "undeclared");
            assert_eq!(uses(&site), 0.0, "nothing is declared");
        } else {
            wait_for(&site, "complete");
            compare_by_index(&site, &format!("declared {declared:?}, and complete"));
        }
    }
    let metrics = site.client("web").send("GET /metrics HTTP/1.1", b"").text();
    assert!(metrics.contains("umbra_search_index_given_up_total 0"), "{metrics}");
}

/// A device is found as soon as its write was answered, and one that never changes is always found, while others write.
#[test]
fn an_index_is_never_behind() {
    let site = open(INDEXED);
    let mut client = site.client("web");
    for number in 0..40 {
        put(&mut client, &format!("fixed-{number:02}/shadow"), &json!({"reported": {"firmware": "9.9.1"}}));
    }
    let fixed = (0..40).map(|number| format!("fixed-{number:02}")).collect::<Vec<_>>();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for writer in 0..3 {
            let (site, done) = (&site, &done);
            scope.spawn(move || {
                let mut client = site.client("web");
                for step in 0.. {
                    if done.load(Ordering::Acquire) {
                        return;
                    }
                    write(&mut client, (step * 3 + writer) % DEVICES, step);
                    // The fixed devices change too, but not in what is searched.
                    let other = json!({"reported": {"other": step, "firmware": "9.9.1"}});
                    put(&mut client, &format!("fixed-{:02}/shadow", (step + writer) % 40), &other);
                }
            });
        }
        for round in 0..60 {
            assert_eq!(found(&site, "reported.firmware:9.9*").0, fixed, "round {round}");
            let state =
                json!({"reported": {"firmware": format!("own-{round}")}, "tags": {"region": format!("r{round}")}});
            put(&mut client, "own/shadow", &state);
            for query in [format!("reported.firmware:own-{round}"), format!("tags.region:R{round}")] {
                assert_eq!(found(&site, &query).0, ["own"], "{query}");
            }
            let earlier = format!("reported.firmware:\"own-{}\"", round + 1000);
            assert!(found(&site, &earlier).0.is_empty());
            let terms =
                site.aggregate_at("web", &[("type", "terms"), ("field", "reported.firmware"), ("size", "1000")]);
            let terms = terms.json();
            let count = |value: &str| {
                let terms = terms["terms"].as_array().unwrap().iter();
                terms.filter(|term| term["value"] == value).map(|term| term["count"].as_u64().unwrap()).sum::<u64>()
            };
            assert_eq!((count("9.9.1"), count(&format!("own-{round}"))), (40, 1), "round {round}");
        }
        done.store(true, Ordering::Release);
    });
    compare(&site, "after the writers");
}

/// A caller finds by an index only what it may read, and its aggregates are made of that.
#[test]
fn an_index_shows_nothing_hidden() {
    let site = open("[search]\nindexed = [\"reported.zone.t\", \"reported.secret\"]\n");
    for number in 0..10 {
        let state = json!({"reported": {"zone": {"t": number}, "secret": "s"}});
        site.write(&[(&format!("lamp-{number}/shadow"), state.clone()), (&format!("other-{number}/shadow"), state)]);
    }
    assert_eq!(site.found_at("partial", "reported.zone.t:>=8"), "lamp-8 lamp-9");
    assert_eq!(site.found_at("partial", "reported.secret:s"), "");
    assert_eq!(site.found_at("web", "reported.zone.t:>=8"), "lamp-8 lamp-9 other-8 other-9");
    wait_for(&site, "complete");
    let before = uses(&site);
    // The time of a range would depend on the number of values that are hidden.
    assert_eq!(site.found_at("partial", "reported.zone.t:>=8"), "lamp-8 lamp-9");
    assert_eq!(uses(&site), before, "without the index");
    assert_eq!(site.found_at("partial", "reported.zone.t:8"), "lamp-8");
    assert_eq!(site.found_at("partial", "reported.secret:s"), "");
    assert_eq!(site.found_at("web", "reported.secret:s").split(' ').count(), 20);
    assert!(uses(&site) >= before + 3.0, "by the index");
    for (listener, field, devices, with_value) in [
        ("partial", "reported.zone.t", 10, 10),
        ("partial", "reported.secret", 10, 0),
        ("web", "reported.secret", 20, 20),
    ] {
        let found = site.aggregate_at(listener, &[("field", field)]).json();
        assert_eq!(
            (&found["devices"], &found["withValue"]),
            (&json!(devices), &json!(with_value)),
            "{listener} {field}"
        );
    }
}

/// The values that `terms` counts by themselves were the least ones by the index, and those of the first devices without one.
#[test]
fn too_many_values_are_counted_as_in_a_scan() {
    let mut site = open("[search]\nindexed = [\"reported.v\"]\n");
    // The greatest values first, and one that most devices have.
    let values = |n: i32| (0..500).map(|i| json!(-(n * 500 + i))).chain([json!("all")]).collect::<Vec<_>>();
    site.write_many(21, |n| (format!("d{n:02}/shadow"), json!({"reported": {"v": values(n as i32)}})));
    flush(&mut site);
    let terms = |query: Option<&str>| {
        let mut parameters = vec![("type", "terms"), ("field", "reported.v"), ("size", "1000")];
        parameters.extend(query.map(|query| ("q", query)));
        site.aggregate_at("web", &parameters).json()
    };
    let by_scan = terms(Some("device:* OR tags.x:x"));
    assert_eq!(by_scan["truncated"], json!(true));
    assert_eq!(terms(None), by_scan);
}

/// The memory of an aggregate was charged with the first device that was read for it, so one of an index alone cost none.
#[test]
fn an_aggregate_of_an_index_counts_as_memory() {
    let mut site = open("[search]\nindexed = [\"reported.v\"]\n[[role]]\nrole = \"admin\"\nmemory = \"1MiB\"\n");
    let values = |n: usize| (0..200).map(|i| json!(format!("{:030}x", n * 200 + i))).collect::<Vec<_>>();
    site.write_many(45, |n| (format!("d{n:02}/shadow"), json!({"reported": {"v": values(n)}})));
    flush(&mut site);
    let before = uses(&site);
    let refused = site.aggregate_at("web", &[("type", "terms"), ("field", "reported.v")]);
    assert_eq!((refused.status, &refused.json()["error"]), (429, &json!("too-many-requests")), "{}", refused.text());
    assert_eq!(uses(&site), before + 1.0, "by the index");
    let count = site.aggregate_at("web", &[("field", "reported.v")]).json();
    assert_eq!((&count["devices"], &count["withValue"]), (&json!(45), &json!(45)));
}

/// A restored backup has no index, and builds it again.
#[test]
fn a_restored_store_has_the_same_answers() {
    let site = open(INDEXED);
    let mut client = site.client("web");
    (0..60).for_each(|number| write(&mut client, number, 1));
    drop(client);
    let before = QUERIES.map(|query| found(&site, query));
    let directory = site.0.into_directory();
    let (store, copy) = (store_path(directory.path()), directory.path().join("copy"));
    let run = |arguments: &[&str]| assert!(umbrad(arguments).status().unwrap().success(), "{arguments:?}");
    run(&["backup", "--to", copy.to_str().unwrap(), "--store", store.to_str().unwrap()]);
    std::fs::remove_file(&store).unwrap();
    run(&["restore", copy.to_str().unwrap(), "--store", store.to_str().unwrap()]);
    let site = Site(Server::within(directory, setup(INDEXED)).unwrap());
    assert_eq!(QUERIES.map(|query| found(&site, query)), before);
    compare(&site, "restored");
}
