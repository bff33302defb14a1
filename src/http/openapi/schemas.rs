//! The JSON Schemas of requests and responses.

mod aws_index;
mod queries;
mod rollouts;

use serde_json::{Map, Value, json};

use super::set;
use crate::shadow::{DocumentLimits, patch::OPERATIONS_MAX};

/// The pattern of an entity tag.
pub(super) const ETAG: &str = "^\"(0|[1-9][0-9]*)-[0-9a-f]{32}\"$";

/// The pattern of a path to a section or into one.
const POINTER: &str = "^/(desired|reported|tags)(/([^~/]|~[01])*)*$";
/// The pattern of a path to a section.
const SECTION: &str = "^/(desired|reported|tags)$";
/// The pattern of a path into a section.
const INSIDE: &str = "^/(desired|reported|tags)(/([^~/]|~[01])*)+$";

/// The largest integer up to which an IEEE 754 double represents all integers.
const EXACT_INTEGER_MAX: i64 = 1 << 53;

/// Returns all schemas by name.
pub(super) fn all(limits: &DocumentLimits) -> Map<String, Value> {
    let mut schemas = Map::new();
    values(&mut schemas, limits);
    native(&mut schemas);
    entries(&mut schemas);
    mqtt(&mut schemas);
    roles(&mut schemas);
    cluster(&mut schemas);
    queries::all(&mut schemas);
    rollouts::all(&mut schemas);
    aws(&mut schemas);
    schemas
}

/// Adds the schemas of values and sections.
///
/// A value is described in words, because client generators cannot read recursive schemas.
fn values(schemas: &mut Map<String, Value>, limits: &DocumentLimits) {
    let (bytes, leaves, depth) = (limits.document_bytes_max, limits.leaves_max, limits.depth_max);
    let about = format!(
        "At most {depth} levels of objects and arrays, {bytes} bytes in `desired` and `reported` together, and \
         {leaves} leaves in all sections"
    );
    put(schemas, "Value", json!({ "description": "A JSON value without null at any depth" }));
    let removal = "A JSON value. null, at any depth of objects, removes the value there. Arrays must not contain null";
    put(schemas, "ValueOrRemoval", json!({ "description": removal }));
    put(schemas, "Section", json!({ "type": "object", "additionalProperties": reference("ValueOrRemoval") }));
    let parts = ["desired", "reported", "tags"].map(|name| (name, or_null("Section")));
    let mut object = closed(parts, &[]);
    set(&mut object, "description", json!(about));
    put(schemas, "StateObject", object);
    let mut state = or_null("StateObject");
    set(&mut state, "description", json!("The sections to change; null clears all sections"));
    put(schemas, "State", state);
    json_patch(schemas);
}

fn json_patch(schemas: &mut Map<String, Value>) {
    let operation = |names: &[&str], path: &str, other: Option<(&'static str, Value)>| {
        let op = json!({ "type": "string", "enum": names });
        let members = [("op", op), ("path", json!({ "type": "string", "pattern": path }))];
        let required: Vec<&str> = ["op", "path"].into_iter().chain(other.iter().map(|(name, _)| *name)).collect();
        let mut operation = closed(members.into_iter().chain(other.clone()), &required);
        // Other members are ignored. RFC 6902 section 4.
        set(&mut operation, "additionalProperties", json!(true));
        operation
    };
    let from = json!({ "type": "string", "pattern": POINTER });
    put(schemas, "WholeSection", json!({ "type": "object", "additionalProperties": reference("Value") }));
    let operations = [
        ("PatchValue", operation(&["add", "replace"], INSIDE, Some(("value", reference("Value"))))),
        ("PatchSection", operation(&["add", "replace"], SECTION, Some(("value", reference("WholeSection"))))),
        ("PatchTest", operation(&["test"], POINTER, Some(("value", json!({}))))),
        ("PatchRemoval", operation(&["remove"], POINTER, None)),
        ("PatchMove", operation(&["move", "copy"], POINTER, Some(("from", from)))),
    ];
    let any: Vec<Value> = operations.iter().map(|(name, _)| reference(name)).collect();
    operations.into_iter().for_each(|(name, schema)| put(schemas, name, schema));
    put(
        schemas,
        "JsonPatch",
        json!({
            "description": "RFC 6902. Paths begin with a section. The value of a section is an object",
            "type": "array",
            "maxItems": OPERATIONS_MAX,
            "items": { "anyOf": any },
        }),
    );
}

/// Adds the schemas of shadows and of accepted writes.
fn native(schemas: &mut Map<String, Value>) {
    let object = json!({ "type": "object" });
    let sections = closed(["desired", "reported", "tags", "delta"].map(|name| (name, object.clone())), &[]);
    let sent = json!({ "type": ["object", "null"] });
    let mut accepted = closed(["desired", "reported", "tags"].map(|name| (name, sent.clone())), &[]);
    set(&mut accepted, "type", json!(["object", "null"]));
    let envelope = [("version", version(1)), ("timestamp", time()), ("etag", etag())];
    put(
        schemas,
        "Shadow",
        closed(
            [("state", sections), ("metadata", object.clone())].into_iter().chain(envelope.clone()),
            &["state", "version", "timestamp", "etag"],
        ),
    );
    let more = [
        ("state", accepted),
        ("metadata", object.clone()),
        ("changed", json!({ "type": "boolean" })),
        ("rebasedFrom", version(1)),
        ("replayed", json!({ "type": "boolean" })),
        ("dryRun", json!({ "type": "boolean" })),
        ("document", object),
    ];
    let needs = ["version", "timestamp", "etag"];
    put(schemas, "Accepted", closed(more.into_iter().chain(envelope), &needs));
    put(schemas, "Description", json!({ "type": "object" }));
    put(schemas, "EventStream", json!({ "type": "string" }));
}

/// Adds the schemas of history, refusals, devices, lists and problems.
fn entries(schemas: &mut Map<String, Value>) {
    let text = json!({ "type": "string" });
    let yes = json!({ "type": "boolean" });
    let author = [("by", text.clone()), ("client", text.clone()), ("timestamp", time())];
    put(
        schemas,
        "PathChange",
        closed(
            [("path", text.clone()), ("value", json!({})), ("removed", yes.clone()), ("previous", json!({}))],
            &["path"],
        ),
    );
    let change = [
        ("device", text.clone()),
        ("name", text.clone()),
        ("version", version(1)),
        ("etag", etag()),
        ("deleted", yes),
        ("changes", list("PathChange")),
    ];
    let needs = ["version", "timestamp", "by", "etag", "changes"];
    put(schemas, "Change", closed(change.into_iter().chain(author.clone()), &needs));
    let end = json!({ "type": "string", "enum": ["first", "more", "gone"] });
    let history = [("entries", list("Change")), ("end", end), ("next", text.clone())];
    put(schemas, "History", closed(history, &["entries", "end"]));
    let refusal = [
        ("code", json!({ "type": "integer" })),
        ("error", text.clone()),
        ("message", text.clone()),
        ("detail", text.clone()),
        ("expected", version(0)),
        ("version", version(0)),
        ("via", json!({ "type": "string", "enum": ["mqtt", "http"] })),
    ];
    let refusal = refusal.into_iter().chain(author);
    let needs = ["code", "error", "message", "timestamp", "by", "via"];
    put(schemas, "Refusal", closed(refusal.clone(), &needs));
    put(schemas, "Refusals", closed([("rejections", list("Refusal"))], &["rejections"]));
    let of = [("device", text.clone()), ("name", text.clone())];
    let needs = ["device", "code", "error", "message", "timestamp", "by", "via"];
    put(schemas, "FollowedRefusal", closed(of.into_iter().chain(refusal), &needs));
    let page = [("rejections", list("FollowedRefusal")), ("next", text.clone())];
    put(schemas, "FollowedRefusals", closed(page, &["rejections", "next"]));
    let flag = json!({ "type": "boolean" });
    let device = [
        ("id", text.clone()),
        ("connected", flag.clone()),
        ("lastSeen", time()),
        ("protocol", text.clone()),
        ("address", text.clone()),
        ("drift", flag.clone()),
    ];
    let needs = ["id", "drift", "shadows"];
    let counted = device.clone().into_iter().chain([("shadows", version(1))]);
    put(schemas, "Device", closed(counted.clone(), &needs));
    let found = counted.chain([("fields", json!({ "type": "object" }))]);
    put(schemas, "FoundDevice", closed(found, &["id", "drift", "shadows", "fields"]));
    let page = [("devices", list("FoundDevice")), ("total", version(0)), ("next", text.clone())];
    put(schemas, "FoundDevices", closed(page, &["devices"]));
    aggregate(schemas);
    let more = [("connectedSince", time()), ("shadows", list("ShadowSummary")), ("next", text.clone())];
    put(schemas, "DeviceDetail", closed(device.into_iter().chain(more), &needs));
    put(schemas, "Devices", closed([("devices", list("Device")), ("next", text.clone())], &["devices"]));
    let shadow =
        [("name", text.clone()), ("version", version(1)), ("etag", etag()), ("timestamp", time()), ("drift", flag)];
    put(schemas, "ShadowSummary", closed(shadow, &["version", "etag", "timestamp", "drift"]));
    put(schemas, "Shadows", closed([("shadows", list("ShadowSummary")), ("next", text)], &["shadows"]));
    put(schemas, "Problem", problem());
    sessions(schemas);
}

/// Adds the schemas of aggregates.
fn aggregate(schemas: &mut Map<String, Value>) {
    let (count, number) = (version(0), json!({ "type": "number" }));
    let flag = json!({ "type": "boolean" });
    let scalar = json!({ "type": ["string", "number", "boolean"] });
    put(schemas, "Term", closed([("value", scalar), ("count", version(1))], &["value", "count"]));
    let names = ["sum", "min", "max", "avg", "variance", "stdDev"].map(|name| (name, number.clone()));
    put(schemas, "Statistics", closed(names.into_iter().chain([("count", count.clone())]), &["count"]));
    let pair = [("percent", number.clone()), ("value", number.clone())];
    put(schemas, "Percentile", closed(pair, &["percent", "value"]));
    put(schemas, "Bucket", closed([("from", number), ("count", version(1))], &["from", "count"]));
    let members = [
        ("devices", count.clone()),
        ("withValue", count.clone()),
        ("terms", list("Term")),
        ("other", count.clone()),
        ("truncated", flag.clone()),
        ("stats", reference("Statistics")),
        ("percentiles", list("Percentile")),
        ("buckets", list("Bucket")),
        ("cardinality", count),
        ("exact", flag),
    ];
    put(schemas, "Aggregate", closed(members, &["devices", "withValue"]));
}

fn problem() -> Value {
    let text = json!({ "type": "string" });
    let objects = json!({ "type": "array", "items": { "type": "object" } });
    closed(
        [
            ("type", text.clone()),
            ("title", text.clone()),
            ("status", json!({ "type": "integer" })),
            ("detail", text.clone()),
            ("code", json!({ "type": "integer" })),
            ("error", text.clone()),
            ("message", text.clone()),
            ("timestamp", time()),
            ("expected", version(0)),
            ("version", version(0)),
            ("etag", etag()),
            ("conflicts", objects.clone()),
            ("clean", json!({ "type": "array", "items": text })),
            ("truncated", json!({ "type": "boolean" })),
            ("failed", objects),
            ("retryAfterMs", json!({ "type": "integer" })),
        ],
        &["type", "title", "status", "code", "error", "message", "timestamp"],
    )
}

/// Adds the schemas of browser sessions.
fn sessions(schemas: &mut Map<String, Value>) {
    let text = json!({ "type": "string" });
    let password = closed([("user", text.clone()), ("password", text.clone())], &["user", "password"]);
    put(schemas, "SignInByPassword", password);
    put(schemas, "SignInByToken", closed([("token", text.clone())], &["token"]));
    put(schemas, "SignIn", json!({ "anyOf": [reference("SignInByPassword"), reference("SignInByToken")] }));
    let roles = json!({ "type": "array", "items": text });
    let cluster = json!({ "type": "boolean", "description": "True if there is a cluster that the principal may see, else absent" });
    let session = [("principal", text.clone()), ("method", text), ("roles", roles), ("cluster", cluster)];
    put(schemas, "Session", closed(session, &["principal", "method", "roles"]));
    let names = ["connections", "sessions", "streams", "signIns"];
    let count = json!({ "type": "integer", "minimum": 0 });
    let step = [("purged", count.clone()), ("kept", count.clone()), ("next", json!({ "type": "string" }))];
    put(schemas, "PurgeStep", closed(step, &["purged", "kept"]));
    put(schemas, "EndedConnections", closed(names.map(|name| (name, count.clone())), &names));
    let used = ["used", "limit"];
    put(schemas, "Used", closed(used.map(|name| (name, count.clone())), &used));
    let counts = ["workPerSecond", "throttledForMs", "throttled", "connected"];
    let amounts = ["memory", "sessions", "filters", "streams", "newShadows"];
    let members = counts.map(|name| (name, count.clone())).into_iter();
    let members = members.chain(amounts.map(|name| (name, reference("Used"))));
    let members = members.chain([("principal", json!({ "type": "string" }))]);
    let names: Vec<_> = counts.into_iter().chain(amounts).chain(["principal"]).collect();
    put(schemas, "PrincipalUse", closed(members, &names));
}

/// Adds the schemas of users and roles.
fn roles(schemas: &mut Map<String, Value>) {
    let (text, count) = (json!({ "type": "string" }), json!({ "type": "integer", "minimum": 0 }));
    let texts = json!({ "type": "array", "items": text });
    put(schemas, "User", closed([("user", text.clone()), ("roles", texts.clone())], &["user", "roles"]));
    put(schemas, "Users", closed([("users", list("User")), ("next", text.clone())], &["users"]));
    let limits = ["memory", "workPerSecond", "sessions", "filters", "newShadows"];
    put(schemas, "RoleLimits", closed(limits.map(|name| (name, count.clone())), &limits));
    let lists = ["devices", "names", "operations", "read", "write", "publish", "subscribe", "administer"];
    let rule = lists.map(|name| (name, texts.clone())).into_iter().chain([("origin", text.clone())]);
    let needs: Vec<_> = lists.into_iter().filter(|name| *name != "operations").chain(["origin"]).collect();
    put(schemas, "RoleRule", closed(rule, &needs));
    let grant = ["principals", "by", "devices"];
    put(schemas, "RoleGrant", closed(grant.map(|name| (name, texts.clone())), &grant));
    let role = [
        ("role", text),
        ("limits", reference("RoleLimits")),
        ("rules", list("RoleRule")),
        ("grants", list("RoleGrant")),
    ];
    put(schemas, "Role", closed(role, &["role", "limits", "rules", "grants"]));
    put(schemas, "Roles", closed([("roles", list("Role"))], &["roles"]));
}

/// Adds the schemas of the cluster.
fn cluster(schemas: &mut Map<String, Value>) {
    let (text, flag) = (json!({ "type": "string" }), json!({ "type": "boolean" }));
    let count = json!({ "type": "integer", "minimum": 0 });
    let node = ["node", "applied", "lag"].map(|name| (name, count.clone())).into_iter();
    let node = node.chain([("alive", flag.clone()), ("left", flag.clone()), ("version", text.clone())]);
    put(schemas, "ClusterNode", closed(node, &["node", "alive", "left", "applied", "lag", "version"]));
    let groups = json!({ "type": "array", "items": { "type": "array", "items": count } });
    let difference = [("name", text.clone()), ("nodes", groups)];
    put(schemas, "ClusterDifference", closed(difference, &["name", "nodes"]));
    let server = ["name", "version", "syncInterval"].map(|name| (name, text.clone())).into_iter();
    let server = server.chain(["leader", "current"].map(|name| (name, flag.clone())));
    let server = server.chain([("maxPayload", count.clone())]);
    put(schemas, "ClusterLogServer", closed(server, &["name", "leader", "current"]));
    let log = ["first", "last", "records", "bytes", "maxPayloadMin"];
    let needs = [&log[..], &["servers", "allowUnsafeSync"]].concat();
    let log = log.map(|name| (name, count.clone())).into_iter();
    let log = log.chain([("servers", list("ClusterLogServer")), ("allowUnsafeSync", flag)]);
    put(schemas, "ClusterLog", closed(log, &needs));
    let numbers = ["node", "decider", "epoch", "applied", "waiting", "silentMs"].map(|name| (name, count.clone()));
    let others = [
        ("deciderSince", time()),
        ("left", text.clone()),
        ("nodes", list("ClusterNode")),
        ("differences", list("ClusterDifference")),
        ("seedings", list("ClusterSeeding")),
        ("log", reference("ClusterLog")),
        ("problems", list("ClusterProblem")),
    ];
    let severity = json!({ "enum": ["error", "warning"] });
    put(schemas, "ClusterProblem", closed([("severity", severity), ("message", text)], &["severity", "message"]));
    let seeding = ["node", "source", "logNeeded", "bytes"];
    put(schemas, "ClusterSeeding", closed(seeding.map(|name| (name, count.clone())), &seeding));
    let needs = ["node", "epoch", "applied", "waiting", "silentMs", "nodes", "differences", "seedings", "problems"];
    put(schemas, "Cluster", closed(numbers.into_iter().chain(others), &needs));
}

/// Adds the schemas of MQTT sessions and retained messages.
fn mqtt(schemas: &mut Map<String, Value>) {
    let (text, count) = (json!({ "type": "string" }), json!({ "type": "integer", "minimum": 0 }));
    let session = ["principal", "client", "address", "protocol"].map(|name| (name, text.clone())).into_iter();
    let session = session.chain([("connected", json!({ "type": "boolean" }))]);
    let session = session.chain(["connectedSince", "disconnectedSince", "expires"].map(|name| (name, time())));
    let counts = ["node", "sessionExpiry", "queued", "queuedBytes", "inFlight"];
    let session = session.chain(counts.map(|name| (name, count.clone())));
    let needs = ["principal", "client", "connected", "queued", "queuedBytes", "inFlight", "filters"];
    put(schemas, "MqttSession", closed(session.clone().chain([("filters", count.clone())]), &needs));
    put(schemas, "MqttSessionDetail", closed(session.chain([("filters", list("GrantedFilter"))]), &needs));
    let qos = json!({ "type": "integer", "minimum": 0, "maximum": 2 });
    put(schemas, "GrantedFilter", closed([("filter", text.clone()), ("qos", qos.clone())], &["filter", "qos"]));
    let nodes = json!({ "type": "array", "items": count });
    let page = [("sessions", list("MqttSession")), ("next", text.clone()), ("unreachable", nodes)];
    put(schemas, "MqttSessions", closed(page, &["sessions"]));
    let message = [("topic", text.clone()), ("bytes", count), ("qos", qos), ("by", text.clone()), ("since", time())];
    put(schemas, "RetainedSummary", closed(message, &["topic", "bytes", "qos", "by", "since"]));
    let page = [("retained", list("RetainedSummary")), ("next", text)];
    put(schemas, "RetainedSummaries", closed(page, &["retained"]));
}

/// Adds the schemas of AWS's data plane.
fn aws(schemas: &mut Map<String, Value>) {
    let (object, text) = (json!({ "type": "object" }), json!({ "type": "string" }));
    put(schemas, "AwsState", closed(["desired", "reported"].map(|name| (name, or_null("Section"))), &[]));
    let state = or_null("AwsState");
    let token = json!({ "type": "string", "maxLength": 64 });
    let update = [
        ("state", state),
        ("version", json!({ "type": "integer", "minimum": 0, "maximum": EXACT_INTEGER_MAX })),
        ("clientToken", token),
    ];
    let mut update = closed(update, &["state"]);
    // AWS ignores other members. Those with a meaning here are excluded.
    set(&mut update, "additionalProperties", json!(true));
    let own = json!({ "not": { "enum": ["expect", "onConflict", "idempotencyKey"] } });
    set(&mut update, "propertyNames", own);
    put(schemas, "AwsUpdate", update);
    let any_state = json!({ "type": ["object", "null"] });
    let shadow = [
        ("state", any_state),
        ("metadata", object),
        ("version", version(1)),
        ("timestamp", time()),
        ("clientToken", text.clone()),
    ];
    put(schemas, "AwsShadow", closed(shadow, &["state", "metadata", "version", "timestamp"]));
    put(schemas, "AwsDeleted", closed([("version", version(1)), ("timestamp", time())], &["version", "timestamp"]));
    let names = json!({ "type": "array", "items": text });
    let names = [("results", names), ("nextToken", text.clone()), ("timestamp", time())];
    put(schemas, "AwsNames", closed(names, &["results", "timestamp"]));
    retained(schemas);
    aws_index::all(schemas);
    let exception = [
        ("code", json!({ "type": "integer" })),
        ("message", text.clone()),
        ("timestamp", time()),
        ("clientToken", text),
    ];
    put(schemas, "AwsException", closed(exception, &["code", "message"]));
}

/// Adds the schemas of ordinary messages in AWS's data plane.
fn retained(schemas: &mut Map<String, Value>) {
    let text = json!({ "type": "string" });
    put(schemas, "Payload", json!({ "type": "string", "format": "binary" }));
    put(schemas, "AwsPublished", closed([("message", text.clone())], &["message"]));
    let about = [
        ("topic", text.clone()),
        ("qos", json!({ "type": "integer", "minimum": 0, "maximum": 2 })),
        ("lastModifiedTime", json!({ "type": "integer", "minimum": 0, "description": "Milliseconds since 1970" })),
    ];
    let more = [("payload", text.clone()), ("userProperties", text.clone())];
    let needs = ["topic", "payload", "qos", "lastModifiedTime"];
    put(schemas, "AwsRetained", closed(about.clone().into_iter().chain(more), &needs));
    let size = [("payloadSize", json!({ "type": "integer", "minimum": 0 }))];
    let needs = ["topic", "payloadSize", "qos", "lastModifiedTime"];
    put(schemas, "AwsRetainedTopic", closed(about.into_iter().chain(size), &needs));
    let page = [("retainedTopics", list("AwsRetainedTopic")), ("nextToken", text)];
    put(schemas, "AwsRetainedTopics", closed(page, &["retainedTopics"]));
}

fn put(schemas: &mut Map<String, Value>, name: &str, schema: Value) {
    schemas.insert(name.to_owned(), schema);
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn or_null(name: &str) -> Value {
    json!({ "anyOf": [reference(name), { "type": "null" }] })
}

fn list(name: &str) -> Value {
    json!({ "type": "array", "items": reference(name) })
}

/// Returns the schema of an object with these members and no others.
fn closed(members: impl IntoIterator<Item = (&'static str, Value)>, required: &[&str]) -> Value {
    let properties: Map<String, Value> = members.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect();
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

fn version(least: u64) -> Value {
    json!({ "type": "integer", "minimum": least })
}

fn time() -> Value {
    json!({ "type": "integer", "minimum": 0, "description": "Seconds since 1970" })
}

fn etag() -> Value {
    json!({ "type": "string", "pattern": ETAG })
}
