//! Sessions that have ended, and the disk that does not have that yet.

use tokio::time::{pause, sleep};

use super::*;
use crate::store::tests::{Repaired, SimDisk, Stop};

/// Connects a client with a session that outlives its connection, or with one that does not.
async fn connect_client(
    broker: &Arc<Broker>,
    proof: &PeerCertificate,
    client: u8,
    flags: u8,
) -> (DuplexStream, (u8, u8)) {
    let packet = [&b"\x10\x0d\x00\x04MQTT\x04"[..], &[flags], b"\x00\x00\x00\x01", &[client]].concat();
    let (near, answer) = connect_with(broker, proof.clone(), &packet).await;
    (near, (answer[2], answer[3]))
}

/// Subscribes to a topic. The session is on disk with the answer.
async fn subscribe(near: &mut DuplexStream) {
    near.write_all(b"\x82\x06\x00\x01\x00\x01t\x01").await.unwrap();
    near.read_exact(&mut [0; 5]).await.unwrap();
}

async fn disconnect(mut near: DuplexStream) {
    near.write_all(b"\xe0\x00").await.unwrap();
    assert_eq!(near.read(&mut [0]).await.unwrap(), 0);
}

fn key(client: &str) -> SessionKey {
    SessionKey { principal: Principal::named("p").unwrap(), client_id: client.into() }
}

const NEW: (u8, u8) = (0, 0);
const UNAVAILABLE: (u8, u8) = (0, 3);

/// Returns the filters of session `a` as a start finds them after a power cut; 0 if there is no such session.
fn filters_after_power_cut(disk: &SimDisk) -> usize {
    let (directory, image) = (tempfile::tempdir().unwrap(), SimDisk::new(disk.durable(), Stop::Never));
    let restarted = power_cuts::open_as(&image, directory.path(), &Config::default());
    let key = SessionKey { principal: Principal::anonymous("a"), client_id: "a".into() };
    restarted.sessions.find(&key).map_or(0, |session| session.view.filter_count())
}

/// The CONNACK waited for the disk only if the connection itself had replaced the former session.
#[tokio::test]
async fn a_session_that_ended_for_another_does_not_come_back_after_a_connack() {
    let (directory, disk) = (tempfile::tempdir().unwrap(), SimDisk::new(Vec::new(), Stop::Never));
    let mut config = Config::default();
    config.limits.sessions_max = 1;
    let broker = power_cuts::open_as(&disk, directory.path(), &config);
    let anonymous = PeerCertificate::None;
    let (mut a, code) = connect_client(&broker, &anonymous, b'a', PERSISTENT).await;
    assert_eq!(code, NEW);
    subscribe(&mut a).await;
    assert_eq!(filters_after_power_cut(&disk), 1);
    disconnect(a).await;
    let (b, code) = connect_client(&broker, &anonymous, b'b', CLEAN).await;
    assert_eq!(code, NEW, "in the place of a");
    disconnect(b).await;
    let (_a, code) = connect_client(&broker, &anonymous, b'a', PERSISTENT).await;
    assert_eq!(code, NEW);
    assert_eq!(filters_after_power_cut(&disk), 0, "the former session is back");
}

/// The end of sessions was answered as done before the disk had it.
#[tokio::test]
async fn no_end_is_answered_as_done_that_the_disk_does_not_have() {
    let (directory, disk) = (tempfile::tempdir().unwrap(), SimDisk::new(Vec::new(), Stop::Never));
    let broker = power_cuts::open_as(&disk, directory.path(), &Config::default());
    let proof = verified("p", &Arc::default());
    let (mut away, _) = connect_client(&broker, &proof, b'a', PERSISTENT).await;
    subscribe(&mut away).await;
    disconnect(away).await;
    let (mut connected, _) = connect_client(&broker, &proof, b'b', PERSISTENT).await;
    subscribe(&mut connected).await;
    while broker.sessions.load().disconnected == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    disk.repair(Repaired::Pending, Stop::AtSync(disk.operations().0 + 1));
    // The limits of all waits pass at once.
    pause();
    let all = broker.end_everything("p", false).await;
    assert_eq!((all.ended.connections, all.ended.sessions, all.is_durable), (1, 2, false));
    assert_eq!(connected.read(&mut [0]).await.unwrap(), 0, "the connection has ended nevertheless");
    for client in ["a", "b"] {
        assert_eq!(broker.end_session(&key(client)).await, Some(false), "{client}, which nobody has any more");
    }
    assert_eq!(connect_client(&broker, &proof, b'a', PERSISTENT).await.1, UNAVAILABLE);

    disk.repair(Repaired::Pending, Stop::Never);
    tokio::time::resume();
    let reopened = async {
        while broker.end_session(&key("a")).await.is_some() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), reopened).await.expect("the store is opened again");
    assert!(broker.end_everything("p", false).await.is_durable);
    assert_eq!(connect_client(&broker, &proof, b'a', PERSISTENT).await.1, NEW);
}
