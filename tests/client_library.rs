//! The client library against the server: counting, watching, waiting for a quota, coming back.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod harness;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use harness::{
    DEADLINE,
    server::{Server, UNLIMITED},
};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::timeout};
use umbra_client::{
    Attempt, Backoff, Client, DeviceId, Document, Error, News, Observer, Options, Reason, Scope, Shadow, Topic, Update,
    Version, Watch, WriteOptions,
};

/// Counts what the writes of some clients went through.
#[derive(Default)]
struct Counts {
    tries: AtomicU64,
    conflicts: AtomicU64,
    put_off: AtomicU64,
}

impl Observer for Counts {
    fn tried(&self, attempt: &Attempt<'_>) {
        self.tries.fetch_add(1, Ordering::Relaxed);
        match attempt.outcome.err().and_then(Error::rejection).map(|rejection| rejection.code) {
            Some(409) => self.conflicts.fetch_add(1, Ordering::Relaxed),
            Some(429) => self.put_off.fetch_add(1, Ordering::Relaxed),
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

/// The next piece of news, which must come.
async fn next(watch: &mut Watch) -> News {
    timeout(*DEADLINE, watch.recv()).await.expect("news").expect("the client is open")
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
                shadow.update(increment).await.unwrap().expect("there is always something to do");
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
        // Whoever reads and writes needs two requests for one; these know that they write different fields.
        writers.spawn(async move { send_until_accepted(&shadow, patch).await });
    }
    let tries: u64 = writers.join_all().await.into_iter().sum();
    let end = client.shadow(device("busy")).get().await.unwrap();
    assert_eq!(end.tags().map(|tags| tags.len() as u64), Some(WRITES));
    println!("{WRITES} writes took {tries} tries and {:?}", began.elapsed());
    assert!(tries < 2 * WRITES, "{tries} tries for {WRITES} writes: the quota was spent on refusals");
}

/// How many tries a blind write needs.
async fn send_until_accepted(shadow: &Shadow, patch: impl Fn(&Document) -> Option<Value>) -> u64 {
    let state = patch(&Document::default()).unwrap_or_default();
    for tries in 1.. {
        match shadow.send(&Update { state: state.clone(), ..Update::default() }).await {
            Ok(_) => return tries,
            Err(Error::Rejected(rejection)) if rejection.reason == Reason::TooManyRequests => {}
            Err(other) => panic!("{other}"),
        }
    }
    0
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_typed() {
    let server = Server::start();
    let client = connect(&server, "clumsy").await;
    let shadow = client.shadow(device("lamp"));
    assert!(!shadow.get().await.unwrap().exists());
    let rejected =
        |outcome: Result<_, Error>| outcome.map(drop).unwrap_err().rejection().cloned().expect("a rejection");

    let absent = rejected(shadow.delete(None).await.map(|()| None));
    assert_eq!((absent.code, absent.reason), (404, Reason::NotFound));
    shadow.update(|_| Some(json!({"desired": {"power": "on"}}))).await.unwrap();
    let stale = Update { state: json!({"desired": {"power": "off"}}), version: Some(Version(0)), ..Update::default() };
    let conflict = rejected(shadow.send(&stale).await.map(Some));
    assert!(conflict.is_conflict());
    assert_eq!((conflict.expected, conflict.version), (Some(Version(0)), Some(Version(1))));
    let nonsense = rejected(shadow.update(|_| Some(json!({"wished": {}}))).await);
    assert_eq!((nonsense.code, nonsense.reason), (400, Reason::Other));
    assert_eq!(shadow.update(|_| None).await, Ok(None));
    shadow.delete(Some(Version(1))).await.unwrap();
    assert!(!shadow.get().await.unwrap().exists());
    client.close().await;
    assert_eq!(shadow.send(&stale).await, Err(Error::Closed));
}

#[tokio::test(flavor = "multi_thread")]
async fn rebased_writers_of_different_fields_never_conflict_and_of_the_same_field_always_do() {
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
async fn a_conflict_says_what_collided_and_a_merge_resolves_the_rest() {
    let server = Server::start();
    let shadow = connect(&server, "editor").await.shadow(device("form"));
    shadow.update(|_| Some(json!({"desired": {"target": 19, "mode": "eco"}}))).await.unwrap();
    let base = shadow.get().await.unwrap();
    shadow.update(|_| Some(json!({"desired": {"target": 23, "fan": 2}}))).await.unwrap();

    let mine = json!({"desired": {"target": 21, "mode": "heat"}});
    let update = Update { state: mine.clone(), version: Some(base.version), ..Update::default() };
    let refused = shadow.send(&update).await.unwrap_err();
    let rejection = refused.rejection().unwrap();
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
    let given_in = json!({"desired": {"target": 19, "mode": "heat"}});
    let merged = umbra_client::merge(&desired(&base), &given_in, &desired(&theirs)).unwrap();
    let options = WriteOptions::default().from(theirs);
    shadow.update_with(&options, |now| umbra_client::patch::between(&desired(now), &merged)).await.unwrap();
    let end = shadow.get().await.unwrap();
    assert_eq!(desired(&end), json!({"desired": {"target": 23, "mode": "heat", "fan": 2}}));
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_tell_what_they_are_for() {
    let server = Server::start();
    let (app, dashboard, thermostat) =
        (connect(&server, "app").await, connect(&server, "dashboard").await, connect(&server, "t1").await);
    let wish = app.shadow(device("t1"));
    wish.update(|_| Some(json!({"desired": {"target": 20}}))).await.unwrap();

    let mut board = dashboard.watch(Scope::All, &[Topic::Document], 16).await.unwrap();
    let News::Document(shadow, Some(document)) = next(&mut board).await else { panic!("what is there comes at once") };
    assert_eq!((shadow.to_string().as_str(), document.version), ("t1", Version(1)));

    let own = thermostat.shadow(device("t1"));
    let mut news = own.watch(&[Topic::Delta, Topic::Changes, Topic::Accepted], 16).await.unwrap();
    wish.update(|_| Some(json!({"desired": {"target": 21}}))).await.unwrap();
    let News::Delta(_, delta) = next(&mut news).await else { panic!("first the delta") };
    assert_eq!((json!(delta.state), delta.version), (json!({"target": 21}), Version(2)));
    let News::Changed(_, change) = next(&mut news).await else { panic!("then the documents") };
    assert_eq!(change.previous.map(|document| document.version), Some(Version(1)));
    assert_eq!(change.current.pointer("/desired/target"), Some(&json!(21)));
    let News::Accepted(_, accepted) = next(&mut news).await else { panic!("then that it was accepted") };
    assert_eq!((accepted.version, accepted.changed), (Version(2), true));

    wish.delete(None).await.unwrap();
    loop {
        if let News::Document(_, None) = next(&mut board).await {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_comes_back_after_the_server_did() {
    let mut server = Server::with(UNLIMITED);
    let proxy = proxy::Proxy::to(server.address).await;
    let options = Options::new(&proxy.address.to_string(), "t1").unwrap().reply_deadline(*DEADLINE);
    let client = Client::connect(options).await.unwrap();
    let shadow = client.shadow(device("t1"));
    let mut news = shadow.watch(&[Topic::Delta], 16).await.unwrap();
    shadow.update(increment).await.unwrap();

    server.kill();
    server.restart();
    proxy.now_to(server.address);
    loop {
        if next(&mut news).await == News::Resumed {
            break;
        }
    }
    shadow.update(increment).await.unwrap();
    shadow.update(|_| Some(json!({"desired": {"on": true}}))).await.unwrap();
    let News::Delta(_, delta) = next(&mut news).await else { panic!("the watch goes on") };
    assert_eq!(delta.version, Version(3));
    assert_eq!(count(&shadow.get().await.unwrap()), 2);
}

/// A client that never knows whether its last request got in.
#[tokio::test(flavor = "multi_thread")]
async fn a_keyed_update_counts_once_however_often_the_connection_breaks() {
    const INCREMENTS: u64 = 1_200;
    let (counted, cuts, replayed) = increment_through_cuts(INCREMENTS, true).await;
    println!("{INCREMENTS} keyed increments over {cuts} cut connections: {replayed} had got in unheard");
    assert!(cuts >= 1_000 && replayed > 0, "the connection did break: {cuts} times, {replayed} replays");
    assert_eq!(counted, INCREMENTS);
}

/// What the test above would show if keys did nothing.
#[tokio::test(flavor = "multi_thread")]
async fn without_keys_what_got_in_unheard_counts_twice() {
    const INCREMENTS: u64 = 150;
    let (counted, cuts, _) = increment_through_cuts(INCREMENTS, false).await;
    println!("{INCREMENTS} increments without keys over {cuts} cut connections: counted {counted}");
    assert!(counted > INCREMENTS, "{counted}");
}

/// Increments over connections that break at random places: the count, the cuts, and how many were replays.
async fn increment_through_cuts(increments: u64, keyed: bool) -> (u64, u64, u64) {
    let seed = std::env::var("UMBRA_TEST_SEED").map_or(0x5eed, |text| text.parse().unwrap());
    println!("seed {seed}");
    let server = Server::with(UNLIMITED);
    let proxy = proxy::Proxy::cutting(server.address, seed).await;
    let soon = Backoff { base: Duration::from_millis(1), cap: Duration::from_millis(4), tries_max: 10_000 };
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

/// What stands between client and server: goes to another server when told, and cuts connections.
#[allow(unreachable_pub, reason = "part of this test")]
mod proxy {
    use std::{
        net::SocketAddr,
        sync::{
            Arc, Mutex,
            atomic::{AtomicU64, Ordering},
        },
    };

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        task::JoinSet,
    };

    use super::harness::Seed;

    pub struct Proxy {
        pub address: SocketAddr,
        server: Arc<Mutex<SocketAddr>>,
        cuts: Arc<AtomicU64>,
        // Its connections end with it.
        _tasks: JoinSet<()>,
    }

    impl Proxy {
        /// To `server`, until told otherwise.
        pub async fn to(server: SocketAddr) -> Self {
            Self::start(server, None).await
        }

        /// To `server`; each connection ends after a number of bytes that `seed` decides.
        pub async fn cutting(server: SocketAddr, seed: u64) -> Self {
            Self::start(server, Some(Seed(seed))).await
        }

        async fn start(server: SocketAddr, seed: Option<Seed>) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("bound");
            let (server, cuts) = (Arc::new(Mutex::new(server)), Arc::new(AtomicU64::new(0)));
            let mut tasks = JoinSet::new();
            tasks.spawn(accept(listener, server.clone(), seed, cuts.clone()));
            Self { address, server, cuts, _tasks: tasks }
        }

        /// New connections go to another address.
        pub fn now_to(&self, server: SocketAddr) {
            *self.server.lock().expect("no panic holds it") = server;
        }

        /// Connections cut so far.
        pub fn cuts(&self) -> u64 {
            self.cuts.load(Ordering::Relaxed)
        }
    }

    async fn accept(
        listener: TcpListener,
        server: Arc<Mutex<SocketAddr>>,
        mut seed: Option<Seed>,
        cuts: Arc<AtomicU64>,
    ) {
        let mut connections = JoinSet::new();
        while let Ok((client, _)) = listener.accept().await {
            let (address, cuts) = (*server.lock().expect("no panic holds it"), cuts.clone());
            let budget = seed.as_mut().map_or(usize::MAX, |seed| 100 + seed.below(2_500) as usize);
            connections.spawn(async move {
                let Ok(server) = TcpStream::connect(address).await else { return };
                if forward(client, server, budget).await {
                    cuts.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    }

    /// Forwards `budget` bytes, both directions together; true if that is why it ended.
    async fn forward(mut client: TcpStream, mut server: TcpStream, mut budget: usize) -> bool {
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (mut up, mut down) = ([0; 4096], [0; 4096]);
        while budget > 0 {
            let forwarded = tokio::select! {
                read = client.read(&mut up) => copy(&up, read, &mut server, budget).await,
                read = server.read(&mut down) => copy(&down, read, &mut client, budget).await,
            };
            match forwarded {
                Some(bytes) => budget -= bytes,
                None => return false,
            }
        }
        true
    }

    /// How many bytes went on; `None` at the end.
    async fn copy(buffer: &[u8], read: std::io::Result<usize>, to: &mut TcpStream, budget: usize) -> Option<usize> {
        let bytes = read.ok().filter(|bytes| *bytes > 0)?.min(budget);
        to.write_all(&buffer[..bytes]).await.ok()?;
        Some(bytes)
    }
}
