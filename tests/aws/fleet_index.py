"""boto3's client of fleet indexing, unmodified. Arguments: endpoint, access key, secret.

The fleet is that of fleet_index.rs.
"""

import json
import sys
import time

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

ENDPOINT, ACCESS_KEY, SECRET = sys.argv[1:4]


def client(access_key=ACCESS_KEY, secret=SECRET):
    return boto3.client(
        "iot",
        endpoint_url=ENDPOINT,
        region_name="eu-central-1",
        aws_access_key_id=access_key,
        aws_secret_access_key=secret,
        config=Config(retries={"max_attempts": 1}),
    )


iot = client()
FLEET = "NOT thingName:page-*"


def names(query, iot=iot, **more):
    return " ".join(thing["thingName"] for thing in iot.search_index(queryString=query, **more)["things"])


def raises(exception, call, **arguments):
    try:
        call(**arguments)
    except exception as error:
        return error.response
    raise AssertionError(f"{call.__name__}({arguments}) raised no {exception.__name__}")


# "Example thing queries" of AWS's guide, with the names of its attributes.
for query, expected in [
    ("abc", ""),
    ("thingName:myThingName", "myThingName"),
    ("thingName:my*", "my2 myThingName"),
    ("thingName:ab?", "aba"),
    ("thingTypeName:aa", "myThingName"),
    ("thingGroupNames:a", "myThingName"),
    ("thingGroupNames:b*", "myThingName"),
    ("attributes.myAttribute:75", "myThingName"),
    ("attributes.myAttribute:[75 TO 80]", "my2 myThingName"),
    ("attributes.myAttribute:{75 TO 80]", "my2"),
    ('attributes.serialNumber:["abcd" TO "abcf"]', "myThingName"),
    ("attributes.model:l*y", "myThingName"),
    ("attributes.attr1:abc AND attributes.attr2<5 NOT attributes.attr3>10", "myThingName"),
    ("shadow.hasDelta:true", "myThingName"),
    ("NOT attributes.model:legacy AND NOT page-*", "aba my2 named-only"),
    ("shadow.reported.stats.battery:{70 TO 100} (my* OR v3) NOT attributes.model:other", "myThingName"),
    ("shadow.reported.myvalues:2", "my2"),
    ("shadow.reported.location:* NOT shadow.desired.stats.battery:*", "my2"),
    ("shadow.name.cfg.hasDelta:true", "my2"),
    ("shadow.name.cfg.desired.rate:5 AND shadow.name.cfg.reported.rate:6", "my2"),
    ("connectivity.connected:true", "myThingName"),
    ("connectivity.connected:false AND NOT page-*", "aba my2 named-only"),
    ("connectivity.connected:true AND connectivity.timestamp > 1557651600000", "myThingName"),
    ("connectivity.timestamp:*", "myThingName"),
]:
    assert names(query) == expected, (query, names(query))

# A thing as AWS documents it. There is no registry, so there is no thingId.
(thing,) = iot.search_index(indexName="AWS_Things", queryString="myThingName", queryVersion="2017-09-30")["things"]
assert thing.keys() == {"thingName", "thingTypeName", "thingGroupNames", "attributes", "shadow", "connectivity"}, thing
assert (thing["thingTypeName"], thing["thingGroupNames"]) == ("aa", ["a", "berlin"]), thing
assert thing["attributes"] == {
    "myAttribute": "75", "serialNumber": "abce", "model": "legacy", "attr1": "abc", "attr2": "4", "attr3": "10",
}, thing
shadow = json.loads(thing["shadow"])
assert shadow.keys() == {"desired", "reported", "metadata", "hasDelta", "version", "name"}, shadow
assert shadow["desired"] == {"mode": "eco", "stats": {"battery": 90}}, shadow
assert (shadow["hasDelta"], shadow["version"]) == (True, 1), shadow
stamp = shadow["metadata"]["reported"]["stats"]["battery"]["timestamp"]
assert abs(stamp - time.time()) < 600, shadow
assert shadow["name"]["cfg"]["reported"] == {"rate": 5} and shadow["name"]["cfg"]["hasDelta"] is False, shadow
assert thing["connectivity"]["connected"] is True, thing
assert abs(thing["connectivity"]["timestamp"] / 1000 - time.time()) < 600, thing
(never,) = iot.search_index(queryString="aba")["things"]
assert never["connectivity"] == {"connected": False}, "as AWS has it for a thing that never connected"
(named,) = iot.search_index(queryString="named-only")["things"]
assert json.loads(named["shadow"]).keys() == {"name"} and "attributes" not in named, named

# Pages.
found, token = [], None
while True:
    page = iot.search_index(queryString="page-*", maxResults=7, **({"nextToken": token} if token else {}))
    assert len(page["things"]) <= 7, page
    found += [thing["thingName"] for thing in page["things"]]
    token = page.get("nextToken")
    if token is None:
        break
assert found == [f"page-{n:02}" for n in range(50)], found
assert len(iot.search_index(queryString="*")["things"]) == 54

# Aggregates.
assert iot.get_statistics(queryString="*")["statistics"] == {"count": 54}, "every thing counts"
assert iot.get_statistics(queryString=FLEET, aggregationField="registry.version")["statistics"] == {"count": 4}
of_numbers = iot.get_statistics(queryString="*", aggregationField="shadow.reported.stats.battery")["statistics"]
assert of_numbers == {
    "count": 2, "average": 75, "sum": 150, "minimum": 70, "maximum": 80, "sumOfSquares": 11300, "variance": 25,
    "stdDeviation": 5,
}, of_numbers
of_text = iot.get_statistics(queryString="*", aggregationField="attributes.model")["statistics"]
assert of_text == {"count": 2}, of_text
of_flags = iot.get_statistics(queryString="*", aggregationField="shadow.reported.on")["statistics"]
assert (of_flags["count"], of_flags["average"], of_flags["minimum"], of_flags["maximum"]) == (2, 0.5, 0, 1), of_flags
assert iot.get_statistics(queryString="*", aggregationField="attributes.none")["statistics"] == {"count": 0}
assert iot.get_cardinality(queryString="*", aggregationField="attributes.n")["cardinality"] == 50
assert iot.get_cardinality(queryString="page-0*", aggregationField="attributes.n")["cardinality"] == 10
percentiles = iot.get_percentiles(queryString="*", aggregationField="attributes.n")["percentiles"]
assert [one["percent"] for one in percentiles] == [1, 5, 25, 50, 75, 95, 99], percentiles
assert percentiles[3]["value"] == 24.5, percentiles
percentiles = iot.get_percentiles(queryString="*", aggregationField="attributes.n", percents=[0.0, 100.0])["percentiles"]
assert percentiles == [{"percent": 0, "value": 0}, {"percent": 100, "value": 49}], percentiles
terms = {"termsAggregation": {"maxBuckets": 1}}
buckets = iot.get_buckets_aggregation(
    queryString=FLEET, aggregationField="shadow.name.cfg.desired.rate", bucketsAggregationType=terms
)
assert (buckets["totalCount"], buckets["buckets"]) == (4, [{"keyValue": "5", "count": 2}]), buckets
by_default = iot.get_buckets_aggregation(
    queryString="*", aggregationField="attributes.n", bucketsAggregationType={"termsAggregation": {}}
)
assert (by_default["totalCount"], len(by_default["buckets"])) == (54, 10), by_default

# The index.
assert iot.list_indices()["indexNames"] == ["AWS_Things"]
index = iot.describe_index(indexName="AWS_Things")
assert (index["indexName"], index["indexStatus"], index["schema"]) == ("AWS_Things", "ACTIVE", "MULTI_INDEXING_MODE"), index

# Exceptions.
exceptions = iot.exceptions
response = raises(exceptions.InvalidQueryException, iot.search_index, queryString="shadow.hasDelta:perhaps")
assert response["ResponseMetadata"]["HTTPStatusCode"] == 400, response
assert response["Error"]["Message"].startswith("column 17: expected true, false or *"), response
raises(exceptions.InvalidQueryException, iot.get_statistics, queryString="colour:red")
for call, arguments in [
    (iot.get_cardinality, {}),
    (iot.get_percentiles, {"aggregationField": "colour"}),
    (iot.get_statistics, {"aggregationField": "attributes."}),
]:
    raises(exceptions.InvalidAggregationException, call, queryString="*", **arguments)
for call, arguments in [
    (iot.search_index, {"maxResults": 101}),
    (iot.search_index, {"nextToken": "not a token"}),
    (iot.search_index, {"queryVersion": "2099-01-01"}),
    (iot.get_percentiles, {"aggregationField": "attributes.n", "percents": [101.0]}),
    (iot.get_buckets_aggregation, {"aggregationField": "attributes.n", "bucketsAggregationType": {}}),
]:
    raises(exceptions.InvalidRequestException, call, queryString="*", **arguments)
for call, arguments in [
    (iot.search_index, {"queryString": "*", "indexName": "AWS_ThingGroups"}),
    (iot.describe_index, {"indexName": "AWS_ThingGroups"}),
]:
    raises(exceptions.ResourceNotFoundException, call, **arguments)

# Rights: a viewer of a part of some things sees this part of them and no others, whatever it asks.
viewer = client("AKIAVIEWER")
assert names("*", viewer) == "my2 myThingName"
assert names("NOT attributes.attr1:abc", viewer) == "my2 myThingName", "NOT reveals nothing"
assert names("shadow.hasDelta:true OR attributes.attr1:* OR connectivity.connected:*", viewer) == ""
_, partial = viewer.search_index(queryString="*")["things"]
assert partial["attributes"] == {"model": "legacy"} and "connectivity" not in partial, partial
partial = json.loads(partial["shadow"])
assert partial.pop("name") == {"cfg": {"metadata": {}, "hasDelta": False, "version": 1}}, partial
assert partial.keys() == {"reported", "metadata", "hasDelta", "version"}, partial
assert partial["reported"] == {"stats": {"battery": 80}} and partial["hasDelta"] is False, partial
assert partial["metadata"].keys() == {"reported"}, partial
assert viewer.get_statistics(queryString="*")["statistics"] == {"count": 2}
assert viewer.get_cardinality(queryString="*", aggregationField="attributes.attr1")["cardinality"] == 0
for iot, code in [(client("AKIANOROLE"), "ForbiddenException"), (client(secret=SECRET + "x"), "InvalidSignatureException")]:
    try:
        iot.search_index(queryString="*")
    except ClientError as error:
        assert error.response["Error"]["Code"] == code, error.response
    else:
        raise AssertionError(f"no {code}")

print("boto3", boto3.__version__, "passed")
