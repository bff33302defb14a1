"""Prints requests that botocore has signed, for the test vectors of src/http/sigv4/tests.rs."""

import datetime
import json

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

credentials = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")


class Clock(datetime.datetime):
    @classmethod
    def utcnow(cls):
        return datetime.datetime(2026, 9, 21, 14, 13, 20)

    @classmethod
    def now(cls, tz=None):
        return datetime.datetime(2026, 9, 21, 14, 13, 20, tzinfo=tz)


import botocore.auth
import botocore.compat

botocore.auth.datetime = type("module", (), {"datetime": Clock, "timezone": datetime.timezone})
for name in ("get_current_datetime",):
    if hasattr(botocore.auth, name):
        setattr(botocore.auth, name, lambda *_, **__: datetime.datetime(2026, 9, 21, 14, 13, 20))

for method, url, data, headers in [
    ("GET", "http://localhost:8080/things/lamp/shadow", b"", {}),
    ("GET", "http://localhost:8080/things/lamp%3A1/shadow?name=with%3Acolon", b"", {}),
    ("POST", "http://localhost:8080/things/lamp/shadow?name=b", b'{"state":{"desired":{"a":1}}}', {"X-Spaces": "  a   b "}),
    ("GET", "http://localhost:8080/api/things/shadow/ListNamedShadowsForThing/lamp?pageSize=3&nextToken=a%24b", b"", {}),
]:
    request = AWSRequest(method=method, url=url, data=data, headers=headers)
    SigV4Auth(credentials, "iotdata", "eu-central-1").add_auth(request)
    print(json.dumps([method, url, data.decode(), dict(request.headers)]))

for token in (None, "tok/en+="):
    signer = botocore.auth.SigV4QueryAuth(
        Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", token), "iotdata", "eu-central-1", expires=900
    )
    for url in ("http://localhost:8080/things/lamp/shadow?name=with%3Acolon", "http://localhost:8080/mqtt"):
        request = AWSRequest(method="GET", url=url)
        signer.add_auth(request)
        print(request.url)
