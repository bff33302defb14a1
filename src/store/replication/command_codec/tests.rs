//! Tests of the encoding: every part of a command comes back, and no prefix of it is taken.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::shadow::{Pointer, pointer::SectionName};

fn preconditions() -> Preconditions {
    let etag = Etag { version: Version(9), digest: [3; 16] };
    let tags = vec![EtagCondition::Tag(etag), EtagCondition::Other("x".into()), EtagCondition::Any];
    let path = Pointer { section: SectionName::Reported, keys: vec!["a".into(), "0".into()] };
    let expect = [Expected::Version(Version(4)), Expected::Value(json!([1, {"b": -2.5}])), Expected::Absent];
    Preconditions {
        version: Some(Version(0)),
        etag: Some(EtagCondition::OneOf(tags)),
        none_of: vec![etag],
        on_conflict: OnConflict::Rebase,
        expect: expect.map(|holds| Expectation { path: path.clone(), holds }).into(),
    }
}

fn merge(value: Value) -> SectionPatch {
    match value {
        Value::Object(members) => SectionPatch::Merge(members),
        _ => SectionPatch::Clear,
    }
}

fn commands() -> Vec<Command> {
    let path = |section| Pointer { section, keys: vec!["k".into()] };
    let (from, to) = (path(SectionName::Desired), path(SectionName::Tags));
    let operations = vec![
        PatchOperation::Add(from.clone(), json!({"n": [1, 2]})),
        PatchOperation::Remove(to.clone()),
        PatchOperation::Replace(from.clone(), json!("v")),
        PatchOperation::Move { from: from.clone(), to: to.clone() },
        PatchOperation::Copy { from: to, to: from.clone() },
        PatchOperation::Test(from, json!(false)),
    ];
    let keyed = |update: &Update| Some(Keyed::update(IdempotencyKey::new("k-1").unwrap(), update));
    let update = Update {
        desired: merge(json!({"a": {"b": null, "c": [1.5, "é"]}})),
        reported: SectionPatch::Clear,
        preconditions: preconditions(),
        ..Update::default()
    };
    let flags = |index: u32| Update {
        state_is_null: index & 1 != 0,
        replace: index & 2 != 0,
        bumps: index & 4 != 0,
        dry_run: index & 8 != 0,
        ..Update::default()
    };
    let mut all: Vec<_> = (0..16).map(|index| Command::Update(flags(index))).collect();
    all.push(Command::Update(Update { keyed: keyed(&update), ..update }));
    all.push(Command::Delete(Delete { preconditions: preconditions(), keyed: keyed(&Update::default()) }));
    let operations = JsonPatch::new(operations).unwrap();
    for dry_run in [false, true] {
        let (operations, preconditions) = (operations.clone(), preconditions());
        all.push(Command::Patch(Patch { operations, preconditions, dry_run, keyed: None }));
    }
    all
}

#[test]
fn envelopes_come_back() {
    let device = DeviceId::new("d").unwrap();
    let some = Pointer { section: SectionName::Desired, keys: vec!["a".into(), "b".into()] };
    let scopes = [
        Scope::default(),
        Scope::ALL,
        Scope { reads: Paths::STATE, writes: [&some, &Pointer::section(SectionName::Tags)].into_iter().collect() },
    ];
    for (index, command) in commands().into_iter().enumerate() {
        let name = ShadowName::new("n").unwrap();
        let sent = Envelope {
            key: if index % 2 == 0 {
                ShadowKey::classic(device.clone())
            } else {
                ShadowKey::named(device.clone(), name)
            },
            command,
            author: Sender {
                by: "app".into(),
                scope: scopes[index % scopes.len()].clone(),
                login: SenderLogin::default(),
            },
            id: RequestId::next(),
            client: "client".into(),
            is_of_session: index % 2 == 1,
            client_token: if index % 3 == 0 { None } else { ClientToken::new("t") },
            may_create: index % 5 == 0,
            row: None,
            shared_row: (index % 2 == 0).then(|| RowEdit::Insert(b"i".as_slice().into(), Bytes::from_static(b"row"))),
        };
        let mut encoded = Vec::new();
        put_envelope(&mut encoded, &sent);
        let mut payload = Decoder::new(&encoded);
        let found = envelope(&mut payload).unwrap();
        payload.finish().unwrap();
        assert_eq!((&found.key, &found.command, &found.author), (&sent.key, &sent.command, &sent.author));
        assert_eq!((&found.client, found.is_of_session), (&sent.client, sent.is_of_session));
        assert_eq!(found.may_create, sent.may_create);
        assert_eq!((found.client_token, found.shared_row), (sent.client_token, sent.shared_row));
        for length in 0..encoded.len() {
            assert!(envelope(&mut Decoder::new(&encoded[..length])).is_err(), "{length} of {} bytes", encoded.len());
        }
    }
}
