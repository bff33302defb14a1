"""paho-mqtt with persistent sessions on a server that is killed at random moments under load.

Usage: paho_kills.py PORT ROUNDS SEED

In each round half of the sessions are away. The script asks for a kill at a random number of packets, and goes on with
its load.

Checked throughout: a session gets each message of a topic at QoS 2 exactly once and at QoS 1 at least once, for the first
time in the order in which they were published; sessions are present; after each restart, retained messages are the last
acknowledged or later ones, and shadows have each update once. At the end every session has every message.
"""

import collections
import json
import random
import sys

from peers import Peer, Server, connect, run

PORT, ROUNDS, SEED = (int(argument) for argument in sys.argv[1:4])
SESSIONS, GROUPS, PUBLISHERS = 200, 20, 8
# Fewer than the server lets a client have under way: paho sends all of them again at once.
WINDOW = 20
PACKET_IDENTIFIER_NOT_FOUND = 0x92

dice = random.Random(SEED)
# The last number that was published to a topic, and the last that was acknowledged.
sent, acknowledged = collections.Counter(), collections.Counter()
counts = collections.Counter()


class Session(Peer):
    """A persistent session, and the last number that it got of each topic."""

    def __init__(self, index):
        super().__init__(server, f"session-{index}", 3 + 2 * (index % 2), dice=dice)
        self.qos = 1 if index % 3 == 0 else 2
        self.group, self.publisher = index % GROUPS, None
        if self.group == 0:
            # One publisher in all groups.
            self.publisher = index // GROUPS % PUBLISHERS
        self.last, self.total = collections.Counter(), 0

    def filters(self):
        load = f"load/{self.group}/#" if self.publisher is None else f"load/+/{self.publisher}/#"
        return [(load, self.qos), ("marker", self.qos)]

    def matches(self, topic):
        if topic == "marker":
            return True
        kind, group, publisher, *_ = topic.split("/") + ["", ""]
        own = group == str(self.group) if self.publisher is None else publisher == str(self.publisher)
        return kind == "load" and own

    def on_message(self, message):
        number, last = int(message.payload), self.last[message.topic]
        counts[f"deliveries at QoS {message.qos}"] += 1
        about = f"{self.name}: {message.topic}: {number} after {last} at QoS {message.qos}, dup {message.dup}"
        assert self.matches(message.topic), about
        published_at = 2 if message.topic == "marker" else int(message.topic[-1])
        assert message.qos == min(self.qos, published_at), about
        if number == last + 1:
            self.last[message.topic] = number
            self.total += 1
        else:
            assert message.qos == 1 and number <= last, about
            counts["repetitions at QoS 1"] += 1

    def missing(self):
        topics = ((topic, number, self.last[topic]) for topic, number in sent.items() if self.matches(topic))
        return [missing for missing in topics if missing[1] != missing[2]]


class Publisher(Peer):
    """Publishes to its own topics, and is acknowledged."""

    def __init__(self, index):
        super().__init__(server, f"publisher-{index}", 3 + 2 * (index % 2), dice=dice)
        self.index, self.waiting = index, {}

    def publish(self):
        kind = dice.randrange(12)
        qos = dice.choice([1, 2])
        if kind == 0:
            topic, qos = f"shadow/device-{self.index}/update", 2
        elif kind < 3:
            topic = f"kept/{self.index}/{dice.randrange(2)}/{qos}"
        else:
            topic = f"load/{dice.randrange(GROUPS)}/{self.index}/{qos}"
        self.publish_to(topic, qos)

    def publish_to(self, topic, qos):
        sent[topic] += 1
        number = sent[topic]
        payload, retain = str(number), False
        if topic.startswith("shadow/"):
            payload = json.dumps({"state": {"reported": {"n": number}}})
        elif topic.startswith("kept/"):
            payload, retain = kept(number), True
        info = self.client.publish(topic, payload, qos, retain)
        self.waiting[info.mid] = (topic, number, qos)
        self.want()

    def on_publish(self, mid, reason):
        topic, number, qos = self.waiting.pop(mid)
        # PUBREL comes again when PUBCOMP was lost.
        is_known = qos == 1 or reason.value != PACKET_IDENTIFIER_NOT_FOUND
        assert not is_known or not reason.is_failure, f"{self.name}: {topic} {number}: {reason}"
        acknowledged[topic] = max(acknowledged[topic], number)
        self.is_kept = True
        counts[f"acknowledgements at QoS {qos}"] += 1


class Checker(Peer):
    """Reads the retained messages and the shadows."""

    def __init__(self, version):
        super().__init__(server, "checker", version, clean=True)
        self.found = {}

    def on_message(self, message):
        self.found[message.topic] = message.payload.decode()

    def on_publish(self, mid, reason):
        assert not reason.is_failure, reason

    def check(self):
        self.connect()
        run(lambda: self.is_connected, "the checker's connection")
        shadows = [f"shadow/device-{index}/document" for index in range(PUBLISHERS)]
        self.subscribe([(topic, 1) for topic in ["kept/#", "fence", *shadows]])
        run(lambda: self.granted, "the checker's subscription")
        self.client.publish("fence", "fence", 1)
        kept_topics = [topic for topic in sent if topic.startswith("kept/")]
        # Those whose last acknowledged message was not an empty one, and that no later one may have cleared.
        expected = [topic for topic in kept_topics if all(kept(n) for n in possible(topic))]
        expected += [f"shadow/device-{i}/document" for i in range(PUBLISHERS) if acknowledged[f"shadow/device-{i}/update"]]
        run(lambda: "fence" in self.found and all(topic in self.found for topic in expected), "what is retained")
        for topic in kept_topics:
            values = [kept(number) for number in possible(topic)]
            found = self.found.get(topic, "")
            assert found in values, f"{topic}: {found!r} is retained, and not one of {values}"
        for index in range(PUBLISHERS):
            document = json.loads(self.found.get(f"shadow/device-{index}/document", "null"))
            if document is not None:
                version, number = document["version"], document["state"]["reported"]["n"]
                about = f"device {index}: version {version} with number {number}"
                assert version == number, f"{about}: an update was decided twice, or not at all"
                assert version in possible(f"shadow/device-{index}/update"), about
        self.client.disconnect()
        run(lambda: not self.is_connected, "the checker's end")


def kept(number):
    return "" if number % 5 == 0 else str(number)


def possible(topic):
    """The numbers of which one is the state of the topic."""
    return range(acknowledged[topic], sent[topic] + 1)


def packets():
    return sum(count for name, count in counts.items() if name.startswith(("deliveries", "acknowledgements")))


def load(enough):
    """Publishes until it is enough, with full windows."""

    def is_enough():
        for publisher in publishers:
            while publisher.is_connected and len(publisher.waiting) < WINDOW:
                publisher.publish()
        return enough()

    run(is_enough, "the load")


def play(number):
    here = dice.sample(sessions, SESSIONS // 2)
    connect(publishers + here)
    # paho forgets that it has PUBREC when a connection ends before CONNACK.
    run(lambda: all(publisher.is_connected for publisher in publishers), "the publishers' connections")
    # A moment while sessions come back, or one under load.
    last = packets() + dice.choice([dice.randrange(100), dice.randrange(4_000)])
    swap = packets() + dice.randrange(4_000)
    load(lambda: packets() >= min(last, swap))
    if swap < last:
        for session in dice.sample(here, SESSIONS // 10):
            if session.is_connected:
                session.leave()
        connect(dice.sample([session for session in sessions if session not in here], SESSIONS // 10))
        load(lambda: packets() >= last)
    server.kill()
    restart()
    Checker(3 + 2 * (number % 2)).check()


def restart():
    peers = sessions + publishers
    load(lambda: server.is_running and not any(peer.is_connected or peer.client.socket() for peer in peers))


def missing():
    lists = ((session.name, session.missing()) for session in sessions)
    return {name: missing for name, missing in lists if missing}


def settle():
    """Waits until everything is acknowledged, and every session has every message."""
    run(lambda: not any(publisher.waiting for publisher in publishers), "acknowledgements")
    totals = [sum(count for topic, count in sent.items() if session.matches(topic)) for session in sessions]
    has_all = lambda: all(session.total == total for session, total in zip(sessions, totals))
    run(has_all, lambda: f"messages that are missing: {missing()}")


def mark():
    """Publishes a message after which nothing is left that could come."""
    publishers[0].publish_to("marker", 2)
    settle()


server = Server(PORT)
sessions = [Session(index) for index in range(SESSIONS)]
publishers = [Publisher(index) for index in range(PUBLISHERS)]
connect(sessions)
run(lambda: all(session.is_connected for session in sessions), "connections")
for session in sessions:
    session.subscribe(session.filters())
run(lambda: all(session.granted == [session.qos] * 2 for session in sessions), "subscriptions")
for session in dice.sample(sessions, SESSIONS // 2):
    session.leave()
for number in range(ROUNDS):
    play(number)
    print(f"round {number}: {dict(counts)}", flush=True)
connect(sessions + publishers)
settle()
mark()
mark()
# What has come does not come again, except at QoS 1.
server.kill()
run(lambda: server.is_running and not any(peer.client.socket() for peer in sessions + publishers), "the restart")
Checker(5).check()
assert acknowledged == sent
connect(sessions + publishers)
run(lambda: all(session.is_connected for session in sessions + publishers), "connections")
mark()
print(f"{ROUNDS + 1} kills, {sum(sent.values())} messages, {dict(counts)}")
