//! The examples of `docs/protocol.md`: each shown request is parsed, and each shown reply is rendered.

use serde_json::Value;

use crate::{
    shadow::{
        ClientToken, Command, Decision, Delete, DeviceId, Document, DocumentLimits, Projection, Rejection, ShadowKey,
        Timestamp, Update, Version, collisions, decide, tests::sender,
    },
    wire::{Dialect, native, parse_update},
};

const REFERENCE: &str = include_str!("../../../docs/protocol.md");

fn decided(current: &Document, command: Command, by: &str, second: u64) -> Result<Document, Rejection> {
    let now = Timestamp(1_790_000_000 + second);
    match decide(current, &command, &sender(by), now, &DocumentLimits::default())? {
        Decision::Changed { document, .. } => Ok(document),
        Decision::Unchanged => panic!("no change"),
    }
}

fn parsed(payload: &str) -> (Update, Option<ClientToken>) {
    let parsed = parse_update(payload.as_bytes(), Dialect::Native, &DocumentLimits::default()).unwrap();
    (parsed.body, parsed.client_token)
}

#[test]
fn the_examples_of_the_reference_are_exact() {
    let examples: Vec<&str> =
        REFERENCE.split("```json\n").skip(1).map(|part| part.split("```").next().unwrap()).collect();
    let [boot, accepted, wish, delta, documents, stale, conflict, rebase, get, deleted, refused] = examples[..] else {
        panic!("{} examples", examples.len())
    };
    let check = |shown: &str, sent: &[u8]| {
        let (shown, sent): (Value, Value) =
            (serde_json::from_str(shown).unwrap(), serde_json::from_slice(sent).unwrap());
        assert_eq!(shown, sent, "{sent:#}");
    };
    let (all, key) = (&Projection::ALL, ShadowKey::classic(DeviceId::new("thermostat-1").unwrap()));

    let (update, token) = parsed(boot);
    let first = decided(&Document::absent(), Command::Update(update.clone()), "anonymous/thermostat-1", 0).unwrap();
    check(accepted, &native::update_accepted(&update, true, &first, all, token.as_ref()));

    let (update, _) = parsed(wish);
    let second = decided(&first, Command::Update(update.clone()), "anonymous/app", 5).unwrap();
    check(delta, &native::update_delta(&second, all, None).unwrap());
    check(documents, &native::update_documents(&first, &second, all, None));
    check(get, &native::get_accepted(&second, all, None));

    let (update, token) = parsed(stale);
    let stale = Command::Update(update);
    let mut rejection = decided(&second, stale.clone(), "anonymous/thermostat-1", 9).unwrap_err();
    let Rejection::VersionConflict { expected: Some(expected), collisions: reported, .. } = &mut rejection else {
        panic!("{rejection:?}")
    };
    *reported = Some(Box::new(collisions(&stale, &second, *expected)));
    check(conflict, &native::rejected(&rejection, &key, Timestamp(1_790_000_009), all, token.as_ref()));

    let (update, _) = parsed(rebase);
    assert_eq!(update.preconditions.rebased_from(&second), Some(Version(1)));
    let rebased = decided(&second, Command::Update(update), "anonymous/thermostat-1", 10).unwrap();
    assert_eq!(rebased.version, Version(3));

    let third = decided(&second, Command::Delete(Delete::default()), "anonymous/app", 20).unwrap();
    assert_eq!(third.version, Version(3));
    check(deleted, &native::delete_accepted(&third, None));

    let typo = parse_update(br#"{"state":{},"vresion":1}"#, Dialect::Native, &DocumentLimits::default()).unwrap_err();
    check(refused, &native::rejected(&typo.rejection, &key, Timestamp(1_790_000_030), all, None));
}
