"""A lamp that obeys its shadow, with paho-mqtt 2: python3 lamp.py [DEVICE] [HOST] [PORT]"""

import json
import sys

import paho.mqtt.client as mqtt

device = sys.argv[1] if len(sys.argv) > 1 else "lamp-1"
host = sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1"
port = int(sys.argv[3]) if len(sys.argv) > 3 else 1883

shadow = f"shadow/{device}"
state = {"power": "off"}
seen = 0  # the newest version that was obeyed over this connection


def report(client):
    client.publish(f"{shadow}/update", json.dumps({"state": {"reported": state}, "metadata": False}), qos=1)


def obey(client, version, delta):
    global seen
    if version < seen:
        return  # older than what was obeyed already
    seen = version
    if delta.get("power") in ("on", "off"):
        state["power"] = delta["power"]
        print("power", state["power"], flush=True)
    report(client)


def on_connect(client, _userdata, _flags, reason, _properties):
    global seen
    if reason.is_failure:
        print("refused:", reason, flush=True)
        return
    seen = 0
    client.subscribe([(f"{shadow}/delta", 1), (f"{shadow}/update/rejected", 1)])
    report(client)  # the first report makes the shadow


def on_message(client, _userdata, message):
    if not message.payload:
        return  # nothing is left to do
    body = json.loads(message.payload)
    if message.topic == f"{shadow}/delta":
        obey(client, body["version"], body["state"])
    else:
        print("rejected:", body["code"], body["message"], flush=True)


client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=device)
client.on_connect, client.on_message = on_connect, on_message
client.reconnect_delay_set(min_delay=1, max_delay=60)
client.connect_async(host, port, keepalive=60)
client.loop_forever(retry_first_connection=True)
