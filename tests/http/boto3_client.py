"""boto3's iot-data client, unmodified, against the AWS-compatible API. Arguments: endpoint, access key, secret."""

import json
import queue
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

import boto3
import paho.mqtt.client as mqtt
from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

endpoint, access_key, secret = sys.argv[1:4]


def client(access_key, secret):
    return boto3.client(
        "iot-data",
        endpoint_url=endpoint,
        region_name="eu-central-1",
        aws_access_key_id=access_key,
        aws_secret_access_key=secret,
        config=Config(retries={"max_attempts": 1}),
    )


iot = client(access_key, secret)
exceptions = iot.exceptions


def payload(response):
    return json.loads(response["payload"].read())


def raises(exception, call, **arguments):
    try:
        call(**arguments)
    except exception as error:
        return error.response
    raise AssertionError(f"{call.__name__}({arguments}) raised no {exception.__name__}")


thing = "lamp:1_a-b"
response = raises(exceptions.ResourceNotFoundException, iot.get_thing_shadow, thingName=thing)
assert response["Error"]["Message"] == f"No shadow exists with name: '{thing}'", response
assert response["ResponseMetadata"]["HTTPStatusCode"] == 404, response

update = {"state": {"desired": {"color": "red", "tags": [1, 2]}, "reported": {"color": "blue"}}, "clientToken": "t-1"}
accepted = payload(iot.update_thing_shadow(thingName=thing, payload=json.dumps(update)))
assert accepted["state"] == update["state"] and accepted["version"] == 1 and accepted["clientToken"] == "t-1", accepted
assert set(accepted) == {"state", "metadata", "version", "timestamp", "clientToken"}, accepted

got = payload(iot.get_thing_shadow(thingName=thing))
assert got["state"]["delta"] == {"color": "red", "tags": [1, 2]} and got["version"] == 1, got
assert len(got["metadata"]["desired"]["tags"]) == 2, got
assert set(got) == {"state", "metadata", "version", "timestamp"}, got

again = payload(iot.update_thing_shadow(thingName=thing, payload=json.dumps(update)))
assert again["version"] == 2, "an update takes a version here even if it changes nothing"

stale = json.dumps({"state": {"desired": {"color": "green"}}, "version": 1})
response = raises(exceptions.ConflictException, iot.update_thing_shadow, thingName=thing, payload=stale)
assert response["Error"]["Message"] == "Version conflict", response

for body, message in [
    (b"{", "Invalid JSON"),
    (b"{}", "Missing required node: state"),
    (b'{"state": {"other": 1}}', "State contains an invalid node: 'other'"),
]:
    response = raises(exceptions.InvalidRequestException, iot.update_thing_shadow, thingName=thing, payload=body)
    assert response["Error"]["Message"] == message, response
raises(exceptions.UnsupportedDocumentEncodingException, iot.update_thing_shadow, thingName=thing, payload=b"\xff")
large = json.dumps({"state": {"desired": {"x": "x" * 9000}}})
raises(exceptions.RequestEntityTooLargeException, iot.update_thing_shadow, thingName=thing, payload=large)

names = sorted(f"shadow-{n:02}" for n in range(7)) + ["with:colon"]
for name in names:
    iot.update_thing_shadow(thingName=thing, shadowName=name, payload=json.dumps({"state": {"reported": {"n": name}}}))
assert payload(iot.get_thing_shadow(thingName=thing, shadowName="with:colon"))["state"] == {"reported": {"n": "with:colon"}}
found, token = [], None
while True:
    page = iot.list_named_shadows_for_thing(thingName=thing, pageSize=3, **({"nextToken": token} if token else {}))
    assert len(page["results"]) <= 3 and page["timestamp"] > 0, page
    found += page["results"]
    token = page.get("nextToken")
    if token is None:
        break
assert found == sorted(names), found
assert iot.list_named_shadows_for_thing(thingName="nobody")["results"] == []

deleted = payload(iot.delete_thing_shadow(thingName=thing, shadowName="with:colon"))
assert deleted["version"] == 2 and set(deleted) == {"version", "timestamp"}, deleted
raises(exceptions.ResourceNotFoundException, iot.delete_thing_shadow, thingName=thing, shadowName="with:colon")
assert "with:colon" not in iot.list_named_shadows_for_thing(thingName=thing)["results"]

# Ordinary topics.
topic = "plant/line 1/état"
properties = json.dumps([{"unit": "C"}])
iot.publish(topic=topic, qos=1, retain=True, payload=b"21", contentType="text/plain", userProperties=properties)
retained = iot.get_retained_message(topic=topic)
assert (retained["topic"], retained["payload"], retained["qos"]) == (topic, b"21", 1), retained
assert json.loads(retained["userProperties"]) == [{"unit": "C"}], retained
assert abs(retained["lastModifiedTime"] / 1000 - time.time()) < 120, retained
for n in range(5):
    iot.publish(topic=f"plant/{n}", qos=0, retain=True, payload=b"x" * n)
listed, token = [], None
while True:
    page = iot.list_retained_messages(maxResults=2, **({"nextToken": token} if token else {}))
    assert len(page["retainedTopics"]) <= 2, page
    listed += [(one["topic"], one["payloadSize"]) for one in page["retainedTopics"]]
    token = page.get("nextToken")
    if token is None:
        break
# An empty payload keeps nothing.
assert sorted(listed) == sorted([(topic, 2)] + [(f"plant/{n}", n) for n in range(1, 5)]), listed
iot.publish(topic=topic, retain=True, payload=b"")
raises(exceptions.ResourceNotFoundException, iot.get_retained_message, topic=topic)
for reserved in [f"$aws/things/{thing}/shadow/update", f"shadow/{thing}/update", "a/+", "a/\x01"]:
    raises(exceptions.InvalidRequestException, iot.publish, topic=reserved, payload=b"{}")


# URLs that carry their signature: one that is fetched, and one of a WebSocket, as AWS's SDKs for browsers have them.
def presigned(path, service, key=access_key, secret=secret):
    request = AWSRequest(method="GET", url=endpoint + path)
    SigV4QueryAuth(Credentials(key, secret), service, "eu-central-1", expires=300).add_auth(request)
    return request.url


with urllib.request.urlopen(presigned(f"/things/{thing}/shadow", "iotdata")) as answer:
    assert json.load(answer)["version"] == 2
try:
    urllib.request.urlopen(presigned(f"/things/{thing}/shadow", "iotdata", secret=secret + "x"))
except urllib.error.HTTPError as error:
    assert error.code == 403, error
else:
    raise AssertionError("a wrong signature was accepted")


def over_websocket(url):
    """Publishes a message over the WebSocket at `url`; the reason code of its CONNACK, or what failed before that."""
    parts, came = urllib.parse.urlsplit(url), queue.Queue()
    socket = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, "browser", transport="websockets")
    socket.ws_set_options(path=f"{parts.path}?{parts.query}")
    socket.username_pw_set("?SDK=JavaScript&Version=2.1692.0")
    socket.on_connect = lambda _client, _data, _flags, reason, _properties: came.put(reason.is_failure)
    try:
        socket.connect(parts.hostname, parts.port)
        socket.loop_start()
        failed = came.get(timeout=60)
        if not failed:
            socket.publish("plant/browser", b"hello", qos=1, retain=True).wait_for_publish(60)
        return failed
    except mqtt.WebsocketConnectionError as error:
        return str(error)
    finally:
        socket.disconnect()
        socket.loop_stop()


assert over_websocket(presigned("/mqtt", "iotdevicegateway")) is False
assert iot.get_retained_message(topic="plant/browser")["payload"] == b"hello"
assert over_websocket(presigned("/mqtt", "iotdevicegateway", secret=secret + "x"))

# Who signs with a secret that is not the key's is refused, however little a listener asks for otherwise.
try:
    client(access_key, secret + "x").get_thing_shadow(thingName=thing)
except ClientError as error:
    assert error.response["Error"]["Code"] == "InvalidSignatureException", error.response
    assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 403, error.response
else:
    raise AssertionError("a wrong signature was accepted")

# A key that is known, of a principal without a role.
try:
    client("AKIANOROLE", secret).get_thing_shadow(thingName=thing)
except ClientError as error:
    assert error.response["Error"]["Code"] == "ForbiddenException", error.response
    assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 403, error.response
else:
    raise AssertionError("a principal without a role was let in")

print("boto3", boto3.__version__, "passed")
