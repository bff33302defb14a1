//! The histories of all nodes against what clients sent and were answered.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use super::{
    fleet::{Fleet, Kind, Observation},
    linearizable::Shadow,
    writer::{Outcome, Update},
};
use crate::harness::{
    client::Client,
    cluster::{Cluster, NODES},
    eventually,
    shadow::version,
    wire::V5,
};

/// A leaf that a version has changed, and its new value.
pub struct Leaf {
    pub path: String,
    pub value: u64,
}

/// Panics if something is wrong. Returns the numbers of reads that were checked.
pub fn check(cluster: &Cluster, fleet: &Fleet, updates: &[Update]) -> String {
    let mut by_device: BTreeMap<&str, Vec<&Update>> = BTreeMap::new();
    updates.iter().for_each(|update| by_device.entry(&update.device).or_default().push(update));
    let observed = fleet.take_observations();
    let mut consistent = 0;
    for (device, updates) in by_device {
        let about = format!("seed {}, {device}", fleet.seed);
        let last = updates.iter().filter_map(|update| accepted(update)).max().expect("the closing update");
        fleet.wait_until_seen(device, last);
        let histories: Vec<_> = (0..NODES).map(|node| history(cluster, node, device)).collect();
        assert!(histories.iter().all(|history| *history == histories[0]), "{about}: the histories differ");
        let documents: Vec<_> = (0..NODES).map(|node| cluster.document(node, device)).collect();
        assert!(documents.iter().all(|document| *document == documents[0]), "{about}: {documents:?}");
        let versions: Vec<_> = histories[0].iter().map(version).collect();
        assert_eq!(versions, (1..=last).collect::<Vec<_>>(), "{about}: versions are contiguous");
        let leaves: Vec<_> = histories[0].iter().map(|entry| leaf(&about, entry)).collect();
        check_effects(&about, &leaves, &updates);
        let observations: Vec<&Observation> = observed.iter().filter(|observed| observed.device == device).collect();
        let shadow = Shadow { fleet, about: &about, leaves: &leaves, updates: &updates, observations: &observations };
        consistent += shadow.check();
    }
    check_retained(cluster, fleet);
    let reads = observed.iter().filter(|observed| matches!(observed.kind, Kind::Read { .. })).count();
    assert!(consistent > 0 && reads > consistent, "seed {}: {reads} reads, {consistent} consistent", fleet.seed);
    format!("{consistent} consistent and {} plain reads", reads - consistent)
}

/// The leaf that a change in a history is about.
fn leaf(about: &str, entry: &Value) -> Leaf {
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{about}: {entry}"));
    let [change] = entry["changes"].as_array().unwrap().as_slice() else { panic!("{about}: {entry}") };
    let path = change["path"].as_str().unwrap();
    match &change["value"] {
        Value::Object(members) => {
            let (name, value) = members.iter().next().unwrap_or_else(|| panic!("{about}: {entry}"));
            assert_eq!(members.len(), 1, "{about}: {entry}");
            Leaf { path: format!("{path}/{name}"), value: number(value) }
        }
        value => Leaf { path: path.to_owned(), value: number(value) },
    }
}

/// Every update has its effect once if it was accepted, none if it was refused, and one at most if its outcome is unknown.
fn check_effects(about: &str, leaves: &[Leaf], updates: &[&Update]) {
    let mut effects: HashMap<(&str, u64), u64> = HashMap::new();
    for (Leaf { path, value }, version) in leaves.iter().zip(1..) {
        let before = effects.insert((path, *value), version);
        assert_eq!(before, None, "{about}: {path} is {value} twice, the second time in version {version}");
    }
    let mut applied = Vec::new();
    for update in updates {
        let effect = effects.remove(&(&*update.path, update.value));
        match update.outcome {
            Outcome::Accepted(version) => assert_eq!(effect, Some(version), "{about}: {update:?}"),
            Outcome::Conflict(_) | Outcome::Refused(_) => assert_eq!(effect, None, "{about}: {update:?}"),
            Outcome::Unknown => {}
        }
        applied.extend(effect.map(|version| (version, *update)));
    }
    assert!(effects.is_empty(), "{about}: effects that nobody sent: {effects:?}");
    check_writers(about, applied);
}

/// The effects of each writer are in the order in which it sent them: what it had sent to a node that it left has none after what it has
/// sent to the next one.
fn check_writers(about: &str, mut applied: Vec<(u64, &Update)>) {
    applied.sort_by_key(|(_, update)| (&update.path, update.value));
    for pair in applied.windows(2) {
        let [(earlier, one), (later, other)] = pair else { continue };
        assert!(one.path != other.path || earlier < later, "{about}: {one:?} has its effect after {other:?}");
    }
}

fn accepted(update: &Update) -> Option<u64> {
    match update.outcome {
        Outcome::Accepted(version) => Some(version),
        _ => None,
    }
}

/// The history of a device at a node, oldest first.
fn history(cluster: &Cluster, node: usize, device: &str) -> Vec<Value> {
    let path = format!("/v1/devices/{device}/shadow/history?limit=100");
    let mut page = cluster.get(node, &path);
    let mut entries = Vec::new();
    loop {
        assert_eq!(page.status, 200, "{}", page.text());
        let body = page.json();
        entries.extend(body["entries"].as_array().unwrap().iter().cloned());
        assert_ne!(body["end"], "gone", "the journal has all changes of a round");
        let Some(next) = body["next"].as_str() else { break };
        page = cluster.get(node, &format!("{path}&cursor={next}"));
    }
    entries.reverse();
    entries
}

/// All nodes retain the same messages, each one that no acknowledged one has replaced.
fn check_retained(cluster: &Cluster, fleet: &Fleet) {
    let published = fleet.published.lock().unwrap();
    for topic in fleet.retained_topics() {
        let retained = eventually(&format!("the same message of {topic} at all nodes"), || {
            let retained: Vec<_> = (0..NODES).map(|node| retained(cluster, node, &topic)).collect();
            retained.iter().all(|message| *message == retained[0]).then(|| retained[0].clone())
        });
        let of_topic = || published.iter().filter(|publication| publication.topic == topic);
        let Some(retained) = retained else {
            assert!(of_topic().all(|publication| publication.acknowledged.is_none()), "{topic}: nothing is retained");
            continue;
        };
        let kept = of_topic().find(|publication| publication.payload == retained).expect("it was published");
        assert!(!kept.is_refused, "{kept:?}");
        let replaced = of_topic().find(|publication| {
            kept.acknowledged.is_some_and(|acknowledged| acknowledged < publication.sent)
                && publication.acknowledged.is_some()
        });
        assert!(replaced.is_none(), "seed {}: {kept:?} is retained instead of {replaced:?}", fleet.seed);
    }
}

fn retained(cluster: &Cluster, node: usize, topic: &str) -> Option<String> {
    let mut client = Client::connect(&cluster.nodes[node], V5, &format!("reader-{node}"));
    client.subscribe(&[(topic, 1)]);
    // Retained messages of the subscription precede it.
    let end = format!("end/{node}");
    client.subscribe(&[(&end, 1)]);
    client.publish(&end, "", 1);
    let message = client.message();
    (message.topic == topic).then(|| message.text().to_owned())
}
