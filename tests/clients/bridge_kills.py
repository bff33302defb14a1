"""A bridge of mosquitto to a server that is killed under load: clients of both, which are not of the bridge.

Usage: bridge_kills.py PORT MOSQUITTO_PORT ROUNDS

Topics below `up` go from mosquitto to the server, and those below `down` from the server to mosquitto. Every message
that was acknowledged arrives on the other side: at QoS 2 once, at QoS 1 at least once, in order for the first time.
"""

import collections
import sys

from peers import Peer, Server, connect, run

PORT, EDGE_PORT, ROUNDS = (int(argument) for argument in sys.argv[1:4])
WINDOW, ROUND = 10, 120


class Edge:
    """The broker at the other end of the bridge, which is not killed."""

    port = EDGE_PORT


class Sender(Peer):
    """Publishes numbered messages below one topic, at QoS 1 and 2 in turn."""

    def __init__(self, server, direction):
        super().__init__(server, f"sender-{direction}", 3)
        self.direction, self.sent, self.waiting, self.acknowledged = direction, collections.Counter(), set(), 0
        self.left = 0

    def publish(self):
        while self.left and self.is_connected and len(self.waiting) < WINDOW:
            self.left -= 1
            qos = 1 + self.left % 2
            self.sent[qos] += 1
            self.waiting.add(self.client.publish(f"{self.direction}/{qos}", self.sent[qos], qos).mid)
            self.want()

    def on_publish(self, mid, _reason):
        self.waiting.remove(mid)
        self.acknowledged += 1
        self.is_kept = True


class Watcher(Peer):
    """Gets the messages of one direction on the other side."""

    def __init__(self, server, direction):
        super().__init__(server, f"watcher-{direction}", 3)
        self.direction, self.last, self.repeated = direction, collections.Counter(), 0

    def on_message(self, message):
        qos, number = int(message.topic[-1]), int(message.payload)
        about = f"{message.topic}: {number} after {self.last[qos]}, at QoS {message.qos}"
        assert message.topic == f"{self.direction}/{qos}" and message.qos == qos, about
        if number == self.last[qos] + 1:
            self.last[qos] = number
        else:
            assert qos == 1 and number <= self.last[qos], about
            self.repeated += 1


def load(is_reached, what):
    def is_enough():
        for sender in senders:
            sender.publish()
        return is_reached()

    run(is_enough, what)


def has_all():
    return all(not sender.left and not sender.waiting for sender in senders) and all(
        watcher.last == sender.sent for watcher, sender in zip(watchers, senders)
    )


def state():
    pairs = zip(watchers, senders)
    return [(sender.direction, dict(sender.sent), sender.acknowledged, dict(watcher.last)) for watcher, sender in pairs]


server, edge = Server(PORT), Edge()
senders = [Sender(edge, "up"), Sender(server, "down")]
watchers = [Watcher(server, "up"), Watcher(edge, "down")]
peers = senders + watchers
connect(peers)
run(lambda: all(peer.is_connected for peer in peers), "connections")
for watcher in watchers:
    watcher.subscribe([(f"{watcher.direction}/#", 2)])
run(lambda: all(watcher.granted == [2] for watcher in watchers), "subscriptions")
for number in range(ROUNDS):
    for sender in senders:
        sender.left = ROUND
    # Each kill is at another place of the load, in one round or the other of a direction.
    kill = [sender.acknowledged + ROUND * (number + 1) // (ROUNDS + 2) for sender in senders]
    load(lambda: any(sender.acknowledged >= at for sender, at in zip(senders, kill)), "acknowledgements")
    server.kill()
    mine = [peer for peer in peers if peer.server is server]
    load(lambda: server.is_running and not any(peer.client.socket() for peer in mine), "the restart")
    connect(mine)
    load(has_all, lambda: f"messages; sent, acknowledged, and received: {state()}")
# What would come twice comes before it.
for sender in senders:
    sender.left = 2
load(has_all, lambda: f"messages; sent, acknowledged, and received: {state()}")
print(f"{ROUNDS} kills, {state()}, repeated: {[watcher.repeated for watcher in watchers]}")
