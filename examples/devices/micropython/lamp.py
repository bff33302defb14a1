# A lamp that obeys its shadow, for MicroPython with umqtt.simple: mpremote mip install umqtt.simple
# The network must be up: do that in boot.py. umqtt reads whole messages into memory: keep the shadow small.

import json
import time

from umqtt.simple import MQTTClient

DEVICE = "lamp-1"
HOST = "192.168.1.10"
PORT = 1883
SHADOW = "shadow/" + DEVICE

state = {"power": "off"}
seen = 0  # the newest version that was obeyed
client = None


def topic(end):
    return (SHADOW + "/" + end).encode()


def report():
    client.publish(topic("update"), json.dumps({"state": {"reported": state}}).encode(), qos=0)


def obey(version, delta):
    global seen
    if version < seen:
        return  # older than what was obeyed already
    seen = version
    if delta.get("power") in ("on", "off"):
        state["power"] = delta["power"]
        print("power", state["power"])  # set the pin here
    report()


def on_message(name, payload):
    body = json.loads(payload)
    if name == topic("update/delta"):
        obey(body["version"], body["state"])
    elif name == topic("get/accepted"):
        obey(body["version"], body["state"].get("delta", {}))
    elif name == topic("get/rejected") and body["code"] == 404:
        report()  # the first report makes the shadow
    else:
        print(name, payload)


def run():
    global client
    client = MQTTClient(DEVICE, HOST, PORT, keepalive=60)
    client.set_callback(on_message)
    client.connect()
    for end in ("update/delta", "update/rejected", "get/accepted", "get/rejected"):
        client.subscribe(topic(end))  # waits for the SUBACK
    # Only now: what changes from here on is heard as a delta.
    client.publish(topic("get"), b"")
    last_ping = time.time()
    while True:
        client.check_msg()
        if time.time() - last_ping >= 30:
            client.ping()
            last_ping = time.time()
        time.sleep_ms(100)


delay = 1
while True:
    connected_at = time.time()
    try:
        run()
    except OSError as error:
        print("connection lost:", error)
    # Twice as long each time, up to a minute; from the start again after a connection that lasted.
    delay = 1 if time.time() - connected_at > 60 else min(delay * 2, 60)
    time.sleep(delay)
