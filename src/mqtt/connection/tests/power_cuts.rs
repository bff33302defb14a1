//! The broker on a disk that loses power before each sync and at some writes, against what its clients were promised.
//!
//! A script of clients runs once: sessions that come and go, subscriptions, messages at QoS 1 and 2 in both directions,
//! retained ones, wills, updates of a shadow. Before each operation of the disk, its content after a power cut is noted,
//! with the state of the clients then. A new broker continues from each: the clients connect to it and go on. At the
//! end, all that was acknowledged has arrived, at QoS 2 exactly once.

#![expect(clippy::indexing_slicing, reason = "tests")]

mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use self::world::{Sending, Subscribed, UPDATE, World};
use crate::{
    admission::Quotas,
    auth::{Authority, Policy, authn::certificate::PeerCertificate},
    clock::Clock,
    config::Config,
    engine::Service,
    mqtt::{
        broker::{Broker, durable::Recorder, router::Router},
        connection::handshake,
        shadow::fan_out::Events,
    },
    net::preauth_stream::PreAuthStream,
    shadow::{DeviceId, ShadowKey},
    store::{
        StoreOptions,
        tests::{Operation, Random, Repaired, SimDisk, Stop},
    },
};

const STEPS: u32 = 90;
/// The clients. The last one has a will, and does not come back.
const NAMES: &[u8] = b"abcpw";
const B: usize = 1;
const C: usize = 2;
const P: usize = 3;
const W: usize = 4;
const FILTERS: [&[(&str, u8)]; 5] = [
    &[("t0", 2), ("t1", 2), ("m0", 2)],
    &[("t0", 1), ("t1", 1), ("w0", 1), ("m0", 2)],
    &[("t0", 2), ("t1", 1), ("m0", 2)],
    &[("m0", 2)],
    &[("x0", 1)],
];
/// Messages of the publisher under way, and so the packet identifiers that it uses again and again.
const WINDOW: u16 = 6;
/// One of this many writes is tried as the last.
const WRITES: u64 = 9;

/// A power cut: the content of the disk, and the state of the clients at that moment.
struct PowerCut {
    image: Vec<u8>,
    world: World,
    about: String,
}

/// A broker, and the ends of its connections.
struct Run {
    disk: SimDisk,
    broker: Arc<Broker>,
    world: Arc<Mutex<World>>,
    streams: Vec<Option<DuplexStream>>,
    input: Vec<Vec<u8>>,
    random: Random,
    about: String,
    directory: tempfile::TempDir,
}

fn open(disk: &SimDisk, directory: &std::path::Path) -> Arc<Broker> {
    open_as(disk, directory, &Config::default())
}

/// Returns a broker with the sessions that `disk` has.
pub(super) fn open_as(disk: &SimDisk, directory: &std::path::Path, config: &Config) -> Arc<Broker> {
    let options = StoreOptions {
        free_disk_min: 0,
        page_cache_bytes: 1 << 20,
        document_cache_bytes: 1 << 20,
        // Every few commits write rows to their table.
        row_lag_bytes_max: 2_000,
        disk: Some(disk.clone()),
        ..StoreOptions::new(directory.join("store"))
    };
    let clock = Clock::system();
    let (service, decided) = Service::open(options, Arc::new(Quotas::new(&config.limits)), clock.clone()).unwrap();
    let service = Arc::new(service);
    let authority = Authority::open(config, Policy::of(config).unwrap(), clock).unwrap();
    let router = Arc::new(Router::new(Recorder::new(service.clone())));
    let events = Arc::new(Events::new(router.clone(), service.head()));
    let notifier = events.clone();
    std::thread::spawn(move || decided.notify(notifier));
    let broker = Arc::new(Broker::new(service, events, router, Arc::new(authority), &config.limits));
    broker.restore(|_, _| false).unwrap();
    tokio::spawn(broker.clone().watch_sessions());
    broker
}

impl Run {
    fn start(disk: SimDisk, world: World, seed: u64, about: String) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let broker = open(&disk, directory.path());
        let streams = NAMES.iter().map(|_| None).collect();
        let (world, input) = (Arc::new(Mutex::new(world)), vec![Vec::new(); NAMES.len()]);
        Self { disk, broker, world, streams, input, random: Random::new(seed), about, directory }
    }

    /// Ends the broker. What its clients had not read is lost.
    async fn end(mut self) -> World {
        self.streams.clear();
        self.broker.close();
        let service = self.broker.service.clone();
        tokio::task::spawn_blocking(move || service.close()).await.unwrap();
        drop(self.directory);
        self.world.lock().clone()
    }

    async fn send(&mut self, client: usize, bytes: &[u8]) {
        if let Some(stream) = &mut self.streams[client] {
            let _ = stream.write_all(bytes).await;
        }
    }

    /// Has a client connect with its session, and send again what was not acknowledged.
    async fn connect(&mut self, client: usize, will: Option<u16>) {
        let (near, far) = tokio::io::duplex(1 << 16);
        let peer = super::peer(PeerCertificate::None, &self.broker);
        let far = PreAuthStream::new(far, peer.preauth_permit.clone());
        let deadline = Instant::now() + Duration::from_secs(60);
        tokio::spawn(handshake::serve(far, peer, self.broker.clone(), deadline));
        self.streams[client] = Some(near);
        self.input[client].clear();
        self.send(client, &world::connect(NAMES[client], will)).await;
        self.until("CONNACK", |world| world.clients[client].is_connected).await;
        let again = {
            let world = self.world.lock();
            world.clients[client].resumed(&world.messages)
        };
        self.send(client, &again).await;
    }

    fn drop_connection(&mut self, client: usize) {
        self.streams[client] = None;
        self.world.lock().clients[client].is_connected = false;
    }

    /// Has each client process at most `packets` of the packets that it has received.
    async fn pump(&mut self, packets: usize) {
        tokio::task::yield_now().await;
        for client in 0..NAMES.len() {
            let mut bytes = [0; 4096];
            let read = self.streams[client].as_mut().and_then(|stream| stream.read(&mut bytes).now_or_never());
            if let Some(Ok(length)) = read {
                self.input[client].extend_from_slice(&bytes[..length]);
            }
            for _ in 0..packets {
                let length = self.input[client].get(1).map_or(0, |length| 2 + usize::from(*length));
                if length == 0 || self.input[client].len() < length {
                    break;
                }
                let packet: Vec<u8> = self.input[client].drain(..length).collect();
                // A moment before or after which power is cut, but not during it.
                let answer = self.world.lock().receive(client, &packet);
                self.send(client, &answer.unwrap_or_default()).await;
            }
        }
    }

    /// Waits until `is_reached`, or the disk has stopped.
    async fn until(&mut self, what: &str, is_reached: impl Fn(&World) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !is_reached(&self.world.lock()) && !self.disk.has_stopped() {
            assert!(Instant::now() < deadline, "{}: no {what}: {:#?}", self.about, self.world.lock());
            self.pump(usize::MAX).await;
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
    }

    /// Has the publisher send a message with the lowest free identifier.
    async fn publish(&mut self, topic: &'static str, qos: u8, clears: bool) {
        let bytes = {
            let world = &mut *self.world.lock();
            let sending = &world.clients[P].sending;
            let Some(id) = (1..=WINDOW).find(|id| sending.iter().all(|sending| sending.id != *id)) else { return };
            let number = world.message(topic, qos, clears);
            world.clients[P].sending.push(Sending { id, number, has_pubrec: false });
            world::publish(&world.messages[usize::from(number)], number, id, false)
        };
        self.send(P, &bytes).await;
    }

    async fn drain(&mut self) {
        if self.streams[P].is_none() {
            self.connect(P, None).await;
        }
        self.until("acknowledgements", |world| world.clients[P].sending.is_empty()).await;
    }

    /// Subscribes the client, or ends the subscription. No message is under way meanwhile.
    async fn toggle(&mut self, client: usize, topic: &'static str) {
        self.drain().await;
        if self.streams[client].is_none() {
            self.connect(client, None).await;
        }
        let bytes = {
            let World { clients, messages, .. } = &mut *self.world.lock();
            let subscriptions = &mut clients[client].subscriptions;
            match subscriptions.get_mut(topic) {
                Some((_, state)) => {
                    *state = Subscribed::Leaving;
                    messages.iter_mut().filter(|sent| sent.topic == topic).for_each(|sent| sent.is_optional = true);
                    world::unsubscribe(topic)
                }
                None => {
                    subscriptions.insert(topic, (2, Subscribed::Requested));
                    world::subscribe(&[(topic, 2)])
                }
            }
        };
        self.send(client, &bytes).await;
        let is_settled = |world: &World| {
            world.clients[client].subscriptions.values().all(|(_, state)| *state == Subscribed::Granted)
        };
        self.until("SUBACK", is_settled).await;
    }

    async fn subscribe(&mut self, client: usize) {
        let filters = FILTERS[client];
        let asked = filters.iter().map(|(filter, qos)| (*filter, (*qos, Subscribed::Requested)));
        self.world.lock().clients[client].subscriptions.extend(asked);
        self.send(client, &world::subscribe(filters)).await;
        let is_granted = |(_, state): &(u8, Subscribed)| *state == Subscribed::Granted;
        self.until("SUBACK", |world| world.clients[client].subscriptions.values().all(is_granted)).await;
    }

    /// Connects the client with another will, which is promised when a later request is acknowledged, or has it lose its
    /// connection.
    async fn will(&mut self) {
        if self.streams[W].is_some() {
            return self.drop_connection(W);
        }
        let number = self.world.lock().message("w0", 1, false);
        self.connect(W, Some(number)).await;
        self.subscribe(W).await;
        if !self.disk.has_stopped() {
            self.world.lock().messages[usize::from(number)].is_acknowledged = true;
        }
    }

    async fn step(&mut self) {
        match self.random.below(16) {
            kind @ 0..6 => {
                let topic = ["t0", "t1", "t2"][usize::try_from(kind / 2).unwrap()];
                let qos = if self.random.chance(2) { 1 } else { 2 };
                self.publish(topic, qos, false).await;
            }
            6 => {
                let (qos, clears) = (if self.random.chance(2) { 1 } else { 2 }, self.random.chance(3));
                self.publish("r0", qos, clears).await;
            }
            7 => self.publish(UPDATE, 2, false).await,
            8..11 => {
                let client = usize::try_from(self.random.below(4)).unwrap();
                match self.streams[client] {
                    Some(_) => self.drop_connection(client),
                    None => self.connect(client, None).await,
                }
            }
            11 if self.random.chance(2) => self.toggle(C, "t2").await,
            12 => self.will().await,
            _ => self.pump(usize::MAX).await,
        }
        let packets = usize::try_from(self.random.below(3)).unwrap();
        self.pump(packets).await;
    }

    async fn setup(&mut self) {
        for client in 0..W {
            self.connect(client, None).await;
            self.subscribe(client).await;
        }
    }
}

/// Runs the script. Returns the power cuts. `stop` says when the disk stops, by the number of syncs before the script.
async fn play(seed: u64, stop: impl Fn(u64) -> Stop) -> Vec<PowerCut> {
    let world = World { clients: vec![Default::default(); NAMES.len()], ..World::default() };
    let mut run = Run::start(SimDisk::new(Vec::new(), Stop::Never), world, seed, format!("seed {seed}"));
    run.setup().await;
    let stop = stop(run.disk.operations().0);
    run.about = format!("seed {seed}, {stop:?}");
    run.world.lock().may_fail = stop != Stop::Never;
    run.disk.repair(Repaired::Pending, stop);
    let cuts = Arc::new(Mutex::new(Vec::new()));
    let (noted, world, mut random) = (cuts.clone(), run.world.clone(), Random::new(seed));
    let cut = move |disk: &SimDisk, operation: Operation| {
        let (syncs, writes) = disk.operations();
        let image = match operation {
            Operation::Sync => disk.durable(),
            Operation::Write if writes.is_multiple_of(WRITES) => disk.torn(&mut random),
            Operation::Write => return,
        };
        let about = format!("seed {seed}, {operation:?} after {syncs} syncs and {writes} writes");
        noted.lock().push(PowerCut { image, world: world.lock().clone(), about });
    };
    if stop == Stop::Never {
        run.disk.observe(cut);
    }
    for _ in 0..STEPS {
        run.step().await;
    }
    let world = run.world.lock().clone();
    let mut cuts = std::mem::take(&mut *cuts.lock());
    cuts.push(PowerCut { image: run.disk.durable(), world, about: format!("{}, the end", run.about) });
    run.end().await;
    cuts
}

/// Continues after a power cut, and checks every promise.
async fn check(PowerCut { image, world, about }: PowerCut) {
    let before = world.clone();
    let mut run = Run::start(SimDisk::new(image, Stop::Never), world, 0, about.clone());
    run.world.lock().clients.iter_mut().for_each(|client| client.is_connected = false);
    run.check_state(&before).await;
    for client in 0..W {
        run.connect(client, None).await;
    }
    run.drain().await;
    // To each topic one more, the last to one that all sessions have.
    for topic in ["t0", "t1", "t2", "r0", UPDATE, "m0"] {
        run.publish(topic, 2, false).await;
        run.drain().await;
    }
    let last = u16::try_from(run.world.lock().messages.len() - 1).unwrap();
    let has_all = |world: &World| {
        let done = |client: &world::Client| client.accepted.contains(&(last, 2)) && client.unreleased.is_empty();
        // The broker publishes wills when it starts, and so does the loss of a connection.
        let wills = (0..).zip(&world.messages).filter(|(_, sent)| sent.topic == "w0" && sent.is_acknowledged);
        let has_wills = wills.map(|(number, _)| number).all(|number| world.clients[B].accepted.contains(&(number, 1)));
        world.clients[..W].iter().all(done) && has_wills
    };
    run.until("messages", has_all).await;
    let world = run.world.lock().clone();
    run.check_state(&world).await;
    check_messages(&run.end().await, &about);
}

impl Run {
    /// Checks the retained message and the shadow, before anything is sent again.
    async fn check_state(&self, world: &World) {
        let retained = self.broker.router.retained_on("r0");
        let retained = retained.map(|(message, _)| u16::from_be_bytes([message.payload[0], message.payload[1]]));
        let possible = world.possible("r0");
        assert!(possible.contains(&retained), "{}: {retained:?} is retained, not {possible:?}", self.about);
        let key = ShadowKey::classic(DeviceId::new("d").unwrap());
        let document = self.broker.service.read(&key).await.unwrap().document;
        let updates = || (0..).zip(&world.messages).filter(|(_, sent)| sent.topic == UPDATE);
        let version = usize::try_from(document.version.0).unwrap();
        if updates().any(|(_, sent)| sent.has_failed) {
            let acknowledged = updates().filter(|(_, sent)| sent.is_acknowledged).count();
            assert!((acknowledged..=updates().count()).contains(&version), "{}: version {version}", self.about);
            return;
        }
        let number = version.checked_sub(1).map(|at| updates().nth(at).expect("each has one effect").0);
        let possible = world.possible(UPDATE);
        assert!(possible.contains(&number), "{}: version {version}: {number:?}, not {possible:?}", self.about);
    }
}

/// Checks that each session has the messages that it was promised.
fn check_messages(world: &World, about: &str) {
    for (index, client) in world.clients[..W].iter().enumerate() {
        let mut counts: BTreeMap<u16, u32> = BTreeMap::new();
        client.accepted.iter().for_each(|(number, _)| *counts.entry(*number).or_default() += 1);
        let name = char::from(NAMES[index]);
        for (number, sent) in (0..).zip(&world.messages) {
            let what = || format!("{about}: {name}: message {number}: {sent:?}");
            let count = counts.get(&number).copied().unwrap_or_default();
            let receiver = sent.receivers.iter().find(|(receiver, _)| *receiver == index);
            let Some((_, qos)) = receiver else {
                assert!(count == 0, "{}: no subscription", what());
                continue;
            };
            assert!(count <= 1 || *qos == 1, "{}: {count} times", what());
            assert!(count > 0 || sent.is_optional || !sent.is_acknowledged, "{}: it is missing", what());
        }
        let mut seen = BTreeSet::new();
        let firsts = client.accepted.iter().map(|(number, _)| *number).filter(|number| seen.insert(*number));
        let firsts: Vec<u16> = firsts.collect();
        for topic in ["t0", "t1", "t2"] {
            let of_topic = firsts.iter().copied().filter(|number| world.messages[usize::from(*number)].topic == topic);
            let numbers: Vec<u16> = of_topic.collect();
            assert!(numbers.is_sorted(), "{about}: {name}: {topic}: {numbers:?}");
        }
    }
}

#[tokio::test]
async fn promises_are_kept_whenever_power_is_cut() {
    for seed in [1, 2] {
        let cuts = play(seed, |_| Stop::Never).await;
        println!("seed {seed}: {} power cuts of {} bytes", cuts.len(), cuts[0].image.len());
        for cut in cuts {
            check(cut).await;
        }
    }
}

/// A failed commit acknowledges nothing.
#[tokio::test]
async fn promises_are_kept_when_the_disk_stops() {
    for sync in (1..40).step_by(6) {
        for stop in [Stop::AtSync, Stop::AfterSync] {
            let cuts = play(3, |before| stop(before + sync)).await;
            check(cuts.into_iter().next_back().unwrap()).await;
        }
    }
}
