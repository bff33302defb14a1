"""paho-mqtt clients on one loop, and a server that the caller of the script kills and starts again.

The script prints `kill`; the caller kills the server, starts it again, and answers with a line that has the new port.
"""

import os
import random
import selectors
import socket
import sys
import time

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

DEADLINE = float(os.environ.get("UMBRA_TEST_DEADLINE", "120"))

selector = selectors.DefaultSelector()


class Server:
    """The server's port, by what the caller says."""

    def __init__(self, port):
        self.port, self.is_running = port, True
        self.line = b""
        selector.register(sys.stdin, selectors.EVENT_READ, self)

    def ready(self, _mask):
        read = os.read(sys.stdin.fileno(), 100)
        assert read, "the caller has ended"
        self.line += read
        if self.line.endswith(b"\n"):
            self.port, self.is_running, self.line = int(self.line), True, b""

    def kill(self):
        self.is_running = False
        print("kill", flush=True)


class Peer:
    """A client, whose session is persistent unless it is clean."""

    def __init__(self, server, name, version, clean=False, dice=random):
        self.server, self.dice, self.connections = server, dice, 0
        self.name, self.is_connected, self.is_kept, self.clean = name, False, False, clean
        self.granted = None
        protocol = mqtt.MQTTv5 if version == 5 else mqtt.MQTTv311
        options = {} if version == 5 else {"clean_session": clean}
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=protocol, **options)
        self.start = {}
        if version == 5:
            self.start = {"clean_start": clean, "properties": Properties(PacketTypes.CONNECT)}
            self.start["properties"].SessionExpiryInterval = 0 if clean else 100_000
        self.client.on_connect = self.on_connect
        self.client.on_disconnect = self.on_disconnect
        self.client.on_message = lambda client, data, message: self.on_message(message)
        self.client.on_publish = lambda client, data, mid, reason, properties: self.on_publish(mid, reason)
        self.client.on_subscribe = lambda client, data, mid, codes, properties: self.on_subscribe(codes)
        self.client.on_socket_open = lambda client, data, sock: selector.register(sock, selectors.EVENT_READ, self)
        self.client.on_socket_close = lambda client, data, sock: selector.unregister(sock)

    def connect(self):
        self.client.connect("127.0.0.1", self.server.port, 600, **self.start)
        self.want()

    def leave(self):
        """Ends the connection, with DISCONNECT or without."""
        if self.dice.random() < 0.5:
            self.client.disconnect()
        else:
            self.client.socket().shutdown(socket.SHUT_RDWR)
        self.want()

    def subscribe(self, filters):
        self.client.subscribe(filters)
        self.want()

    def want(self):
        sock = self.client.socket()
        if sock is not None:
            write = selectors.EVENT_WRITE if self.client.want_write() else 0
            selector.modify(sock, selectors.EVENT_READ | write, self)

    def ready(self, mask):
        if mask & selectors.EVENT_READ:
            self.client.loop_read()
        if mask & selectors.EVENT_WRITE:
            self.client.loop_write()
        self.want()

    def on_connect(self, _client, _data, flags, reason, _properties):
        assert not reason.is_failure, f"{self.name}: {reason}"
        assert flags.session_present or not self.is_kept, f"{self.name}: the session is gone"
        assert not flags.session_present or not self.clean, f"{self.name}: a session of before"
        self.is_connected = True
        self.connections += 1

    def on_disconnect(self, _client, _data, _flags, _reason, _properties):
        self.is_connected = False

    def on_subscribe(self, codes):
        assert not any(code.is_failure for code in codes), f"{self.name}: {codes}"
        self.granted = [code.value for code in codes]
        self.is_kept = not self.clean

    def on_message(self, message):
        raise AssertionError(f"{self.name} has no subscription: {message.topic}")

    def on_publish(self, mid, reason):
        raise AssertionError(f"{self.name} has not published: {mid} {reason}")


def run(is_reached, what):
    """Serves the connections until it is reached."""
    last = time.monotonic()
    while not is_reached():
        events = selector.select(1)
        for key, mask in events:
            # One may have been closed by another's callback.
            if key.fileobj.fileno() >= 0:
                key.data.ready(mask)
        if events:
            last = time.monotonic()
        else:
            assert time.monotonic() < last + DEADLINE, f"nothing came; waited for {what() if callable(what) else what}"


def connect(peers):
    for peer in peers:
        if not peer.is_connected:
            peer.connect()
