#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::fs::{self, File};

use crate::mqtt::shadow::resync::*;
use crate::{
    auth::{Access, Principal},
    mqtt::{
        broker::outbox::Unsent,
        connection::tests::{broker, dispose_will},
        protocol::{packet::QoS, topic::TopicName},
    },
};

/// A page that could not be read was skipped, or all pages before it were sent again.
#[tokio::test]
async fn retries_a_failed_read_after_a_pause() {
    let directory = tempfile::tempdir().unwrap();
    let broker = broker(directory.path());
    let principal = Principal::anonymous("c");
    let outbox = broker.new_session(&Access::admin(principal.clone())).outbox;
    let own = SessionKey { principal, client_id: "c".into() };
    File::options().write(true).open(directory.path().join("store")).unwrap().set_len(0).unwrap();
    let key = ShadowKey::classic(DeviceId::new("d").unwrap());
    let subscription = Subscription {
        filter: TopicFilter::new("shadow/#").unwrap(),
        qos: QoS::AtLeastOnce,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Send,
    };
    let selection = Arc::new(RetainedSelection { subscription, id: None });
    let step = ResyncStep::Document(key.clone(), Event::Document, selection.clone());
    let pending = PendingRetained { selection, stage: ResyncStage::Documents(Some(key.clone())), packet: 0, times: 1 };
    let retained = |retained| ResyncWork { retained, turn: Source::Retained, ..ResyncWork::default() };
    for (has_lag, work) in [
        (false, retained(Retained { steps: [step].into(), ..Retained::default() })),
        (false, retained(Retained { pending: [pending].into(), ..Retained::default() })),
        (
            true,
            ResyncWork {
                missed: MissedChanges { resent: Some(Some(key)), ..MissedChanges::default() },
                turn: Source::MissedChanges,
                ..ResyncWork::default()
            },
        ),
    ] {
        let mut resync = Resync { work: Some(Box::new(work)), ..Resync::default() };
        if has_lag {
            outbox.detach(broker.events.fan_out_position());
        }
        let before = format!("{resync:?}");
        assert!(matches!(resync.next(&broker, &own, &outbox, true).await, Next::Nothing), "{before}");
        let until = resync.paused().unwrap();
        assert!(resync.is_idle(&outbox), "{before}");
        resync.resume(until);
        assert!(!resync.is_idle(&outbox), "there is more, after a pause");
        assert_eq!(format!("{resync:?}"), before);
    }
}

/// A damaged journal entry stopped the resync of a session for good.
#[tokio::test]
async fn skips_damaged_entries() {
    let directory = tempfile::tempdir().unwrap();
    let broker = broker(directory.path());
    dispose_will(&broker, "shadow/d/update", br#"{"state":{"reported":{"needle":1}}}"#);
    broker.finish().await;
    broker.service.close();
    let path = directory.path().join("store");
    let mut file = fs::read(&path).unwrap();
    let needles: Vec<_> =
        file.windows(6).enumerate().filter(|(_, bytes)| bytes == b"needle").map(|(at, _)| at).collect();
    needles.into_iter().for_each(|at| file[at] = b'N');
    fs::write(&path, file).unwrap();
    let outbox = broker.new_session(&Access::admin(Principal::anonymous("c"))).outbox;
    let mut missed = MissedChanges::default();
    assert!(missed.walk(&broker, &outbox, Seq(0)).await.is_ok());
    assert_eq!((missed.walked, missed.resent), (Some(Seq(1)), Some(None)), "every shadow is sent");
    let key = ShadowKey::classic(DeviceId::new("d").unwrap());
    assert!(matches!(step::read(&broker, &key).await, Err(Skip::Void)));
}

/// A change whose events had been sent in part was sent whole again.
#[tokio::test]
async fn resumes_a_partly_sent_change() {
    let directory = tempfile::tempdir().unwrap();
    let broker = broker(directory.path());
    dispose_will(&broker, "shadow/d/update", br#"{"state":{"reported":{"a":1}}}"#);
    broker.finish().await;
    broker.service.close();
    let page = broker.service.journal_if_sound(Seq(0), PAGE).await.unwrap().unwrap();
    let entry = Arc::new(page.entries.into_iter().next().unwrap());
    let unsent =
        |seq: u64, topic: &str, document_sent| Some(Unsent { seq, topic: TopicName::new(topic).ok(), document_sent });
    // the first unsent event; the events sent then, as the ends of their topics and the dialect
    let all = "delta delta-aws documents documents-aws accepted accepted-aws document delta";
    let table = [
        (None, all),
        (unsent(1, "shadow/d/update/delta", false), all),
        (unsent(1, "shadow/d/update/documents", false), &all[16..]),
        (unsent(1, "$aws/things/d/shadow/update/documents", false), &all[26..]),
        (unsent(1, "$aws/things/d/shadow/update/accepted", true), "accepted-aws delta"),
        (unsent(1, "", false), "document delta"),
        (unsent(1, "", true), "delta"),
        (unsent(1, "shadow/other/update/delta", false), all),
        (unsent(2, "shadow/d/update/accepted", false), all),
    ];
    for (unsent, expected) in table {
        let steps = step::missed(&entry, unsent.as_ref());
        let words = steps.iter().map(|step| match step {
            ResyncStep::MissedChanges(entry, event, dialect) => {
                let topic = event.topic(*dialect, &entry.key);
                let end = topic.rsplit('/').next().unwrap();
                format!("{end}{}", if topic.starts_with('$') { "-aws" } else { "" })
            }
            other => panic!("{other:?}"),
        });
        assert_eq!(words.collect::<Vec<_>>().join(" "), expected, "{unsent:?}");
    }
}

#[test]
fn an_idle_resync_takes_no_memory() {
    assert!(size_of::<Resync>() <= 16, "{}", size_of::<Resync>());
}
