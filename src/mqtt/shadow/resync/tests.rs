#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::{
    collections::BTreeSet,
    fs::{self, File},
    time::Duration,
};

use crate::mqtt::shadow::resync::{selects::PAGE, *};
use crate::{
    auth::{Access, Method, Policy, Principal},
    config::RuleConfig,
    mqtt::{
        broker::{outbox::Unsent, sessions::ClientSession},
        connection::tests::{broker, dispose_will},
        protocol::{
            packet::QoS,
            topic::{TopicName, comparisons},
        },
    },
    shadow::{DeviceId, ShadowKey},
    store::Seq,
};

/// A page that could not be read was skipped, or all pages before it were sent again.
#[tokio::test]
async fn retries_a_failed_read_after_a_pause() {
    let directory = tempfile::tempdir().unwrap();
    let broker = broker(directory.path());
    let principal = Principal::anonymous("c");
    let ClientSession { outbox, filters, .. } = broker.new_session(&Access::admin(principal.clone()));
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
    let mut waiting = PendingQueue::default();
    waiting.push_back(pending);
    let retained = |retained| ResyncWork { retained, turn: Source::Retained, ..ResyncWork::default() };
    for (has_lag, work) in [
        (false, retained(Retained { steps: [step].into(), ..Retained::default() })),
        (false, retained(Retained { pending: waiting, ..Retained::default() })),
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
        assert!(matches!(resync.next(&broker, &own, &filters, &outbox, true).await, Next::Nothing), "{before}");
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
    let ClientSession { outbox, filters, .. } = broker.new_session(&Access::admin(Principal::anonymous("c")));
    let mut missed = MissedChanges::default();
    let own = SessionKey { principal: Principal::anonymous("c"), client_id: "c".into() };
    let reader = Reader { broker: &broker, own: &own, filters: &filters, outbox: &outbox, window_open: true };
    assert!(missed.walk(reader, Seq(0)).await.is_ok());
    assert_eq!((missed.walked, missed.resent), (Some(Seq(1)), Some(None)), "every shadow is sent");
    let key = ShadowKey::classic(DeviceId::new("d").unwrap());
    assert!(matches!(reader.read(&key).await, Err(Skip::Void)));
}

/// A change whose events had been sent in part was sent whole again.
#[tokio::test]
async fn resumes_a_partly_sent_change() {
    let directory = tempfile::tempdir().unwrap();
    let broker = broker(directory.path());
    dispose_will(&broker, "shadow/d/update", br#"{"state":{"reported":{"a":1}}}"#);
    broker.finish().await;
    broker.service.close();
    let page = broker.service.journal_if_sound(Seq(0), PAGE, ()).await.unwrap().unwrap();
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

/// Returns the rights of `d1` to follow the shadows of `devices`.
fn follower(devices: &[&str]) -> Access {
    let rule = RuleConfig {
        role: "r".into(),
        devices: devices.iter().map(|text| (*text).to_owned()).collect(),
        names: vec!["*".into()],
        operations: Some(vec!["subscribe".into()]),
        read: vec!["/reported".into()],
        ..RuleConfig::default()
    };
    let policy = Policy::read(&[rule], &[]).unwrap();
    policy.access(&Principal::named("d1").unwrap(), Method::Certificate, Some("r"), &"c".into())
}

/// A device that subscribed to the documents of all devices once read the keys of all shadows.
#[tokio::test]
async fn reads_only_shadows_of_devices_that_the_session_may_see() {
    let directory = tempfile::tempdir().unwrap();
    let broker = broker(directory.path());
    let mut keys: Vec<String> = (0..200).map(|number| format!("d{number}")).collect();
    keys.extend((0..90).map(|number| format!("d1/name/n{number:02}")));
    keys.extend(["e", "e/name/n", "e1/name/n", "f"].map(str::to_owned));
    for key in &keys {
        dispose_will(&broker, &format!("shadow/{key}/update"), br#"{"state":{"reported":{"a":1}}}"#);
    }
    dispose_will(&broker, "shadow/d0/delete", b"");
    broker.finish().await;
    broker.service.close();
    let own = SessionKey { principal: Principal::named("d1").unwrap(), client_id: "c".into() };
    // devices, filter, shadows found, most pages
    for (devices, filter, expected, pages_max) in [
        (&["{principal}"][..], "shadow/#", 91, 2),
        (&["{principal}"], "shadow/d1/#", 91, 2),
        (&["{principal}"], "shadow/d2/#", 0, 1),
        (&["{principal}"], "shadow/d1/document", 1, 1),
        (&["e", "f", "e", "g", "absent"], "+/+/document", 3, 1),
        (&["e*"], "shadow/+/#", 3, 1),
        (&["d0", "d7", "e1"], "#", 2, 1),
        (&["f*", "d19*", "c*", "d3"], "#", 13, 1),
        (&["*"], "#", 293, 5),
    ] {
        let ClientSession { outbox, filters, .. } = broker.new_session(&follower(devices));
        let reader = Reader { broker: &broker, own: &own, filters: &filters, outbox: &outbox, window_open: true };
        let filter = TopicFilter::new(filter).unwrap();
        let (mut found, mut after, mut pages) = (Vec::new(), None, 0);
        loop {
            let (page, next) = Documents::of(&filter).page(reader, after).await.unwrap();
            pages += 1;
            found.extend(page.into_iter().filter(|listed| !listed.deleted).map(|listed| listed.key));
            after = next;
            if after.is_none() {
                break;
            }
        }
        assert!(found.is_sorted() && pages <= pages_max, "{devices:?} {filter}: {pages} pages of {found:?}");
        found.dedup();
        assert_eq!(found.len(), expected, "{devices:?} {filter}: {found:?}");
    }
}

/// The entries of all devices were once steps of the resync of each, with ten topics to look up for each entry.
#[tokio::test]
async fn skips_missed_changes_that_the_session_may_not_see() {
    let directory = tempfile::tempdir().unwrap();
    let broker = broker(directory.path());
    for device in ["d1", "d2", "d3", "d1"] {
        dispose_will(&broker, &format!("shadow/{device}/update"), br#"{"state":{"reported":{"a":1}}}"#);
    }
    broker.finish().await;
    broker.service.close();
    let own = SessionKey { principal: Principal::named("d1").unwrap(), client_id: "c".into() };
    let ClientSession { outbox, filters, .. } = broker.new_session(&follower(&["{principal}"]));
    let reader = Reader { broker: &broker, own: &own, filters: &filters, outbox: &outbox, window_open: true };
    let mut missed = MissedChanges::default();
    assert!(missed.walk(reader, Seq(0)).await.is_ok());
    let is_own =
        |step: &ResyncStep| matches!(step, ResyncStep::MissedChanges(entry, ..) if entry.key.device.as_str() == "d1");
    assert!(missed.steps.iter().all(is_own) && !missed.steps.is_empty(), "{:?}", missed.steps);
    assert_eq!(missed.walked, Some(broker.service.head()));
}

/// A session that returned read the whole journal, whatever it had subscribed to.
#[tokio::test]
async fn reads_only_changes_of_the_devices_that_the_filters_select() {
    // filters, journal position before, shadows whose steps are read, pages until the head is reached
    let table = [
        (&["shadow/d1/update/accepted", "$aws/things/d1/shadow/#"][..], 0, &["d1", "d1~n"][..], 1),
        (&["shadow/d1/#"], 1, &["d1~n"], 1),
        (&["sensors/#"], 0, &[], 1),
        (&["shadow/d1/#", "shadow/e-1/#"], 0, &["d1", "d1~n", "e"], 1),
        (&["shadow/d1/#", "shadow/+/delta"], 1, &["d1~n", "e"], 4),
        (&["$share/g/shadow/+/delta", "shadow/d3/delta"], 0, &[], 1),
    ];
    let directory = tempfile::tempdir().unwrap();
    let broker = broker(directory.path());
    let sessions = table.map(|(filters, ..)| {
        let mut client = broker.new_session(&Access::admin(Principal::anonymous("c")));
        filters.iter().for_each(|filter| client.filters.add(&TopicFilter::new(filter).unwrap(), 10).unwrap());
        client.outbox.detach(broker.events.fan_out_position());
        client
    });
    let update = |device: &str, value: usize| {
        let payload = format!(r#"{{"state":{{"reported":{{"a":{value}}}}}}}"#).into_bytes().leak();
        dispose_will(&broker, &format!("shadow/{device}/update"), payload);
    };
    update("d1", 0);
    // Each shadow accepts only so many updates at once.
    (0..3 * PAGE).for_each(|value| update(&format!("e-{}", value % 24), value));
    update("d1/name/n", 0);
    broker.finish().await;
    broker.service.close();
    assert_eq!(broker.service.head(), Seq(3 * PAGE as u64 + 2));
    // The changes up to the notifier are missed ones; those after it would take one more page.
    while broker.events.fan_out_position().finished() < broker.service.head().0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let own = SessionKey { principal: Principal::named("d1").unwrap(), client_id: "c".into() };
    for ((filters, since, expected, pages), client) in table.iter().zip(&sessions) {
        let ClientSession { outbox, filters: selected, .. } = client;
        let reader = Reader { broker: &broker, own: &own, filters: selected, outbox, window_open: true };
        let (mut missed, mut found, mut read) = (MissedChanges::default(), BTreeSet::new(), 0);
        while missed.walked != Some(broker.service.head()) {
            assert!(missed.walk(reader, Seq(*since)).await.is_ok());
            read += 1;
            for step in missed.steps.drain(..) {
                let ResyncStep::MissedChanges(entry, ..) = step else { panic!("{step:?}") };
                found.insert(entry.key.to_string().split('-').next().unwrap().to_owned());
            }
        }
        let found: Vec<_> = found.iter().map(String::as_str).collect();
        assert_eq!((found.as_slice(), read), (*expected, *pages), "{filters:?}");
    }
}

/// Each SUBSCRIBE compared its filters with all that waited for their retained messages.
#[test]
fn a_filter_is_not_compared_with_all_that_wait() {
    const FILTERS: usize = 2_000;
    let subscription = |number: usize| Subscription {
        filter: TopicFilter::new(&format!("t/{number}")).unwrap(),
        qos: QoS::AtLeastOnce,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Send,
    };
    let mut resync = Resync::default();
    let compared = comparisons::of(|| {
        for _ in 0..2 {
            resync.subscribing();
            (0..FILTERS).for_each(|number| resync.subscribed(&subscription(number), None, SubscriptionChange::New));
        }
        let waiting = |resync: &Resync| resync.work.as_ref().map_or(0, |work| work.retained.pending.len());
        assert_eq!(waiting(&resync), FILTERS, "one for each filter");
        (1..FILTERS).for_each(|number| resync.unsubscribed(&subscription(number).filter));
        assert_eq!(waiting(&resync), 1);
        resync.unsubscribed(&subscription(0).filter);
        assert_eq!(waiting(&resync), 0);
    });
    assert!(compared <= 10 * FILTERS, "{compared} comparisons");
}

/// The messages of a filter that are not sent yet are dropped with it, and those of others stay.
#[test]
fn an_unsubscribed_filter_loses_its_messages() {
    let selection = |filter: &str| {
        let subscription = Subscription {
            filter: TopicFilter::new(filter).unwrap(),
            qos: QoS::AtLeastOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        };
        Arc::new(RetainedSelection { subscription, id: None })
    };
    let step = || {
        let key = ShadowKey::classic(DeviceId::new("d").unwrap());
        ResyncStep::Document(key, Event::Document, selection("shadow/#"))
    };
    let steps = [step(), step()].into();
    let work = ResyncWork { retained: Retained { steps, ..Retained::default() }, ..ResyncWork::default() };
    let mut resync = Resync { work: Some(Box::new(work)), ..Resync::default() };
    resync.unsubscribed(selection("#").filter());
    assert_eq!(resync.work.as_ref().map(|work| work.retained.steps.len()), Some(2));
    resync.unsubscribed(selection("shadow/#").filter());
    assert!(resync.work.is_none());
}

#[test]
fn an_idle_resync_takes_no_memory() {
    assert!(size_of::<Resync>() <= 16, "{}", size_of::<Resync>());
}
