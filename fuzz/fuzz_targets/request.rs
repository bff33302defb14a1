//! The payload of an update, in both dialects: what is JSON by the contract and asks for nothing strange is accepted,
//! what is not is refused with a code of the contract; and what is accepted means the same however it is spelled, down
//! to the etag and the digest of its idempotency key.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};
use umbra_fuzz::{
    json::{self, Json},
    merge_patch,
};
use umbrad::{
    shadow::{
        Command, Decision, DeviceId, Document, DocumentLimits, Preconditions, Rejection, Scope, SectionPatch, Sender,
        SenderLogin, ShadowKey, Timestamp, Update, decide, pointer::SectionName,
    },
    wire::{Dialect, Parsed, Refused, aws, parse_update},
};

fuzz_target!(|payload: &[u8]| {
    let limits = DocumentLimits::default();
    let read = std::str::from_utf8(payload).ok().map(json::read);
    for dialect in [Dialect::Native, Dialect::Aws] {
        let parsed = parse_update(payload, dialect, &limits);
        match (&read, &parsed) {
            (Some(Json::Read { value: Value::Object(members), .. }), Ok(parsed)) => {
                asks_what_it_says(members, &parsed.body, dialect);
                means_the_same_respelled(members, parsed, dialect, &limits);
            }
            (read, Ok(_)) => panic!("accepted over {dialect:?}: {read:?}"),
            (_, Err(refused)) => is_of_the_contract(refused, &limits),
        }
        if dialect == Dialect::Native {
            is_refused_for_its_json(read.as_ref(), parsed.as_ref().err(), &limits);
        }
    }
});

/// Checks that a payload is refused as not UTF-8, not JSON or too deep exactly if it is.
fn is_refused_for_its_json(read: Option<&Json>, refused: Option<&Refused>, limits: &DocumentLimits) {
    let rejection = refused.map(|refused| &refused.rejection);
    let (utf8, invalid, deep) = (
        matches!(rejection, Some(Rejection::NotUtf8)),
        matches!(rejection, Some(Rejection::InvalidJson { .. })),
        matches!(rejection, Some(Rejection::TooDeep { .. })),
    );
    assert_eq!(utf8, read.is_none());
    match read {
        None => {}
        Some(Json::Read { value: Value::Object(members), oddities }) => {
            let odd = oddities.duplicate || oddities.inexact || oddities.no_value;
            // `state` and the section are no levels of the contract.
            let too_deep = members.values().any(|member| json::depth(member) > limits.depth_max + 2);
            assert!(!invalid || odd, "no JSON: {members:?}");
            // Of duplicate keys the reader has only the first.
            assert!(!deep || too_deep || oddities.duplicate, "too deep: {members:?}");
            assert!(invalid || deep || !(odd || too_deep), "{oddities:?} {members:?}");
            let plain = plain_state(members);
            assert!(odd || too_deep || !plain || rejection.is_none(), "{rejection:?} of {members:?}");
        }
        Some(_) => assert!(invalid, "not an object, or no JSON at all: {rejection:?}"),
    }
}

/// Returns true if a request has valid sections and nothing else.
fn plain_state(members: &Map<String, Value>) -> bool {
    let sections = match members.get("state") {
        Some(Value::Object(sections)) if members.len() == 1 => sections,
        _ => return false,
    };
    let section = |(name, value): (&String, &Value)| {
        SectionName::of(name).is_some()
            && (value.is_object() || value.is_null())
            && !json::has_null_in_array(value, false)
    };
    sections.iter().all(section)
}

/// The contract, section 4, what an update can be refused for by itself.
fn is_of_the_contract(refused: &Refused, limits: &DocumentLimits) {
    let Refused { rejection, client_token } = refused;
    let known = match (rejection.code(), rejection.error()) {
        (415, "not-utf8") => true,
        (400, "too-deep") => *rejection == Rejection::TooDeep { max: limits.depth_max },
        (400, error) => [
            "invalid-json",
            "missing-state",
            "invalid-section",
            "invalid-node",
            "invalid-version",
            "invalid-client-token",
            "invalid-field",
        ]
        .contains(&error),
        _ => false,
    };
    assert!(known, "{rejection:?}");
    let shadow = ShadowKey::classic(DeviceId::new("d").expect("valid"));
    let reply = aws::rejected(rejection, &shadow, Timestamp(1), client_token.as_ref());
    assert!(reply.len() < 2048, "a refusal of {} bytes", reply.len());
    let reply: Value = serde_json::from_slice(&reply).expect("an answer is JSON");
    assert_eq!(reply.get("code"), Some(&Value::from(rejection.code())));
}

/// The sections of `update` are those of `state`, and nothing is asked that is not there.
fn asks_what_it_says(members: &Map<String, Value>, update: &Update, dialect: Dialect) {
    let state = members.get("state").expect("an update has a state");
    assert_eq!(update.state_is_null, state.is_null());
    for name in SectionName::ALL {
        let expected = match (state, state.get(name.as_str())) {
            (Value::Null, _) if dialect == Dialect::Native || name != SectionName::Tags => SectionPatch::Clear,
            (_, Some(Value::Null)) => SectionPatch::Clear,
            (_, Some(Value::Object(members))) => SectionPatch::Merge(members.clone()),
            (_, None) => SectionPatch::Keep,
            (_, Some(other)) => panic!("{name:?} is {other}"),
        };
        assert_eq!(update.section(name), &expected, "{name:?}");
    }
    assert!(!json::has_null_in_array(state, false));
    assert_eq!(update.preconditions.version.is_some(), members.contains_key("version"));
    assert_eq!(update.keyed.is_some(), members.contains_key("idempotencyKey"));
    assert_eq!(update.bumps, dialect == Dialect::Aws);
    if dialect == Dialect::Native {
        assert_eq!(Some(update.dry_run), members.get("dryRun").map_or(Some(false), Value::as_bool));
        assert_eq!(Some(update.replace), members.get("replace").map_or(Some(false), Value::as_bool));
        assert_eq!(update.preconditions.etag.is_some(), members.contains_key("etag"));
    }
}

fn means_the_same_respelled(
    members: &Map<String, Value>,
    parsed: &Parsed<Update>,
    dialect: Dialect,
    limits: &DocumentLimits,
) {
    // The AWS dialect does not look at what it does not know.
    let known = |(key, _): &(&String, &Value)| {
        dialect == Dialect::Native
            || ["state", "version", "clientToken", "onConflict", "expect", "idempotencyKey"].contains(&key.as_str())
    };
    let request =
        Value::Object(members.iter().filter(known).map(|(key, value)| (key.clone(), value.clone())).collect());
    let first = written(&parsed.body, limits);
    for text in [request.to_string(), json::respelled(&request)] {
        let again = parse_update(text.as_bytes(), dialect, limits).unwrap_or_else(|refused| {
            panic!("{text} is refused, said otherwise: {refused:?}");
        });
        assert_eq!(again.client_token, parsed.client_token);
        assert_eq!(again.body.keyed, parsed.body.keyed, "the digest of {text}");
        assert_eq!(again.body.preconditions.version, parsed.body.preconditions.version);
        let document = written(&again.body, limits);
        assert_eq!(document.as_ref().map(|next| next.etag), first.as_ref().map(|next| next.etag), "{text}");
    }
    if let Some(document) = first {
        assert_eq!(document.etag.to_string(), merge_patch::etag(&merge_patch::state(&document), 1));
        etag_outlives_the_document(&document, limits);
    }
}

/// The document that `update` makes where there was none; `None` if it would be too large.
fn written(update: &Update, limits: &DocumentLimits) -> Option<Document> {
    let update = Update { preconditions: Preconditions::default(), ..update.clone() };
    match decide(&Document::absent(), &Command::Update(update), &sender(), Timestamp(1), limits) {
        Ok(Decision::Changed { document, .. }) => Some(document),
        Ok(Decision::Unchanged) => panic!("the first write is none"),
        Err(rejection) => {
            assert_eq!(rejection.code(), 413, "{rejection:?}");
            None
        }
    }
}

/// Checks that the whole document, written where there is none, has the same etag.
fn etag_outlives_the_document(document: &Document, limits: &DocumentLimits) {
    let [desired, reported, _] = merge_patch::state(document);
    let request = serde_json::json!({"state": {"desired": desired, "reported": reported}}).to_string();
    let copy = parse_update(request.as_bytes(), Dialect::Native, limits).expect("a document can be written");
    assert_eq!(written(&copy.body, limits).map(|copy| copy.etag), Some(document.etag));
}

/// Somebody who may do everything.
fn sender() -> Sender {
    Sender { by: "p".into(), scope: Scope::ALL, login: SenderLogin::default() }
}
