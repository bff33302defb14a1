//! What each operation takes and gives.

use super::super::operation::Operation;

/// One operation, described.
pub(super) struct Exchange {
    pub(super) id: &'static str,
    pub(super) summary: &'static str,
    pub(super) requests: Vec<Media>,
    pub(super) responses: Vec<Response>,
}

/// A media type, and the schema of what is in it.
#[derive(Clone, Copy)]
pub(super) struct Media {
    pub(super) name: &'static str,
    pub(super) schema: &'static str,
}

/// One status that may be answered.
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) about: &'static str,
    pub(super) media: Option<Media>,
    pub(super) headers: &'static [&'static str],
}

/// Describes `operation`. Exhaustive, so that none is left out.
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
        Operation::GetDevice => get_device(),
        Operation::FollowEvents => follow_events(),
        Operation::AwsGetShadow => aws_get_shadow(),
        Operation::AwsUpdateShadow => aws_update_shadow(),
        Operation::AwsDeleteShadow => aws_delete_shadow(),
        Operation::AwsListShadows => aws_list_shadows(),
        Operation::AwsPublish => aws_publish(),
        Operation::AwsGetRetained => aws_get_retained(),
        Operation::AwsListRetained => aws_list_retained(),
        Operation::GetDescription => get_description(),
    }
}

fn get_shadow() -> Exchange {
    read(
        "getShadow",
        "The shadow as it is, as it was, or once something holds of it",
        vec![
            given(200, "The shadow", "Shadow", &["ETag", "Last-Modified", "Cache-Control", "Umbra-Wait"]),
            bare(304, "It is what If-None-Match says", &["ETag"]),
            refused(404, "There is no such shadow, or no such version"),
            refused(410, "That version is not kept any more"),
            refused(412, "A condition does not hold"),
        ],
    )
}

fn put_shadow() -> Exchange {
    write(
        "putShadow",
        "Replace sections of the shadow, each of them whole; If-None-Match: * creates it",
        vec![json("State")],
    )
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
        summary: "Delete the shadow; its versions go on should it come back",
        requests: Vec::new(),
        responses: everywhere(vec![
            bare(204, "It is deleted", &["Idempotent-Replayed"]),
            refused(404, "There is no such shadow"),
            refused(412, "What was expected does not hold"),
            refused(422, "The idempotency key was used with another request"),
            refused(428, "The write does not say what it expects"),
        ]),
    }
}

fn get_history() -> Exchange {
    read(
        "getHistory",
        "The changes of the shadow, newest first",
        vec![given(200, "A page", "History", &["Link"]), refused(404, "There never was such a shadow")],
    )
}

fn get_rejections() -> Exchange {
    read(
        "getRejections",
        "The last refusals of writes to the shadow, newest first; kept in memory",
        vec![given(200, "The refusals", "Refusals", &[]), refused(404, "There is no such shadow")],
    )
}

fn follow_rejections() -> Exchange {
    read(
        "followRejections",
        "The refusals of late of writes to all shadows that the caller may see, oldest first; kept in memory",
        vec![given(200, "A page; there is always a next one", "FollowedRefusals", &[])],
    )
}

fn list_shadows() -> Exchange {
    read(
        "listShadows",
        "The shadows of a device, the classic one first",
        vec![given(200, "A page", "Shadows", &["Link"])],
    )
}

fn list_devices() -> Exchange {
    read("listDevices", "The devices that have shadows", vec![given(200, "A page", "Devices", &["Link"])])
}

fn get_device() -> Exchange {
    read(
        "getDevice",
        "A device: its presence, as far as the caller may know, and its shadows",
        vec![given(200, "The device", "DeviceDetail", &["Link"]), refused(404, "There is no such device")],
    )
}

fn follow_events() -> Exchange {
    read(
        "followEvents",
        "Server-sent events of every change that the caller may see",
        vec![
            Response {
                status: 200,
                about: "Events `change`; `id` is opaque, `data` a Change",
                media: Some(Media { name: "text/event-stream", schema: "EventStream" }),
                headers: &[],
            },
            refused(410, "The events after Last-Event-ID are not kept any more"),
        ],
    )
}

fn aws_get_shadow() -> Exchange {
    aws("GetThingShadow", "As AWS IoT's GetThingShadow", vec![], vec![given(200, "The shadow", "AwsShadow", &[])])
}

fn aws_update_shadow() -> Exchange {
    aws(
        "UpdateThingShadow",
        "As AWS IoT's UpdateThingShadow",
        vec![json("AwsUpdate")],
        vec![
            given(200, "What was accepted", "AwsShadow", &[]),
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
        vec![given(200, "The version of the deletion", "AwsDeleted", &[])],
    )
}

fn aws_list_shadows() -> Exchange {
    aws(
        "ListNamedShadowsForThing",
        "As AWS IoT's ListNamedShadowsForThing",
        vec![],
        vec![given(200, "A page", "AwsNames", &[])],
    )
}

fn aws_publish() -> Exchange {
    aws(
        "Publish",
        "As AWS IoT's Publish: an ordinary message",
        vec![Media { name: "application/octet-stream", schema: "Payload" }],
        vec![given(200, "It is published", "AwsPublished", &[]), exception(413, "RequestEntityTooLargeException")],
    )
}

fn aws_get_retained() -> Exchange {
    aws(
        "GetRetainedMessage",
        "As AWS IoT's GetRetainedMessage",
        vec![],
        vec![given(200, "The message", "AwsRetained", &[])],
    )
}

fn aws_list_retained() -> Exchange {
    aws(
        "ListRetainedMessages",
        "As AWS IoT's ListRetainedMessages",
        vec![],
        vec![given(200, "A page", "AwsRetainedTopics", &[])],
    )
}

fn get_description() -> Exchange {
    Exchange {
        id: "getDescription",
        summary: "This description",
        requests: Vec::new(),
        responses: vec![given(200, "OpenAPI 3.1", "Description", &[])],
    }
}

fn read(id: &'static str, summary: &'static str, responses: Vec<Response>) -> Exchange {
    Exchange { id, summary, requests: Vec::new(), responses: everywhere(responses) }
}

fn write(id: &'static str, summary: &'static str, requests: Vec<Media>) -> Exchange {
    let responses = vec![
        given(200, "It is accepted", "Accepted", WRITTEN),
        given(201, "It is accepted, and the shadow is there now", "Accepted", WRITTEN),
        bare(204, "It is accepted, and no more was to be told", WRITTEN),
        refused(404, "There is no such shadow for the caller"),
        refused(409, "The patch does not fit what is there"),
        refused(412, "What was expected does not hold; tells what is there instead"),
        refused(413, "The body, or what would result, is too large"),
        Response {
            headers: &["Accept-Patch", "Accept"],
            ..refused(415, "The body is of a type that is not taken here")
        },
        refused(422, "The idempotency key was used with another request"),
        refused(428, "The write does not say what it expects"),
    ];
    Exchange { id, summary, requests, responses: everywhere(responses) }
}

/// Headers of an accepted write.
const WRITTEN: &[&str] = &["ETag", "Preference-Applied", "Idempotent-Replayed"];

/// With what any native operation may answer.
fn everywhere(mut responses: Vec<Response>) -> Vec<Response> {
    responses.push(refused(400, "A parameter, a header or the body is not what it must be"));
    responses.push(Response { headers: &["WWW-Authenticate"], ..refused(401, "Nobody that is known") });
    responses.push(refused(403, "Not allowed"));
    responses.push(refused(408, "The body came too slowly"));
    responses.push(Response { headers: &["Retry-After"], ..refused(429, "More than a quota") });
    responses.push(refused(500, "A failure of the server"));
    responses.push(refused(503, "Nothing was tried; says what to wait for"));
    responses
}

fn aws(id: &'static str, summary: &'static str, requests: Vec<Media>, mut responses: Vec<Response>) -> Exchange {
    responses.extend([
        exception(400, "InvalidRequestException"),
        exception(403, "The request is not signed by a key that is known"),
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

fn given(status: u16, about: &'static str, schema: &'static str, headers: &'static [&'static str]) -> Response {
    Response { status, about, media: Some(json(schema)), headers }
}

fn bare(status: u16, about: &'static str, headers: &'static [&'static str]) -> Response {
    Response { status, about, media: None, headers }
}

fn refused(status: u16, about: &'static str) -> Response {
    let media = Some(Media { name: "application/problem+json", schema: "Problem" });
    Response { status, about, media, headers: &[] }
}

fn exception(status: u16, about: &'static str) -> Response {
    Response { status, about, media: Some(json("AwsException")), headers: &[] }
}
