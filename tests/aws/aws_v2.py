"""AWS IoT Device SDK v2 for Python (awsiotsdk), unchanged, against the server: every operation of IotShadowClientV2.

Usage: aws_v2.py HOST PORT 3.1.1|5 THING [CA CERTIFICATE KEY]

With certificates the SDK's own builder connects over mutual TLS, without them the client is made for plain TCP. Every
wait is for a thing, with a deadline no healthy machine reaches.
"""

import os
import queue
import sys

try:
    from awscrt import io, mqtt, mqtt5, mqtt_request_response
    from awsiot import ServiceStreamOptions, V2ServiceException, iotshadow, mqtt5_client_builder, mqtt_connection_builder
except ImportError:
    sys.exit("awsiotsdk is not installed for this interpreter: run ./test, which installs it")

HOST, PORT, VERSION, THING = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
CERTIFICATES = sys.argv[5:]
DEADLINE = float(os.environ.get("UMBRA_TEST_DEADLINE", "120"))
NAME = "config$1"


def connect_5():
    """Connects an MQTT 5 client; returns it and what stops it."""
    connected, stopped = queue.Queue(), queue.Queue()
    callbacks = {
        "on_lifecycle_connection_success": connected.put,
        "on_lifecycle_connection_failure": connected.put,
        "on_lifecycle_stopped": stopped.put,
    }
    if CERTIFICATES:
        ca, certificate, key = CERTIFICATES
        client = mqtt5_client_builder.mtls_from_path(
            endpoint=HOST, port=PORT, client_id=THING, ca_filepath=ca, cert_filepath=certificate, pri_key_filepath=key,
            **callbacks,
        )
    else:
        events = {f"on_lifecycle_event_{name[13:]}_fn": callback for name, callback in callbacks.items()}
        packet = mqtt5.ConnectPacket(client_id=THING, keep_alive_interval_sec=1200)
        client = mqtt5.Client(mqtt5.ClientOptions(host_name=HOST, port=PORT, connect_options=packet, **events))
    client.start()
    event = connected.get(timeout=DEADLINE)
    assert isinstance(event, mqtt5.LifecycleConnectSuccessData), event

    def stop():
        client.stop()
        stopped.get(timeout=DEADLINE)

    return client, stop


def connect_311():
    """Connects an MQTT 3.1.1 client; returns it and what stops it."""
    if CERTIFICATES:
        ca, certificate, key = CERTIFICATES
        connection = mqtt_connection_builder.mtls_from_path(
            endpoint=HOST, port=PORT, client_id=THING, clean_session=True, keep_alive_secs=1200,
            ca_filepath=ca, cert_filepath=certificate, pri_key_filepath=key,
        )
    else:
        client = mqtt.Client(io.ClientBootstrap.get_or_create_static_default())
        connection = mqtt.Connection(
            client=client, host_name=HOST, port=PORT, client_id=THING, clean_session=True, keep_alive_secs=1200
        )
    connection.connect().result(DEADLINE)
    return connection, lambda: connection.disconnect().result(DEADLINE)


class Shadow:
    """One shadow, classic or named: the SDK has other classes and methods for either."""

    def __init__(self, client, name):
        self.client, self.name = client, name
        self.target = {"thing_name": THING, **({"shadow_name": name} if name else {})}

    def call(self, operation, **fields):
        request_type = getattr(iotshadow, operation.title() + ("NamedShadowRequest" if self.name else "ShadowRequest"))
        method = getattr(self.client, operation + ("_named_shadow" if self.name else "_shadow"))
        return method(request_type(**self.target, **fields)).result(DEADLINE)

    def refused(self, operation, **fields):
        try:
            response = self.call(operation, **fields)
        except V2ServiceException as error:
            assert error.modeled_error is not None, (error.message, error.inner_error)
            return error.modeled_error
        raise AssertionError(f"{operation} {fields} was accepted: {response}")

    def stream(self, kind, request_type):
        """Opens a stream of events and waits until it is subscribed."""
        events, status = queue.Queue(), queue.Queue()
        prefix = "named_shadow" if self.name else "shadow"
        request = getattr(iotshadow, ("Named" if self.name else "") + request_type)(**self.target)
        options = ServiceStreamOptions(
            incoming_event_listener=events.put,
            subscription_status_listener=status.put,
            deserialization_failure_listener=events.put,
        )
        operation = getattr(self.client, f"create_{prefix}_{kind}_stream")(request, options)
        operation.open()
        event = status.get(timeout=DEADLINE)
        assert event.type == mqtt_request_response.SubscriptionStatusEventType.SUBSCRIPTION_ESTABLISHED, event
        return operation, events


def state(**sections):
    return iotshadow.ShadowState(**sections)


def life(shadow):
    """Creates, changes and deletes the shadow; nothing may be missed or left over."""
    delta_stream, deltas = shadow.stream("delta_updated", "ShadowDeltaUpdatedSubscriptionRequest")
    document_stream, documents = shadow.stream("updated", "ShadowUpdatedSubscriptionRequest")

    error = shadow.refused("get")
    full_name = f"{THING}~{shadow.name}" if shadow.name else THING
    assert (error.code, error.message) == (404, f"No shadow exists with name: '{full_name}'"), error
    assert error.client_token and error.timestamp, error
    assert shadow.refused("delete").code == 404

    accepted = shadow.call("update", state=state(desired={"color": "red", "list": [1, {"a": 2}]}, reported={"color": "blue"}))
    version = accepted.version
    assert accepted.state.desired == {"color": "red", "list": [1, {"a": 2}]}, accepted
    assert set(accepted.metadata.desired["color"]) == {"timestamp"}, accepted.metadata.desired
    assert [set(part) for part in accepted.metadata.desired["list"]] == [{"timestamp"}, {"a"}], accepted.metadata.desired
    delta = deltas.get(timeout=DEADLINE)
    assert (delta.version, delta.state) == (version, accepted.state.desired), delta
    assert delta.metadata == accepted.metadata.desired and delta.client_token == accepted.client_token, delta
    document = documents.get(timeout=DEADLINE)
    assert document.previous is None and document.current.version == version, document
    assert document.current.state.reported == {"color": "blue"}, document

    got = shadow.call("get")
    assert (got.version, got.state.delta, got.state.reported) == (version, delta.state, {"color": "blue"}), got
    assert got.metadata.reported["color"]["timestamp"] > 1_700_000_000, got

    # The device does what is asked; an equal report after it takes a version all the same.
    for number in (1, 2):
        accepted = shadow.call("update", state=state(reported={"color": "red", "list": [1, {"a": 2}]}), version=version)
        assert accepted.version == version + 1, accepted
        version = accepted.version
        document = documents.get(timeout=DEADLINE)
        assert (document.previous.version, document.current.version) == (version - 1, version), document
        assert shadow.call("get").state.delta is None

    error = shadow.refused("update", state=state(desired={"color": "green"}), version=version - 1)
    assert (error.code, error.message) == (409, "Version conflict"), error
    error = shadow.refused("update", state=state(desired={"list": [None]}))
    assert (error.code, error.message) == (400, "State contains an invalid node: 'list'"), error

    # Many at once: each of them is published, in order.
    requests = [shadow.call("update", state=state(desired={"n": number})) for number in range(20)]
    assert [accepted.version for accepted in requests] == list(range(version + 1, version + 21)), requests
    for number, accepted in enumerate(requests):
        delta = deltas.get(timeout=DEADLINE)
        assert (delta.version, delta.state) == (accepted.version, {"n": number}), delta
        assert documents.get(timeout=DEADLINE).current.version == accepted.version
    version += 20

    deleted = shadow.call("delete")
    assert (deleted.version, deleted.client_token is not None) == (version + 1, True), deleted
    assert shadow.refused("get").code == 404
    # A shadow made again goes on counting.
    assert shadow.call("update", state=state(reported={})).version == version + 2
    assert documents.get(timeout=DEADLINE).previous is None
    shadow.call("delete")
    assert deltas.empty() and documents.empty()
    del delta_stream, document_stream


def main():
    protocol_client, stop = connect_5() if VERSION == "5" else connect_311()
    options = mqtt_request_response.ClientOptions(
        max_request_response_subscriptions=4, max_streaming_subscriptions=8, operation_timeout_in_seconds=int(DEADLINE)
    )
    client = iotshadow.IotShadowClientV2(protocol_client, options)
    for name in (None, NAME):
        life(Shadow(client, name))
        print("ok", VERSION, "named" if name else "classic", "TLS" if CERTIFICATES else "TCP")
    del client
    stop()


main()
