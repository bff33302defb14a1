"""What paho-mqtt, in one version of MQTT, sees of the server.

Usage: paho_client.py HOST PORT 3.1.1|5 tcp|websockets

Every wait is for a thing, with a deadline no healthy machine reaches.
"""

import json
import os
import queue
import sys

try:
    import paho.mqtt.client as mqtt
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties
except ImportError:
    sys.exit("paho-mqtt is not installed for this interpreter: run ./test, which installs it")

HOST, PORT, VERSION, TRANSPORT = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
V5 = VERSION == "5"
DEADLINE = float(os.environ.get("UMBRA_TEST_DEADLINE", "120"))


class Peer:
    """A connected client whose events wait in queues."""

    def __init__(self, client_id, clean=True, will=None):
        self.messages, self.acks, self.codes = queue.Queue(), {}, queue.Queue()
        self.connected, self.disconnected = queue.Queue(), queue.Queue()
        session = {} if V5 else {"clean_session": clean}
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=mqtt.MQTTv5 if V5 else mqtt.MQTTv311,
            transport=TRANSPORT,
            reconnect_on_failure=False,
            **session,
        )
        self.client.on_connect = lambda c, u, flags, reason, p: self.connected.put((flags, reason))
        self.client.on_disconnect = lambda c, u, flags, reason, p: self.disconnected.put(reason)
        self.client.on_message = lambda c, u, message: self.messages.put(message)
        self.client.on_subscribe = lambda c, u, mid, codes, p: self.codes.put([code.value for code in codes])
        self.client.on_publish = lambda c, u, mid, reason, p: self.acks.setdefault(mid, queue.Queue()).put((reason, p))
        if will:
            self.client.will_set(*will)
        options = {}
        if V5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 0 if clean else 3600
            options = {"clean_start": clean, "properties": properties}
        self.client.connect(HOST, PORT, 60, **options)
        self.client.loop_start()
        flags, reason = self.connected.get(timeout=DEADLINE)
        assert not reason.is_failure, reason
        self.session_present = flags.session_present

    def subscribe(self, *filters):
        self.client.subscribe(list(filters))
        codes = self.codes.get(timeout=DEADLINE)
        assert codes == [qos for _, qos in filters], codes

    def publish(self, topic, payload="", qos=0, retain=False, properties=None):
        """Publishes; the reason of the PUBACK or PUBREC and its properties."""
        info = self.client.publish(topic, payload, qos, retain, properties)
        info.wait_for_publish(DEADLINE)
        return self.acks.setdefault(info.mid, queue.Queue()).get(timeout=DEADLINE)

    def message(self):
        return self.messages.get(timeout=DEADLINE)

    def close(self):
        self.client.disconnect()
        self.disconnected.get(timeout=DEADLINE)
        self.client.loop_stop()

    def die(self):
        """Ends the connection without DISCONNECT."""
        self.client.loop_stop()
        self.client.socket().close()


def equal(found, expected):
    assert found == expected, f"{found!r} is not {expected!r}"


def every_qos():
    sender, receiver = Peer("sender"), Peer("receiver")
    for granted in range(3):
        receiver.subscribe(("q/+", granted))
        for qos in range(3):
            sender.publish("q/t", f"{qos}", qos)
            message = receiver.message()
            equal((message.topic, message.payload, message.qos), ("q/t", b"%d" % qos, min(qos, granted)))
    for number in range(50):
        sender.client.publish("q/t", f"{number}", 2)
    equal([int(receiver.message().payload) for _ in range(50)], list(range(50)))
    sender.close(), receiver.close()


def retained():
    sender = Peer("sender")
    sender.publish("kept/t", "kept", 1, retain=True)
    late = Peer("late")
    late.subscribe(("kept/#", 1))
    message = late.message()
    equal((message.payload, message.retain), (b"kept", True))
    sender.publish("kept/t", "", 1, retain=True)
    equal(late.message().payload, b"")
    later = Peer("later")
    later.subscribe(("kept/#", 1))
    sender.publish("kept/t", "live", 1)
    message = later.message()
    equal((message.payload, message.retain), (b"live", False))
    sender.close(), late.close(), later.close()


def wills():
    watcher = Peer("watcher")
    watcher.subscribe(("will/t", 2))
    Peer("mortal", will=("will/t", "died", 2)).die()
    message = watcher.message()
    equal((message.payload, message.qos), (b"died", 2))
    Peer("mortal", will=("will/t", "never", 1)).close()
    watcher.publish("will/t", "marker", 1)
    equal(watcher.message().payload, b"marker")
    watcher.close()


def persistent_session():
    first = Peer("keeper", clean=False)
    equal(first.session_present, False)
    first.subscribe(("keep/#", 2))
    first.close()
    sender = Peer("sender")
    for qos in (1, 2, 1):
        sender.publish("keep/t", f"{qos}", qos)
    second = Peer("keeper", clean=False)
    equal(second.session_present, True)
    # paho hands a QoS 2 message on when it is released, so after what came behind it.
    equal(sorted((m.payload, m.qos) for m in (second.message() for _ in range(3))), [(b"1", 1), (b"1", 1), (b"2", 2)])
    second.close()
    third = Peer("keeper", clean=True)
    equal(third.session_present, False)
    third.close(), sender.close()


def shared_subscription():
    members = [Peer(f"member-{number}") for number in range(3)]
    for member in members:
        member.subscribe(("$share/group/work", 1), ("end", 1))
    sender = Peer("sender")
    for number in range(60):
        sender.publish("work", f"{number}", 1)
    sender.publish("end", "end", 1)
    shares = []
    for member in members:
        payloads = []
        while (message := member.message()).topic == "work":
            payloads.append(int(message.payload))
        shares.append(payloads)
        member.close()
    equal(sorted(sum(shares, [])), list(range(60)))
    assert all(shares), shares
    sender.close()


def shadow():
    client = Peer("thermostat")
    client.subscribe(("shadow/paho/update/+", 1), ("shadow/paho/get/+", 1), ("shadow/paho/document", 1))

    def update(**body):
        reason, properties = client.publish("shadow/paho/update", json.dumps(body), 1)
        return reason.value, getattr(properties, "ReasonString", None)

    def events(*names):
        """The named events in their order; the document may come at any time."""
        found = []
        while len(found) < len(names):
            message = client.message()
            if not message.topic.endswith("/document"):
                found.append((message.topic.removeprefix("shadow/paho/"), json.loads(message.payload)))
        equal([name for name, _ in found], list(names))
        return [body for _, body in found]

    equal(update(state={"desired": {"target": 21}}, version=0, clientToken="a")[0], 0)
    delta, documents, accepted = events("update/delta", "update/documents", "update/accepted")
    equal((delta["state"], accepted["version"], documents["previous"]), ({"target": 21}, 1, None))
    equal({body["clientToken"] for body in (delta, documents, accepted)}, {"a"})
    code, reason = update(state={"desired": {"target": 25}}, version=0)
    equal(code, 0x83 if V5 else 0)
    equal(reason, "version conflict: expected 0, current 1" if V5 else None)
    (rejected,) = events("update/rejected")
    equal((rejected["code"], rejected["version"], rejected["etag"]), (409, 1, accepted["etag"]))
    code, _ = client.publish("shadow/paho/update", "no json", 1)
    equal(code.value, 0x99 if V5 else 0)
    events("update/rejected")
    code, _ = client.publish("shadow/paho/bogus", "{}", 1)
    equal(code.value, 0x90 if V5 else 0)
    client.publish("shadow/paho/get", "", 1)
    (document,) = events("get/accepted")
    equal(document["state"]["delta"], {"target": 21})
    late = Peer("late")
    late.subscribe(("shadow/+/document", 1))
    message = late.message()
    equal((json.loads(message.payload)["version"], message.retain), (1, True))
    late.close(), client.close()


def response_topic():
    client = Peer("asks")
    client.subscribe(("answers/+", 1))
    for number, (body, outcome) in enumerate([({"state": {"reported": {"a": 1}}}, 0), ({"state": 1}, 400)]):
        properties = Properties(PacketTypes.PUBLISH)
        properties.ResponseTopic = "answers/paho"
        properties.CorrelationData = b"%d" % number
        client.publish("shadow/asked/update", json.dumps(body), 1, properties=properties)
        message = client.message()
        equal((message.topic, message.properties.CorrelationData), ("answers/paho", b"%d" % number))
        equal(json.loads(message.payload).get("code", 0), outcome)
    client.close()


def take_over():
    first = Peer("twice")
    second = Peer("twice")
    reason = first.disconnected.get(timeout=DEADLINE)
    assert not V5 or reason.value == 0x8E, reason
    first.client.loop_stop()
    second.close()


SCENARIOS = [every_qos, retained, wills, persistent_session, shared_subscription, shadow]
for scenario in SCENARIOS + ([response_topic] if V5 else []) + [take_over]:
    scenario()
    print("paho", VERSION, TRANSPORT, scenario.__name__, "ok", flush=True)
