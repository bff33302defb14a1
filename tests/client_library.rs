//! The client library against the server: counting, watching, waiting for a quota, coming back.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod harness;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use harness::{
    DEADLINE,
    server::{Server, UNLIMITED},
};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::timeout};
use umbra_client::{
    Attempt, Client, DeviceId, Document, Error, News, Observer, Options, Reason, Scope, Shadow, Topic, Update, Version,
    Watch,
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
                shadow
                    .update_with(&WriteOptions::default().unkeyed(), increment)
                    .await
                    .unwrap()
                    .expect("there is always something to do");
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

#[allow(unreachable_pub, reason = "part of this test")]
/// A connection between client and server that the test can cut.
mod proxy {
    use std::{
        net::SocketAddr,
        sync::{Arc, Mutex},
    };

    use tokio::{
        io::copy_bidirectional,
        net::{TcpListener, TcpStream},
        sync::Notify,
        task::JoinSet,
    };

    pub struct Proxy {
        pub address: SocketAddr,
        server: Arc<Mutex<SocketAddr>>,
        cut: Arc<Notify>,
        // Its connections end with it.
        _tasks: JoinSet<()>,
    }

    impl Proxy {
        pub async fn to(server: SocketAddr) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("bound");
            let (server, cut) = (Arc::new(Mutex::new(server)), Arc::new(Notify::new()));
            let mut tasks = JoinSet::new();
            tasks.spawn(accept(listener, server.clone(), cut.clone()));
            Self { address, server, cut, _tasks: tasks }
        }

        /// New connections go to another address.
        pub fn now_to(&self, server: SocketAddr) {
            *self.server.lock().expect("no panic holds it") = server;
        }

        /// Ends all connections.
        pub fn cut(&self) {
            self.cut.notify_waiters();
        }
    }

    async fn accept(listener: TcpListener, server: Arc<Mutex<SocketAddr>>, cut: Arc<Notify>) {
        let mut connections = JoinSet::new();
        while let Ok((mut client, _)) = listener.accept().await {
            let (address, cut) = (*server.lock().expect("no panic holds it"), cut.clone());
            connections.spawn(async move {
                let Ok(mut server) = TcpStream::connect(address).await else { return };
                tokio::select! {
                    _ = copy_bidirectional(&mut client, &mut server) => {}
                    () = cut.notified() => {}
                }
            });
        }
    }
}
