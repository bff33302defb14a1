"""Home Assistant's use of MQTT, and devices as it knows them, on a server that is killed.

Usage: home_assistant.py PORT 3|5 ROUNDS

Home Assistant has a clean session, whose client id stays. After each connect it sends one SUBSCRIBE with all its filters:
the wildcards of discovery, and the topics of the devices that it has discovered; then its birth message. A device has a
retained configuration, state, and availability, which its will sets to `offline`; some devices have persistent sessions,
and get the commands that were sent while they were away.
"""

import collections
import json
import sys

import paho.mqtt.client as mqtt

from peers import Peer, Server, connect, run

PORT, VERSION, ROUNDS = (int(argument) for argument in sys.argv[1:4])
DEVICES = 60
STATUS = "homeassistant/status"
DISCOVERY = ["homeassistant/+/+/config", "homeassistant/+/+/+/config", "homeassistant/device/+/+"]


class Client(Peer):
    """A client that knows which of its messages are acknowledged."""

    def __init__(self, name, version, clean):
        super().__init__(server, name, version, clean)
        self.waiting, self.acknowledged = {}, {}

    def publish(self, topic, payload, qos=1, retain=False):
        info = self.client.publish(topic, payload, qos, retain)
        if qos > 0:
            self.waiting[info.mid] = (topic, payload)
        self.want()

    def on_publish(self, mid, _reason):
        # One at QoS 0 is at an end in the call that publishes it.
        if mid in self.waiting:
            topic, payload = self.waiting.pop(mid)
            self.acknowledged[topic] = payload
            self.is_kept = not self.clean


class HomeAssistant(Client):
    """The integration: what it has discovered, and the last message of each of its topics."""

    def __init__(self):
        super().__init__("home-assistant", VERSION, clean=True)
        self.client.will_set(STATUS, "offline", 0, False)
        if VERSION == 5:
            self.start["clean_start"] = mqtt.MQTT_CLEAN_START_FIRST_ONLY
        self.discovered, self.last, self.subscribed, self.new = {}, {}, set(), []
        self.commands = collections.Counter()

    def begin(self):
        """What it does after CONNACK."""
        filters = sorted({*DISCOVERY, STATUS, *self.subscribed})
        self.last.clear()
        self.granted = None
        self.subscribe([(filter, 0) for filter in filters])
        run(lambda: self.granted is not None, "Home Assistant's subscriptions")
        self.publish(STATUS, "online", 0)

    def on_message(self, message):
        topic, payload = message.topic, message.payload.decode()
        if topic.endswith("/config"):
            if not payload:
                self.discovered.pop(topic, None)
                return
            configuration = json.loads(payload)
            topics = [configuration["state_topic"], configuration["availability_topic"]]
            self.discovered[topic] = configuration
            self.new += [topic for topic in topics if topic not in self.subscribed]
            self.subscribed.update(topics)
        else:
            self.last[topic] = payload

    def follow(self):
        """Subscribes to the topics of the devices that are new."""
        if self.new and self.is_connected:
            self.subscribe([(topic, 0) for topic in self.new])
            self.new = []

    def command(self, device):
        self.commands[device.name] += 1
        self.publish(f"home/{device.name}/set", str(self.commands[device.name]), 1 + device.index % 2)


class Device(Client):
    """A device. Every third one has a clean session."""

    def __init__(self, index):
        super().__init__(f"device-{index}", 3 + 2 * (index // 2 % 2), clean=index % 3 == 0)
        self.index, self.state, self.command, self.births = index, 0, 0, 0
        self.availability, self.config = f"home/{self.name}/availability", f"homeassistant/sensor/{self.name}/config"
        if index % 4 == 0:
            self.config = f"homeassistant/sensor/{self.name}/temperature/config"
        self.client.will_set(self.availability, "offline", 1, True)

    def begin(self):
        self.subscribe([(f"home/{self.name}/set", 2), (STATUS, 0)])
        self.announce()
        self.publish(self.availability, "online", 1, True)
        self.report()

    def announce(self):
        topics = {"state_topic": f"home/{self.name}/state", "availability_topic": self.availability}
        self.publish(self.config, json.dumps({"unique_id": self.name, **topics}), 1, True)

    def report(self):
        self.state += 1
        self.publish(f"home/{self.name}/state", str(self.state), 1 + self.index % 2, True)

    def on_message(self, message):
        if message.topic == STATUS:
            self.births += message.payload == b"online"
            return
        number = int(message.payload)
        # Home Assistant's session is clean: a command comes again, if its acknowledgement was lost.
        assert self.clean or number <= self.command + 1, f"{self.name}: command {number} after {self.command}"
        self.command = max(self.command, number)


def settle(what, is_reached):
    def is_settled():
        home.follow()
        return is_reached()

    run(is_settled, lambda: f"{what}: {unlike()}")


def unlike():
    """What Home Assistant does not know as it is."""
    found = {}
    for device in devices:
        if device in gone:
            continue
        expected = {device.availability: "online" if device.is_connected else "offline"}
        expected[f"home/{device.name}/state"] = str(device.state)
        seen = {topic: home.last.get(topic) for topic in expected}
        if device.config not in home.discovered or seen != expected:
            found[device.name] = (device.config in home.discovered, seen, expected)
        elif device.is_connected and not device.clean and device.command != home.commands[device.name]:
            found[device.name] = (device.command, home.commands[device.name])
    left = [device.name for device in gone if device.config in home.discovered]
    return found, left


def is_like():
    return unlike() == ({}, []) and not any(client.waiting for client in [home, *devices] if client.is_connected)


server = Server(PORT)
home, devices, gone = HomeAssistant(), [Device(index) for index in range(DEVICES)], []
connect([home, *devices])
run(lambda: all(client.is_connected for client in [home, *devices]), "connections")
for client in [home, *devices]:
    client.begin()
settle("the first discovery", is_like)
for number in range(ROUNDS):
    here = [device for device in devices if device.is_connected and device not in gone]
    away = here[number::4]
    for device in away:
        device.leave()
    # Removed from Home Assistant while the device is there: an empty retained configuration.
    removed = next(device for device in here if device not in away)
    removed.publish(removed.config, "", 1, True)
    gone.append(removed)
    run(lambda: all(not device.is_connected for device in away) and not removed.waiting, "the end of connections")
    for device in devices:
        home.command(device)
    for device in here:
        if device.is_connected:
            device.report()
    # Some of these are under way at the kill, and come again.
    run(lambda: len(home.waiting) <= DEVICES // 3, "acknowledgements")
    server.kill()
    clients = [home, *devices]
    run(lambda: server.is_running and not any(client.client.socket() for client in clients), "the restart")
    home.discovered.clear()
    # A part of them died with the server, and is offline.
    dead = [device for device in here[number::3] if device not in away]
    back = [device for device in devices if device not in dead and device not in gone]
    connect([home, *back])
    run(lambda: all(client.is_connected for client in [home, *back]), "connections")
    home.begin()
    for device in back:
        device.begin()
    settle("after the kill", is_like)
    for device in dead:
        if device not in gone:
            device.connect()
    run(lambda: all(device.is_connected for device in dead if device not in gone), "connections")
    for device in dead:
        if device not in gone:
            device.begin()
    settle("after all came back", is_like)
print(f"MQTT {VERSION}, {ROUNDS} kills, {DEVICES} devices, {sum(home.commands.values())} commands")
