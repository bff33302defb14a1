//! Ordinary topics in the API of AWS IoT's data plane: `Publish`, `GetRetainedMessage`, `ListRetainedMessages`.
//!
//! A message published here has the rights, quotas and subscribers of an ordinary message of its principal. The broker
//! keeps the retained messages ([`super::MessageBroker`]); this module converts AWS's formats. Shadow topics are refused: a
//! client updates a shadow with `UpdateThingShadow`.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::{FromRequestParts, RawPathParams, Request, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::{task::yield_now, time::sleep};

use crate::{
    admission::work,
    http::{
        api::{aws, query::Query},
        auth::{caller::Caller, sigv4},
        broker::{NotPublished, PublishedMessage, RetainedBatch, RetainedMessage},
        operation::{
            AWS_CONTENT_TYPE, AWS_CORRELATION_DATA, AWS_MAX_RESULTS, AWS_MESSAGE_EXPIRY, AWS_PAYLOAD_FORMAT, AWS_QOS,
            AWS_RESPONSE_TOPIC, AWS_RETAIN, AWS_TOPIC_TOKEN, AWS_USER_PROPERTIES, Operation,
        },
        parameter::{BadParameter, bad},
        state::Api,
    },
    shadow::Rejection,
};

/// Default number of topics in a page.
const PAGE: usize = 200;

/// An authenticated request.
struct ParsedCall {
    caller: Caller,
    /// The topic of the path, or empty.
    topic: String,
    /// The query without the parameters of a presigned URL.
    query: String,
    headers: HeaderMap,
    body: Bytes,
}

/// `POST /topics/{topic}`
pub(in crate::http) async fn publish(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Response> {
    let ParsedCall { caller, topic, query, headers, body } = parse_call(&api, request).await?;
    let message = message(topic, &query, &headers, body).map_err(|bad| aws::invalid(&bad, &api))?;
    caller
        .charge(work::MESSAGE + work::bytes(message.payload.len()), &api)
        .map_err(|rejection| aws::rejected_anywhere(&rejection, &api))?;
    match api.messages.publish(caller.access(), message).await {
        Ok(()) => Ok(aws::answer(json!({ "message": "OK" }).to_string().into())),
        Err(NotPublished::Topic(reason)) => Err(aws::invalid(&bad("topic", reason), &api)),
        Err(NotPublished::UserProperties(reason)) => Err(aws::invalid(&bad(AWS_USER_PROPERTIES.name, reason), &api)),
        Err(NotPublished::Forbidden) => Err(forbidden(&api)),
        Err(NotPublished::Unknown) => Err(aws::rejected_anywhere(&Rejection::OutcomeUnknown, &api)),
        Err(NotPublished::Quota(quota)) => {
            Err(aws::rejected_anywhere(&Rejection::TooManyRequests { quota, retry_after_ms: None }, &api))
        }
    }
}

/// `GET /retainedMessage/{topic}`
pub(in crate::http) async fn get(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Response> {
    let ParsedCall { caller, topic, query, .. } = parse_call(&api, request).await?;
    let read = Query::read(Some(&query), Operation::AwsGetRetained.parameters());
    read.map_err(|bad| aws::invalid(&bad, &api))?;
    caller.charge(work::PAGE, &api).map_err(|rejection| aws::rejected_anywhere(&rejection, &api))?;
    if !caller.access().may_receive(&topic) {
        return Err(forbidden(&api));
    }
    let Some(RetainedMessage { topic, payload, qos, stored_at_ms, user }) = api.messages.retained(&topic) else {
        let message = "No retained message exists on this topic";
        return Err(aws::refused(StatusCode::NOT_FOUND, "ResourceNotFoundException", message, api.now()));
    };
    let mut found = json!({
        "topic": topic,
        "payload": BASE64_STANDARD.encode(&payload),
        "qos": qos,
        "lastModifiedTime": stored_at_ms,
    });
    if !user.is_empty() {
        let user: Value = user.into_iter().map(|(name, value)| json!({ name: value })).collect();
        if let Value::Object(members) = &mut found {
            members.insert("userProperties".to_owned(), BASE64_STANDARD.encode(user.to_string()).into());
        }
    }
    Ok(aws::answer(found.to_string().into()))
}

/// `GET /retainedMessage`
///
/// A page has the topics that its caller may receive, and ends at one of them. Its token reveals no other topics.
pub(in crate::http) async fn list(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Response> {
    let ParsedCall { caller, query, .. } = parse_call(&api, request).await?;
    let (limit, after) = page(&query).map_err(|bad| aws::invalid(&bad, &api))?;
    caller.charge(work::PAGE, &api).map_err(|rejection| aws::rejected_anywhere(&rejection, &api))?;
    let mut batches = api.messages.visible_retained(caller.access(), after.as_deref());
    let (mut found, mut more) = (Vec::new(), false);
    while !more {
        let turn = caller.read_turn(&api).await;
        let Some(RetainedBatch { messages, work }) = batches.next() else { break };
        drop(turn);
        found.extend(messages);
        more = found.len() > limit;
        match caller.quota(&api).charge_work(work, Instant::now()) {
            Some(wait) if !more => sleep(wait).await,
            _ => yield_now().await,
        }
    }
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|message| BASE64_URL_SAFE_NO_PAD.encode(&message.topic));
    let topics: Vec<Value> = found.iter().map(summary).collect();
    let mut answer = Map::from_iter([("retainedTopics".to_owned(), topics.into())]);
    answer.extend(next.map(|next| ("nextToken".to_owned(), next.into())));
    let response = aws::answer(Value::from(answer).to_string().into());
    caller.charge_rendered(&response, &api);
    Ok(response)
}

fn summary(message: &RetainedMessage) -> Value {
    json!({
        "topic": message.topic,
        "payloadSize": message.payload.len(),
        "qos": message.qos,
        "lastModifiedTime": message.stored_at_ms,
    })
}

fn page(query: &str) -> Result<(usize, Option<String>), BadParameter> {
    let query = Query::read(Some(query), Operation::AwsListRetained.parameters())?;
    let limit = query.integer(&AWS_MAX_RESULTS)?.and_then(|limit| limit.try_into().ok()).unwrap_or(PAGE);
    let read = |text: &str| String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(text).ok()?).ok();
    let after = query
        .text(&AWS_TOPIC_TOKEN)?
        .map(|text| read(&text).ok_or_else(|| bad("nextToken", "is not the nextToken of a page")));
    Ok((limit, after.transpose()?))
}

/// Parses the message that a request publishes.
fn message(topic: String, query: &str, headers: &HeaderMap, payload: Bytes) -> Result<PublishedMessage, BadParameter> {
    let query = Query::read(Some(query), Operation::AwsPublish.parameters())?;
    let text = |parameter| Ok(query.text(parameter)?.filter(|text| !text.is_empty()).map(|text| text.into_owned()));
    let format = header(headers, AWS_PAYLOAD_FORMAT.name)?;
    let payload_is_utf8 = match format.as_deref() {
        None => None,
        Some("UNSPECIFIED_BYTES") => Some(false),
        Some("UTF8_DATA") if std::str::from_utf8(&payload).is_ok() => Some(true),
        Some("UTF8_DATA") => return Err(bad(AWS_PAYLOAD_FORMAT.name, "is UTF8_DATA, but the payload is not UTF-8")),
        Some(_) => return Err(bad(AWS_PAYLOAD_FORMAT.name, "must be UNSPECIFIED_BYTES or UTF8_DATA")),
    };
    let user = match header(headers, AWS_USER_PROPERTIES.name)? {
        None => Vec::new(),
        Some(text) => user_properties(&text)
            .ok_or_else(|| bad(AWS_USER_PROPERTIES.name, "must be base64 of a JSON array of {name: text}"))?,
    };
    let (content_type, response_topic) = (text(&AWS_CONTENT_TYPE)?, text(&AWS_RESPONSE_TOPIC)?);
    let strings = user.iter().flat_map(|(name, value)| [name, value]).chain(&content_type).chain(&response_topic);
    if !strings.chain([&topic]).all(|text| is_mqtt_string(text)) {
        return Err(bad(
            "topic",
            "and all properties of the message must not contain control characters or exceed 65,535 bytes",
        ));
    }
    let correlation_data = header(headers, AWS_CORRELATION_DATA.name)?.map(|text| base64(&text)).transpose();
    Ok(PublishedMessage {
        topic,
        payload,
        at_least_once: query.integer(&AWS_QOS)?.unwrap_or(0) > 0,
        retain: query.flag(&AWS_RETAIN)?.unwrap_or(false),
        payload_is_utf8,
        content_type,
        response_topic,
        correlation_data: correlation_data.map_err(|()| bad(AWS_CORRELATION_DATA.name, "must be base64"))?,
        // boto3 sends 0 for no expiry.
        expiry: query.integer(&AWS_MESSAGE_EXPIRY)?.and_then(|expiry| expiry.try_into().ok()).filter(|it| *it > 0),
        user,
    })
}

/// Returns true if `text` may be sent to MQTT subscribers. OASIS MQTT 5.0 section 1.5.4.
fn is_mqtt_string(text: &str) -> bool {
    let non_character = |code: u32| code & 0xFFFE == 0xFFFE || (0xFDD0..=0xFDEF).contains(&code);
    text.len() <= usize::from(u16::MAX) && !text.chars().any(|one| one.is_control() || non_character(one.into()))
}

fn header(headers: &HeaderMap, name: &str) -> Result<Option<String>, BadParameter> {
    let mut fields = headers.get_all(name).iter();
    match (fields.next(), fields.next()) {
        (None, _) => Ok(None),
        (Some(field), None) if field.is_empty() => Ok(None),
        (Some(field), None) => match field.to_str() {
            Ok(text) if text.len() <= HEADER_BYTES_MAX => Ok(Some(text.to_owned())),
            _ => Err(bad(name, format!("must be ASCII of at most {HEADER_BYTES_MAX} bytes"))),
        },
        _ => Err(bad(name, "must be present at most once")),
    }
}

const HEADER_BYTES_MAX: usize = 8 * 1024;

fn base64(text: &str) -> Result<Bytes, ()> {
    BASE64_STANDARD.decode(text).map(Bytes::from).map_err(|_| ())
}

/// Parses `[{"name": "value"}, …]` in base64. As SDKs send it, the JSON may be a string that contains JSON.
fn user_properties(text: &str) -> Option<Vec<(String, String)>> {
    let value: Value = serde_json::from_slice(&base64(text).ok()?).ok()?;
    let value = match value {
        Value::String(text) => serde_json::from_str(&text).ok()?,
        value => value,
    };
    let Value::Array(objects) = value else { return None };
    let mut pairs = Vec::new();
    for object in objects {
        let Value::Object(members) = object else { return None };
        for (name, value) in members {
            let Value::String(value) = value else { return None };
            pairs.push((name, value));
        }
    }
    Some(pairs)
}

/// Parses and authenticates a request.
async fn parse_call(api: &Arc<Api>, request: Request) -> Result<ParsedCall, Response> {
    let (mut parts, body) = request.into_parts();
    let topic = RawPathParams::from_request_parts(&mut parts, api)
        .await
        .map(|parameters| parameters.iter().next().map(|(_, topic)| topic.to_owned()).unwrap_or_default());
    let topic = topic.map_err(|_| aws::invalid(&bad("topic", "is not percent-encoded UTF-8"), api))?;
    let query = sigv4::without_signature(&parts).into_owned();
    let (caller, body) = aws::caller_anywhere(api, &mut parts, body).await?;
    Ok(ParsedCall { caller, topic, query, headers: parts.headers, body })
}

fn forbidden(api: &Api) -> Response {
    aws::refused(StatusCode::FORBIDDEN, "ForbiddenException", "Forbidden", api.now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_user_properties_of_sdks() {
        let encoded = |text: &str| BASE64_STANDARD.encode(text);
        let pairs = |pairs: &[(&str, &str)]| {
            Some(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>())
        };
        for (text, expected) in [
            (r#"[{"a":"1"},{"a":"2","b":""}]"#, pairs(&[("a", "1"), ("a", "2"), ("b", "")])),
            (r#""[{\"a\":\"1\"}]""#, pairs(&[("a", "1")])),
            ("[]", pairs(&[])),
            (r#"{"a":"1"}"#, None),
            (r#"[{"a":1}]"#, None),
            ("[1]", None),
            ("", None),
        ] {
            assert_eq!(user_properties(&encoded(text)), expected, "{text}");
        }
        assert_eq!(user_properties("!"), None);
    }
}
