//! What can be asked over HTTP: every operation with its method, its paths and its parameters.
//!
//! Routes, the checks of parameters and the description (`openapi`) are all made of this table, so none of them can say
//! something else than the others.

use axum::http::Method;

use crate::http::api::query::{Kind, Parameter, ParameterLocation};

/// Something that can be asked.
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
    GetDevice,
    FollowEvents,
    AwsGetShadow,
    AwsUpdateShadow,
    AwsDeleteShadow,
    AwsListShadows,
    AwsPublish,
    AwsGetRetained,
    AwsListRetained,
    GetDescription,
}

/// A path, and what can be asked of it.
pub(super) struct Route {
    pub(super) path: &'static str,
    pub(super) operations: &'static [Operation],
}

const SHADOW: &[Operation] =
    &[Operation::GetShadow, Operation::PutShadow, Operation::PatchShadow, Operation::DeleteShadow];

/// Every path of the API. What operators and browsers ask for besides is in `router`.
pub(super) const ROUTES: &[Route] = &[
    Route { path: "/v1/devices", operations: &[Operation::ListDevices] },
    Route { path: "/v1/devices/{id}", operations: &[Operation::GetDevice] },
    Route { path: "/v1/devices/{id}/shadows", operations: &[Operation::ListShadows] },
    Route { path: "/v1/devices/{id}/shadow", operations: SHADOW },
    Route { path: "/v1/devices/{id}/shadows/{name}", operations: SHADOW },
    Route { path: "/v1/devices/{id}/shadow/history", operations: &[Operation::GetHistory] },
    Route { path: "/v1/devices/{id}/shadows/{name}/history", operations: &[Operation::GetHistory] },
    Route { path: "/v1/devices/{id}/shadow/rejections", operations: &[Operation::GetRejections] },
    Route { path: "/v1/devices/{id}/shadows/{name}/rejections", operations: &[Operation::GetRejections] },
    Route { path: "/v1/rejections", operations: &[Operation::FollowRejections] },
    Route { path: "/v1/events", operations: &[Operation::FollowEvents] },
    Route {
        path: "/things/{id}/shadow",
        operations: &[Operation::AwsGetShadow, Operation::AwsUpdateShadow, Operation::AwsDeleteShadow],
    },
    Route { path: "/api/things/shadow/ListNamedShadowsForThing/{id}", operations: &[Operation::AwsListShadows] },
    Route { path: "/topics/{*topic}", operations: &[Operation::AwsPublish] },
    Route { path: "/retainedMessage/{*topic}", operations: &[Operation::AwsGetRetained] },
    Route { path: "/retainedMessage", operations: &[Operation::AwsListRetained] },
    Route { path: "/openapi.json", operations: &[Operation::GetDescription] },
];

const fn query(name: &'static str, kind: Kind, about: &'static str) -> Parameter {
    Parameter { name, place: ParameterLocation::Query, kind, about }
}

const fn header(name: &'static str, kind: Kind, about: &'static str) -> Parameter {
    Parameter { name, place: ParameterLocation::Header, kind, about }
}

const POINTERS: &str =
    r"^/(desired|reported|tags|delta)(/([^~/]|~[01])*)*(,/(desired|reported|tags|delta)(/([^~/]|~[01])*)*)*$";
const SECTION_POINTERS: &str =
    r"^/(desired|reported|tags)(/([^~/]|~[01])*)*(,/(desired|reported|tags)(/([^~/]|~[01])*)*)*$";
/// RFC 9110 section 8.8.3, in a list that may have empty elements.
const TAGS: &str = "^(\\*|[ ,]*((W/)?\"[!#-~\u{80}-\u{ff}]*\"( *,[ ,]*(W/)?\"[!#-~\u{80}-\u{ff}]*\")*)?[ ,]*)$";
/// No control characters.
const PRINTABLE: &str = r"^[^\u0000-\u001f\u007f-\u009f]*$";
/// Whatever a header may hold.
const ANYTHING: &str = "";

pub(super) static ID: Parameter = Parameter {
    name: "id",
    place: ParameterLocation::Path,
    kind: Kind::Text("^[A-Za-z0-9:_-]{1,128}$"),
    about: "The device: 1 to 128 of A-Z a-z 0-9 : _ -",
};
pub(super) static NAME: Parameter = Parameter {
    name: "name",
    place: ParameterLocation::Path,
    kind: Kind::Text("^[A-Za-z0-9:_$-]{1,64}$"),
    about: "The shadow: 1 to 64 of A-Z a-z 0-9 : _ - $",
};
pub(super) static FIELDS: Parameter = query(
    "fields",
    Kind::Text(POINTERS),
    "Show only what is at or below these JSON Pointers into `state`, apart by commas; at most 32",
);
pub(super) static VERSION: Parameter = query(
    "version",
    Kind::Integer { min: 1, max: u64::MAX >> 11 },
    "The shadow as it was at this version; 410 once that is not kept any more",
);
pub(super) static WAIT: Parameter = query(
    "wait",
    Kind::Text("^(converged|version>(0|[1-9][0-9]{0,14}))$"),
    "Answer only once this holds: `converged`, there is no delta; `version>N`. Or when the time is up, with what is \
     there then; `Umbra-Wait` in the answer says which",
);
pub(super) static TIMEOUT: Parameter =
    query("timeout", Kind::Integer { min: 0, max: 300 }, "Seconds to wait; 30 if not given");
pub(super) static ON_CONFLICT: Parameter = query(
    "on_conflict",
    Kind::Choice(&["reject", "rebase"]),
    "`rebase`: accept a write made for `base_version` if nothing it touches changed since; takes the place of If-Match",
);
pub(super) static BASE_VERSION: Parameter = query(
    "base_version",
    Kind::Integer { min: 1, max: u64::MAX >> 11 },
    "The version that a rebased write was made for",
);
pub(super) static UPSERT: Parameter = query(
    "upsert",
    Kind::Flag,
    "`true`: create the shadow or change whatever is there; takes the place of If-Match and If-None-Match",
);
pub(super) static DRY_RUN: Parameter =
    query("dry_run", Kind::Flag, "Decide, tell what would become of it, and change nothing");
pub(super) static BEFORE: Parameter =
    query("before", Kind::Integer { min: 1, max: u64::MAX >> 11 }, "Only changes that made versions below this one");
pub(super) static AFTER: Parameter = query(
    "after",
    Kind::Text("^[0-9a-f]{1,8}-[0-9]{1,19}$"),
    "Only refusals after these: the `next` of an earlier page. Without it, the newest",
);
pub(super) static LIMIT: Parameter =
    query("limit", Kind::Integer { min: 1, max: 100 }, "Entries in a page; 25 if not given");
pub(super) static CURSOR: Parameter = query(
    "cursor",
    Kind::Text("^([A-Za-z0-9:_-]{1,128}|~[A-Za-z0-9_-]{208})$"),
    "Where the page before ended: its `next`",
);
pub(super) static HISTORY_CURSOR: Parameter =
    query("cursor", Kind::Text("^[0-9a-f]{1,16}\\.[0-9a-f]{1,16}$"), "Where the page before ended: its `next`");
pub(super) static SHADOW_CURSOR: Parameter =
    query("cursor", Kind::Text("^(\\.|[A-Za-z0-9:_$-]{1,64})$"), "Where the page before ended: its `next`");
pub(super) static PREFIX: Parameter =
    query("prefix", Kind::Text("^[A-Za-z0-9:_-]{0,128}$"), "Only devices whose id begins with this");
pub(super) static CONNECTED: Parameter = query("connected", Kind::Flag, "Only devices that are connected, or are not");
pub(super) static DRIFT: Parameter =
    query("drift", Kind::Flag, "Only devices with a shadow that has a delta, or with none");
pub(super) static DEVICE: Parameter =
    query("device", Kind::Text("^[A-Za-z0-9:_-]{1,128}$"), "Only changes of this device");
pub(super) static SHADOW_NAME: Parameter = query(
    "name",
    Kind::Text("^[A-Za-z0-9:_$-]{0,64}$"),
    "Only changes of shadows with this name; empty: of classic ones",
);
pub(super) static PATH: Parameter = query(
    "path",
    Kind::Text(SECTION_POINTERS),
    "Only changes at, above or below one of these JSON Pointers into `state`, apart by commas; at most 32",
);
pub(super) static AWS_NAME: Parameter =
    query("name", Kind::Text("^[A-Za-z0-9:_$-]{1,64}$"), "A named shadow; without it the classic one");
pub(super) static PAGE_SIZE: Parameter =
    query("pageSize", Kind::Integer { min: 1, max: 100 }, "Names in a page; 25 if not given");
pub(super) static NEXT_TOKEN: Parameter =
    query("nextToken", Kind::Text("^[A-Za-z0-9:_$-]{1,64}$"), "Where the page before ended");

pub(super) static TOPIC: Parameter = Parameter {
    name: "topic",
    place: ParameterLocation::Path,
    kind: Kind::Text(r"^[^\u0000-\u001f\u007f-\u009f+#]+$"),
    about: "An ordinary topic, percent-encoded",
};
pub(super) static AWS_QOS: Parameter = query("qos", Kind::Integer { min: 0, max: 1 }, "The QoS; 0 if not given");
pub(super) static AWS_RETAIN: Parameter = query("retain", Kind::Flag, "Whether the topic keeps the message");
pub(super) static AWS_CONTENT_TYPE: Parameter = query("contentType", Kind::Text(PRINTABLE), "MIME type of the payload");
pub(super) static AWS_RESPONSE_TOPIC: Parameter =
    query("responseTopic", Kind::Text(r"^[^\u0000-\u001f\u007f-\u009f+#]*$"), "Where a reply goes");
pub(super) static AWS_MESSAGE_EXPIRY: Parameter = query(
    "messageExpiry",
    Kind::Integer { min: 0, max: 0xFFFF_FFFF },
    "Seconds the message stays worth delivering; 0: as long as there is a place for it",
);
pub(super) static AWS_MAX_RESULTS: Parameter =
    query("maxResults", Kind::Integer { min: 1, max: 200 }, "Topics in a page; 200 if not given");
pub(super) static AWS_TOPIC_TOKEN: Parameter =
    query("nextToken", Kind::Text("^([A-Za-z0-9_-]{4})*$"), "Where the page before ended");
pub(super) static AWS_PAYLOAD_FORMAT: Parameter = header(
    "x-amz-mqtt5-payload-format-indicator",
    Kind::Choice(&["UNSPECIFIED_BYTES", "UTF8_DATA"]),
    "Whether the payload is UTF-8",
);
pub(super) static AWS_CORRELATION_DATA: Parameter =
    header("x-amz-mqtt5-correlation-data", Kind::Text("^([A-Za-z0-9+/]{4})*$"), "Correlation data in base64");
pub(super) static AWS_USER_PROPERTIES: Parameter = header(
    "x-amz-mqtt5-user-properties",
    Kind::Text("^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"),
    "Base64 of a JSON array of objects, each with names and texts, such as `[{\"a\":\"b\"}]`",
);

pub(super) static IF_MATCH: Parameter = header("If-Match", Kind::Text(TAGS), "Entity tags, or * for any");
pub(super) static IF_NONE_MATCH: Parameter = header("If-None-Match", Kind::Text(TAGS), "Entity tags, or * for any");
pub(super) static IDEMPOTENCY_KEY: Parameter = header(
    "Idempotency-Key",
    Kind::Text("^[!-~]{1,64}$"),
    "Marks a request that may be sent again: the same key and request are answered as they were first",
);
pub(super) static PREFER: Parameter = header(
    "Prefer",
    Kind::Text(ANYTHING),
    "How much to answer an accepted write with: `return=minimal`, nothing; `return=representation`, the shadow after it",
);
pub(super) static LAST_EVENT_ID: Parameter = header(
    "Last-Event-ID",
    Kind::Text("^(j[0-9a-f]{1,15}|[0-9]{1,15})$"),
    "Go on after the event with this id, which is opaque; 410 if events after it are not kept any more",
);

impl Operation {
    /// The operations there are.
    #[cfg(test)]
    pub(super) fn all() -> impl Iterator<Item = Self> {
        ROUTES.iter().flat_map(|route| route.operations).copied()
    }

    /// Its method; where that is GET, HEAD is allowed as well.
    pub(super) fn method(self) -> Method {
        match self {
            Self::GetShadow
            | Self::GetHistory
            | Self::GetRejections
            | Self::FollowRejections
            | Self::ListShadows
            | Self::ListDevices
            | Self::GetDevice
            | Self::FollowEvents
            | Self::AwsGetShadow
            | Self::AwsListShadows
            | Self::AwsGetRetained
            | Self::AwsListRetained
            | Self::GetDescription => Method::GET,
            Self::PutShadow => Method::PUT,
            Self::PatchShadow => Method::PATCH,
            Self::DeleteShadow | Self::AwsDeleteShadow => Method::DELETE,
            Self::AwsUpdateShadow | Self::AwsPublish => Method::POST,
        }
    }

    /// What may stand in its query and headers; any other parameter of a query is refused.
    pub(super) fn parameters(self) -> &'static [&'static Parameter] {
        match self {
            Self::GetShadow => const { &[&FIELDS, &VERSION, &WAIT, &TIMEOUT, &IF_MATCH, &IF_NONE_MATCH] },
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
            Self::GetRejections | Self::GetDevice | Self::GetDescription => &[],
            Self::FollowRejections => const { &[&AFTER, &LIMIT] },
            Self::ListShadows => const { &[&LIMIT, &SHADOW_CURSOR] },
            Self::ListDevices => const { &[&PREFIX, &CONNECTED, &DRIFT, &LIMIT, &CURSOR] },
            Self::FollowEvents => const { &[&DEVICE, &SHADOW_NAME, &PATH, &LAST_EVENT_ID] },
            Self::AwsGetShadow | Self::AwsUpdateShadow | Self::AwsDeleteShadow => const { &[&AWS_NAME] },
            Self::AwsListShadows => const { &[&PAGE_SIZE, &NEXT_TOKEN] },
            Self::AwsPublish => {
                const {
                    &[
                        &AWS_QOS,
                        &AWS_RETAIN,
                        &AWS_CONTENT_TYPE,
                        &AWS_RESPONSE_TOPIC,
                        &AWS_MESSAGE_EXPIRY,
                        &AWS_PAYLOAD_FORMAT,
                        &AWS_CORRELATION_DATA,
                        &AWS_USER_PROPERTIES,
                    ]
                }
            }
            Self::AwsGetRetained => &[],
            Self::AwsListRetained => const { &[&AWS_MAX_RESULTS, &AWS_TOPIC_TOKEN] },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_stand_once_and_in_their_place() {
        for operation in Operation::all() {
            let parameters = operation.parameters();
            for (index, parameter) in parameters.iter().enumerate() {
                assert!(parameter.place != ParameterLocation::Path, "{operation:?}: paths tell theirs");
                let name = parameter.name.to_lowercase();
                assert!(!parameters.iter().skip(index + 1).any(|other| other.name.to_lowercase() == name), "{name}");
            }
        }
    }
}
