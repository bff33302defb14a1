//! Rollouts in a cluster: seen and commanded at every node, carried out by one, and by another when that dies or is stopped.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    fleet::Fleet,
    harness::{
        cluster::{Cluster, NODES},
        eventually,
        http::{Http, Reply},
        server::UNLIMITED,
    },
};

const ID: &str = "fw-2.0";
const DEVICES: usize = 240;
/// The devices that the waves reach in all.
const WAVES: [usize; 3] = [24, 120, 240];
/// Devices of the second wave that do not answer until they are released.
const HELD: std::ops::Range<usize> = 100..110;
/// Connections that write many shadows.
const CONNECTIONS: usize = 8;

fn device(n: usize) -> String {
    format!("pump-{n:05}")
}

fn index_of(device: &str) -> Option<usize> {
    device.strip_prefix("pump-")?.parse().ok()
}

fn create(cluster: &Cluster, node: usize, id: &str, spec: &Value) -> Reply {
    cluster.send(node, &format!("PUT /v1/rollouts/{id}\nIf-None-Match: *"), spec)
}

/// Returns the answer to a request about the rollout at a node. While no node decides, it is asked again.
fn ask(cluster: &Cluster, node: usize, method: &str, of: &str) -> Reply {
    let head = format!("{method} /v1/rollouts/{ID}{of}");
    eventually(&head, || Some(cluster.send(node, &head, &Value::Null)).filter(|reply| reply.status != 503))
}

fn command(cluster: &Cluster, node: usize, command: &str) -> Value {
    let reply = ask(cluster, node, "POST", &format!("/{command}"));
    assert_eq!(reply.status, 200, "{command}: {}", reply.text());
    reply.json()
}

fn rollout(cluster: &Cluster, node: usize) -> Value {
    let reply = cluster.get(node, &format!("/v1/rollouts/{ID}"));
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

fn wait_for(cluster: &Cluster, node: usize, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    eventually(&format!("{what} at node {}", node + 1), || Some(rollout(cluster, node)).filter(&is_so))
}

fn count(rollout: &Value, state: &str) -> usize {
    usize::try_from(rollout["counts"][state].as_u64().unwrap()).unwrap()
}

/// The devices of the rollout at a node.
fn devices(cluster: &Cluster, node: usize) -> Vec<Value> {
    let (mut devices, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = cluster.get(node, &format!("/v1/rollouts/{ID}/devices?limit=100{cursor}")).json();
        devices.extend(page["devices"].as_array().unwrap().iter().cloned());
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return devices,
        }
    }
}

fn write_devices(cluster: &Cluster, count: usize) {
    thread::scope(|scope| {
        for first in 0..CONNECTIONS {
            scope.spawn(move || {
                for n in (first..count).step_by(CONNECTIONS) {
                    let head = format!("PUT /v1/devices/{}/shadow?upsert=true", device(n));
                    let reply = cluster.send(n % NODES, &head, &json!({"desired": {"firmware": "1", "n": n}}));
                    assert_eq!(reply.status, 201, "{}", reply.text());
                }
            });
        }
    });
}

/// The changes at a node from the beginning, in order.
fn journal(cluster: &Cluster, node: usize, mark: &str) -> Vec<Value> {
    let head = "PUT /v1/devices/end-of-journal/shadow?upsert=true";
    assert!(cluster.send(node, head, &json!({"tags": {"end": mark}})).status < 300);
    Http::connect(cluster.nodes[node].address_of("web")).journal_until(mark)
}

/// Fails if the rollout changed a device twice, or before all devices of the waves before its own had converged.
fn check_waves(journal: &[Value]) {
    let (mut changed, mut converged) = (BTreeSet::new(), BTreeSet::new());
    for change in journal {
        let Some(index) = index_of(change["device"].as_str().unwrap()) else { continue };
        if change["client"] == format!("rollout:{ID}") {
            assert!(changed.insert(index), "device {index} was changed twice");
            let before = WAVES.into_iter().rev().find(|reached| *reached <= index).unwrap_or_default();
            let open: Vec<_> = (0..before).filter(|earlier| !converged.contains(earlier)).collect();
            assert!(open.is_empty(), "device {index} was changed before {open:?} had converged");
        } else if changed.contains(&index) {
            converged.insert(index);
        }
    }
    assert_eq!(changed.len(), DEVICES);
}

/// Starts a fleet at each of `nodes`, which share the devices.
fn start_fleets(cluster: &Cluster, nodes: &[usize], turn: usize, held: &Arc<AtomicBool>) -> Vec<Fleet> {
    let fleet = |(part, node): (usize, &usize)| {
        let (held, parts) = (held.clone(), nodes.len());
        let is_stuck = move |device: &str| {
            index_of(device)
                .is_none_or(|index| index % parts != part || (held.load(Ordering::Relaxed) && HELD.contains(&index)))
        };
        Fleet::named(&format!("fleet-{turn}-{part}"), &cluster.nodes[*node], is_stuck)
    };
    nodes.iter().enumerate().map(fleet).collect()
}

/// Waits until the list of rollouts, the rollout and its devices are the same at all nodes.
fn check_same(cluster: &Cluster) {
    eventually("the same at all nodes", || {
        let shown: Vec<_> = (0..NODES)
            .map(|node| (cluster.get(node, "/v1/rollouts").json(), rollout(cluster, node), devices(cluster, node)))
            .collect();
        shown.windows(2).all(|pair| pair[0] == pair[1]).then_some(())
    });
}

#[test]
fn a_rollout_goes_on_at_another_node_when_its_driver_dies() {
    let mut cluster = Cluster::start(UNLIMITED.limits);
    write_devices(&cluster, DEVICES);
    let held = Arc::new(AtomicBool::new(true));
    let fleets = start_fleets(&cluster, &[0, 1, 2], 0, &held);
    let driver = cluster.decider();
    let others: Vec<usize> = (0..NODES).filter(|node| *node != driver).collect();
    let spec = json!({
        "query": "device:pump-*", "patch": {"desired": {"firmware": "2.0"}}, "waves": ["10%", "50%", "100%"],
        "deadlineSeconds": 3600,
    });
    let created = create(&cluster, others[0], ID, &spec);
    assert_eq!(created.status, 201, "{}", created.text());
    assert_eq!((&created.json()["devices"], &created.json()["wave"]), (&json!(DEVICES), &json!(0)));
    // The same answers as on a single node, at whichever node.
    assert_eq!(create(&cluster, others[1], ID, &spec).status, 200, "the same request again");
    let other = json!({"query": "device:pump-0000*", "patch": {"desired": {"firmware": "3.0"}}});
    let conflict = create(&cluster, driver, "other", &other);
    assert_eq!((conflict.status, &conflict.json()["error"]), (409, &json!("rollout-conflict")));
    let exists = create(&cluster, others[1], ID, &json!({"query": "device:x", "patch": {"desired": {"a": 1}}}));
    assert_eq!((exists.status, &exists.json()["error"]), (409, &json!("rollout-exists")));
    let running = cluster.send(driver, &format!("DELETE /v1/rollouts/{ID}"), &Value::Null);
    assert_eq!((running.status, &running.json()["error"]), (409, &json!("rollout-state")));

    wait_for(&cluster, others[0], "the second wave", |rollout| {
        rollout["wave"] == 1 && count(rollout, "converged") > 30
    });
    cluster.nodes[driver].kill();
    fleets.into_iter().for_each(Fleet::end);
    let at_kill = rollout(&cluster, others[1]);
    assert_eq!((&at_kill["wave"], &at_kill["state"]), (&json!(1), &json!("running")), "{at_kill}");

    // It goes on at the same wave: all of it is sent, whose held devices keep the next from beginning.
    let fleets = start_fleets(&cluster, &others, 1, &held);
    let is_sent =
        |rollout: &Value| count(rollout, "converged") == WAVES[1] - HELD.len() && count(rollout, "sent") == HELD.len();
    let stopped = wait_for(&cluster, others[0], "the end of the second wave", is_sent);
    assert_eq!((&stopped["wave"], count(&stopped, "queued")), (&json!(1), DEVICES - WAVES[1]), "{stopped}");
    let paused = command(&cluster, others[0], "pause");
    assert_eq!(paused["state"], "paused");
    fleets.into_iter().for_each(Fleet::end);
    held.store(false, Ordering::Relaxed);
    let fleets = start_fleets(&cluster, &others, 2, &held);
    let all = wait_for(&cluster, others[1], "the held devices", |rollout| count(rollout, "converged") == WAVES[1]);
    assert_eq!((&all["wave"], &all["state"], count(&all, "queued")), (&json!(1), &json!("paused"), DEVICES - WAVES[1]));
    assert_eq!(command(&cluster, others[1], "resume")["state"], "running");
    wait_for(&cluster, others[0], "the end", |rollout| rollout["state"] == "completed");

    cluster.nodes[driver].restart();
    (0..NODES).for_each(|node| cluster.wait_until_ready(node));
    check_same(&cluster);
    check_waves(&journal(&cluster, driver, "the end of the first part"));
    let states: BTreeMap<String, usize> =
        devices(&cluster, driver).iter().fold(BTreeMap::new(), |mut states, device| {
            *states.entry(device["state"].as_str().unwrap().to_owned()).or_default() += 1;
            states
        });
    assert_eq!(states, [("converged".to_owned(), DEVICES)].into());

    // Through the node that has started again, which does not decide.
    let rolling_back = command(&cluster, driver, "rollback")["state"].clone();
    assert!(rolling_back == "rolling-back" || rolling_back == "rolled-back", "{rolling_back}");
    wait_for(&cluster, driver, "the roll back", |rollout| rollout["state"] == "rolled-back");
    check_same(&cluster);
    for n in (0..DEVICES).step_by(7) {
        let document = cluster.document(driver, &device(n)).unwrap();
        assert_eq!(document["state"]["desired"], json!({"firmware": "1", "n": n}));
    }
    assert_eq!(cluster.send(driver, &format!("DELETE /v1/rollouts/{ID}"), &Value::Null).status, 204);
    for node in 0..NODES {
        eventually("the removal", || (cluster.get(node, &format!("/v1/rollouts/{ID}")).status == 404).then_some(()));
    }
    fleets.into_iter().for_each(Fleet::end);
}

/// Creates a rollout of all devices and stops its driver while updates are on their way. Returns the driver and the rollout that another
/// node has paused then, or `None` if it had ended already.
fn pause_without_driver(cluster: &Cluster, attempt: usize, rate: Option<u32>) -> Option<(usize, Value)> {
    let driver = cluster.decider();
    let other = (driver + 1) % NODES;
    let mut spec = json!({
        "query": "device:pump-*", "patch": {"desired": {"firmware": format!("2.{attempt}")}}, "waves": ["90%", "100%"],
        "success": "accepted",
    });
    if let Some(rate) = rate {
        spec["rate"] = rate.into();
    }
    let created = create(cluster, other, ID, &spec);
    assert_eq!(created.status, 201, "{}", created.text());
    wait_for(cluster, other, "some updates", |rollout| count(rollout, "converged") > 0);
    cluster.nodes[driver].signal(Signal::STOP);
    let paused = ask(cluster, other, "POST", "/pause").json();
    cluster.nodes[driver].signal(Signal::CONT);
    if paused["error"] == "rollout-state" {
        assert_eq!(count(&rollout(cluster, other), "converged"), DEVICES);
        assert_eq!(ask(cluster, other, "DELETE", "").status, 204);
        (0..NODES).for_each(|node| cluster.wait_until_ready(node));
        return None;
    }
    assert_eq!(paused["state"], "paused", "{paused}");
    Some((driver, paused))
}

/// The driver is stopped while its updates are on their way, and goes on after another node has answered a pause.
#[test]
fn a_driver_that_was_stopped_sends_nothing_after_a_pause() {
    let cluster = Cluster::start(UNLIMITED.limits);
    write_devices(&cluster, DEVICES);
    // A fast rollout has many updates on their way, but may end before it is paused; the last of these takes a minute.
    let rates = [None, Some(100), Some(20), Some(4)];
    let (attempt, (driver, paused)) = (0..rates.len())
        .find_map(|attempt| Some((attempt, pause_without_driver(&cluster, attempt, rates[attempt])?)))
        .expect("a rollout of a minute is paused before it ends");
    let others: Vec<usize> = (0..NODES).filter(|node| *node != driver).collect();
    let changed = count(&paused, "converged");
    assert!(changed < DEVICES, "the pause came too late");
    // Whatever it had sent is decided before what its clients ask for now.
    eventually("an update at the former driver", || {
        let head = "PUT /v1/devices/other/shadow?upsert=true";
        let reply = cluster.send(driver, head, &json!({"desired": {"a": 1}}));
        (reply.status < 300).then_some(())
    });
    wait_for(&cluster, driver, "the pause", |rollout| rollout["state"] == "paused");
    check_same(&cluster);
    let journal_at = |mark: &str| {
        let changes = journal(&cluster, others[1], mark);
        let of_all = changes.iter().filter(|change| change["client"] == format!("rollout:{ID}")).count();
        of_all - attempt * DEVICES
    };
    assert_eq!(journal_at("after the pause"), changed, "updates after an acknowledged pause");
    assert_eq!(count(&rollout(&cluster, driver), "converged"), changed);

    assert_eq!(command(&cluster, driver, "resume")["state"], "running");
    wait_for(&cluster, driver, "the end", |rollout| rollout["state"] == "completed");
    check_same(&cluster);
    assert_eq!(journal_at("at the end"), DEVICES, "each device once");
}

/// The driver ends in order while its updates are on their way: another node goes on, and no device is changed twice or never.
#[test]
fn a_rollout_goes_on_at_another_node_when_its_driver_ends() {
    let mut cluster = Cluster::start(UNLIMITED.limits);
    write_devices(&cluster, DEVICES);
    let driver = cluster.decider();
    let other = (driver + 1) % NODES;
    let spec = json!({
        "query": "device:pump-*", "patch": {"desired": {"firmware": "2.0"}}, "waves": ["50%", "100%"],
        // It takes eight seconds, of which its driver is there for the first.
        "success": "accepted", "rate": 30,
    });
    let created = create(&cluster, other, ID, &spec);
    assert_eq!(created.status, 201, "{}", created.text());
    wait_for(&cluster, other, "some updates", |rollout| count(rollout, "converged") > 0);
    cluster.nodes[driver].stop();
    wait_for(&cluster, other, "the end", |rollout| rollout["state"] == "completed");
    cluster.nodes[driver].restart();
    cluster.wait_until_ready(driver);
    check_same(&cluster);
    let journal = journal(&cluster, driver, "the end");
    let mut changed: Vec<_> = journal
        .iter()
        .filter(|change| change["client"] == format!("rollout:{ID}"))
        .map(|change| index_of(change["device"].as_str().unwrap()).unwrap())
        .collect();
    changed.sort_unstable();
    assert_eq!(changed, (0..DEVICES).collect::<Vec<_>>());
}

/// A node that has not applied yet what another node has answered waits for it.
#[test]
fn a_bulk_change_misses_no_device_that_any_node_has_answered() {
    let cluster = Cluster::start(UNLIMITED.limits);
    let body = json!({"query": "device:pump-*", "patch": {"desired": {"firmware": "2"}}});
    for n in 0..100 {
        let head = format!("PUT /v1/devices/{}/shadow?upsert=true", device(n));
        let reply = cluster.send(n % NODES, &head, &json!({"desired": {"firmware": "1"}}));
        assert_eq!(reply.status, 201, "{}", reply.text());
        let node = (n + 1 + n % 2) % NODES;
        let reply = cluster.send(node, "POST /v1/bulk?dry_run=true", &body);
        assert_eq!(reply.json()["wouldChange"], n + 1, "{}", reply.text());
    }
}

/// A bulk change is one for the whole cluster: the same request at another node finds it, and its progress can be followed there.
#[test]
fn a_bulk_change_is_made_once_and_followed_anywhere() {
    let mut cluster = Cluster::start(UNLIMITED.limits);
    write_devices(&cluster, 30);
    let body = json!({"query": "device:pump-*", "patch": {"tags": {"campaign": "spring"}}});
    let bulk = |node: usize, body: &Value| cluster.send(node, "POST /v1/bulk\nIdempotency-Key: spring", body);
    let created = bulk(0, &body);
    assert_eq!(created.status, 202, "{}", created.text());
    let location = created.header("location").unwrap().to_owned();
    let mut client = Http::connect(cluster.nodes[2].address_of("web"));
    client.write(&format!("GET {location}/events HTTP/1.1\nAccept: text/event-stream"), b"");
    assert_eq!(client.head().status, 200, "it is known at once at another node");
    let again = bulk(1, &body);
    assert_eq!((again.status, again.header("location")), (202, Some(&*location)));
    let other = bulk(2, &json!({"query": "device:pump-*", "patch": {"tags": {"campaign": "autumn"}}}));
    assert_eq!(other.status, 422, "{}", other.text());
    let mut text = String::new();
    while let Some(chunk) = client.chunk() {
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    let last = text.lines().rev().find_map(|line| line.strip_prefix("data: ")).unwrap();
    let last: Value = serde_json::from_str(last).unwrap();
    assert_eq!((&last["state"], &last["counts"]["converged"]), (&json!("completed"), &json!(30)));

    // All nodes die, and have it again.
    let lists = |cluster: &Cluster| (0..NODES).map(|node| cluster.get(node, "/v1/rollouts").json()).collect::<Vec<_>>();
    let before = eventually("the same at all nodes", || {
        let lists = lists(&cluster);
        lists.windows(2).all(|pair| pair[0] == pair[1]).then_some(lists)
    });
    cluster.nodes.iter_mut().for_each(crate::harness::server::Server::kill);
    cluster.nodes.iter_mut().for_each(crate::harness::server::Server::restart);
    (0..NODES).for_each(|node| cluster.wait_until_ready(node));
    assert_eq!(lists(&cluster), before);
    assert_eq!(cluster.send(1, &format!("DELETE {location}"), &Value::Null).status, 204);
}
