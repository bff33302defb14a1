//! Live queries: the first result, the devices that enter and leave, rights, limits, and after any interruption the set that
//! a fresh query finds.

use std::{collections::BTreeSet, time::Instant};

use serde_json::{Value, json};

use crate::{
    harness::{
        DEADLINE, Seed,
        client::Client,
        eventually,
        http::{Http, Reply, put},
        wire::{Connect, V5},
    },
    matches::Matches,
    named::store,
    site::{FEWER_DEVICES, MORE_TO_READ, Reloads, Site, encoded, ids},
    topics::Follower,
};

/// A client of a live query, with the set that it has from the events.
struct Live {
    client: Http,
    text: String,
    matches: Matches,
    /// The last id that came.
    id: String,
    /// The names of the events since it was opened.
    events: Vec<String>,
}

impl Live {
    fn open(site: &Site, listener: &str, query: &str) -> Self {
        Self::try_open(site, listener, query).unwrap_or_else(|refused| panic!("{query}: {refused:?}"))
    }

    fn try_open(site: &Site, listener: &str, query: &str) -> Result<Self, Reply> {
        Self::resume(site, listener, query, None, BTreeSet::new())
    }

    /// Opens a stream after the event with this id, after which the client has these devices.
    fn resume(
        site: &Site,
        listener: &str,
        query: &str,
        last: Option<&str>,
        devices: BTreeSet<String>,
    ) -> Result<Self, Reply> {
        let mut client = site.client(listener);
        let last = last.map(|id| format!("\nLast-Event-ID: {id}")).unwrap_or_default();
        let path = format!("/v1/search/live?{}", encoded(&[("q", query)]));
        client.write(&format!("GET {path} HTTP/1.1\nAccept: text/event-stream\nUmbra-Client: {listener}{last}"), b"");
        let head = client.head();
        if head.status != 200 {
            return Err(client.body_of(head));
        }
        assert_eq!(head.header("content-type"), Some("text/event-stream"));
        let matches = Matches { devices, ..Matches::default() };
        let mut live = Self { client, text: String::new(), matches, id: String::new(), events: Vec::new() };
        while !live.matches.is_complete {
            live.read().expect("a stream begins with the complete set");
        }
        Ok(live)
    }

    /// Reads one chunk; `None` at the end.
    fn read(&mut self) -> Option<()> {
        self.text.push_str(std::str::from_utf8(&self.client.chunk()?).unwrap());
        while let Some((block, rest)) = self.text.clone().split_once("\n\n") {
            self.text = rest.to_owned();
            self.take(block);
        }
        Some(())
    }

    fn take(&mut self, block: &str) {
        let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let Some(name) = field("event") else { return };
        let data: Value = serde_json::from_str(field("data").unwrap()).unwrap();
        self.id = field("id").unwrap().to_owned();
        self.events.push(name.to_owned());
        self.matches.apply(name, &data);
    }

    fn found(&self) -> String {
        self.matches.ids()
    }

    /// Reads until the client has this set.
    fn wait_for(&mut self, expected: &str, about: &str) {
        let deadline = Instant::now() + *DEADLINE;
        while self.found() != expected {
            assert!(Instant::now() < deadline, "{about}: '{}', not '{expected}'", self.found());
            self.read().unwrap_or_else(|| panic!("{about}: the stream ended: {:?}", self.matches));
        }
    }
}

/// Follows a named query over MQTT in a session that outlives its connection, and is there already if `is_known`.
fn follow(site: &Site, name: &str, is_known: bool) -> Follower {
    // Its name is that of no device of the test.
    let connect = Connect::persistent(V5, &format!("follower-{name}"));
    let (mut client, answer) = Client::connect_as(&site.0, &connect);
    assert_eq!(answer.session_present, is_known);
    if !is_known {
        client.subscribe(&[(&format!("shadow/$query/{name}/#"), 1)]);
    }
    Follower::new(client, name)
}

fn delete(client: &mut Http, path: &str) {
    client.send(&format!("DELETE /v1/devices/{path} HTTP/1.1\nIf-Match: *"), b"");
}

#[test]
fn devices_enter_and_leave() {
    let mut site = Site::open();
    let mut client = site.client("web");
    let mut write = |path: &str, n: u64| put(&mut client, path, &json!({"reported": {"n": n}}));
    write("a/shadow", 1);
    write("b/shadow", 9);
    let mut live = Live::open(&site, "web", "reported.n:>5");
    assert_eq!((live.found().as_str(), live.events.join(" ").as_str()), ("b", "start enter complete"));
    write("a/shadow", 6);
    live.wait_for("a b", "entered");
    write("a/shadow", 7);
    write("c/shadow", 1);
    write("b/shadow", 2);
    live.wait_for("a", "left");
    write("d/shadow", 8);
    live.wait_for("a d", "created");
    delete(&mut site.client("web"), "a/shadow");
    live.wait_for("d", "deleted");
    assert_eq!(live.events.join(" "), "start enter complete enter leave enter leave", "and nothing twice");
    // The client comes back: without a change it has all, and else it receives the complete set.
    let resume = |site: &Site, live: &Live| {
        Live::resume(site, "web", "reported.n:>5", Some(&live.id), live.matches.devices.clone())
            .unwrap_or_else(|refused| panic!("{refused:?}"))
    };
    let again = resume(&site, &live);
    assert_eq!((again.found().as_str(), again.events.join(" ").as_str()), ("d", "complete"));
    site.0.kill();
    site.0.restart();
    let again = resume(&site, &live);
    assert_eq!((again.found().as_str(), again.events.join(" ").as_str()), ("d", "complete"), "after a kill too");
    site.write(&[("e/shadow", json!({"reported": {"n": 8}}))]);
    let again = resume(&site, &live);
    assert_eq!((again.found().as_str(), again.events.join(" ").as_str()), ("d e", "start enter complete"));
}

#[test]
fn connections_are_followed() {
    let site = Site::open();
    site.write(&[("a/shadow", json!({"reported": {"n": 1}})), ("b/shadow", json!({"reported": {"n": 2}}))]);
    let open = |query| Live::open(&site, "web", query);
    let (mut connected, mut away) = (open("connected:true"), open("connected:false reported.n:*"));
    assert_eq!((connected.found().as_str(), away.found().as_str()), ("", "a b"));
    let mut device = Client::connect(&site.0, V5, "b");
    // Shows that it is the device.
    device.publish("shadow/b/get", "", 1);
    connected.wait_for("b", "connected");
    away.wait_for("a", "connected");
    drop(device);
    connected.wait_for("", "disconnected");
    away.wait_for("a b", "disconnected");
}

/// A stream has the devices that its reader may see, and shows nothing that a search would hide.
#[test]
fn a_stream_shows_what_may_be_read() {
    let site = Site::open();
    let write = |secret: &str| {
        site.write(&[
            ("lamp-1/shadow", json!({"reported": {"zone": {"t": 20, "secret": secret}, "pin": secret}})),
            ("vault/shadow", json!({"reported": {"zone": {"t": 20}, "pin": secret}})),
        ]);
    };
    write("abc");
    let open = |query: &str| Live::open(&site, "partial", query);
    // The last device shows that nothing came before it.
    let hidden = ["reported.pin:xyz", "reported.zone.secret:*", "tags:*", "connected:*", "vault"];
    let mut hidden = hidden.map(|query| open(&format!("{query} OR lamp-2")));
    let mut negated = ["NOT reported.pin:abc", "NOT reported.pin:xyz", "*"].map(open);
    let mut visible = open("reported.zone.t:21");
    write("xyz");
    site.write(&[("vault/shadow", json!({"reported": {"zone": {"t": 21}}}))]);
    site.write(&[("lamp-1/shadow", json!({"reported": {"zone": {"t": 21}}}))]);
    visible.wait_for("lamp-1", "the last change");
    site.write(&[("lamp-2/shadow", json!({"reported": {"zone": {"t": 5}}}))]);
    for live in &mut negated {
        live.wait_for("lamp-1 lamp-2", "a visible device");
        assert_eq!(live.events.join(" "), "start enter complete enter");
    }
    for live in &mut hidden {
        live.wait_for("lamp-2", "the last device");
        assert_eq!(live.events.join(" "), "start complete enter");
    }
}

/// A reload of the rules changes the set of an open stream.
#[test]
fn rights_are_those_of_each_moment() {
    let site = Site::open();
    site.write(&[
        ("lamp-1/shadow", json!({"reported": {"zone": {"t": 20}, "pin": 1}})),
        ("lamp-2/shadow", json!({"reported": {"zone": {"t": 20}}})),
    ]);
    let mut live = Live::open(&site, "partial", "NOT reported.pin:*");
    assert_eq!(live.found(), "lamp-1 lamp-2");
    let mut reloads = Reloads::of(&site);
    reloads.replace(MORE_TO_READ);
    live.wait_for("lamp-2", "more may be read");
    reloads.replace(FEWER_DEVICES);
    live.wait_for("lamp-1", "less may be read");
}

#[test]
fn refusals_name_the_reason() {
    let site = Site::open();
    for (query, expected) in [
        ("drift:maybe", "'q': column 7: expected true, false or *, for drift"),
        ("updated:<1h", "'q': 'updated' changes with time, which a live query does not follow; use GET /v1/search"),
        ("a OR NOT shadow.name.x.updated:>1h", "'q': 'shadow.name.x.updated' changes with time,"),
        ("(seen:* b)", "'q': 'seen' changes with time,"),
        ("connectivity.timestamp:>5", "'q': 'connectivity.timestamp' changes with time,"),
    ] {
        let refused = Live::try_open(&site, "web", query).err().unwrap_or_else(|| panic!("{query} was accepted"));
        let message = refused.json()["message"].as_str().unwrap().to_owned();
        assert_eq!(refused.status, 400, "{query}: {message}");
        assert!(message.starts_with(&format!("Invalid parameter {expected}")), "{message}");
    }
    assert!(Live::try_open(&site, "web", "updated:*").is_ok(), "whether there is a time does not change with it");
    let head = "GET /v1/search/live HTTP/1.1\nLast-Event-ID: j5";
    let refused = site.client("web").send(head, b"").json();
    assert_eq!(refused["message"], json!("Invalid parameter 'Last-Event-ID': must be the id of an event"));
}

/// The set of a stream counts as memory of its caller, for the first result and later. `follower` may keep little.
#[test]
fn a_set_counts_as_memory() {
    let site = Site::open();
    let write =
        |n: usize| site.write_many(100, |device| (format!("d{device:03}/shadow"), json!({"reported": {"n": n}})));
    write(1);
    let refused = Live::try_open(&site, "follower", "reported.n:1").err().unwrap();
    assert_eq!((refused.status, &refused.json()["error"]), (429, &json!("too-many-requests")), "{}", refused.text());
    // The connection of that request counts until the server has seen its end.
    let mut live = eventually("memory for a stream", || Live::try_open(&site, "follower", "reported.n:2").ok());
    write(2);
    while live.read().is_some() {}
    assert_eq!(live.matches.end.unwrap()["error"], json!("too-many-requests"));
}

/// A stream of more devices than it keeps is refused, and ends when there are more.
#[test]
fn a_set_is_bounded() {
    let site = Site::open();
    site.write_many(10_000, |n| (format!("d{n:05}/shadow"), json!({"reported": {"n": 1}})));
    let mut live = Live::open(&site, "web", "reported.n:1");
    assert_eq!(live.matches.devices.len(), 10_000);
    assert_eq!(live.events.iter().filter(|name| *name == "enter").count(), 20, "no event has more than 500 devices");
    site.write(&[("more/shadow", json!({"reported": {"n": 1}}))]);
    while live.read().is_some() {}
    let refused = Live::try_open(&site, "web", "reported.n:1").err().unwrap();
    assert_eq!((refused.status, &refused.json()["error"]), (400, &json!("too-many-matches")), "{}", refused.text());
    assert_eq!(live.matches.end.unwrap()["message"], refused.json()["message"]);
}

/// A caller above its rate of work waits for its events, and receives them.
#[test]
fn a_stream_above_its_rate_of_work_goes_on_later() {
    let site = Site::open();
    site.write_many(130, |n| (format!("d{n:03}/shadow"), json!({"reported": {"n": n}})));
    let mut live = Live::open(&site, "slow", "reported.n:>=500");
    for n in 500..520 {
        site.write(&[("d000/shadow", json!({"reported": {"n": 1}})), ("d000/shadow", json!({"reported": {"n": n}}))]);
    }
    live.wait_for("d000", "the end");
}

/// One stream after the other from the same caller is refused once it has as many as it may.
#[test]
fn streams_are_counted() {
    let site = Site::open();
    site.write(&[("a/shadow", json!({"reported": {"n": 1}}))]);
    let mut open = Vec::new();
    let refused = loop {
        match Live::try_open(&site, "follower", "reported.n:1") {
            Ok(live) => open.push(live),
            Err(refused) => break refused,
        }
    };
    assert_eq!((refused.status, &refused.json()["error"], open.len()), (429, &json!("too-many-requests"), 1));
}

/// Whatever happens, at each quiet moment a client has the devices that a fresh query finds, over HTTP and MQTT.
#[test]
fn at_quiet_moments_the_set_is_that_of_a_fresh_query() {
    const QUERIES: [&str; 5] = [
        "reported.n:>5",
        "drift:true",
        "connected:true OR tags.x:1",
        "NOT reported.on:true connected:false",
        "shadow.name.cfg:* OR reported.n:3",
    ];
    for seed in 1..=3 {
        println!("seed {seed}");
        let mut random = Seed(seed);
        let mut site = Site::open();
        let mut connected: Vec<Option<Client>> = (0..6).map(|_| None).collect();
        let open = |site: &Site, query| Live::open(site, "web", query);
        let mut streams: Vec<Live> = QUERIES.iter().map(|query| open(&site, query)).collect();
        let names: Vec<String> = (0..QUERIES.len()).map(|number| format!("q{number}")).collect();
        names.iter().zip(QUERIES).for_each(|(name, query)| store(&site, name, query));
        let mut followers: Vec<Follower> = names.iter().map(|name| follow(&site, name, false)).collect();
        for round in 0..12 {
            let mut client = site.client("web");
            for _ in 0..random.next() % 30 {
                let device = usize::try_from(random.next() % 6).unwrap();
                let value = random.next() % 10;
                match random.next() % 10 {
                    0 => delete(&mut client, &format!("d{device}/shadow")),
                    1 => delete(&mut client, &format!("d{device}/shadows/cfg")),
                    2 => put(
                        &mut client,
                        &format!("d{device}/shadows/cfg"),
                        &json!({"desired": {"r": value % 2}, "reported": {"r": 1}}),
                    ),
                    3 => put(&mut client, &format!("d{device}/shadow"), &json!({"tags": {"x": value % 2}})),
                    4 => connected[device] = None,
                    5 => {
                        let mut mqtt = Client::connect(&site.0, V5, &format!("d{device}"));
                        mqtt.publish(&format!("shadow/d{device}/get"), "", 1);
                        connected[device] = Some(mqtt);
                    }
                    _ => put(
                        &mut client,
                        &format!("d{device}/shadow"),
                        &json!({"reported": {"n": value, "on": value.is_multiple_of(3)}}),
                    ),
                }
            }
            let about = format!("seed {seed}, round {round}");
            if round % 4 == 3 {
                site.0.kill();
                site.0.restart();
                connected.iter_mut().for_each(|client| *client = None);
            }
            for follower in &mut followers {
                if round % 4 == 3 || random.next().is_multiple_of(3) {
                    *follower = follow(&site, &follower.name.clone(), true);
                }
            }
            for (live, query) in streams.iter_mut().zip(QUERIES) {
                if round % 4 == 3 || random.next().is_multiple_of(3) {
                    let resumed = Live::resume(&site, "web", query, Some(&live.id), live.matches.devices.clone());
                    *live = resumed.unwrap_or_else(|refused| panic!("{about}: {refused:?}"));
                }
            }
            // A closed connection is noticed a little later; then the fresh query has its last answer.
            let expected = connected.iter().enumerate().filter(|(_, client)| client.is_some());
            let expected: Vec<String> = expected.map(|(device, _)| format!("d{device}")).collect();
            eventually("the connections to be seen", || {
                let found = site.found_at("web", "connected:true");
                let seen = found.split_whitespace().all(|id| expected.iter().any(|other| other == id));
                seen.then_some(())
            });
            for ((live, follower), query) in streams.iter_mut().zip(&mut followers).zip(QUERIES) {
                let fresh = ids(&site.search(&[("q", query), ("limit", "100")]));
                live.wait_for(&fresh, &format!("{about}: {query}"));
                follower.wait_for(&fresh, &format!("{about}, over MQTT: {query}"));
            }
        }
    }
}
