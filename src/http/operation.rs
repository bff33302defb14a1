//! The table of HTTP operations: their methods, paths and parameters.
//!
//! The routes, the parameter checks and the description (`openapi`) are built from this table, so they always agree.

use axum::http::Method;

use crate::http::parameter::{Kind, Parameter, ParameterLocation};

/// An operation of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    GetShadow,
    PutShadow,
    PatchShadow,
    DeleteShadow,
    GetHistory,
    GetRejections,
    FollowRejections,
    ListShadows,
    ListDevices,
    Search,
    Aggregate,
    FollowSearch,
    GetDevice,
    FollowEvents,
    ListSessions,
    GetSession,
    EndSession,
    ListRetained,
    ListQueries,
    PutQuery,
    GetQuery,
    DeleteQuery,
    ListRollouts,
    PutRollout,
    GetRollout,
    DeleteRollout,
    ListRolloutDevices,
    FollowRollout,
    PauseRollout,
    ResumeRollout,
    CancelRollout,
    RollBackRollout,
    PostBulk,
    AwsGetShadow,
    AwsUpdateShadow,
    AwsDeleteShadow,
    AwsListShadows,
    AwsPublish,
    AwsGetRetained,
    AwsListRetained,
    AwsSearchIndex,
    AwsGetStatistics,
    AwsGetCardinality,
    AwsGetPercentiles,
    AwsGetBuckets,
    AwsListIndices,
    AwsDescribeIndex,
    GetDescription,
}

/// A path and its operations.
pub(super) struct Route {
    pub(super) path: &'static str,
    pub(super) operations: &'static [Operation],
}

impl Route {
    /// Returns true if refusals are problems, and not those of AWS's data plane.
    pub(super) fn is_native(&self) -> bool {
        self.path.starts_with("/v1/") || self.path == "/openapi.json"
    }
}

const SHADOW: &[Operation] =
    &[Operation::GetShadow, Operation::PutShadow, Operation::PatchShadow, Operation::DeleteShadow];

/// Every path of the API. `router` adds those for operators' tools and browsers.
pub(super) const ROUTES: &[Route] = &[
    Route { path: "/v1/devices", operations: &[Operation::ListDevices] },
    Route { path: "/v1/search", operations: &[Operation::Search] },
    Route { path: "/v1/search/live", operations: &[Operation::FollowSearch] },
    Route { path: "/v1/queries", operations: &[Operation::ListQueries] },
    Route {
        path: "/v1/queries/{query}",
        operations: &[Operation::GetQuery, Operation::PutQuery, Operation::DeleteQuery],
    },
    Route { path: "/v1/aggregate", operations: &[Operation::Aggregate] },
    Route { path: "/v1/devices/{id}", operations: &[Operation::GetDevice] },
    Route { path: "/v1/devices/{id}/shadows", operations: &[Operation::ListShadows] },
    Route { path: "/v1/devices/{id}/shadow", operations: SHADOW },
    Route { path: "/v1/devices/{id}/shadows/{name}", operations: SHADOW },
    Route { path: "/v1/devices/{id}/shadow/history", operations: &[Operation::GetHistory] },
    Route { path: "/v1/devices/{id}/shadows/{name}/history", operations: &[Operation::GetHistory] },
    Route { path: "/v1/devices/{id}/shadow/rejections", operations: &[Operation::GetRejections] },
    Route { path: "/v1/devices/{id}/shadows/{name}/rejections", operations: &[Operation::GetRejections] },
    Route { path: "/v1/rejections", operations: &[Operation::FollowRejections] },
    Route { path: "/v1/sessions", operations: &[Operation::ListSessions] },
    Route { path: "/v1/sessions/{principal}/{client}", operations: &[Operation::GetSession, Operation::EndSession] },
    Route { path: "/v1/retained", operations: &[Operation::ListRetained] },
    Route { path: "/v1/rollouts", operations: &[Operation::ListRollouts] },
    Route {
        path: "/v1/rollouts/{rollout}",
        operations: &[Operation::GetRollout, Operation::PutRollout, Operation::DeleteRollout],
    },
    Route { path: "/v1/rollouts/{rollout}/devices", operations: &[Operation::ListRolloutDevices] },
    Route { path: "/v1/rollouts/{rollout}/events", operations: &[Operation::FollowRollout] },
    Route { path: "/v1/rollouts/{rollout}/pause", operations: &[Operation::PauseRollout] },
    Route { path: "/v1/rollouts/{rollout}/resume", operations: &[Operation::ResumeRollout] },
    Route { path: "/v1/rollouts/{rollout}/cancel", operations: &[Operation::CancelRollout] },
    Route { path: "/v1/rollouts/{rollout}/rollback", operations: &[Operation::RollBackRollout] },
    Route { path: "/v1/bulk", operations: &[Operation::PostBulk] },
    Route { path: "/v1/events", operations: &[Operation::FollowEvents] },
    Route {
        path: "/things/{id}/shadow",
        operations: &[Operation::AwsGetShadow, Operation::AwsUpdateShadow, Operation::AwsDeleteShadow],
    },
    Route { path: "/api/things/shadow/ListNamedShadowsForThing/{id}", operations: &[Operation::AwsListShadows] },
    Route { path: "/topics/{*topic}", operations: &[Operation::AwsPublish] },
    Route { path: "/retainedMessage/{*topic}", operations: &[Operation::AwsGetRetained] },
    Route { path: "/retainedMessage", operations: &[Operation::AwsListRetained] },
    Route { path: "/indices", operations: &[Operation::AwsListIndices] },
    Route { path: "/indices/{index}", operations: &[Operation::AwsDescribeIndex] },
    Route { path: "/indices/search", operations: &[Operation::AwsSearchIndex] },
    Route { path: "/indices/statistics", operations: &[Operation::AwsGetStatistics] },
    Route { path: "/indices/cardinality", operations: &[Operation::AwsGetCardinality] },
    Route { path: "/indices/percentiles", operations: &[Operation::AwsGetPercentiles] },
    Route { path: "/indices/buckets", operations: &[Operation::AwsGetBuckets] },
    Route { path: "/openapi.json", operations: &[Operation::GetDescription] },
];

const fn query(name: &'static str, kind: Kind, about: &'static str) -> Parameter {
    Parameter { name, location: ParameterLocation::Query, kind, about }
}

const fn header(name: &'static str, kind: Kind, about: &'static str) -> Parameter {
    Parameter { name, location: ParameterLocation::Header, kind, about }
}

const POINTERS: &str =
    r"^/(desired|reported|tags|delta)(/([^~/]|~[01])*)*(,/(desired|reported|tags|delta)(/([^~/]|~[01])*)*)*$";
const SECTION_POINTERS: &str =
    r"^/(desired|reported|tags)(/([^~/]|~[01])*)*(,/(desired|reported|tags)(/([^~/]|~[01])*)*)*$";
/// RFC 9110 section 8.8.3, in a list that may have empty elements.
const TAGS: &str = "^(\\*|[ ,]*((W/)?\"[!#-~\u{80}-\u{ff}]*\"( *,[ ,]*(W/)?\"[!#-~\u{80}-\u{ff}]*\")*)?[ ,]*)$";
/// Text without control characters.
pub(super) const PRINTABLE: &str = r"^[^\u0000-\u001f\u007f-\u009f]*$";
/// Text of at least one character, without control characters.
const PRINTABLE_PART: &str = r"^[^\u0000-\u001f\u007f-\u009f]+$";
/// Any text.
const ANYTHING: &str = "";

pub(super) static ID: Parameter = Parameter {
    name: "id",
    location: ParameterLocation::Path,
    kind: Kind::Text("^[A-Za-z0-9:_-]{1,128}$"),
    about: "Device id: 1 to 128 characters of A-Z a-z 0-9 : _ -",
};
pub(super) static NAME: Parameter = Parameter {
    name: "name",
    location: ParameterLocation::Path,
    kind: Kind::Text("^[A-Za-z0-9:_$-]{1,64}$"),
    about: "Shadow name: 1 to 64 characters of A-Z a-z 0-9 : _ - $",
};
pub(super) static FIELDS: Parameter = query(
    "fields",
    Kind::Text(POINTERS),
    "Return only the values at or below these JSON Pointers into `state`, separated by commas; at most 32, each once",
);
pub(super) static VERSION: Parameter = query(
    "version",
    Kind::Integer { min: 1, max: u64::MAX >> 11 },
    "Return the shadow at this version; 410 if the journal no longer has it",
);
pub(super) static CONSISTENT: Parameter = query(
    "consistent",
    Kind::Flag,
    "At a node of a cluster: respond once this node has applied everything that the cluster's log has now; 503 if the log cannot \
     be asked",
);
pub(super) static WAIT: Parameter = query(
    "wait",
    Kind::Text("^(converged|version>(0|[1-9][0-9]{0,14}))$"),
    "Respond when this condition holds: `converged` (no delta) or `version>N`. After `timeout` seconds, respond with \
     the current shadow. The header `Umbra-Wait` says which happened",
);
pub(super) static TIMEOUT: Parameter =
    query("timeout", Kind::Integer { min: 0, max: 300 }, "Seconds to wait; default 30");
pub(super) static ON_CONFLICT: Parameter = query(
    "on_conflict",
    Kind::Choice(&["reject", "rebase"]),
    "`rebase`: accept the write if no path it touches has changed since `base_version`; replaces If-Match",
);
pub(super) static BASE_VERSION: Parameter = query(
    "base_version",
    Kind::Integer { min: 1, max: u64::MAX >> 11 },
    "The version on which the write is based; for `on_conflict=rebase`",
);
pub(super) static UPSERT: Parameter = query(
    "upsert",
    Kind::Flag,
    "`true`: create the shadow, or change any existing version; replaces If-Match and If-None-Match",
);
pub(super) static DRY_RUN: Parameter =
    query("dry_run", Kind::Flag, "Return the outcome of the write without applying it");
pub(super) static BEFORE: Parameter =
    query("before", Kind::Integer { min: 1, max: u64::MAX >> 11 }, "Only changes to versions below this one");
pub(super) static AFTER: Parameter = query(
    "after",
    Kind::Text("^[0-9a-f]{1,8}-[0-9]{1,19}$"),
    "Only refusals after an earlier page: its `next`. Without it, the newest refusals",
);
pub(super) static LIMIT: Parameter = query("limit", Kind::Integer { min: 1, max: 100 }, "Entries per page; default 25");
pub(super) static CURSOR: Parameter =
    query("cursor", Kind::Text("^([A-Za-z0-9:_-]{1,128}|~[A-Za-z0-9_-]{214})$"), "The `next` of the previous page");
pub(super) static HISTORY_CURSOR: Parameter =
    query("cursor", Kind::Text("^[0-9a-f]{1,16}\\.[0-9a-f]{1,16}$"), "The `next` of the previous page");
pub(super) static SHADOW_CURSOR: Parameter =
    query("cursor", Kind::Text("^(\\.|[A-Za-z0-9:_$-]{1,64})$"), "The `next` of the previous page");
pub(super) static PREFIX: Parameter =
    query("prefix", Kind::Text("^[A-Za-z0-9:_-]{0,128}$"), "Only devices whose id begins with this prefix");
pub(super) static CONNECTED: Parameter =
    query("connected", Kind::Flag, "`true`: only connected devices; `false`: only disconnected ones");
pub(super) static DRIFT: Parameter =
    query("drift", Kind::Flag, "`true`: only devices with a delta in a shadow; `false`: only devices without one");
pub(super) static SEARCH: Parameter = query("q", Kind::Text(ANYTHING), "The query; without it, all devices");
pub(super) static SEARCH_FIELDS: Parameter = query(
    "fields",
    Kind::Text(ANYTHING),
    "Return the values of these fields of the query language, separated by commas; at most 32, each once",
);
pub(super) static SORT: Parameter = query(
    "sort",
    Kind::Text(ANYTHING),
    "A field of the query language, after a hyphen for the descending order; default `device`",
);
pub(super) static TOTAL: Parameter = query("total", Kind::Flag, "`true`: also return the number of all matches");
pub(super) static SEARCH_CURSOR: Parameter = query(
    "cursor",
    Kind::Text("^([A-Za-z0-9:_-]{1,128}|~[A-Za-z0-9_-]{214}|\\.[A-Za-z0-9_-]+)$"),
    "The `next` of the previous page",
);
pub(super) static AGGREGATE_TYPE: Parameter = query(
    "type",
    Kind::Choice(&["count", "terms", "stats", "percentiles", "histogram", "cardinality"]),
    "The kind of the result; default `count`. All others need `field`",
);
pub(super) static AGGREGATE_FIELD: Parameter =
    query("field", Kind::Text(ANYTHING), "The field of the query language whose values are aggregated");
pub(super) static SIZE: Parameter =
    query("size", Kind::Integer { min: 1, max: 1000 }, "terms: most values in the result; default 10");
pub(super) static PERCENTS: Parameter = query(
    "percents",
    Kind::Text(r"^[0-9]+(\.[0-9]+)?(,[0-9]+(\.[0-9]+)?)*$"),
    "percentiles: at most 32 numbers from 0 to 100, separated by commas; default 1,5,25,50,75,95,99",
);
pub(super) static INTERVAL: Parameter =
    query("interval", Kind::Text(r"^[0-9]+(\.[0-9]+)?$"), "histogram: the width of a bucket");
pub(super) static DEVICE: Parameter =
    query("device", Kind::Text("^[A-Za-z0-9:_-]{1,128}$"), "Only changes of this device");
pub(super) static SHADOW_NAME: Parameter = query(
    "name",
    Kind::Text("^[A-Za-z0-9:_$-]{0,64}$"),
    "Only changes of shadows with this name; empty: only of classic shadows",
);
pub(super) static PATH: Parameter = query(
    "path",
    Kind::Text(SECTION_POINTERS),
    "Only changes at, above or below one of these JSON Pointers into `state`, separated by commas; at most 32, each once",
);
pub(super) static AWS_NAME: Parameter =
    query("name", Kind::Text("^[A-Za-z0-9:_$-]{1,64}$"), "Shadow name; without it, the classic shadow");
pub(super) static PAGE_SIZE: Parameter =
    query("pageSize", Kind::Integer { min: 1, max: 100 }, "Names per page; default 25");
pub(super) static NEXT_TOKEN: Parameter =
    query("nextToken", Kind::Text("^[A-Za-z0-9:_$-]{1,64}$"), "The `nextToken` of the previous page");

pub(super) static PRINCIPAL: Parameter = Parameter {
    name: "principal",
    location: ParameterLocation::Path,
    kind: Kind::Text(PRINTABLE_PART),
    about: "The principal; of an anonymous client, anonymous%2F and its client id",
};
pub(super) static CLIENT: Parameter = Parameter {
    name: "client",
    location: ParameterLocation::Path,
    kind: Kind::Text(PRINTABLE_PART),
    about: "The client id, percent-encoded",
};
pub(super) static SESSION_PREFIX: Parameter =
    query("prefix", Kind::Text(PRINTABLE), "Only sessions of principals whose name begins with this prefix");
pub(super) static SESSION_CONNECTED: Parameter =
    query("connected", Kind::Flag, "`true`: only sessions with a connection; `false`: only those without one");
pub(super) static TOPIC_PREFIX: Parameter =
    query("prefix", Kind::Text(PRINTABLE), "Only topics that begin with this prefix");
pub(super) static OPAQUE_CURSOR: Parameter =
    query("cursor", Kind::Text("^[A-Za-z0-9_-]+$"), "The `next` of the previous page");

pub(super) static QUERY: Parameter = Parameter {
    name: "query",
    location: ParameterLocation::Path,
    kind: Kind::Text("^[A-Za-z0-9:_-]{1,64}$"),
    about: "The name of a query: 1 to 64 characters of A-Z a-z 0-9 : _ -",
};

pub(super) static ROLLOUT: Parameter = Parameter {
    name: "rollout",
    location: ParameterLocation::Path,
    kind: Kind::Text("^[A-Za-z0-9:._-]{1,64}$"),
    about: "The id of a rollout: 1 to 64 characters of A-Z a-z 0-9 : . _ -",
};
pub(super) static ROLLOUT_DRY_RUN: Parameter =
    query("dry_run", Kind::Flag, "`true`: return the devices and what would change, and create nothing");
pub(super) static ROLLOUT_STATE: Parameter = query(
    "state",
    Kind::Choice(&["running", "paused", "completed", "aborted", "cancelled", "rolling-back", "rolled-back"]),
    "Only rollouts in this state",
);
pub(super) static ROLLOUT_DEVICE_STATE: Parameter = query(
    "state",
    Kind::Choice(&["queued", "sent", "converged", "timed-out", "conflict", "skipped", "failed", "rolled-back", "kept"]),
    "Only devices in this state",
);

pub(super) static TOPIC: Parameter = Parameter {
    name: "topic",
    location: ParameterLocation::Path,
    kind: Kind::Text(r"^[^\u0000-\u001f\u007f-\u009f+#]+$"),
    about: "An ordinary topic, percent-encoded",
};
pub(super) static AWS_QOS: Parameter = query("qos", Kind::Integer { min: 0, max: 1 }, "The QoS; default 0");
pub(super) static AWS_RETAIN: Parameter = query("retain", Kind::Flag, "`true`: the topic retains the message");
pub(super) static AWS_CONTENT_TYPE: Parameter = query("contentType", Kind::Text(PRINTABLE), "MIME type of the payload");
pub(super) static AWS_RESPONSE_TOPIC: Parameter =
    query("responseTopic", Kind::Text(r"^[^\u0000-\u001f\u007f-\u009f+#]*$"), "Topic for replies");
pub(super) static AWS_MESSAGE_EXPIRY: Parameter = query(
    "messageExpiry",
    Kind::Integer { min: 0, max: 0xFFFF_FFFF },
    "Seconds until the message expires; 0: it does not expire",
);
pub(super) static AWS_MAX_RESULTS: Parameter =
    query("maxResults", Kind::Integer { min: 1, max: 200 }, "Topics per page; default 200");
pub(super) static AWS_TOPIC_TOKEN: Parameter =
    query("nextToken", Kind::Text("^([A-Za-z0-9_-]{4})*$"), "The `nextToken` of the previous page");
pub(super) static INDEX: Parameter = Parameter {
    name: "index",
    location: ParameterLocation::Path,
    kind: Kind::Text("^[a-zA-Z0-9:_-]{1,128}$"),
    about: "The name of the index: AWS_Things",
};
pub(super) static AWS_INDICES_MAX: Parameter =
    query("maxResults", Kind::Integer { min: 1, max: 500 }, "Names per page; there is one");
pub(super) static AWS_PAYLOAD_FORMAT: Parameter = header(
    "x-amz-mqtt5-payload-format-indicator",
    Kind::Choice(&["UNSPECIFIED_BYTES", "UTF8_DATA"]),
    "`UTF8_DATA`: the payload is UTF-8",
);
pub(super) static AWS_CORRELATION_DATA: Parameter =
    header("x-amz-mqtt5-correlation-data", Kind::Text("^([A-Za-z0-9+/]{4})*$"), "Correlation data in base64");
pub(super) static AWS_USER_PROPERTIES: Parameter = header(
    "x-amz-mqtt5-user-properties",
    Kind::Text("^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"),
    "Base64 of a JSON array of objects with string members, such as `[{\"a\":\"b\"}]`",
);

pub(super) static IF_MATCH: Parameter = header("If-Match", Kind::Text(TAGS), "Entity tags, or * for any");
pub(super) static IF_NONE_MATCH: Parameter = header("If-None-Match", Kind::Text(TAGS), "Entity tags, or * for any");
pub(super) static IDEMPOTENCY_KEY: Parameter = header(
    "Idempotency-Key",
    Kind::Text("^[!-~]{1,64}$"),
    "Makes a request safe to repeat: the same request with the same key receives the first response again",
);
pub(super) static PREFER: Parameter = header(
    "Prefer",
    Kind::Text(ANYTHING),
    "Body of the response to an accepted write. `return=minimal`: none. `return=representation`: the shadow after it",
);
pub(super) static LIVE_EVENT_ID: Parameter = header(
    "Last-Event-ID",
    Kind::Text("^s[0-9a-f]{1,8}-[0-9a-f]{32}$"),
    "The opaque id of the last event: if the devices are still the same, they are not sent again",
);
pub(super) static LAST_EVENT_ID: Parameter = header(
    "Last-Event-ID",
    Kind::Text("^(j[0-9a-f]{1,15}(-[0-9a-f]{8})?|[0-9]{1,15})$"),
    "Resume after the event with this opaque id; 410 if the journal does not have the events after it",
);

/// The parameters of a publication.
static AWS_PUBLISH: [&Parameter; 8] = [
    &AWS_QOS,
    &AWS_RETAIN,
    &AWS_CONTENT_TYPE,
    &AWS_RESPONSE_TOPIC,
    &AWS_MESSAGE_EXPIRY,
    &AWS_PAYLOAD_FORMAT,
    &AWS_CORRELATION_DATA,
    &AWS_USER_PROPERTIES,
];

impl Operation {
    /// Returns all operations, one that has several paths once for each.
    #[cfg(test)]
    pub(super) fn all() -> impl Iterator<Item = Self> {
        ROUTES.iter().flat_map(|route| route.operations).copied()
    }

    /// Returns the method. Where it is GET, HEAD is allowed as well.
    pub(super) fn method(self) -> Method {
        match self {
            Self::GetShadow
            | Self::GetHistory
            | Self::GetRejections
            | Self::FollowRejections
            | Self::ListShadows
            | Self::ListDevices
            | Self::Search
            | Self::Aggregate
            | Self::FollowSearch
            | Self::GetDevice
            | Self::FollowEvents
            | Self::ListSessions
            | Self::GetSession
            | Self::ListRetained
            | Self::ListQueries
            | Self::GetQuery
            | Self::ListRollouts
            | Self::GetRollout
            | Self::ListRolloutDevices
            | Self::FollowRollout
            | Self::AwsGetShadow
            | Self::AwsListShadows
            | Self::AwsGetRetained
            | Self::AwsListRetained
            | Self::AwsListIndices
            | Self::AwsDescribeIndex
            | Self::GetDescription => Method::GET,
            Self::PutShadow | Self::PutRollout | Self::PutQuery => Method::PUT,
            Self::PatchShadow => Method::PATCH,
            Self::DeleteShadow | Self::EndSession | Self::DeleteRollout | Self::DeleteQuery | Self::AwsDeleteShadow => {
                Method::DELETE
            }
            Self::PauseRollout
            | Self::ResumeRollout
            | Self::CancelRollout
            | Self::RollBackRollout
            | Self::PostBulk
            | Self::AwsUpdateShadow
            | Self::AwsPublish
            | Self::AwsSearchIndex
            | Self::AwsGetStatistics
            | Self::AwsGetCardinality
            | Self::AwsGetPercentiles
            | Self::AwsGetBuckets => Method::POST,
        }
    }

    /// Returns the query and header parameters. Any other query parameter is refused.
    pub(super) fn parameters(self) -> &'static [&'static Parameter] {
        match self {
            Self::GetShadow => const { &[&FIELDS, &VERSION, &CONSISTENT, &WAIT, &TIMEOUT, &IF_MATCH, &IF_NONE_MATCH] },
            Self::PutShadow | Self::PatchShadow => {
                const {
                    &[
                        &ON_CONFLICT,
                        &BASE_VERSION,
                        &UPSERT,
                        &DRY_RUN,
                        &IF_MATCH,
                        &IF_NONE_MATCH,
                        &IDEMPOTENCY_KEY,
                        &PREFER,
                    ]
                }
            }
            Self::DeleteShadow => const { &[&IF_MATCH, &IF_NONE_MATCH, &IDEMPOTENCY_KEY] },
            Self::GetHistory => const { &[&BEFORE, &LIMIT, &HISTORY_CURSOR] },
            Self::GetRejections | Self::GetDevice | Self::GetSession | Self::EndSession | Self::GetDescription => &[],
            Self::ListSessions => const { &[&SESSION_PREFIX, &SESSION_CONNECTED, &LIMIT, &OPAQUE_CURSOR] },
            Self::ListRetained => const { &[&TOPIC_PREFIX, &LIMIT, &OPAQUE_CURSOR] },
            Self::GetQuery
            | Self::DeleteQuery
            | Self::GetRollout
            | Self::DeleteRollout
            | Self::FollowRollout
            | Self::PauseRollout
            | Self::ResumeRollout
            | Self::CancelRollout
            | Self::RollBackRollout => &[],
            Self::ListQueries => const { &[&LIMIT, &OPAQUE_CURSOR] },
            Self::PutQuery => const { &[&IF_NONE_MATCH] },
            Self::PutRollout => const { &[&ROLLOUT_DRY_RUN, &IF_NONE_MATCH] },
            Self::PostBulk => const { &[&ROLLOUT_DRY_RUN, &IDEMPOTENCY_KEY] },
            Self::ListRollouts => const { &[&ROLLOUT_STATE, &LIMIT, &OPAQUE_CURSOR] },
            Self::ListRolloutDevices => const { &[&ROLLOUT_DEVICE_STATE, &LIMIT, &OPAQUE_CURSOR] },
            Self::FollowRejections => const { &[&AFTER, &LIMIT] },
            Self::ListShadows => const { &[&LIMIT, &SHADOW_CURSOR] },
            Self::ListDevices => const { &[&PREFIX, &CONNECTED, &DRIFT, &SEARCH, &LIMIT, &CURSOR] },
            Self::Search => const { &[&SEARCH, &SEARCH_FIELDS, &SORT, &TOTAL, &LIMIT, &SEARCH_CURSOR] },
            Self::Aggregate => const { &[&SEARCH, &AGGREGATE_TYPE, &AGGREGATE_FIELD, &SIZE, &PERCENTS, &INTERVAL] },
            Self::FollowSearch => const { &[&SEARCH, &LIVE_EVENT_ID] },
            Self::FollowEvents => const { &[&DEVICE, &SHADOW_NAME, &PATH, &LAST_EVENT_ID] },
            Self::AwsGetShadow | Self::AwsUpdateShadow | Self::AwsDeleteShadow => const { &[&AWS_NAME] },
            Self::AwsListShadows => const { &[&PAGE_SIZE, &NEXT_TOKEN] },
            Self::AwsPublish => &AWS_PUBLISH,
            Self::AwsGetRetained
            | Self::AwsSearchIndex
            | Self::AwsGetStatistics
            | Self::AwsGetCardinality
            | Self::AwsGetPercentiles
            | Self::AwsGetBuckets
            | Self::AwsDescribeIndex => &[],
            Self::AwsListIndices => const { &[&AWS_INDICES_MAX] },
            Self::AwsListRetained => const { &[&AWS_MAX_RESULTS, &AWS_TOPIC_TOKEN] },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_unique_and_outside_the_path() {
        for operation in Operation::all() {
            let parameters = operation.parameters();
            for (index, parameter) in parameters.iter().enumerate() {
                assert!(
                    parameter.location != ParameterLocation::Path,
                    "{operation:?}: a route has its path parameters"
                );
                let name = parameter.name.to_lowercase();
                assert!(!parameters.iter().skip(index + 1).any(|other| other.name.to_lowercase() == name), "{name}");
            }
        }
    }
}
