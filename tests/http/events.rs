//! Server-sent events: in order, without a gap, and only what was asked for.

use std::{collections::VecDeque, fs, thread, time::Duration};

use serde_json::{Value, json};

use crate::{
    harness::{
        http::{Http, Reply},
        program::{ended, umbrad},
        server::store_path,
    },
    site::Site,
};

/// A reader of events.
struct Stream {
    client: Http,
    text: String,
    ready: VecDeque<Event>,
    /// The last id that came, with an event or without.
    place: String,
}

/// The place before the first event, as it was written when ids were numbers.
const BEGINNING: Option<&str> = Some("0");

#[derive(Debug)]
struct Event {
    /// Opaque.
    id: String,
    data: Value,
}

impl Stream {
    fn open(site: &Site, query: &str, last: Option<&str>) -> Result<Self, Reply> {
        let mut client = site.client();
        let last = last.map(|id| format!("\nLast-Event-ID: {id}")).unwrap_or_default();
        client.write(&format!("GET /v1/events{query} HTTP/1.1\nAccept: text/event-stream{last}"), b"");
        let head = client.head();
        if head.status != 200 {
            return Err(head);
        }
        assert_eq!(head.header("content-type"), Some("text/event-stream"));
        assert_eq!(head.header("x-accel-buffering"), Some("no"), "nginx must not hold events back");
        let mut stream = Self { client, text: String::new(), ready: VecDeque::new(), place: String::new() };
        // It is known to follow once it has sent something.
        stream.read().expect("a stream begins with the time to come back");
        Ok(stream)
    }

    /// Reads one chunk; `None` at the end.
    fn read(&mut self) -> Option<()> {
        self.text.push_str(std::str::from_utf8(&self.client.chunk()?).unwrap());
        while let Some((block, rest)) = self.text.split_once("\n\n") {
            let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            self.place = field("id").unwrap_or_else(|| panic!("no id: {block}")).to_owned();
            if let Some(data) = field("data") {
                assert_eq!(field("event"), Some("change"), "{block}");
                self.ready.push_back(Event { id: self.place.clone(), data: serde_json::from_str(data).unwrap() });
            }
            self.text = rest.to_owned();
        }
        Some(())
    }

    fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            self.read()?;
        }
    }
}

fn path(device: &str) -> String {
    format!("/v1/devices/{device}/shadow")
}

#[test]
fn changes_are_streamed_as_they_happen() {
    let site = Site::open();
    site.put(&path("lamp"), json!({"desired": {"n": 0}}));
    let mut stream = Stream::open(&site, "", None).unwrap_or_else(|head| panic!("{head:?}"));
    site.merge(&path("lamp"), json!({"desired": {"n": 1}}));
    site.merge(&path("lamp"), json!({"desired": {"n": 1}}));
    site.put("/v1/devices/lamp/shadows/x", json!({"reported": {"é\n": "\u{2028}"}}));
    site.send("DELETE /v1/devices/lamp/shadow HTTP/1.1\nIf-Match: *", "");
    let first = stream.next().unwrap();
    assert_eq!(first.data["changes"], json!([{"path": "/desired/n", "value": 1, "previous": 0}]));
    assert_eq!((&first.data["device"], &first.data["version"]), (&json!("lamp"), &json!(2)));
    let second = stream.next().unwrap();
    assert_eq!((&second.data["name"], &second.data["changes"][0]["value"]), (&json!("x"), &json!({"é\n": "\u{2028}"})));
    let third = stream.next().unwrap();
    assert_eq!((&third.data["deleted"], &third.data["version"]), (&json!(true), &json!(3)));
    // Each of them again, from the journal, and an update that changes nothing is no change.
    let mut all = Stream::open(&site, "", BEGINNING).unwrap_or_else(|head| panic!("{head:?}"));
    let created = all.next().unwrap();
    for (last, expected) in [(&created, &first), (&first, &second), (&second, &third)] {
        assert_eq!(all.next().unwrap().id, expected.id);
        let mut again = Stream::open(&site, "", Some(&last.id)).unwrap_or_else(|head| panic!("{head:?}"));
        assert_eq!(again.next().unwrap().id, expected.id, "after {last:?}");
        assert!(last.id.parse::<f64>().is_err(), "nobody takes it for a number: {last:?}");
    }
}

/// A reader whose filter lets nothing through came back with the place where it had begun, which was no longer kept
/// by then: 410, though it had missed nothing. Its place moves on with what is sent to others, also while changes come
/// so fast that nothing is ever silent.
#[test]
fn a_filtered_stream_without_events_keeps_its_position() {
    let site = Site::open();
    site.put(&path("lamp"), json!({"reported": {"n": 0}}));
    let mut newest = Stream::open(&site, "", None).unwrap_or_else(|head| panic!("{head:?}"));
    let queries = ["?device=other", "?device=lamp&path=/desired/x", "?device=lamp&path=/reported/x"];
    let open = |query: &str| Stream::open(&site, query, None).unwrap_or_else(|head| panic!("{query}: {head:?}"));
    let mut silent: Vec<_> = queries.iter().map(|query| open(query)).collect();
    let begun = newest.place.clone();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 1;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                site.merge(&path("lamp"), json!({"reported": {"n": n}}));
                n += 1;
                std::thread::sleep(std::time::Duration::from_millis(20)); // how often it changes, which decides nothing
            }
        });
        let places: Vec<_> = queries
            .iter()
            .zip(&mut silent)
            .map(|(query, stream)| {
                stream.read().expect("a heartbeat");
                assert!(stream.ready.is_empty(), "{query}");
                (query, stream.place.clone())
            })
            .collect();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let mut seen = Vec::new();
        let found = |place: &String, seen: &Vec<String>| seen.contains(place);
        for (query, place) in places {
            assert_ne!(place, begun, "{query}");
            while !found(&place, &seen) {
                seen.push(newest.next().expect("its place is that of a change").id);
            }
        }
    });
}

#[test]
fn filters_narrow_a_stream() {
    let site = Site::open();
    let queries = [
        ("", vec![1, 2, 3, 4, 5]),
        ("?device=lamp", vec![1, 2, 3, 5]),
        ("?device=lamp&name=", vec![1, 2, 5]),
        ("?device=lamp&name=x", vec![3]),
        ("?name=x", vec![3, 4]),
        ("?path=/desired/mode", vec![1, 4, 5]),
        ("?path=/desired/mode/deep,/reported", vec![1, 2, 3, 4, 5]),
        ("?device=lamp&path=/reported/b", vec![2, 3, 5]),
        ("?device=other&path=/tags", vec![]),
    ];
    let open = |query: &str, last| Stream::open(&site, query, last).unwrap_or_else(|head| panic!("{query}: {head:?}"));
    let mut live: Vec<_> = queries.iter().map(|(query, _)| open(query, None)).collect();
    site.put(&path("lamp"), json!({"desired": {"mode": "eco"}}));
    site.merge(&path("lamp"), json!({"reported": {"b": {"c": 1}}}));
    site.put("/v1/devices/lamp/shadows/x", json!({"reported": {"b": 1}}));
    site.put("/v1/devices/other/shadows/x", json!({"desired": {"mode": {"deep": 1}}, "reported": {"z": 1}}));
    site.send("DELETE /v1/devices/lamp/shadow HTTP/1.1\nIf-Match: *", "");
    // The end of each stream, whatever its filter.
    for device in ["lamp", "other"] {
        let all = json!({"desired": {"mode": {"deep": 2}}, "reported": {"b": 2}, "tags": {"t": 1}});
        site.put(&format!("/v1/devices/{device}/shadow"), all.clone());
        site.put(&format!("/v1/devices/{device}/shadows/x"), all);
    }
    let mut all = open("", BEGINNING);
    let first_five: Vec<_> = (0..5).map(|_| all.next().unwrap().id).collect();
    for ((query, expected), live) in queries.iter().zip(&mut live) {
        for stream in [live, &mut open(query, BEGINNING)] {
            let place = |event: Event| first_five.iter().position(|id| *id == event.id).map(|place| place + 1);
            let found: Vec<_> = std::iter::from_fn(|| place(stream.next().unwrap())).collect();
            assert_eq!(found, *expected, "{query}");
        }
    }
}

#[test]
fn resuming_from_an_unknown_position_is_gone() {
    let site = Site::open();
    site.put(&path("lamp"), json!({"desired": {"n": 0}}));
    let last = Stream::open(&site, "", BEGINNING).unwrap_or_else(|head| panic!("{head:?}")).next().unwrap().id;
    let gone = Stream::open(&site, "", Some("2")).err().expect("there was no such event");
    assert_eq!((gone.status, gone.header("content-type")), (410, Some("application/problem+json")));
    assert!(Stream::open(&site, "", Some(&last)).is_ok(), "the last one");
}

/// After the restore of a backup, the id of a lost change was gone only until the store had as many changes again. Then it was taken for
/// another one, and its client missed all changes between the backup and that one.
#[test]
fn the_id_of_a_change_that_a_restore_has_lost_is_gone_for_ever() {
    let site = Site::open();
    let open = |site: &Site, last: &str| Stream::open(site, "?device=lamp", Some(last)).map_err(|head| head.status);
    let change = |site: &Site, changes: std::ops::Range<u64>| {
        changes.for_each(|n| drop(site.put(&path("lamp"), json!({"desired": {"n": n}}))));
    };
    change(&site, 0..5);
    let mut stream = open(&site, "j0").unwrap();
    let kept: Vec<_> = (0..5).map(|_| stream.next().unwrap().id).collect();
    let copy = site.server.directory().join("copy");
    let backup = |arguments: &[&str]| {
        let (code, _, error) = ended(umbrad(arguments).output().unwrap());
        assert_eq!(code, 0, "{error}");
    };
    let copy = copy.to_str().unwrap();
    backup(&["backup", "--to", copy, "--url", &format!("http://{}", site.address)]);
    change(&site, 5..10);
    let mut lost: Vec<_> = (0..5).map(|_| stream.next().unwrap().id).collect();
    // A restart makes no other history.
    let mut site = site.restarted();
    change(&site, 10..12);
    let mut stream = open(&site, &lost[2]).unwrap();
    let again: Vec<_> = (0..4).map(|_| stream.next().unwrap().id).collect();
    assert_eq!(again[..2], lost[3..]);
    lost.extend_from_slice(&again[2..]);

    site.server.kill();
    let store = store_path(site.server.directory());
    fs::rename(&store, store.with_extension("former")).unwrap();
    backup(&["restore", copy, "--store", store.to_str().unwrap()]);
    site.server.restart();
    site.address = site.server.address_of("web");
    for round in 0..3 {
        for id in &lost {
            assert_eq!(open(&site, id).err(), Some(410), "{id} in round {round}");
        }
        for (index, id) in kept.iter().enumerate() {
            let mut stream = open(&site, id).unwrap();
            (index + 1..5).for_each(|next| assert_eq!(stream.next().unwrap().id, kept[next], "after {id}"));
        }
        change(&site, 100 * (round + 1)..100 * (round + 1) + 5);
    }
    let mut stream = open(&site, &kept[4]).unwrap();
    let mut own: Vec<_> = (0..15).map(|_| stream.next().unwrap()).collect();
    assert_eq!(own[0].data["changes"][0]["value"], json!(100), "the first change after the restore");
    assert_eq!(open(&site, &own[7].id).unwrap().next().unwrap().id, own.swap_remove(8).id);
}

/// A stream that came back read the changes of all devices to find those of its own.
#[test]
fn a_stream_of_one_device_resumes_after_many_changes_of_others() {
    let site = Site::open();
    let open = |last: Option<&str>| {
        Stream::open(&site, "?device=lamp", last).unwrap_or_else(|head| panic!("{last:?}: {head:?}"))
    };
    site.put(&path("lamp"), json!({"desired": {"n": 0}}));
    let mut whole = open(BEGINNING);
    let first = whole.next().unwrap().id;
    for n in 1..4 {
        (0..100).for_each(|other| drop(site.put(&path(&format!("other-{other}")), json!({"reported": {"n": n}}))));
        site.merge(&path("lamp"), json!({"desired": {"n": n}}));
    }
    let places: Vec<_> = (1..4).map(|_| whole.next().unwrap().id).collect();
    let mut resumed = open(Some(&first));
    let found: Vec<_> = (1..4).map(|_| resumed.next().unwrap().id).collect();
    assert_eq!(found, places);
    let mut again = open(Some(&places[0]));
    assert_eq!([again.next().unwrap().id, again.next().unwrap().id], places[1..]);
    site.merge(&path("lamp"), json!({"desired": {"n": 9}}));
    let live = whole.next().unwrap();
    assert_eq!(live.data["changes"][0]["value"], json!(9));
    assert_eq!([resumed.next().unwrap().id, again.next().unwrap().id], [live.id.clone(), live.id]);
}

/// A client that does not read was charged nothing for what was read from the journal for it. Changes of very many small values take
/// fifteen times as much memory as in the journal, so a few streams of one credential held hundreds of megabytes.
#[test]
fn what_a_stream_holds_for_a_slow_reader_is_charged() {
    let site = Site::open();
    let memory = || {
        let metrics = site.client().send("GET /metrics HTTP/1.1", b"").text().to_owned();
        let line = metrics.lines().find_map(|line| line.strip_prefix("umbra_client_memory_bytes "));
        line.unwrap_or_else(|| panic!("{metrics}")).parse::<f64>().unwrap()
    };
    let (devices, versions) = (8, 12);
    for version in 0..versions {
        for device in 0..devices {
            let values: serde_json::Map<_, _> = (0..800).map(|key| (format!("k{key:03}"), json!(version))).collect();
            site.put(&path(&format!("d{device}")), json!({"reported": values}));
        }
    }
    let before = memory();
    let mut stream = Stream::open(&site, "", BEGINNING).unwrap_or_else(|head| panic!("{head:?}"));
    // A page is held as soon as the sockets are full.
    while memory() < before + 2e6 {
        thread::sleep(Duration::from_millis(20));
    }
    assert!(memory() < before + 4e7, "one page");
    for event in 0..versions * devices {
        let Event { data, .. } = stream.next().unwrap();
        assert_eq!(data["device"], json!(format!("d{}", event % devices)));
        assert_eq!(data["version"], json!(event / devices + 1));
    }
    while memory() > before + 2e5 {
        thread::sleep(Duration::from_millis(20));
    }
}

/// A reader that stays away, comes back, is cut off for being slow and comes back again misses nothing and sees nothing
/// twice.
#[test]
fn a_resumed_stream_neither_misses_nor_repeats_an_event() {
    let site = Site::open();
    let wide = "x".repeat(6000);
    site.put(&path("lamp"), json!({"desired": {"n": 0}}));
    let mut stream = Stream::open(&site, "?device=lamp", None).unwrap_or_else(|head| panic!("{head:?}"));
    // Far more than sockets and the queue of a reader hold.
    let last = 1200;
    let mut writer = site.client();
    for n in 1..=last {
        let body = json!({"desired": {"n": n, "wide": format!("{wide}{n}")}}).to_string();
        let head = format!("PATCH {} HTTP/1.1\nIf-Match: *\nContent-Type: application/merge-patch+json", path("lamp"));
        assert_eq!(writer.send(&head, body.as_bytes()).status, 200);
    }
    let (mut seen, mut id, mut cut) = (0, stream.place.clone(), 0);
    while seen < last {
        match stream.next() {
            Some(event) => {
                let n = event.data["changes"].as_array().unwrap().iter().find(|change| change["path"] == "/desired/n");
                let n = n.or(event.data["changes"].as_array().unwrap().first()).unwrap()["value"].clone();
                seen += 1;
                assert_eq!(n, json!(seen));
                id = event.id;
            }
            None => {
                cut += 1;
                let again = Stream::open(&site, "?device=lamp", Some(&id));
                stream = again.unwrap_or_else(|head| panic!("{head:?}"));
            }
        }
    }
    assert_eq!(cut, 1, "it was cut off once, and read the rest from the journal");
}

#[test]
fn streams_follow_continuous_writers() {
    let site = Site::open();
    site.put(&path("lamp"), json!({"desired": {"n": 0}}));
    let created = Stream::open(&site, "", BEGINNING).unwrap_or_else(|head| panic!("{head:?}")).next().unwrap().id;
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let site = &site;
                scope.spawn(move || {
                    (0..100)
                        .for_each(|n| _ = site.merge(&path("lamp"), json!({"reported": {format!("w{writer}"): n}})));
                })
            })
            .collect();
        // Each begins somewhere in the middle, from the journal, and goes on with what is happening.
        let readers: Vec<_> = (0..8)
            .map(|_| {
                let (site, created) = (&site, &created);
                scope.spawn(move || {
                    let mut stream = Stream::open(site, "", Some(created)).unwrap_or_else(|head| panic!("{head:?}"));
                    for version in 2..=401 {
                        assert_eq!(stream.next().unwrap().data["version"], json!(version));
                    }
                })
            })
            .collect();
        writers.into_iter().chain(readers).for_each(|thread| thread.join().unwrap());
    });
}

/// Requests that wait for ever do not keep the server from ending.
#[test]
fn streams_and_waits_end_with_the_server() {
    let mut site = Site::open();
    site.put(&path("lamp"), json!({"desired": {"n": 0}}));
    let mut stream = Stream::open(&site, "", None).unwrap_or_else(|head| panic!("{head:?}"));
    let mut waiter = site.client();
    waiter.write(&format!("GET {}?wait=converged&timeout=300 HTTP/1.1", path("lamp")), b"");
    site.merge(&path("lamp"), json!({"desired": {"n": 1}}));
    assert_eq!(stream.next().unwrap().data["version"], json!(2));
    site.server.stop();
    assert!(stream.next().is_none());
}
