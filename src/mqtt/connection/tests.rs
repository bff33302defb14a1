//! Tests of requests that wait for the engine when their connection ends, of the connection and session counts of a
//! principal, of wills that wait, and of connections that always have input.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll},
    thread,
};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf};

use super::*;
use crate::{
    admission::{PrincipalQuota, Quotas, Rate},
    auth::{
        Access, AuthContext, Authority, Expiry, Method, Policy, Principal,
        authn::certificate::{PeerCertificate, tests::verified},
    },
    clock::Clock,
    config::Config,
    engine::Service,
    mqtt::{
        broker::{
            durable::Recorder,
            outbox::SessionId,
            router::Router,
            sessions::{Arrival, ClosedSession},
        },
        connection::handshake,
        protocol::{packet::QoS, topic::TopicName},
        shadow::fan_out::Events,
    },
    net::{Peer, preauth_stream::PreAuthStream},
    shadow::{ShadowKey, Version},
    store::StoreOptions,
};

mod ended_sessions;
mod power_cuts;
mod unsubscribes;

pub(in crate::mqtt) const QUEUE_BYTES: usize = 4096;

pub(in crate::mqtt) fn broker(directory: &std::path::Path) -> Arc<Broker> {
    broker_with(directory, Config::default())
}

fn broker_with(directory: &std::path::Path, config: Config) -> Arc<Broker> {
    broker_at(directory, config, Clock::system())
}

fn broker_at(directory: &std::path::Path, config: Config, clock: Clock) -> Arc<Broker> {
    broker_of(directory, config, clock, |_| Router::default())
}

/// Returns a broker that writes the rows of its state.
pub(in crate::mqtt) fn recording_broker(directory: &std::path::Path) -> Arc<Broker> {
    broker_of(directory, Config::default(), Clock::system(), |service| Router::new(Recorder::new(service)))
}

fn broker_of(
    directory: &std::path::Path,
    config: Config,
    clock: Clock,
    router: impl FnOnce(Arc<Service>) -> Router,
) -> Arc<Broker> {
    let path = directory.join("store");
    let options = StoreOptions {
        queue_bytes_max: QUEUE_BYTES,
        free_disk_min: 0,
        page_cache_bytes: 0,
        document_cache_bytes: 0,
        ..StoreOptions::new(path)
    };
    let (service, decided) = Service::open(options, Arc::new(Quotas::new(&config.limits)), clock.clone()).unwrap();
    let (service, authority) =
        (Arc::new(service), Authority::open(&config, Policy::of(&config).unwrap(), clock).unwrap());
    let router = Arc::new(router(service.clone()));
    let events = Arc::new(Events::new(router.clone(), service.head()));
    let notifier = events.clone();
    thread::spawn(move || decided.notify(notifier));
    Arc::new(Broker::new(service, events, router, Arc::new(authority), &config.limits))
}

/// Connects with one persistent 3.1.1 session; its CONNACK must have this session-present flag.
pub(in crate::mqtt) async fn connect(broker: &Arc<Broker>, present: u8) -> DuplexStream {
    let (near, answer) =
        connect_with(broker, PeerCertificate::None, b"\x10\x0d\x00\x04MQTT\x04\x00\x00\x00\x00\x01c").await;
    assert_eq!(answer, [0x20, 2, present, 0]);
    near
}

/// Sends a 3.1.1 CONNECT and returns the first four bytes of the answer.
pub(in crate::mqtt) async fn connect_with(
    broker: &Arc<Broker>,
    proof: PeerCertificate,
    connect: &[u8],
) -> (DuplexStream, [u8; 4]) {
    let (mut near, far) = tokio::io::duplex(4096);
    let peer = peer(proof, broker);
    let far = PreAuthStream::new(far, peer.preauth_permit.clone());
    tokio::spawn(handshake::serve(far, peer, broker.clone(), Instant::now() + Duration::from_secs(60)));
    near.write_all(connect).await.unwrap();
    let answer = read(&mut near).await;
    (near, answer)
}

fn peer(proof: PeerCertificate, broker: &Broker) -> Peer {
    let ip = [127, 0, 0, 1].into();
    let preauth_permit = broker.service.quotas().stranger(ip, Instant::now());
    Peer { address: (ip, 1).into(), proof, listener: "local".into(), signed_in: None, preauth_permit }
}

async fn read(stream: &mut DuplexStream) -> [u8; 4] {
    let mut packet = [0; 4];
    let read = stream.read_exact(&mut packet);
    tokio::time::timeout(Duration::from_secs(60), read).await.expect("a packet").unwrap();
    packet
}

/// Returns the update with packet identifier 1; `first` is the first byte of the packet, with the QoS.
fn update(first: u8) -> Vec<u8> {
    let body = [&b"\x00\x0fshadow/d/update\x00\x01"[..], br#"{"state":{"reported":{"n":1}}}"#].concat();
    [&[first, u8::try_from(body.len()).unwrap()], body.as_slice()].concat()
}

/// A session was taken over while its request waited for the engine. The request was gone, but its resend was mistaken
/// for one under decision: it, and all later requests, waited forever.
#[tokio::test]
async fn accepts_the_resend_of_a_request_that_waited_for_the_engine() {
    for (sent, resent, answer) in [(0x32, 0x3a, 0x40), (0x34, 0x3c, 0x50)] {
        let directory = tempfile::tempdir().unwrap();
        let broker = broker(directory.path());
        let allowance = PrincipalQuota::unlimited("other");
        let full = broker.service.try_reserve(&allowance, QUEUE_BYTES).expect("nothing is queued");
        let mut first = connect(&broker, 0).await;
        first.write_all(&update(sent)).await.unwrap();
        for _ in 0..100 {
            tokio::task::yield_now().await; // by now the only thread has received the request
        }
        let mut second = connect(&broker, 1).await;
        second.write_all(&update(resent)).await.unwrap();
        drop(full);
        assert_eq!(read(&mut second).await, [answer, 2, 0, 1]);
    }
}

const PERSISTENT: u8 = 0x00;
const CLEAN: u8 = 0x02;

/// The input of a refused client occupied memory until the client closed the connection.
#[tokio::test]
async fn frees_the_memory_of_a_refused_client() {
    let directory = tempfile::tempdir().unwrap();
    let broker = broker(directory.path());
    let free = || {
        let permit = broker.service.quotas().stranger([127, 0, 0, 1].into(), Instant::now());
        let more = || tokio::task::unconstrained(poll_fn(|context| permit.poll_room(context))).now_or_never();
        std::iter::from_fn(more).filter_map(Result::unwrap).inspect(|bytes| permit.count(*bytes)).count()
    };
    let before = free();
    let head = b"\x10\xd9\x8c\x01\x00\x04MQTT\x05\x04\x00\x00\x04\x15\x00\x01x\x00\x01c\x00\x00\x01w\x46\x41";
    let connect = [&head[..], &[b'w'; 17_985]].concat();
    let (_near, answer) = connect_with(&broker, PeerCertificate::None, &connect).await;
    assert_eq!((answer[0], answer[3]), (0x20, 0x8c), "enhanced authentication is refused");
    assert_eq!(free(), before);
}

/// Sessions with one certificate on many devices are counted together, whatever their client ids. A new one ends the
/// session that is away for longest, and is refused only while all are connected.
#[tokio::test]
async fn limits_sessions_per_principal() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.roles.iter_mut().for_each(|role| role.limits.sessions = 2);
    let broker = broker_with(directory.path(), config);
    let connect = async |principal: &str, client: u8, flags: u8| {
        let connect = [&b"\x10\x0d\x00\x04MQTT\x04"[..], &[flags], b"\x00\x00\x00\x01", &[client]].concat();
        let (near, answer) = connect_with(&broker, verified(principal, &Arc::default()), &connect).await;
        (near, (answer[2], answer[3]))
    };
    let disconnect = async |mut near: DuplexStream| {
        near.write_all(b"\xe0\x00").await.unwrap();
        assert_eq!(near.read(&mut [0]).await.unwrap(), 0);
    };
    let (new, resumed, refused) = ((0, 0), (1, 0), (0, 3));
    let (a, code) = connect("p", b'a', PERSISTENT).await;
    assert_eq!(code, new);
    let (b, code) = connect("p", b'b', PERSISTENT).await;
    assert_eq!(code, new);
    assert_eq!(connect("p", b'c', CLEAN).await.1, refused, "two are connected");
    let (_q, code) = connect("q", b'c', CLEAN).await;
    assert_eq!(code, new, "another principal");
    // A client that reconnects before its old connection was noticed as lost takes over its place.
    let (a_again, code) = connect("p", b'a', PERSISTENT).await;
    assert_eq!(code, resumed);
    drop(a);
    disconnect(b).await;
    disconnect(a_again).await;
    let (c, code) = connect("p", b'c', PERSISTENT).await;
    assert_eq!(code, new, "b ends, which is away for longest");
    let (a, code) = connect("p", b'a', PERSISTENT).await;
    assert_eq!(code, resumed, "a is still there");
    assert_eq!(connect("p", b'b', PERSISTENT).await.1, refused, "a and c are connected");
    disconnect(a).await;
    disconnect(c).await;
    let (b, code) = connect("p", b'b', PERSISTENT).await;
    assert_eq!(code, new, "in place of a");
    disconnect(b).await;
    let refused = broker.service.quotas().counters().get(QuotaKind::PrincipalSessions);
    assert_eq!((broker.sessions.count(), refused), (3, 2), "b and c, and the one of q");
}

/// A will was charged only after its session had been let in, so that its principal exceeded its memory, and another of its
/// sessions ended for that.
#[tokio::test]
async fn a_will_counts_before_its_session_is_let_in() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.roles.iter_mut().for_each(|role| role.limits.memory = 40 << 10);
    let broker = broker_with(directory.path(), config);
    let connect = async |client: u8, will: usize| {
        let mut body = [&b"\x00\x04MQTT\x04\x04\x00\x00\x00\x01"[..], &[client], b"\x00\x0fshadow/p/update"].concat();
        body.extend(u16::try_from(will).unwrap().to_be_bytes());
        body.resize(body.len() + will, b'w');
        let length = body.len();
        let length =
            [length & 127 | 128, length >> 7 & 127 | 128, length >> 14].map(|byte| u8::try_from(byte).unwrap());
        let packet = [&[0x10][..], &length, &body].concat();
        let (near, answer) = connect_with(&broker, verified("p", &Arc::default()), &packet).await;
        (near, (answer[2], answer[3]))
    };
    let disconnect = async |mut near: DuplexStream| {
        near.write_all(b"\xe0\x00").await.unwrap();
        assert_eq!(near.read(&mut [0]).await.unwrap(), 0);
    };
    let used = || broker.service.quotas().principals.memory().used();
    let (new, resumed, refused) = ((0, 0), (1, 0), (0, 3));
    let (a, code) = connect(b'a', 1).await;
    assert_eq!(code, new);
    disconnect(a).await;
    assert_eq!(connect(b'b', 45_000).await.1, refused, "more than all of its memory");
    let (a, code) = connect(b'a', 20_000).await;
    assert_eq!(code, resumed, "a is still there");
    assert_eq!(connect(b'b', 20_000).await.1, refused);
    disconnect(a).await;
    assert_eq!(connect(b'a', 45_000).await.1, refused, "also for a session that is there");
    let (b, code) = connect(b'b', 30_000).await;
    assert_eq!((code, broker.sessions.count()), (new, 1), "a ends for its memory");
    assert!(used() <= 40 << 10, "{}", used());
    disconnect(b).await;
    let (b, code) = connect(b'b', 30_000).await;
    assert_eq!(code, resumed, "it does not end for itself");
    disconnect(b).await;
}

/// A client that sends CONNECT, then one packet for each read, `packets` times, and accepts all output.
struct Busy {
    connect: &'static [u8],
    packet: &'static [u8],
    packets: usize,
    /// Called by each read after the last packet.
    last: fn(),
}

impl AsyncRead for Busy {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let connect = std::mem::take(&mut self.connect);
        buffer.put_slice(connect);
        if connect.is_empty() && self.packets > 0 {
            self.packets -= 1;
            buffer.put_slice(self.packet);
        } else if connect.is_empty() {
            (self.last)();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Busy {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A timer signalled the end of the token, but was polled after the input: a client that always had input was served
/// forever.
#[tokio::test]
async fn disconnects_a_busy_client_when_its_token_expires() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.limits.quotas.control_packets = Rate::per_second(u32::MAX.into());
    let broker = broker_with(directory.path(), config);
    let connect = b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x01c";
    let busy = Busy { connect, packet: b"\xc0\x00", packets: 10_000, last: || {} };
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut connection = handshake::accept(busy, peer(PeerCertificate::None, &broker), broker, deadline).await.unwrap();
    connection.auth_expires_at = Some(Instant::now());
    let ended = connection.serve().await;
    assert!(matches!(ended, Err(EndReason::Server(Reason::NOT_AUTHORIZED))), "{ended:?}");
}

/// A burst over WebSocket, with one packet in each read, was handled without a pause. Meanwhile the outbox of a
/// subscriber that reads promptly filled up.
#[tokio::test]
async fn yields_to_subscribers_during_a_burst() {
    const COUNT: usize = 5_000;
    let directory = tempfile::tempdir().unwrap();
    let broker = broker(directory.path());
    let (mut reader, _) =
        connect_with(&broker, PeerCertificate::None, b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01r").await;
    reader.write_all(b"\x82\x06\x00\x01\x00\x01t\x00").await.unwrap();
    reader.read_exact(&mut [0; 5]).await.unwrap();
    let reading = tokio::spawn(async move {
        let mut packet = [0; 5];
        for _ in 0..COUNT {
            reader.read_exact(&mut packet).await.unwrap();
            assert_eq!(packet, *b"\x30\x03\x00\x01t");
        }
    });
    let connect = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01c";
    let busy = Busy { connect, packet: b"\x30\x03\x00\x01t", packets: COUNT, last: || {} };
    let deadline = Instant::now() + Duration::from_secs(60);
    handshake::serve(busy, peer(PeerCertificate::None, &broker), broker.clone(), deadline).await;
    tokio::time::timeout(Duration::from_secs(60), reading).await.expect("all of them come").unwrap();
}

/// A panic lost the session of its connection: it was never released, and its client could not connect again.
#[tokio::test]
async fn a_panic_releases_the_session_of_its_connection() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.roles.iter_mut().for_each(|role| role.limits.sessions = 1);
    let broker = broker_with(directory.path(), config);
    // A persistent session, with "bye" to be published on "w".
    let with_will = b"\x10\x15\x00\x04MQTT\x04\x04\x00\x00\x00\x01c\x00\x01w\x00\x03bye";
    let busy = Busy { connect: with_will, packet: b"\xc0\x00", packets: 1, last: || panic!("for the test") };
    let (mut reader, answer) =
        connect_with(&broker, PeerCertificate::None, b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01r").await;
    assert_eq!(answer, [0x20, 2, 0, 0]);
    reader.write_all(b"\x82\x06\x00\x01\x00\x01w\x00").await.unwrap();
    let mut packet = [0; 5];
    reader.read_exact(&mut packet).await.unwrap();
    assert_eq!(packet, *b"\x90\x03\x00\x01\x00");
    handshake::serve(
        busy,
        peer(PeerCertificate::None, &broker),
        broker.clone(),
        Instant::now() + Duration::from_secs(60),
    )
    .await;
    connect(&broker, 0).await;
    let mut packet = [0; 8];
    reader.read_exact(&mut packet).await.unwrap();
    assert_eq!(packet, *b"\x30\x06\x00\x01wbye");
}

/// The credentials of a client may expire while it waits for its session.
#[tokio::test]
async fn refuses_a_login_that_expires_before_its_connack() {
    let directory = tempfile::tempdir().unwrap();
    let (clock, hand) = Clock::manual(Duration::from_secs(10));
    let broker = broker_at(directory.path(), Config::default(), clock);
    let principal = Principal::named("p").unwrap();
    let mut auth_context = AuthContext::of_user(principal.clone(), "local");
    auth_context.identity.method = Method::Certificate; // whose clients have a role as shipped
    auth_context.identity.until = Some(Expiry { wall: Timestamp(20), deadline: Instant::now() + FAR });
    let auth_context = Arc::new(auth_context);
    // The time at which the client gets its session, the expiry of the session then, and the CONNACK.
    for (at, kept, connack) in [(19, 0, [0, 0]), (20, 0, [0, 5]), (19, 60, [1, 0]), (20, 60, [0, 5])] {
        hand.set(Duration::from_secs(10));
        let key = SessionKey { principal: principal.clone(), client_id: "c".into() };
        let make = |access: &Access| broker.new_session(access);
        let quota = PrincipalQuota::unlimited("p");
        let (key, auth_context) = (&key, &auth_context);
        let arrival = Arrival { key, auth_context, clean_start: true, quota: &quota, will_bytes: 0 };
        let held = broker.sessions.attach(&arrival, &broker.authority, make).await.unwrap();
        let (mut near, far) = tokio::io::duplex(4096);
        let peer = Peer { signed_in: Some(auth_context.clone()), ..peer(PeerCertificate::None, &broker) };
        tokio::spawn(handshake::serve(far, peer, broker.clone(), Instant::now() + Duration::from_secs(60)));
        let flags = if kept == 0 { CLEAN } else { PERSISTENT };
        let connect = [&b"\x10\x0d\x00\x04MQTT\x04"[..], &[flags], b"\x00\x00\x00\x01c"].concat();
        near.write_all(&connect).await.unwrap();
        assert_eq!(held.disconnect_signal.await, Ok(Reason::SESSION_TAKEN_OVER), "it is authenticated and waits");
        hand.set(Duration::from_secs(at));
        broker.sessions.release(key, held.client, kept, None, &broker.authority);
        assert_eq!(read(&mut near).await, [0x20, 2, connack[0], connack[1]], "at {at}, kept for {kept}");
        let _fails_if_refused = near.write_all(b"\xe0\x00").await;
        assert_eq!(near.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(broker.sessions.count(), usize::from(kept > 0), "a session that is kept stays, at {at}");
    }
}

/// The login of a client that had gone went on: its password was hashed, and its connection stayed until it was refused.
#[tokio::test]
async fn the_login_of_a_client_that_has_gone_ends() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.auth.failure_delay = FAR;
    let broker = broker_with(directory.path(), config);
    // Packets before the CONNACK, and true if the connection ends with its client.
    for (early, ends) in [(&b""[..], true), (b"\xc0\x00", false)] {
        let (mut near, far) = tokio::io::duplex(4096);
        let peer = Peer { listener: "without anonymous clients".into(), ..peer(PeerCertificate::None, &broker) };
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut served = tokio::spawn(handshake::serve(far, peer, broker.clone(), deadline));
        let connect = [&b"\x10\x13\x00\x04MQTT\x04\xc2\x00\x00\x00\x01c\x00\x01u\x00\x01p"[..], early].concat();
        near.write_all(&connect).await.unwrap();
        drop(near);
        if ends {
            tokio::time::timeout(Duration::from_secs(60), served).await.expect("it ends").unwrap();
        } else {
            // Its messages may be for others: they are handled if the login succeeds.
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            assert!((&mut served).now_or_never().is_none());
            served.abort();
        }
    }
}

/// Disposes of a closed session with a will.
pub(in crate::mqtt) fn dispose_will(broker: &Arc<Broker>, topic: &str, payload: &'static [u8]) {
    let topic = TopicName::new(topic).unwrap();
    let payload = Bytes::from_static(payload);
    let will = Will { topic, payload, qos: QoS::AtLeastOnce, retain: true, delay: 0, properties: None };
    let principal = Principal::anonymous("c");
    let key = SessionKey { principal: principal.clone(), client_id: "c".into() };
    broker.dispose(ClosedSession::will(key, Access::admin(principal), SessionId(0), Some(will)));
}

/// Wills were published one after another: a will that waited for the engine delayed all others.
#[tokio::test]
async fn a_waiting_will_does_not_delay_others() {
    let directory = tempfile::tempdir().unwrap();
    let broker = broker(directory.path());
    let allowance = PrincipalQuota::unlimited("other");
    let full = broker.service.try_reserve(&allowance, QUEUE_BYTES).expect("nothing is queued");
    dispose_will(&broker, "shadow/d/update", br#"{"state":{"reported":{"n":1}}}"#);
    dispose_will(&broker, "w", b"bye");
    assert_eq!(broker.router.retained_count(), 1);
    let mut finish = pin!(broker.finish());
    assert!((&mut finish).now_or_never().is_none(), "the engine has no space yet");
    drop(full);
    tokio::time::timeout(Duration::from_secs(60), finish).await.expect("the engine has space");
    broker.service.close();
    let held = broker.service.read(&ShadowKey::classic(DeviceId::new("d").unwrap())).await.unwrap();
    assert_eq!(held.document.version, Version(1));
}

/// A connection whose reads all ended with a packet never gave back the memory of its input: over TLS and WebSocket, each device took more
/// of it with every packet, until none was left for anybody.
#[tokio::test]
async fn gives_back_the_memory_of_input_that_is_handled_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let broker = broker(directory.path());
    let mut near = connect(&broker, 0).await;
    let publish = [&b"\x32\x7e\x00\x01t\x00\x01"[..], &[b'x'; 121]].concat();
    assert_eq!(publish.len(), 128, "so that no read ends within a packet when the memory for it does");
    let used = || broker.service.quotas().principals.memory().used();
    let mut first = None;
    for _ in 0..2_000 {
        near.write_all(&publish).await.unwrap();
        assert_eq!(read(&mut near).await, [0x40, 2, 0, 1]);
        first.get_or_insert_with(used);
    }
    assert_eq!(Some(used()), first);
}

/// The task of a connection had waited, for the disk or for its turn, for longer than the keep-alive, and ended it although the client had
/// sent its PINGREQ in time.
#[tokio::test]
async fn a_client_is_not_silent_whose_input_is_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let broker = broker(directory.path());
    let mut near =
        connect_with(&broker, PeerCertificate::None, b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x01\x00\x01c").await.0;
    near.write_all(b"\x82\x06\x00\x01\x00\x01t\x00").await.unwrap();
    assert_eq!(read(&mut near).await, [0x90, 3, 0, 1]);
    assert_eq!(near.read_u8().await.unwrap(), 0);
    // More than the stream takes, so the first thing that the task does is to send the rest.
    let publish = [&b"\x30\x83\x40\x00\x01t"[..], &[b'x'; 8192]].concat();
    near.write_all(&publish).await.unwrap();
    let mut message = vec![0; publish.len()];
    let (begin, rest) = message.split_at_mut(10);
    near.read_exact(begin).await.unwrap();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    // Nothing else runs on this thread for longer than the keep-alive allows.
    thread::sleep(Duration::from_millis(1_600));
    near.write_all(b"\xc0\x00").await.unwrap();
    near.read_exact(rest).await.unwrap();
    let mut pong = [0; 2];
    near.read_exact(&mut pong).await.unwrap();
    assert_eq!((message, pong), (publish, [0xd0, 0]));
}
