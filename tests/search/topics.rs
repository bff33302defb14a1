//! Named queries over MQTT: the first set, the devices that enter and leave, and counts; what may be subscribed to; rights;
//! slow and absent subscribers.

use std::time::Instant;

use serde_json::{Value, json};

use crate::{
    harness::{
        DEADLINE,
        client::Client,
        eventually,
        packet::{Message, Packet},
        wire::{self, Connect, Properties, V4, V5, prop},
    },
    matches::Matches,
    named::{request, store},
    site::{FEWER_DEVICES, MORE_TO_READ, Reloads, Site},
};

/// A subscriber of one query, with the set that it has from the messages.
pub(crate) struct Follower {
    pub(crate) client: Client,
    pub(crate) name: String,
    matches: Matches,
    /// The last levels of the topics, those of retained messages with an asterisk.
    pub(crate) events: Vec<String>,
}

impl Follower {
    pub(crate) fn new(client: Client, name: &str) -> Self {
        Self { client, name: name.to_owned(), matches: Matches::default(), events: Vec::new() }
    }

    /// Subscribes to all messages of a query as an administrator.
    fn open(site: &Site, name: &str) -> Self {
        let mut client = Client::connect(&site.0, V5, "follower");
        client.subscribe(&[(&format!("shadow/$query/{name}/#"), 1)]);
        Self::new(client, name)
    }

    pub(crate) fn found(&self) -> String {
        self.matches.ids()
    }

    /// Takes the next message and acknowledges it.
    pub(crate) fn read(&mut self) {
        let message = self.client.message();
        // Those of the connection before precede the complete set.
        if !message.dup {
            self.take(&message);
        }
    }

    fn take(&mut self, message: &Message) {
        let event = message.topic.strip_prefix(&format!("shadow/$query/{}/", self.name)).expect("a topic of the query");
        self.events.push(format!("{event}{}", if message.retain { "*" } else { "" }));
        self.matches.apply(event, &message.json());
    }

    /// Reads until the client has this set, complete and counted.
    pub(crate) fn wait_for(&mut self, expected: &str, about: &str) {
        let deadline = Instant::now() + *DEADLINE;
        let is_counted = |found: &Matches| found.is_complete && found.counted == Some(found.devices.len());
        while !is_counted(&self.matches) || self.found() != expected {
            assert!(Instant::now() < deadline, "{about}: '{}', not '{expected}': {:?}", self.found(), self.events);
            self.read();
        }
    }

    /// Reads until the query ends, and returns the reason.
    fn wait_for_end(&mut self) -> Value {
        loop {
            if let Some(end) = self.matches.end.take() {
                return end;
            }
            self.read();
        }
    }
}

fn n(value: u64) -> Value {
    json!({"reported": {"n": value}})
}

#[test]
fn devices_enter_and_leave() {
    for (protocol, qos) in [(V4, 0), (V4, 1), (V5, 0), (V5, 1), (V5, 2)] {
        let site = Site::open();
        site.write(&[("a/shadow", n(1)), ("b/shadow", n(9))]);
        store(&site, "q", "reported.n:>5");
        let mut client = Client::connect(&site.0, protocol, "follower");
        client.subscribe(&[("shadow/$query/q/#", qos)]);
        let mut live = Follower::new(client, "q");
        live.wait_for("b", "the first set");
        site.write(&[("a/shadow", n(6))]);
        live.wait_for("a b", "entered");
        site.write(&[("b/shadow", n(2))]);
        live.wait_for("a", "left");
        assert_eq!(
            live.events.join(" "),
            "start* enter* complete* count* enter count leave count",
            "{protocol:?} {qos}"
        );
        // Another subscription begins with the complete set, and without one nothing comes.
        live.client.subscribe(&[("shadow/$query/q/#", qos)]);
        live.events.clear();
        live.wait_for("a", "again");
        while live.events.len() < 4 {
            live.read();
        }
        assert_eq!(live.events.join(" "), "start* enter* complete* count*");
        live.client.unsubscribe(&["shadow/$query/q/#"]);
        site.write(&[("a/shadow", n(1))]);
        live.client.subscribe(&[("done", 1)]);
        live.client.publish("done", "", 1);
        assert_eq!(live.client.message().topic, "done");
    }
}

/// A subscriber gets what its filters select, once, with the identifiers of its subscriptions.
#[test]
fn filters_select_messages() {
    let site = Site::open();
    store(&site, "q", "reported.n:>5");
    let mut all = Client::connect(&site.0, V5, "all");
    all.subscribe(&[("#", 1), ("shadow/#", 1), ("shadow/+/q/count", 1)]);
    let mut client = Client::connect(&site.0, V5, "some");
    let id = |id: u32| Properties::none().with(prop::SUBSCRIPTION_ID, wire::Value::Variable(id));
    assert_eq!(client.subscribe_with(&[("shadow/$query/q/count", 0)], &id(5)), [0]);
    let count = client.message();
    assert_eq!(
        (count.topic.as_str(), count.json()["count"].as_u64(), count.retain),
        ("shadow/$query/q/count", Some(0), true)
    );
    assert_eq!(client.subscribe_with(&[("shadow/$query/q/+", 1)], &id(6)), [1]);
    let topics: Vec<_> = (0..3).map(|_| client.message()).map(|message| (message.topic.clone(), message.qos)).collect();
    let expected = [("start", 1), ("complete", 1), ("count", 1)];
    assert_eq!(topics, expected.map(|(event, qos)| (format!("shadow/$query/q/{event}"), qos)));
    site.write(&[("a/shadow", n(6))]);
    let (enter, count) = (client.message(), client.message());
    assert_eq!(enter.json()["devices"], json!(["a"]));
    let ids = |message: &Message| message.properties.all(prop::SUBSCRIPTION_ID).len();
    assert_eq!((ids(&enter), ids(&count)), (1, 2));
    assert_eq!(enter.json()["id"], count.json()["id"]);
    // Nothing of it came to those who did not name the query: the first message is another one.
    all.publish("last", "", 1);
    loop {
        let message = all.message();
        assert!(!message.topic.contains("$query"), "{message:?}");
        if message.topic == "last" {
            break;
        }
    }
}

/// A client that wants no retained messages gets the changes only.
#[test]
fn retain_handling_applies_to_the_first_set() {
    const NOT_AT_ALL: u8 = 2 << 4;
    const IF_NEW: u8 = 1 << 4;
    let site = Site::open();
    site.write(&[("a/shadow", n(9))]);
    store(&site, "q", "reported.n:>5");
    let mut client = Client::connect(&site.0, V5, "silent");
    assert_eq!(client.subscribe_with(&[("shadow/$query/q/#", 1 | NOT_AT_ALL)], &Properties::none()), [1]);
    // The set is known to be read once a change of it was sent.
    let mut value = 0;
    let first = loop {
        value += 1;
        site.write(&[("b/shadow", n(if value % 2 == 0 { 1 } else { 7 }))]);
        client.send(wire::PINGREQ);
        let packet = client.wait("PINGRESP or PUBLISH", |packet| match packet {
            Packet::Publish(message) => Some(Some(message.clone())),
            Packet::PingResp => Some(None),
            _ => None,
        });
        if let Some(message) = packet {
            break message;
        }
    };
    assert!(first.topic.ends_with("/enter") || first.topic.ends_with("/leave"), "{first:?}");
    assert!(!first.retain, "{first:?}");
    let mut again = Follower::new(Client::connect(&site.0, V5, "again"), "q");
    again.client.subscribe(&[("shadow/$query/q/#", 1)]);
    while !again.matches.is_complete || again.matches.counted.is_none() {
        again.read();
    }
    again.events.clear();
    let codes = again.client.subscribe_with(&[("shadow/$query/q/#", 1 | IF_NEW)], &Properties::none());
    assert_eq!(codes, [1]);
    site.write(&[("c/shadow", n(9))]);
    again.read();
    assert_eq!(again.events.join(" "), "enter", "it goes on where it was");
}

#[test]
fn filters_that_name_no_query_are_refused() {
    let site = Site::open();
    let mut client = Client::connect(&site.0, V5, "admin");
    for (filter, code) in [
        ("shadow/$query/#", 0x8F),
        ("shadow/$query/+/count", 0x8F),
        ("shadow/$query/q", 0x8F),
        ("shadow/$query/q/other", 0x8F),
        ("shadow/$query/a.b/#", 0x8F),
        ("$share/g/shadow/$query/q/#", 0x8F),
    ] {
        assert_eq!(client.subscribe_with(&[(filter, 1)], &Properties::none()), [code], "{filter}");
    }
    let mut old = Client::connect(&site.0, V4, "old");
    assert_eq!(old.subscribe_with(&[("shadow/$query/#", 1)], &Properties::none()), [0x80]);
    assert_eq!(client.publish("shadow/$query/q/count", "{}", 1), 0x90, "only the server publishes there");
    let mut blind = Client::open_at(site.0.address_of("blind-mqtt"), V5);
    assert_eq!(blind.ask_in("blind"), Some(0));
    assert_eq!(blind.subscribe_with(&[("shadow/$query/q/#", 1)], &Properties::none()), [0x87]);
}

/// A session follows 16 queries at most, and a principal as many as it may have event streams.
#[test]
fn followed_queries_are_counted() {
    let site = Site::open();
    let mut client = Client::connect(&site.0, V5, "admin");
    for n in 0..16 {
        client.subscribe(&[(&format!("shadow/$query/q{n}/#"), 1)]);
    }
    assert_eq!(client.subscribe_with(&[("shadow/$query/q16/#", 1)], &Properties::none()), [0x97]);
    client.subscribe(&[("shadow/$query/q3/count", 1)]);
    client.unsubscribe(&["shadow/$query/q7/#"]);
    client.subscribe(&[("shadow/$query/q16/#", 1)]);
    let mut few = Client::open_at(site.0.address_of("few-mqtt"), V5);
    assert_eq!(few.ask_in("few"), Some(0));
    few.subscribe(&[("shadow/$query/q0/#", 1), ("shadow/$query/q1/#", 1), ("shadow/$query/q1/count", 1)]);
    assert_eq!(few.subscribe_with(&[("shadow/$query/q2/#", 1)], &Properties::none()), [0x97]);
    few.unsubscribe(&["shadow/$query/q0/#"]);
    eventually("the place of the one that ended", || {
        (few.subscribe_with(&[("shadow/$query/q2/#", 1)], &Properties::none()) == [1]).then_some(())
    });
}

/// A query may come, change and go while it is followed.
#[test]
fn definitions_are_those_of_each_moment() {
    let site = Site::open();
    site.write(&[("a/shadow", n(1)), ("b/shadow", n(9))]);
    let mut live = Follower::open(&site, "q");
    let end = live.wait_for_end();
    assert_eq!(end, json!({"error": "not-found", "message": "There is no query 'q'"}));
    store(&site, "q", "reported.n:>5");
    live.wait_for("b", "stored");
    store(&site, "other", "reported.n:1");
    store(&site, "q", "reported.n:<5");
    live.wait_for("a", "replaced");
    assert_eq!(request(&site, "web", "admin", "DELETE /q", "").status, 204);
    assert_eq!(live.wait_for_end(), end);
    store(&site, "q", "*");
    live.wait_for("a b", "stored again");
    let events = "end start* enter* complete* count* start* enter* complete* count* end start* enter* complete* count*";
    assert_eq!(live.events.join(" "), events, "and nothing for the other one");
}

/// Each subscriber sees what it may read, at each moment.
#[test]
fn a_subscriber_sees_what_it_may_read() {
    let site = Site::open();
    site.write(&[
        ("lamp-1/shadow", json!({"reported": {"zone": {"t": 20}, "pin": 1}})),
        ("lamp-2/shadow", json!({"reported": {"zone": {"t": 20}}})),
        ("vault/shadow", json!({"reported": {"zone": {"t": 20}}})),
    ]);
    store(&site, "all", "NOT reported.pin:*");
    store(&site, "pin", "reported.pin:*");
    let open = |listener: &str, name: &str| {
        let mut client = Client::open_at(site.0.address_of(listener), V5);
        assert_eq!(client.ask_in(name), Some(0));
        client.subscribe(&[(&format!("shadow/$query/{name}/#"), 1)]);
        Follower::new(client, name)
    };
    let mut live = open("partial-mqtt", "all");
    live.wait_for("lamp-1 lamp-2", "a part of the lamps");
    let mut hidden = open("partial-mqtt", "pin");
    hidden.wait_for("", "a hidden path");
    Follower::open(&site, "all").wait_for("lamp-2 vault", "an administrator sees all");
    let mut reloads = Reloads::of(&site);
    reloads.replace(MORE_TO_READ);
    live.wait_for("lamp-2", "more may be read");
    hidden.wait_for("lamp-1", "more may be read");
    reloads.replace(FEWER_DEVICES);
    live.wait_for("lamp-1", "less may be read");
}

/// A session that outlives its connection begins each with the complete set, also after a kill, without another SUBSCRIBE.
#[test]
fn a_session_goes_on_with_the_complete_set() {
    for protocol in [V4, V5] {
        let mut site = Site::open();
        site.write(&[("a/shadow", n(9)), ("b/shadow", n(1))]);
        store(&site, "q", "reported.n:>5");
        let connect = Connect::persistent(protocol, "follower");
        let (mut client, _) = Client::connect_as(&site.0, &connect);
        client.subscribe(&[("shadow/$query/q/#", 1)]);
        let mut live = Follower::new(client, "q");
        live.wait_for("a", "the first set");
        // A message that is not acknowledged comes again, and then the complete set.
        site.write(&[("b/shadow", n(9))]);
        let unacknowledged = live.client.peek_message();
        live.client.drop_connection();
        site.write(&[("a/shadow", n(1)), ("c/shadow", n(8))]);
        let (mut client, answer) = Client::connect_as(&site.0, &connect);
        assert!(answer.session_present);
        let again = client.message();
        assert!(
            again.dup && again.topic == unacknowledged.topic && again.payload == unacknowledged.payload,
            "{again:?}"
        );
        let mut live = Follower::new(client, "q");
        loop {
            let message = live.client.message();
            // Others that were under way.
            if message.topic.ends_with("/start") {
                live.take(&message);
                break;
            }
            assert!(message.dup, "{message:?}");
        }
        live.wait_for("b c", "after another connection");
        site.0.kill();
        site.0.restart();
        let (client, answer) = Client::connect_as(&site.0, &connect);
        assert!(answer.session_present);
        let mut live = Follower::new(client, "q");
        live.wait_for("b c", "after a kill");
        site.write(&[("c/shadow", n(1))]);
        live.wait_for("b", "it goes on");
    }
}

/// A client that does not acknowledge holds back its queries: it misses no device, and nothing is kept for it but a set.
#[test]
fn a_slow_subscriber_gets_differences() {
    let site = Site::open();
    store(&site, "q", "reported.n:>5");
    let connect = Connect::new(V5, "slow").property(prop::RECEIVE_MAXIMUM, wire::Value::Two(1));
    let (mut client, _) = Client::connect_as(&site.0, &connect);
    client.subscribe(&[("shadow/$query/q/#", 1)]);
    let mut live = Follower::new(client, "q");
    live.wait_for("", "the first set");
    site.write(&[("first/shadow", n(9))]);
    let unacknowledged = live.client.peek_message();
    live.events.clear();
    for round in 0..100 {
        let value = |device: u64| n(if (round + device).is_multiple_of(2) { 1 } else { 9 });
        site.write(&[("a/shadow", value(0)), ("b/shadow", value(1)), ("c/shadow", value(0))]);
    }
    live.client.ping();
    live.client.acknowledge(&unacknowledged);
    live.take(&unacknowledged);
    // 300 changes happened meanwhile. Some were seen before the client became slow.
    live.wait_for("a c first", "the end");
    assert!(live.events.len() < 40, "{} events: {:?}", live.events.len(), live.events);
}

/// A set counts as memory of the subscriber, who may keep little.
#[test]
fn a_set_counts_as_memory() {
    let site = Site::open();
    site.write_many(400, |device| (format!("d{device:03}/shadow"), n(1)));
    store(&site, "q", "reported.n:1");
    let mut client = Client::open_at(site.0.address_of("follower-mqtt"), V5);
    assert_eq!(client.ask_in("follower"), Some(0));
    client.subscribe(&[("shadow/$query/q/#", 1)]);
    let mut live = Follower::new(client, "q");
    let end = live.wait_for_end();
    assert_eq!(end, json!({"error": "too-many-requests", "message": "The memory of the principal is used up"}));
    store(&site, "q", "reported.n:2");
    live.wait_for("", "few enough");
    site.write(&[("d000/shadow", n(2))]);
    live.wait_for("d000", "it is followed");
}

/// A set of too many devices is refused with the reason, and begins again when the query is another one.
#[test]
fn a_set_is_bounded() {
    let site = Site::open();
    site.write_many(10_001, |device| (format!("d{device:05}/shadow"), n(u64::from(device == 0))));
    store(&site, "q", "*");
    let mut live = Follower::open(&site, "q");
    assert_eq!(live.wait_for_end()["error"], json!("too-many-matches"));
    store(&site, "q", "reported.n:0");
    while !live.matches.is_complete {
        live.read();
    }
    assert_eq!(live.matches.devices.len(), 10_000);
    site.write(&[("d00000/shadow", n(0))]);
    assert_eq!(live.wait_for_end()["error"], json!("too-many-matches"));
    store(&site, "q", "reported.n:1");
    live.wait_for("", "few enough");
}
