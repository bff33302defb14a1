//! The client library against the server: counters, events, quotas, reconnects, lists, and its examples.

#[path = "../../umbra-client/examples/dashboard.rs"]
#[allow(dead_code, reason = "its main is not called")]
mod dashboard;
#[path = "../../umbra-client/examples/fleet.rs"]
#[allow(dead_code, reason = "its main is not called")]
mod fleet;
#[path = "../../umbra-client/examples/set_point.rs"]
#[allow(dead_code, reason = "its main is not called")]
mod set_point;
#[path = "../../umbra-client/examples/thermostat.rs"]
#[allow(dead_code, reason = "its main is not called")]
mod thermostat;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::timeout};
use umbra_client::{
    Attempt, Backoff, Client, DeviceId, DeviceQuery, Document, Error, ErrorKind, Event, HistoryQuery, Message,
    Observer, Options, Qos, Reason, Scope, Shadow, ShadowId, Topic, Update, Version, Watch, WriteOptions,
};

use crate::{
    cutting_proxy::Proxy,
    harness::{
        DEADLINE,
        server::{Server, Setup, UNLIMITED},
    },
};

/// Counts the tries of some clients' writes.
#[derive(Default)]
struct Counts {
    tries: AtomicU64,
    conflicts: AtomicU64,
    deferred: AtomicU64,
}

impl Observer for Counts {
    fn on_attempt(&self, attempt: &Attempt<'_>) {
        self.tries.fetch_add(1, Ordering::Relaxed);
        match attempt.outcome.err().and_then(Error::rejection).map(|rejection| rejection.code) {
            Some(409) => self.conflicts.fetch_add(1, Ordering::Relaxed),
            Some(429) => self.deferred.fetch_add(1, Ordering::Relaxed),
            _ => 0,
        };
    }
}

async fn connect(server: &Server, name: &str) -> Client {
    connect_observed(server, name, Arc::new(Counts::default())).await
}

async fn connect_observed(server: &Server, name: &str, counts: Arc<Counts>) -> Client {
    let options = Options::new(&server.address.to_string(), name).unwrap().reply_deadline(*DEADLINE).observer(counts);
    Client::connect(options).await.unwrap()
}

fn device(name: &str) -> DeviceId {
    DeviceId::new(name).unwrap()
}

fn count(document: &Document) -> u64 {
    document.pointer("/reported/count").and_then(Value::as_u64).unwrap_or(0)
}

fn increment(document: &Document) -> Option<Value> {
    Some(json!({"reported": {"count": count(document) + 1}}))
}

/// Waits for the next event.
async fn next(watch: &mut Watch) -> Event {
    timeout(*DEADLINE, watch.recv()).await.expect("an event").expect("the client is open")
}

#[tokio::test(flavor = "multi_thread")]
async fn increments_of_many_clients_all_count() {
    const CLIENTS: u64 = 8;
    const EACH: u64 = 40;
    let server = Server::with(UNLIMITED);
    let counts = Arc::new(Counts::default());
    let mut writers = JoinSet::new();
    for n in 0..CLIENTS {
        let shadow = connect_observed(&server, &format!("writer-{n}"), counts.clone()).await.shadow(device("counter"));
        writers.spawn(async move {
            for _ in 0..EACH {
                // On a slow machine a writer may lose the race more often than it tries.
                let done = loop {
                    match shadow.update(increment).await {
                        Err(error) if error.kind() == ErrorKind::GaveUp && !error.is_outcome_unknown() => {}
                        done => break done.unwrap(),
                    }
                };
                done.expect("there is always something to do");
            }
        });
    }
    writers.join_all().await;
    let end = connect(&server, "reader").await.shadow(device("counter")).get().await.unwrap();
    assert_eq!((count(&end), end.version), (CLIENTS * EACH, Version(CLIENTS * EACH)));
    let conflicts = counts.conflicts.load(Ordering::Relaxed);
    assert!(conflicts > 0, "they did race");
    println!("{} increments by {CLIENTS} clients: {conflicts} conflicts", CLIENTS * EACH);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_together_for_the_quota_they_share() {
    const WRITES: u64 = 80;
    let server = Server::start();
    let counts = Arc::new(Counts::default());
    let client = connect_observed(&server, "hasty", counts.clone()).await;
    let began = Instant::now();
    let mut writers = JoinSet::new();
    for n in 0..WRITES {
        let shadow = client.shadow(device("busy"));
        let patch = move |_: &Document| Some(json!({"tags": {format!("n{n}"): n}}));
        // Without a read: the writers write different fields.
        writers.spawn(async move { send_until_accepted(&shadow, patch).await });
    }
    let tries: u64 = writers.join_all().await.into_iter().sum();
    let end = client.shadow(device("busy")).get().await.unwrap();
    assert_eq!(end.tags().map(|tags| tags.len() as u64), Some(WRITES));
    println!("{WRITES} writes took {tries} tries and {:?}", began.elapsed());
    assert!(tries < 2 * WRITES, "{tries} tries for {WRITES} writes: the quota was spent on refusals");
}

/// Sends an update without a precondition until it is accepted; returns the number of tries.
async fn send_until_accepted(shadow: &Shadow, patch: impl Fn(&Document) -> Option<Value>) -> u64 {
    let state = patch(&Document::default()).unwrap_or_default();
    for tries in 1.. {
        match shadow.send(&Update::new(state.clone())).await {
            Ok(_) => return tries,
            Err(Error::Rejected(rejection)) if rejection.reason == Reason::TooManyRequests => {}
            Err(other) => panic!("{other}"),
        }
    }
    0
}

#[tokio::test(flavor = "multi_thread")]
async fn rejections_are_typed() {
    let server = Server::start();
    let client = connect(&server, "clumsy").await;
    let shadow = client.shadow(device("lamp"));
    assert!(!shadow.get().await.unwrap().exists());
    let rejected =
        |outcome: Result<_, Error>| outcome.map(drop).unwrap_err().rejection().cloned().expect("a rejection");

    let absent = rejected(shadow.delete(None).await.map(|()| None));
    assert_eq!((absent.code, absent.reason), (404, Reason::NotFound));
    shadow.update(|_| Some(json!({"desired": {"power": "on"}}))).await.unwrap();
    let stale = Update::new(json!({"desired": {"power": "off"}})).version(Version(0));
    let conflict = rejected(shadow.send(&stale).await.map(Some));
    assert!(conflict.is_conflict());
    assert_eq!((conflict.expected, conflict.version), (Some(Version(0)), Some(Version(1))));
    let nonsense = rejected(shadow.update(|_| Some(json!({"wished": {}}))).await);
    assert_eq!((nonsense.code, nonsense.reason), (400, Reason::Other("invalid-node".to_owned())));
    assert!(matches!(shadow.update(|_| None).await, Ok(None)));
    shadow.delete(Some(Version(1))).await.unwrap();
    assert!(!shadow.get().await.unwrap().exists());
    client.close().await;
    assert_eq!(shadow.send(&stale).await.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test(flavor = "multi_thread")]
async fn rebased_writers_conflict_in_the_same_field_only() {
    const EACH: u64 = 40;
    let server = Server::with(UNLIMITED);
    let first = connect(&server, "first").await.shadow(device("shared"));
    first.update(|_| Some(json!({"desired": {"a": 0, "b": 0, "c": 0}}))).await.unwrap();
    for (label, fields, collide) in [("each its own", ["a", "b", "c"], false), ("all the same", ["a"; 3], true)] {
        let before = first.get().await.unwrap();
        let counts = Arc::new(Counts::default());
        let mut writers = JoinSet::new();
        for (n, field) in fields.into_iter().enumerate() {
            let client = connect_observed(&server, &format!("rebaser-{n}"), counts.clone()).await;
            let shadow = client.shadow(device("shared"));
            writers.spawn(async move {
                let pointer = format!("/desired/{field}");
                let count = |document: &Document| document.pointer(&pointer).and_then(Value::as_u64).unwrap();
                for _ in 0..EACH {
                    let increment = |document: &Document| Some(json!({"desired": {field: count(document) + 1}}));
                    shadow.update_with(&WriteOptions::default().rebase(true), increment).await.unwrap().unwrap();
                }
            });
        }
        writers.join_all().await;
        let after = first.get().await.unwrap();
        let sum = |document: &Document| document.desired().unwrap().values().filter_map(Value::as_u64).sum::<u64>();
        assert_eq!(sum(&after) - sum(&before), 3 * EACH, "{label}: none lost");
        let conflicts = counts.conflicts.load(Ordering::Relaxed);
        assert_eq!(conflicts > 0, collide, "{label}: {conflicts} conflicts");
        println!("{label}: {} rebased increments, {conflicts} conflicts", 3 * EACH);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_lists_conflicts_and_a_merge_resolves_the_rest() {
    let server = Server::start();
    let shadow = connect(&server, "editor").await.shadow(device("form"));
    shadow.update(|_| Some(json!({"desired": {"target": 19, "mode": "eco"}}))).await.unwrap();
    let base = shadow.get().await.unwrap();
    shadow.update(|_| Some(json!({"desired": {"target": 23, "fan": 2}}))).await.unwrap();

    let mine = json!({"desired": {"target": 21, "mode": "heat"}});
    let update = Update::new(mine.clone()).version(base.version);
    let rejected = shadow.send(&update).await.unwrap_err();
    let rejection = rejected.rejection().unwrap();
    assert_eq!(rejection.clean, ["/desired/mode"]);
    let [conflict] = rejection.conflicts.as_slice() else { panic!("one conflict: {rejection:?}") };
    assert_eq!(conflict.path, "/desired/target");
    assert_eq!(
        [&conflict.yours, &conflict.base, &conflict.current],
        [&Some(json!(21)), &Some(json!(19)), &Some(json!(23))]
    );

    let theirs = shadow.get().await.unwrap();
    let desired = |document: &Document| json!({"desired": document.desired()});
    let collisions = umbra_client::merge(&desired(&base), &mine, &desired(&theirs)).unwrap_err();
    assert_eq!(collisions.iter().map(|collision| collision.path.as_str()).collect::<Vec<_>>(), ["/desired/target"]);
    let conceded = json!({"desired": {"target": 19, "mode": "heat"}});
    let merged = umbra_client::merge(&desired(&base), &conceded, &desired(&theirs)).unwrap();
    let options = WriteOptions::default().based_on(theirs);
    shadow.update_with(&options, |now| umbra_client::patch::between(&desired(now), &merged)).await.unwrap();
    let end = shadow.get().await.unwrap();
    assert_eq!(desired(&end), json!({"desired": {"target": 23, "mode": "heat", "fan": 2}}));
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_deliver_the_topics_they_subscribe_to() {
    let server = Server::start();
    let (app, dashboard, thermostat) =
        (connect(&server, "app").await, connect(&server, "dashboard").await, connect(&server, "t1").await);
    let writer = app.shadow(device("t1"));
    writer.update(|_| Some(json!({"desired": {"target": 20}}))).await.unwrap();

    let mut board = dashboard.watch(Scope::All, &[Topic::Document], 16).await.unwrap();
    let Event::Document(shadow, Some(document)) = next(&mut board).await else { panic!("the document comes at once") };
    assert_eq!((shadow.to_string().as_str(), document.version), ("t1", Version(1)));

    let own = thermostat.shadow(device("t1"));
    let mut watch = own.watch(&[Topic::Delta, Topic::Changes, Topic::Accepted], 16).await.unwrap();
    writer.update(|_| Some(json!({"desired": {"target": 21}}))).await.unwrap();
    let Event::Delta(_, delta) = next(&mut watch).await else { panic!("first the delta") };
    assert_eq!((json!(delta.state), delta.version), (json!({"target": 21}), Version(2)));
    let Event::Changed(_, change) = next(&mut watch).await else { panic!("then the documents") };
    assert_eq!(change.previous.map(|document| document.version), Some(Version(1)));
    assert_eq!(change.current.pointer("/desired/target"), Some(&json!(21)));
    let Event::Accepted(_, accepted) = next(&mut watch).await else { panic!("then that it was accepted") };
    assert_eq!((accepted.version, accepted.changed), (Version(2), true));

    writer.delete(None).await.unwrap();
    loop {
        if let Event::Document(_, None) = next(&mut board).await {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_reconnects_after_a_restart_of_the_server() {
    let mut server = Server::with(UNLIMITED);
    let proxy = Proxy::to(server.address).await;
    let options = Options::new(&proxy.address.to_string(), "t1").unwrap().reply_deadline(*DEADLINE);
    let client = Client::connect(options).await.unwrap();
    let shadow = client.shadow(device("t1"));
    let mut watch = shadow.watch(&[Topic::Delta], 16).await.unwrap();
    shadow.update(increment).await.unwrap();

    server.kill();
    server.restart();
    proxy.now_to(server.address);
    loop {
        if next(&mut watch).await == Event::Resumed {
            break;
        }
    }
    shadow.update(increment).await.unwrap();
    shadow.update(|_| Some(json!({"desired": {"on": true}}))).await.unwrap();
    let Event::Delta(_, delta) = next(&mut watch).await else { panic!("the watch goes on") };
    assert_eq!(delta.version, Version(3));
    assert_eq!(count(&shadow.get().await.unwrap()), 2);
}

/// Every connection breaks at a random byte, so the client seldom knows whether its last request was applied.
#[tokio::test(flavor = "multi_thread")]
async fn keyed_updates_are_applied_once_over_breaking_connections() {
    const INCREMENTS: u64 = 1_200;
    let (counted, cuts, replayed) = increment_through_cuts(INCREMENTS, true).await;
    println!("{INCREMENTS} keyed increments over {cuts} cut connections: {replayed} were applied without a reply");
    assert!(cuts >= 1_000 && replayed > 0, "the connection did break: {cuts} times, {replayed} replays");
    assert_eq!(counted, INCREMENTS);
}

/// The test above would show the same if keys did nothing.
#[tokio::test(flavor = "multi_thread")]
async fn updates_without_keys_are_applied_twice_over_breaking_connections() {
    const INCREMENTS: u64 = 150;
    let (counted, cuts, _) = increment_through_cuts(INCREMENTS, false).await;
    println!("{INCREMENTS} increments without keys over {cuts} cut connections: counted {counted}");
    assert!(counted > INCREMENTS, "{counted}");
}

/// Increments over connections that break at random bytes; returns the count, the cuts, and the number of replays.
async fn increment_through_cuts(increments: u64, keyed: bool) -> (u64, u64, u64) {
    let seed = std::env::var("UMBRA_TEST_SEED").map_or(0x5eed, |text| text.parse().unwrap());
    println!("seed {seed}");
    let server = Server::with(UNLIMITED);
    let proxy = Proxy::cutting(server.address, seed).await;
    let soon = Backoff::new(Duration::from_millis(1), Duration::from_millis(4), 10_000);
    let options = Options::new(&proxy.address.to_string(), "counting").unwrap();
    let shadow = Client::start(options.reply_deadline(*DEADLINE).reconnect(soon)).shadow(device("counter"));
    let mut replayed = 0;
    for _ in 0..increments {
        let options = WriteOptions::default().keyed(keyed).backoff(soon);
        let accepted = shadow.update_with(&options, increment).await.unwrap().expect("there is always something to do");
        replayed += u64::from(accepted.replayed);
    }
    let end = connect(&server, "reader").await.shadow(device("counter")).get().await.unwrap();
    assert_eq!(end.version, Version(count(&end)), "every change is one more");
    (count(&end), proxy.cuts(), replayed)
}

const HTTP: &str = r#"

[[listener]]
name = "http"
kind = "http"
bind = "127.0.0.1:0"
"#;

/// Starts a server with an HTTP listener; returns a client that knows its URL.
async fn server_with_http() -> (Server, Client, String) {
    let server = Server::with(Setup { listener: HTTP, ..UNLIMITED });
    let url = format!("http://{}", server.address_of("http"));
    let options = Options::new(&server.address.to_string(), "back-end").unwrap().reply_deadline(*DEADLINE);
    let client = Client::connect(options.http_url(&url).unwrap()).await.unwrap();
    (server, client, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_and_desires_need_no_version_and_are_typed() {
    #[derive(Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
    #[serde(default)]
    struct Lamp {
        desired: Light,
        reported: Light,
    }
    #[derive(Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Light {
        power: Option<String>,
    }
    let light = |power: &str| Light { power: Some(power.to_owned()) };

    let server = Server::start();
    let shadow = connect(&server, "lamp").await.shadow(device("lamp"));
    assert_eq!(shadow.get_as::<Lamp>().await.unwrap(), Lamp::default(), "without a shadow");
    assert_eq!(shadow.report(&light("off")).await.unwrap().version, Version(1));
    assert_eq!(shadow.desire(json!({"power": "on"})).await.unwrap().version, Version(2));
    let expected = Lamp { desired: light("on"), reported: light("off") };
    assert_eq!(shadow.get_as::<Lamp>().await.unwrap(), expected);
    shadow.report(json!({"power": 1})).await.unwrap();
    let error = shadow.get_as::<Lamp>().await.unwrap_err();
    assert_eq!((error.kind(), std::error::Error::source(&error).is_some()), (ErrorKind::Unreadable, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_returns_the_outcome_and_changes_nothing() {
    let server = Server::start();
    let shadow = connect(&server, "planner").await.shadow(device("lamp"));
    shadow.desire(json!({"power": "on"})).await.unwrap();
    let update = Update::new(json!({"desired": {"mode": "eco"}})).version(Version(1));
    let outcome = shadow.dry_run(&update).await.unwrap();
    assert_eq!((outcome.accepted.changed, outcome.document.pointer("/desired/mode")), (true, Some(&json!("eco"))));
    assert_eq!(shadow.get().await.unwrap().version, Version(1));
    let stale = shadow.dry_run(&update.version(Version(0))).await.unwrap_err();
    assert!(stale.rejection().is_some_and(|rejection| rejection.is_conflict()), "{stale}");
}

#[tokio::test(flavor = "multi_thread")]
async fn presence_lean_deltas_and_messages_are_streams() {
    let server = Server::start();
    let app = connect(&server, "app").await;
    let wifi = app.shadow(ShadowId::named(device("t1"), "wifi").unwrap());
    let mut presence = wifi.watch(&[Topic::Presence], 16).await.unwrap();
    let thermostat = connect(&server, "t1").await;
    thermostat.shadow(device("t1")).report(json!({"target": 20})).await.unwrap();
    let event = timeout(*DEADLINE, presence.next()).await.unwrap().unwrap();
    let Event::Presence(id, now) = &event else { panic!("{event:?}") };
    assert_eq!((id, now.connected, event.device()), (&device("t1"), true, Some(&device("t1"))));

    let deltas = thermostat.shadow(device("t1")).watch(&[Topic::LeanDelta], 16).await.unwrap();
    app.shadow(device("t1")).desire(json!({"target": 21})).await.unwrap();
    thermostat.shadow(device("t1")).report(json!({"target": 21})).await.unwrap();
    let deltas = deltas.map(|event| match event {
        Event::LeanDelta(_, delta) => delta.map(|delta| json!(delta.state)),
        other => panic!("{other:?}"),
    });
    let two: Vec<_> =
        timeout(*DEADLINE, deltas.skip_while(|delta| std::future::ready(delta.is_none())).take(2).collect())
            .await
            .unwrap();
    assert_eq!(two, [Some(json!({"target": 21})), None]);

    let messages = app.subscribe(&["plant/#"], Qos::AtLeastOnce, 16).await.unwrap();
    for payload in ["on", "off"] {
        thermostat.publish(Message::new("plant/lamp", payload)).await.unwrap();
    }
    let payloads = messages.take(2).map(|message| message.payload).collect::<Vec<_>>();
    assert_eq!(timeout(*DEADLINE, payloads).await.unwrap(), ["on", "off"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_and_histories_are_read_page_by_page_over_http() {
    let (_server, client, _) = server_with_http().await;
    for n in 1..=5 {
        client.shadow(device(&format!("lamp-{n}"))).desire(json!({"n": n})).await.unwrap();
    }
    let lamp = client.shadow(device("lamp-1"));
    for n in 2..=7 {
        lamp.desire(json!({"n": n})).await.unwrap();
    }
    lamp.delete(None).await.unwrap();
    lamp.report(json!({"n": 1})).await.unwrap();
    let named = ShadowId::named(device("lamp-1"), "$wifi").unwrap();
    client.shadow(named.clone()).report(json!({"ssid": "x"})).await.unwrap();

    let http = client.http().unwrap();
    let devices = http.devices(&DeviceQuery::new().prefix("lamp-").drift(true)).page_size(2);
    let ids: Vec<_> = devices.map_ok(|device| device.id).try_collect().await.unwrap();
    assert_eq!(ids, ["lamp-2", "lamp-3", "lamp-4", "lamp-5"]);
    let shadows: Vec<_> = http.shadows(&device("lamp-1")).page_size(1).try_collect().await.unwrap();
    assert_eq!(shadows.iter().map(|shadow| shadow.name.as_deref()).collect::<Vec<_>>(), [None, Some("$wifi")]);
    assert_eq!(http.device(&device("lamp-1")).await.unwrap().shadows, shadows);

    for page_size in [1, 2, 100] {
        let history = lamp.history(&HistoryQuery::new()).unwrap().page_size(page_size);
        let versions: Vec<_> = history.map_ok(|entry| (entry.version.0, entry.deleted)).try_collect().await.unwrap();
        let expected = [9, 8, 7, 6, 5, 4, 3, 2, 1].map(|version| (version, version == 8));
        assert_eq!(versions, expected, "pages of {page_size}");
        let older = lamp.history(&HistoryQuery::new().before(Version(4))).unwrap().page_size(page_size);
        let versions: Vec<_> = older.map_ok(|entry| entry.version.0).try_collect().await.unwrap();
        assert_eq!(versions, [3, 2, 1], "pages of {page_size}");
    }
    let mut newest = http.history(&named, &HistoryQuery::new());
    let change = newest.try_next().await.unwrap().unwrap();
    assert_eq!((change.version, change.changes[0].path.as_str()), (Version(1), "/reported"));
    let absent = http.history(&device("absent").into(), &HistoryQuery::new()).try_next().await.unwrap_err();
    assert_eq!(absent.rejection().map(|rejection| rejection.code), Some(404));
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_http_have_their_kind_and_source() {
    let server = Server::start();
    let client = connect(&server, "back-end").await;
    assert_eq!(client.http().unwrap_err().kind(), ErrorKind::NoHttp);
    let options = || Options::new(&server.address.to_string(), "other").unwrap();
    assert_eq!(options().http_url("mqtt://broker").unwrap_err().kind(), ErrorKind::InvalidInput);
    // An MQTT listener: it closes the connection without a response.
    let http = umbra_client::HttpClient::new(&format!("http://{}", server.address)).unwrap();
    let error = http.device(&device("lamp")).await.unwrap_err();
    assert_eq!((error.kind(), std::error::Error::source(&error).is_some()), (ErrorKind::Http, true), "{error:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_above_the_limit_are_dropped_by_the_broker() {
    let server = Server::with(UNLIMITED);
    let options = Options::new(&server.address.to_string(), "small").unwrap().reply_deadline(*DEADLINE);
    let small = Client::connect(options.packet_bytes_max(2_048)).await.unwrap();
    let mut events = small.watch(Scope::All, &[Topic::Changes], 16).await.unwrap();
    let large = connect(&server, "large").await;
    large.shadow(device("large")).desire(json!({"text": "x".repeat(4_000)})).await.unwrap();
    large.shadow(device("small")).desire(json!({"text": "x"})).await.unwrap();
    let event = next(&mut events).await;
    assert_eq!(event.device(), Some(&device("small")), "the larger event before it was dropped");
    assert!(small.connection_error().is_none());
}

/// Runs the examples of the library together: the thermostat follows the set point, the dashboard and the fleet show it.
#[tokio::test(flavor = "multi_thread")]
async fn the_examples_work_together() {
    let (server, client, url) = server_with_http().await;
    let (broker, device_name) = (server.address.to_string(), "thermostat-1".to_owned());
    let lines = dashboard::run(dashboard::Args { broker: broker.clone(), lines: Some(4) });
    let (lines, mut tasks) = (tokio::spawn(lines), JoinSet::new());
    let shadow = client.shadow(device(&device_name));
    let mut documents = shadow.watch(&[Topic::Document], 64).await.unwrap();
    tasks.spawn(thermostat::run(thermostat::Args {
        broker: broker.clone(),
        device: device_name.clone(),
        interval: 0.05,
    }));
    while !matches!(next(&mut documents).await, Event::Document(_, Some(document)) if document.reported().is_some()) {}
    let change = set_point::Args { broker, device: device_name, by: 1.5 };
    timeout(*DEADLINE, set_point::run(change)).await.unwrap().unwrap();
    let document = shadow.get().await.unwrap();
    assert_eq!(
        [21.5; 2].map(|target| Some(json!(target))),
        ["/desired/target", "/reported/target"].map(|path| document.pointer(path).cloned())
    );
    timeout(*DEADLINE, lines).await.expect("four lines").unwrap().unwrap();

    client.shadow(device("lamp-1")).desire(json!({"power": "on"})).await.unwrap();
    let lines = fleet::run(fleet::Args { url, changes: 3 }).await.unwrap();
    assert_eq!((lines.len(), lines[0].as_str()), (2, "lamp-1 away"), "{lines:?}");
    assert!(lines[1].contains("version 1 by") && lines[1].ends_with("/desired"), "{lines:?}");
}
