# A lamp that obeys its shadow, for MicroPython with umqtt.simple: mpremote mip install umqtt.simple
# The network must be up: do that in boot.py. umqtt reads whole messages into memory: keep `desired` small.

import json
import time

from umqtt.simple import MQTTClient

DEVICE = "lamp-1"
HOST = "192.168.1.10"
PORT = 1883
SHADOW = "shadow/" + DEVICE

state = {"power": "off"}
seen = 0  # the newest version that was obeyed over this connection
client = None


def topic(end):
    return (SHADOW + "/" + end).encode()


def report():
    body = {"state": {"reported": state}, "metadata": False}
    client.publish(topic("update"), json.dumps(body).encode(), qos=0)


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
    if not payload:
        return  # nothing is left to do
    body = json.loads(payload)
    if name == topic("delta"):
        obey(body["version"], body["state"])
    else:
        print("rejected:", body["code"], body["message"])


def run():
    global client, seen
    seen = 0
    client = MQTTClient(DEVICE, HOST, PORT, keepalive=60)
    client.set_callback(on_message)
    client.connect()
    for end in ("delta", "update/rejected"):
        client.subscribe(topic(end))  # waits for the SUBACK
    report()  # the first report makes the shadow
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
