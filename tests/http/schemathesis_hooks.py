"""Makes well-formed requests keep to what the description says in words: which values a shadow holds, and which
parameters exclude one another."""

import schemathesis
from schemathesis import GenerationMode

EXACT = 2**53

# Queries, fields and orders are texts with a syntax of their own.
QUERIES = ["*", "drift:true", "reported.a:>5 OR NOT tags.b:x*", "shadow.name.cfg.reported.c:[1 TO 2}", "updated:<1h -lamp"]
FIELDS = ["device", "reported.a,tags", "shadow.name.cfg.version,connected,seen"]
ORDERS = ["device", "-device", "reported.a", "-updated"]
NUMBERS = {"percents": "5,50.5", "interval": "2.5"}
# The parameter that only one kind of aggregate has.
OF_KIND = {"size": "terms", "percents": "percentiles", "interval": "histogram"}


def any_of(value, *others):
    """Values of JSON whose elements and members are as `value` has them."""
    number = {"type": "number", "minimum": -EXACT, "maximum": EXACT}
    array = {"type": "array", "items": {"$ref": "#/components/schemas/Value"}}
    members = {"type": "object", "additionalProperties": {"$ref": f"#/components/schemas/{value}"}}
    return {"anyOf": [{"type": ["boolean", "string", *others]}, number, array, members]}


@schemathesis.hook
def before_load_schema(context, raw_schema):
    """Says as a schema which values there are. The description cannot: it is for generators of clients too, and they
    do not take a schema that refers to itself."""
    schemas = raw_schema["components"]["schemas"]
    for name, schema in (("Value", any_of("Value")), ("ValueOrRemoval", any_of("ValueOrRemoval", "null"))):
        assert schemas[name].keys() == {"description"}, schemas[name]
        schemas[name] = schema


@schemathesis.hook
def before_call(context, case, kwargs):
    if case.meta is None or case.meta.generation.mode != GenerationMode.POSITIVE:
        return
    query, headers = case.query or {}, case.headers or {}
    if str(query.get("upsert", "")).lower() == "true":
        for other in ("base_version", "on_conflict"):
            query.pop(other, None)
        headers.pop("If-Match", None)
        headers.pop("If-None-Match", None)
    # Only a cursor of an earlier page is a position in a history, or among sessions or topics.
    listed = ("/v1/sessions", "/v1/retained", "/v1/users", "/v1/queries", "/v1/rollouts", "/v1/rollouts/{rollout}/devices")
    if case.operation.path in listed or "history" in case.operation.path:
        query.pop("cursor", None)
    if case.operation.path == "/v1/queries/{query}" and isinstance(case.body, dict):
        # One that does not depend on the time.
        case.body["q"] = QUERIES[len(str(case.body)) % 4]
    if case.operation.path in ("/v1/rollouts/{rollout}", "/v1/bulk") and isinstance(case.body, dict):
        # Exactly one of both selects the devices, and a patch changes something.
        body = case.body
        body.pop("devices", None)
        body["query"] = QUERIES[len(str(body)) % len(QUERIES)]
        body["patch"] = {"desired": {"r": [len(str(body))]}}
        known = {"waves": [3, "25.5%", "100%"], "success": "query: reported.r:*", "expect": [{"path": "/desired/r", "absent": True}]}
        body.update({name: value for name, value in known.items() if name in body})
    for name, known in (("q", QUERIES), ("sort", ORDERS), ("fields", FIELDS)):
        if name in query and (name == "q" or case.operation.path == "/v1/search"):
            query[name] = known[len(str(query[name])) % len(known)]
    if case.operation.path.startswith("/indices/") and isinstance(case.body, dict):
        body = case.body
        body["queryString"] = QUERIES[len(str(body)) % len(QUERIES)]
        body.pop("nextToken", None)
        if "aggregationField" in body or case.operation.path == "/indices/cardinality":
            body["aggregationField"] = "shadow.reported.a"
    if case.operation.path == "/v1/aggregate":
        kind = query.get("type", "count")
        for name in [name for name, owner in OF_KIND.items() if name in query and owner != kind]:
            query.pop(name)
        query.update({name: NUMBERS[name] for name in ("percents", "interval") if name in query})
        if "field" in query or kind != "count":
            query["field"] = ["reported.a", "device", "shadow.name.cfg.version"][len(str(query)) % 3]
        if kind == "histogram":
            query["interval"] = NUMBERS["interval"]
    if case.operation.path == "/v1/search" and str(query.get("cursor", ""))[:1] == "." or "sort" in query:
        query.pop("cursor", None)
    if "retainedMessage" in case.operation.path:
        query.pop("nextToken", None)
    # One header describes the payload, and another one has JSON.
    for name in list(headers):
        if name.lower() == "x-amz-mqtt5-payload-format-indicator" and headers[name] == "UTF8_DATA":
            headers[name] = "UNSPECIFIED_BYTES"
        elif name.lower() == "x-amz-mqtt5-user-properties":
            headers[name] = "W3siYSI6ImIifV0="
    if "base_version" in query:
        headers.pop("If-Match", None)
        headers.pop("If-None-Match", None)
    elif query.get("on_conflict") == "rebase":
        query.pop("on_conflict")
    if str(query.get("cursor", "")).startswith("~"):
        query.pop("cursor")
    if "version" in query:
        query.pop("wait", None)
    if "wait" not in query:
        query.pop("timeout", None)
