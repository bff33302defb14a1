"""paho-mqtt publishes many messages at QoS 0 at once; each must arrive, once, and the connection must stay.

Usage: paho_burst.py PORT COUNT KEEP_ALIVE
"""

import os
import queue
import sys

import paho.mqtt.client as mqtt

PORT, COUNT, KEEP_ALIVE = (int(argument) for argument in sys.argv[1:4])
DEADLINE = float(os.environ.get("UMBRA_TEST_DEADLINE", "120"))


def connect(name, keep_alive):
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name)
    connected = queue.Queue()
    client.on_connect = lambda c, u, flags, reason, p: connected.put(reason)
    client.connect("127.0.0.1", PORT, keep_alive)
    client.loop_start()
    reason = connected.get(timeout=DEADLINE)
    assert not reason.is_failure, reason
    return client


messages, granted, lost = queue.Queue(), queue.Queue(), []
receiver = connect("receiver", 60)
receiver.on_message = lambda c, u, message: messages.put(int(message.payload))
receiver.on_subscribe = lambda c, u, mid, codes, p: granted.put(codes)
receiver.subscribe("burst/t")
granted.get(timeout=DEADLINE)

sender = connect("sender", KEEP_ALIVE)
sender.on_disconnect = lambda c, u, flags, reason, p: lost.append(reason)
for number in range(COUNT):
    sender.publish("burst/t", number)
for number in range(COUNT):
    found = messages.get(timeout=DEADLINE)
    assert found == number, f"{found} in the place of {number}; {lost}"
assert not lost, lost
sender.publish("burst/t", COUNT)
assert messages.get(timeout=DEADLINE) == COUNT
