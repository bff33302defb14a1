//! The requests and responses of each operation.

mod queries;
mod rollouts;

use super::super::operation::Operation;

/// The description of an operation.
pub(super) struct Exchange {
    pub(super) id: &'static str,
    pub(super) summary: &'static str,
    pub(super) requests: Vec<Media>,
    pub(super) responses: Vec<Response>,
}

/// A media type and its schema.
#[derive(Clone, Copy)]
pub(super) struct Media {
    pub(super) name: &'static str,
    pub(super) schema: &'static str,
}

/// The description of a response.
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) about: &'static str,
    pub(super) media: Option<Media>,
    pub(super) headers: &'static [&'static str],
}

/// Describes `operation`.
pub(super) fn of(operation: Operation) -> Exchange {
    match operation {
        Operation::GetShadow => get_shadow(),
        Operation::PutShadow => put_shadow(),
        Operation::PatchShadow => patch_shadow(),
        Operation::DeleteShadow => delete_shadow(),
        Operation::GetHistory => get_history(),
        Operation::GetRejections => get_rejections(),
        Operation::FollowRejections => follow_rejections(),
        Operation::ListShadows => list_shadows(),
        Operation::ListDevices => list_devices(),
        Operation::Search => search(),
        Operation::Aggregate => aggregate(),
        Operation::FollowSearch => follow_search(),
        Operation::GetDevice => get_device(),
        Operation::FollowEvents => follow_events(),
        Operation::ListSessions => list_sessions(),
        Operation::GetSession => get_mqtt_session(),
        Operation::EndSession => end_session(),
        Operation::ListRetained => list_retained(),
        Operation::ListQueries => queries::list(),
        Operation::PutQuery => queries::put(),
        Operation::GetQuery => queries::get(),
        Operation::DeleteQuery => queries::delete(),
        Operation::ListRollouts => rollouts::list(),
        Operation::PutRollout => rollouts::put(),
        Operation::GetRollout => rollouts::get(),
        Operation::DeleteRollout => rollouts::delete(),
        Operation::ListRolloutDevices => rollouts::devices(),
        Operation::FollowRollout => rollouts::follow(),
        Operation::PauseRollout => rollouts::control("pauseRollout", "Send no further update"),
        Operation::ResumeRollout => rollouts::control("resumeRollout", "Go on after a pause"),
        Operation::CancelRollout => rollouts::control("cancelRollout", "End a rollout"),
        Operation::RollBackRollout => {
            rollouts::control("rollBackRollout", "Restore the former values where the rollout's are still there")
        }
        Operation::PostBulk => rollouts::bulk(),
        Operation::AwsGetShadow => aws_get_shadow(),
        Operation::AwsUpdateShadow => aws_update_shadow(),
        Operation::AwsDeleteShadow => aws_delete_shadow(),
        Operation::AwsListShadows => aws_list_shadows(),
        Operation::AwsPublish => aws_publish(),
        Operation::AwsGetRetained => aws_get_retained(),
        Operation::AwsListRetained => aws_list_retained(),
        Operation::AwsSearchIndex => aws_search_index(),
        Operation::AwsGetStatistics => aws_aggregate("GetStatistics", "AwsAggregation", "AwsStatistics"),
        Operation::AwsGetCardinality => aws_aggregate("GetCardinality", "AwsAggregation", "AwsCardinality"),
        Operation::AwsGetPercentiles => aws_aggregate("GetPercentiles", "AwsPercentileQuery", "AwsPercentiles"),
        Operation::AwsGetBuckets => aws_aggregate("GetBucketsAggregation", "AwsBucketQuery", "AwsBuckets"),
        Operation::AwsListIndices => aws_list_indices(),
        Operation::AwsDescribeIndex => aws_describe_index(),
        Operation::GetDescription => get_description(),
    }
}

fn get_shadow() -> Exchange {
    read(
        "getShadow",
        "The shadow: its current version, an older one, or the first that meets a condition",
        vec![
            with_body(200, "The shadow", "Shadow", &["ETag", "Last-Modified", "Cache-Control", "Umbra-Wait"]),
            without_body(304, "If-None-Match or If-Modified-Since: the shadow is unchanged", &["ETag"]),
            problem(404, "The shadow or version does not exist"),
            problem(410, "The journal no longer has this version"),
            problem(412, "A precondition failed"),
        ],
    )
}

fn put_shadow() -> Exchange {
    write("putShadow", "Replace whole sections of the shadow; If-None-Match: * creates it", vec![json("State")])
}

fn patch_shadow() -> Exchange {
    write(
        "patchShadow",
        "Change parts of the shadow",
        vec![
            Media { name: "application/merge-patch+json", schema: "State" },
            Media { name: "application/json-patch+json", schema: "JsonPatch" },
        ],
    )
}

fn delete_shadow() -> Exchange {
    Exchange {
        id: "deleteShadow",
        summary: "Delete the shadow; if it is created again, its versions continue",
        requests: Vec::new(),
        responses: with_common(vec![
            without_body(204, "Deleted", &["Idempotent-Replayed"]),
            problem(404, "The shadow does not exist"),
            problem(412, "A precondition failed"),
            problem(422, "The idempotency key was used with another request"),
            problem(428, "The write has no precondition"),
        ]),
    }
}

fn get_history() -> Exchange {
    read(
        "getHistory",
        "The changes of the shadow, newest first",
        vec![with_body(200, "A page", "History", &["Link"]), problem(404, "The shadow never existed")],
    )
}

fn get_rejections() -> Exchange {
    read(
        "getRejections",
        "The last refusals of writes to the shadow, newest first; kept in memory",
        vec![with_body(200, "The refusals", "Refusals", &[]), problem(404, "The shadow does not exist")],
    )
}

fn follow_rejections() -> Exchange {
    read(
        "followRejections",
        "The latest refusals of writes to all shadows that the caller may see, oldest first; kept in memory",
        vec![with_body(200, "A page, which always has a `next`", "FollowedRefusals", &[])],
    )
}

fn list_shadows() -> Exchange {
    read(
        "listShadows",
        "The shadows of a device, the classic one first",
        vec![with_body(200, "A page", "Shadows", &["Link"])],
    )
}

fn list_devices() -> Exchange {
    read("listDevices", "The devices that have shadows", vec![with_body(200, "A page", "Devices", &["Link"])])
}

fn search() -> Exchange {
    read(
        "searchDevices",
        "The devices for which a query is true",
        vec![with_body(200, "A page, which may be empty and have a next one", "FoundDevices", &["Link"])],
    )
}

fn aggregate() -> Exchange {
    read(
        "aggregateDevices",
        "Counts, terms, statistics, percentiles, a histogram or the cardinality of a field over the devices for which a \
         query is true",
        vec![with_body(200, "The aggregate", "Aggregate", &[])],
    )
}

fn follow_search() -> Exchange {
    read(
        "followSearch",
        "Server-sent events of the devices for which a query is true, and of those that enter and leave",
        vec![Response {
            status: 200,
            about: "Events named `start`, `enter`, `leave`, `complete` and `end`; `id` is opaque, `data` is an object",
            media: Some(Media { name: "text/event-stream", schema: "EventStream" }),
            headers: &[],
        }],
    )
}

fn get_device() -> Exchange {
    read(
        "getDevice",
        "A device: its shadows, and its presence if the caller may see it",
        vec![with_body(200, "The device", "DeviceDetail", &["Link"]), problem(404, "The device does not exist")],
    )
}

fn follow_events() -> Exchange {
    read(
        "followEvents",
        "Server-sent events of every change that the caller may see",
        vec![
            Response {
                status: 200,
                about: "Events named `change`; `id` is opaque, `data` is a Change",
                media: Some(Media { name: "text/event-stream", schema: "EventStream" }),
                headers: &[],
            },
            problem(410, "The journal no longer has the events after Last-Event-ID"),
        ],
    )
}

fn list_sessions() -> Exchange {
    read(
        "listMqttSessions",
        "The MQTT sessions of all clients; needs the right to administer list-sessions",
        vec![with_body(200, "A page", "MqttSessions", &["Link"])],
    )
}

fn get_mqtt_session() -> Exchange {
    read(
        "getMqttSession",
        "An MQTT session with its filters; needs the right to administer list-sessions",
        vec![with_body(200, "The session", "MqttSessionDetail", &[]), problem(404, "There is no such session")],
    )
}

fn end_session() -> Exchange {
    read(
        "endMqttSession",
        "End an MQTT session and its connection; needs the right to administer end-sessions",
        vec![without_body(204, "Ended, and on disk", &[]), problem(404, "There is no such session")],
    )
}

fn list_retained() -> Exchange {
    read(
        "listRetained",
        "The retained messages of ordinary topics, without payload; needs the right to administer list-retained",
        vec![with_body(200, "A page", "RetainedSummaries", &["Link"])],
    )
}

fn aws_get_shadow() -> Exchange {
    aws("GetThingShadow", "As AWS IoT's GetThingShadow", vec![], vec![with_body(200, "The shadow", "AwsShadow", &[])])
}

fn aws_update_shadow() -> Exchange {
    aws(
        "UpdateThingShadow",
        "As AWS IoT's UpdateThingShadow",
        vec![json("AwsUpdate")],
        vec![
            with_body(200, "The accepted state", "AwsShadow", &[]),
            exception(409, "ConflictException"),
            exception(413, "RequestEntityTooLargeException"),
            exception(415, "UnsupportedDocumentEncodingException"),
            exception(422, "InvalidRequestException: the idempotency key was used with another request"),
        ],
    )
}

fn aws_delete_shadow() -> Exchange {
    aws(
        "DeleteThingShadow",
        "As AWS IoT's DeleteThingShadow",
        vec![],
        vec![with_body(200, "The version of the deletion", "AwsDeleted", &[])],
    )
}

fn aws_list_shadows() -> Exchange {
    aws(
        "ListNamedShadowsForThing",
        "As AWS IoT's ListNamedShadowsForThing",
        vec![],
        vec![with_body(200, "A page", "AwsNames", &[])],
    )
}

fn aws_publish() -> Exchange {
    aws(
        "Publish",
        "As AWS IoT's Publish: an ordinary message",
        vec![Media { name: "application/octet-stream", schema: "Payload" }],
        vec![with_body(200, "Published", "AwsPublished", &[]), exception(413, "RequestEntityTooLargeException")],
    )
}

fn aws_get_retained() -> Exchange {
    aws(
        "GetRetainedMessage",
        "As AWS IoT's GetRetainedMessage",
        vec![],
        vec![with_body(200, "The message", "AwsRetained", &[])],
    )
}

fn aws_list_retained() -> Exchange {
    aws(
        "ListRetainedMessages",
        "As AWS IoT's ListRetainedMessages",
        vec![],
        vec![with_body(200, "A page", "AwsRetainedTopics", &[])],
    )
}

fn aws_search_index() -> Exchange {
    aws(
        "SearchIndex",
        "As AWS IoT's SearchIndex: the devices for which a query is true",
        vec![json("AwsIndexQuery")],
        vec![
            with_body(200, "A page, which may be empty and have a next one", "AwsThings", &[]),
            exception(413, "RequestEntityTooLargeException"),
        ],
    )
}

fn aws_aggregate(id: &'static str, request: &'static str, response: &'static str) -> Exchange {
    aws(
        id,
        "As AWS IoT's operation of this name: an aggregate of the devices for which a query is true",
        vec![json(request)],
        vec![with_body(200, "The aggregate", response, &[]), exception(413, "RequestEntityTooLargeException")],
    )
}

fn aws_list_indices() -> Exchange {
    aws("ListIndices", "As AWS IoT's ListIndices", vec![], vec![with_body(200, "The only index", "AwsIndices", &[])])
}

fn aws_describe_index() -> Exchange {
    aws("DescribeIndex", "As AWS IoT's DescribeIndex", vec![], vec![with_body(200, "The index", "AwsIndex", &[])])
}

fn get_description() -> Exchange {
    Exchange {
        id: "getDescription",
        summary: "This description",
        requests: Vec::new(),
        responses: vec![with_body(200, "OpenAPI 3.1", "Description", &[])],
    }
}

fn read(id: &'static str, summary: &'static str, responses: Vec<Response>) -> Exchange {
    Exchange { id, summary, requests: Vec::new(), responses: with_common(responses) }
}

fn write(id: &'static str, summary: &'static str, requests: Vec<Media>) -> Exchange {
    let responses = vec![
        with_body(200, "Accepted", "Accepted", WRITE_HEADERS),
        with_body(201, "Accepted; the shadow was created", "Accepted", WRITE_HEADERS),
        without_body(204, "Accepted, with Prefer: return=minimal", WRITE_HEADERS),
        problem(404, "The shadow does not exist, or the caller may not see it"),
        problem(409, "The patch cannot be applied to the current state"),
        problem(412, "A precondition failed; the problem has the current version and the conflicts"),
        problem(413, "The body, or the resulting shadow, is too large"),
        Response { headers: &["Accept-Patch", "Accept"], ..problem(415, "Unsupported media type or encoding") },
        problem(422, "The idempotency key was used with another request"),
        problem(428, "The write has no precondition"),
    ];
    Exchange { id, summary, requests, responses: with_common(responses) }
}

/// Headers of an accepted write.
const WRITE_HEADERS: &[&str] = &["ETag", "Preference-Applied", "Idempotent-Replayed"];

/// Adds the responses of every native operation.
fn with_common(mut responses: Vec<Response>) -> Vec<Response> {
    responses.push(problem(400, "A parameter, a header or the body is invalid"));
    responses.push(Response { headers: &["WWW-Authenticate"], ..problem(401, "Not authenticated") });
    responses.push(problem(403, "Not allowed"));
    responses.push(problem(408, "The body was not received in time"));
    responses.push(Response { headers: &["Retry-After"], ..problem(429, "A quota is exceeded") });
    responses.push(problem(500, "Internal error"));
    responses.push(problem(503, "Unavailable; nothing was changed. The message has the reason"));
    responses
}

fn aws(id: &'static str, summary: &'static str, requests: Vec<Media>, mut responses: Vec<Response>) -> Exchange {
    responses.extend([
        exception(400, "InvalidRequestException"),
        Response { headers: &["WWW-Authenticate"], ..exception(401, "UnauthorizedException") },
        exception(403, "The request is not signed with a known access key, or not allowed"),
        exception(404, "ResourceNotFoundException"),
        exception(429, "ThrottlingException"),
        exception(500, "InternalFailureException"),
        exception(503, "ServiceUnavailableException"),
    ]);
    Exchange { id, summary, requests, responses }
}

fn json(schema: &'static str) -> Media {
    Media { name: "application/json", schema }
}

fn with_body(status: u16, about: &'static str, schema: &'static str, headers: &'static [&'static str]) -> Response {
    Response { status, about, media: Some(json(schema)), headers }
}

fn without_body(status: u16, about: &'static str, headers: &'static [&'static str]) -> Response {
    Response { status, about, media: None, headers }
}

fn problem(status: u16, about: &'static str) -> Response {
    let media = Some(Media { name: "application/problem+json", schema: "Problem" });
    Response { status, about, media, headers: &[] }
}

fn exception(status: u16, about: &'static str) -> Response {
    Response { status, about, media: Some(json("AwsException")), headers: &[] }
}
