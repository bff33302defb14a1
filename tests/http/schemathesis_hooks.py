"""Makes well-formed requests keep to what the description says in words: which parameters exclude one another."""

import schemathesis
from schemathesis import GenerationMode


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
    # Only what a page before told is a place in a history, or among topics.
    if "history" in case.operation.path:
        query.pop("cursor", None)
    if "retainedMessage" in case.operation.path:
        query.pop("nextToken", None)
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
