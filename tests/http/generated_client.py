"""Uses the client that openapi-python-client generates. Arguments: its package, the description, the server's address."""

import importlib
import io
import json
import pkgutil
import re
import sys
import time
from base64 import b64decode
from pathlib import Path

package, description, address = sys.argv[1:4]
sys.path.insert(0, str(Path(package).parent))
generated = importlib.import_module(Path(package).name)
modules = {
    module.name.rsplit(".", 1)[-1]: importlib.import_module(module.name)
    for module in pkgutil.walk_packages(generated.__path__, generated.__name__ + ".")
}


def snake_case(name):
    return re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower()


paths = json.loads(Path(description).read_text())["paths"]
operations = {
    snake_case(operation["operationId"])
    for item in paths.values()
    for operation in item.values()
    if isinstance(operation, dict)
}
missing = operations - modules.keys()
assert not missing, f"no call for {missing}"

client = generated.Client(base_url=address)
State, Section = modules["state_object"].StateObject, modules["section"].Section
File = modules["types"].File
called = set()


def call(name, *arguments, status=200, **parameters):
    """What the server answers, as the client reads it."""
    answer = modules[name].sync_detailed(*arguments, client=client, **parameters)
    assert answer.status_code == status, (name, answer)
    called.add(name)
    return answer.parsed


def section(**members):
    return Section.from_dict(members)


# A shadow of a device, and a named one beside it.
for named, shadow in (("", ["lamp"]), ("_named", ["lamp", "night"])):
    desired = State(desired=section(mode="eco", list=[1, {"deep": True}]))
    created = call("put_shadow" + named, *shadow, body=desired, upsert=True, status=201)
    assert created.version == 1, created
    read = call("get_shadow" + named, *shadow, fields="/desired", consistent=True)
    assert read.state.to_dict()["desired"] == {"mode": "eco", "list": [1, {"deep": True}]}, read
    reported = State(reported=section(mode="eco", list=None))
    merged = call("patch_shadow" + named, *shadow, body=reported, if_match=read.etag)
    assert merged.changed is True and merged.version == 2, merged
    stale = call("delete_shadow" + named, *shadow, if_match=read.etag, status=412)
    assert stale.error == "version-conflict" and stale.version == 2, stale
    history = call("get_history" + named, *shadow, limit=1)
    assert history.end == "more" and history.entries[0].version == 2, history
    refusals = call("get_rejections" + named, *shadow)
    assert refusals.rejections[0].error == "version-conflict" and refusals.rejections[0].via == "http", refusals
refusals = call("follow_rejections")
assert [one.device for one in refusals.rejections] == ["lamp", "lamp"], refusals
assert len(call("list_shadows", "lamp").shadows) == 2
assert len(call("get_device", "lamp").shadows) == 2
assert [one.id for one in call("list_devices", drift=True).devices] == ["lamp"]
found = call("search_devices", q="desired.mode:eco", fields="desired.mode,shadow.name.night.version", total=True)
assert found.total == 1 and found.devices[0].id == "lamp", found
assert found.devices[0].fields.to_dict() == {"desired.mode": "eco", "shadow.name.night.version": 2}, found
Kind = modules["aggregate_devices_type"].AggregateDevicesType
modes = call("aggregate_devices", type_=Kind.TERMS, field="desired.mode")
assert (modes.devices, modes.terms[0].value, modes.terms[0].count) == (1, "eco", 1), modes
versions = call("aggregate_devices", type_=Kind.STATS, field="version")
assert (versions.stats.count, versions.stats.avg) == (1, 2), versions

# A named query from its creation to its end.
Named = modules["new_named_query"].NewNamedQuery
assert call("put_query", "old", body=Named(q="reported.n:1", description="text"), status=201).name == "old"
assert call("put_query", "old", body=Named(q="reported.n:2")).q == "reported.n:2"
assert call("get_query", "old").origin.value == "stored"
assert [one.name for one in call("list_queries").queries] == ["drifting", "old"]
call("delete_query", "old", status=204)

# A rollout from its creation to its end, and a bulk change.
Spec, Patch = modules["new_rollout"].NewRollout, modules["rollout_patch"].RolloutPatch
spec = Spec(query="device:lamp", patch=Patch(desired=section(mode="night")), waves=["100%"], success="accepted", paused=True)
planned = call("create_rollout", "night", body=spec, dry_run=True)
assert (planned.would_change, planned.waves) == (1, [1]), planned
created = call("create_rollout", "night", body=spec, if_none_match="*", status=201)
assert (created.state.value, created.counts.queued) == ("paused", 1), created
assert call("pause_rollout", "night", status=409).error == "rollout-state"
assert call("resume_rollout", "night").id == "night"
deadline = time.monotonic() + 60
while call("get_rollout", "night").state.value != "completed":
    assert time.monotonic() < deadline, "the rollout does not end"
(device,) = call("list_rollout_devices", "night").devices
assert (device.device, device.state.value, device.version) == ("lamp", "converged", 3), device
assert [one.id for one in call("list_rollouts").rollouts] == ["night"]
assert call("cancel_rollout", "night", status=409).error == "rollout-state"
assert call("roll_back_rollout", "night").id == "night"
while call("get_rollout", "night").state.value != "rolled-back":
    assert time.monotonic() < deadline, "the rollout is not rolled back"
call("delete_rollout", "night", status=204)
BulkChange = modules["bulk_change"].BulkChange
bulk = call("change_in_bulk", body=BulkChange(query="none", patch=Patch(tags=section(a=1))), status=202)
assert bulk.devices == 0 and bulk.id.startswith("bulk-"), bulk
call("delete_shadow_named", "lamp", "night", if_match=merged.etag, status=204)

# As AWS IoT has it.
Update, AwsState = modules["aws_update"].AwsUpdate, modules["aws_state"].AwsState
updated = call("update_thing_shadow", "lamp", body=Update(state=AwsState(desired=section(mode="off")), version=4))
assert updated.version == 5, updated
assert call("get_thing_shadow", "lamp").state.to_dict()["desired"]["mode"] == "off"
assert call("delete_thing_shadow", "lamp").version == 6
assert call("list_named_shadows_for_thing", "lamp").results == []
call("publish", "hall/light", body=File(payload=io.BytesIO(b"on")), qos=1, retain=True)
assert b64decode(call("get_retained_message", "hall/light").payload) == b"on"
assert [one.topic for one in call("list_retained_messages").retained_topics] == ["hall/light"]

# The index of AWS IoT.
IndexQuery, Aggregation = modules["aws_index_query"].AwsIndexQuery, modules["aws_aggregation"].AwsAggregation
call("update_thing_shadow", "pump", body=Update(state=AwsState(reported=section(rate=5))))
(thing,) = call("search_index", body=IndexQuery(query_string="shadow.reported.rate:5")).things
assert thing.thing_name == "pump" and json.loads(thing.shadow)["reported"] == {"rate": 5}, thing
rate = {"query_string": "*", "aggregation_field": "shadow.reported.rate"}
assert call("get_statistics", body=Aggregation(**rate)).statistics.average == 5
assert call("get_cardinality", body=Aggregation(**rate)).cardinality == 1
PercentileQuery = modules["aws_percentile_query"].AwsPercentileQuery
assert call("get_percentiles", body=PercentileQuery(percents=[50], **rate)).percentiles[0].value == 5
BucketQuery, Terms = modules["aws_bucket_query"].AwsBucketQuery, modules["aws_terms"].AwsTerms
kind = modules["aws_buckets_type"].AwsBucketsType(terms_aggregation=Terms(max_buckets=1))
found = call("get_buckets_aggregation", body=BucketQuery(buckets_aggregation_type=kind, **rate))
assert (found.total_count, found.buckets[0].key_value) == (1, "5"), found
assert call("list_indices").index_names == ["AWS_Things"]
assert call("describe_index", "AWS_Things").index_status == "ACTIVE"
call("delete_thing_shadow", "pump")

# Sessions, and an operator's tools.
assert call("get_session").roles == ["admin"]
body = modules["sign_in_by_password"].SignInByPassword(user="nobody", password="wrong")
assert call("sign_in", body=body, status=401).error == "unauthorized"
call("sign_out", status=204)
assert call("get_health") == "ok"
assert call("get_readiness") == "ready\n"
assert "umbra_" in call("get_metrics")
assert call("take_backup").payload.read()
assert call("get_cluster", status=404).error == "not-found"
assert call("get_principal", call("get_session").principal).work_per_second > 0
assert call("list_users", limit=5).users == []
assert "admin" in [role.role for role in call("list_roles").roles]
assert call("end_connections", "nobody").sessions == 0
assert call("purge_shadows", pattern="lamp*", dry_run=True).purged == 0
assert call("purge_shadows", deleted=True).kept > 0
assert call("list_mqtt_sessions", connected=True, limit=5).sessions == []
assert call("get_mqtt_session", "nobody", "no", status=404).error == "not-found"
assert call("end_mqtt_session", "nobody", "no", status=404).error == "not-found"
assert [(one.topic, one.bytes_) for one in call("list_retained").retained] == [("hall/light", 2)]
assert call("get_description").to_dict()["openapi"] == "3.1.0"

# Endless streams, which no generated call reads.
assert operations - called == {"follow_events", "follow_rollout", "follow_search"}, operations - called
