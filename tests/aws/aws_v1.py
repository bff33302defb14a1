"""AWS IoT Device SDK v1 for Python (AWSIoTPythonSDK), unchanged, against the server: shadow get, update, delete, deltas.

Usage: aws_v1.py HOST PORT THING CA CERTIFICATE KEY

Every wait is for a thing, with a deadline no healthy machine reaches.
"""

import json
import os
import queue
import sys

try:
    from AWSIoTPythonSDK.MQTTLib import AWSIoTMQTTShadowClient
except ImportError:
    sys.exit("AWSIoTPythonSDK is not installed for this interpreter: run ./test, which installs it")

HOST, PORT, THING, CA, CERTIFICATE, KEY = sys.argv[1], int(sys.argv[2]), *sys.argv[3:7]
DEADLINE = int(os.environ.get("UMBRA_TEST_DEADLINE", "120"))
DELTAS = 20


def connect(client_id):
    client = AWSIoTMQTTShadowClient(client_id)
    client.configureEndpoint(HOST, PORT)
    client.configureCredentials(CA, KEY, CERTIFICATE)
    client.configureConnectDisconnectTimeout(DEADLINE)
    client.configureMQTTOperationTimeout(DEADLINE)
    assert client.connect(keepAliveIntervalSecond=1200)
    return client


class Shadow:
    def __init__(self, client, persistent):
        self.handler = client.createShadowHandlerWithName(THING, persistent)
        self.replies, self.deltas = queue.Queue(), queue.Queue()

    def reply(self, payload, status, token):
        self.replies.put((status, payload if status == "timeout" else json.loads(payload)))

    def answer(self, expected):
        status, body = self.replies.get(timeout=DEADLINE)
        assert status == expected, (status, body)
        return body

    def get(self, expected="accepted"):
        self.handler.shadowGet(self.reply, DEADLINE)
        return self.answer(expected)

    def update(self, body, expected="accepted"):
        self.handler.shadowUpdate(json.dumps(body), self.reply, DEADLINE)
        return self.answer(expected)

    def delete(self, expected="accepted"):
        self.handler.shadowDelete(self.reply, DEADLINE)
        return self.answer(expected)

    def watch(self):
        self.handler.shadowRegisterDeltaCallback(lambda payload, kind, token: self.deltas.put(json.loads(payload)))


def main():
    # Two that subscribe once, and one that does so around each request, which the SDK takes seconds for.
    device, app, visitor = connect(THING), connect(f"{THING}-app"), connect(f"{THING}-visitor")
    lamp, remote, passing = Shadow(device, True), Shadow(app, True), Shadow(visitor, False)
    lamp.watch()

    missing = lamp.get("rejected")
    assert (missing["code"], missing["message"]) == (404, f"No shadow exists with name: '{THING}'"), missing
    passing.delete("rejected")

    # The SDK takes no delta that is not newer than what it has seen accepted, so each must come before its accepted.
    for number in range(DELTAS):
        assert remote.update({"state": {"desired": {"n": number}}})["version"] == number + 1
    # It calls back on a thread for each delta, so the order it shows them in is its own.
    deltas = sorted((lamp.deltas.get(timeout=DEADLINE) for _ in range(DELTAS)), key=lambda delta: delta["version"])
    assert [(delta["version"], delta["state"]["n"]) for delta in deltas] == [(n + 1, n) for n in range(DELTAS)], deltas
    assert set(deltas[-1]["metadata"]["n"]) == {"timestamp"}, deltas[-1]

    # The same holds for its own update: a remaining delta is published before `accepted`.
    accepted = lamp.update({"state": {"reported": {"n": -1}}})
    assert lamp.deltas.get(timeout=DEADLINE)["version"] == accepted["version"]

    accepted = lamp.update({"state": {"reported": {"n": DELTAS - 1}}})
    got = passing.get()
    assert got["state"] == {"desired": {"n": DELTAS - 1}, "reported": {"n": DELTAS - 1}}, got
    assert got["version"] == accepted["version"] == DELTAS + 2, (got, accepted)
    conflict = remote.update({"state": {"desired": {"n": 0}}, "version": 1}, "rejected")
    assert (conflict["code"], conflict["message"]) == (409, "Version conflict"), conflict
    assert set(conflict) == {"code", "message", "timestamp", "clientToken"}, conflict

    deleted = remote.delete()
    assert deleted["version"] == DELTAS + 3, deleted
    lamp.get("rejected")
    assert lamp.deltas.empty()
    for client in (device, app, visitor):
        client.disconnect()
    print("ok")


main()
