//! Properties of random documents under random updates.

use std::sync::Arc;

use proptest::{collection::vec, prelude::*};
use serde_json::{Map, Value, json};

use super::{after, decided, naive, object, state, update};
use crate::shadow::{
    Change, Command, Decision, Delete, Document, DocumentLimits, Effect, Etag, Pointer, PreviousVersion, Section,
    Stamp, Update, document::limits::NamedValues, pointer::SectionName,
};

/// Few keys, so that updates overlap; some sort differently as UTF-8 and UTF-16 or need escapes.
fn key() -> impl Strategy<Value = String> {
    prop_oneof![6 => "[abc]", 1 => Just("\u{fb33}".into()), 1 => Just("\u{1f600}".into()), 1 => Just("q\"\n/~".into())]
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        (0..3i64).prop_map(|n| json!(n)),
        (0..3u8).prop_map(|n| json!(f64::from(n))),
        Just(json!(-0.0)),
        Just(json!(1e21)),
        Just(json!(0.1)),
        Just(json!(1u64 << 60)),
        Just(json!(2f64.powi(60))),
        any::<f64>().prop_map(|n| json!(if n.is_finite() { n } else { 0.5 })),
        any::<bool>().prop_map(|b| json!(b)),
        "[a\u{e9}\u{1f600}\t]{0,2}".prop_map(Value::String),
    ]
}

fn value(null: bool) -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        4 => scalar(),
        2 => if null { Just(Value::Null).boxed() } else { scalar().boxed() },
        1 => Just(json!({})),
        1 => vec(prop_oneof![3 => scalar(), 1 => Just(json!({"a": [1]})), 1 => Just(json!([]))], 0..3).prop_map(Value::Array),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        vec((key(), inner), 0..4).prop_map(|members| Value::Object(Map::from_iter(members)))
    })
}

fn section() -> impl Strategy<Value = Option<Value>> {
    prop_oneof![
        3 => Just(None),
        1 => Just(Some(Value::Null)),
        6 => vec((key(), value(true)), 0..4).prop_map(|members| Some(Value::Object(Map::from_iter(members)))),
    ]
}

/// Generates an update, or one time in ten a deletion.
pub(super) fn command() -> impl Strategy<Value = Command> {
    let states = (section(), section(), section()).prop_map(|(desired, reported, tags)| {
        let named = [("desired", desired), ("reported", reported), ("tags", tags)];
        Value::Object(named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
    });
    let flags = (prop::bool::weighted(0.2), prop::bool::weighted(0.3));
    let update = (states, flags)
        .prop_map(|(state, (replace, bumps))| Command::Update(Update { replace, bumps, ..update(state) }));
    prop_oneof![9 => update, 1 => Just(Command::Delete(Delete::default()))]
}

pub(super) fn sections(document: &Document) -> naive::State {
    SectionName::ALL.map(|name| document.section(name).values())
}

/// Checks sizes, leaves and etag against the other canonicalizer.
fn check_measures(document: &Document) {
    for name in SectionName::ALL {
        let section = document.section(name);
        let values = Value::Object(section.values());
        let bytes = if section.members.is_empty() { 0 } else { naive::canonical(&values).len() };
        assert_eq!(section.canonical_bytes, bytes);
        assert_eq!(**section, Section::new(section.members.clone()));
    }
    let canonical =
        naive::canonical(&json!({"desired": document.desired.values(), "reported": document.reported.values()}));
    let digest: [u8; 32] = sha2::Digest::finalize(<sha2::Sha256 as sha2::Digest>::new_with_prefix(canonical)).into();
    assert_eq!(document.etag.digest, digest[..16]);
    assert_eq!(document.etag, Etag::of(document.version, &document.desired.members, &document.reported.members));
}

/// Checks that no change lies below another one and that each names the old value.
fn check_changes(before: &Document, changes: &[Change]) {
    for (index, change) in changes.iter().enumerate() {
        assert!(changes.iter().enumerate().all(|(other, c)| other == index || !c.path.is_within(&change.path)));
        let there = value_at(before, &change.path);
        assert_eq!(change.replaced.as_ref().map(|replaced| &replaced.value), there.as_ref());
        if let (Effect::Set(new), Some(old)) = (&change.effect, &there) {
            let members = |value: &Value| value.as_object().is_some_and(|members| !members.is_empty());
            assert!(!(members(new) && members(old)), "one change for a whole object: {change:?}");
            assert_ne!(naive::canonical(new), naive::canonical(old));
        }
    }
}

fn value_at(document: &Document, path: &Pointer) -> Option<Value> {
    let section = document.section(path.section).values();
    if path.keys.is_empty() {
        return (!section.is_empty()).then_some(Value::Object(section));
    }
    path.keys.iter().try_fold(Value::Object(section), |value, key| value.get(&**key).cloned())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_decision_is_the_merge_and_can_be_repeated_and_undone(commands in vec(command(), 1..8)) {
        let (mut document, mut made) = (Document::absent(), Vec::new());
        for command in commands {
            let Ok(decision) = decided(&document, &command, &DocumentLimits::default()) else {
                prop_assert!(matches!(command, Command::Delete(_)) && !document.exists());
                continue;
            };
            let expected = match &command {
                Command::Update(update) => SectionName::ALL.map(|name| {
                    naive::section_after(&document.section(name).values(), update.section(name), update.replace)
                }),
                Command::Delete(_) => naive::State::default(),
                Command::Patch(_) => unreachable!("none is made here"),
            };
            let Decision::Changed { document: next, changes } = decision else {
                for (now, expected) in sections(&document).into_iter().zip(expected) {
                    prop_assert_eq!(naive::canonical(&now.into()), naive::canonical(&expected.into()));
                }
                continue;
            };
            for (now, expected) in sections(&next).into_iter().zip(expected) {
                prop_assert_eq!(naive::canonical(&now.into()), naive::canonical(&expected.into()));
            }
            prop_assert_eq!(next.version.0, document.version.0 + 1);
            check_measures(&next);
            check_changes(&document, &changes);

            let stamp = Arc::new(Stamp { version: next.version, timestamp: next.timestamp, by: "tester".into() });
            if let Command::Update(update) = &command {
                let exact = DocumentLimits { leaves_max: next.leaves(), ..DocumentLimits::default() };
                prop_assert_eq!(exact.check_update(&document, update, NamedValues::of(update)), Ok(()));
            }
            let again = document.apply(&changes, &stamp, matches!(command, Command::Delete(_)), 256);
            prop_assert_eq!(&again, &next);

            let former = PreviousVersion { version: document.version, timestamp: document.timestamp, deleted: document.deleted };
            let undone = next.undo(&changes, former);
            prop_assert_eq!(state(&undone), state(&document));
            prop_assert_eq!(undone.etag, document.etag);
            prop_assert_eq!(undone.leaves(), document.leaves());
            prop_assert_eq!(undone.floor, document.version);
            made.push((document, changes));
            document = next;
        }
        // Undo from the last version, in one pass to each version.
        let mut undoing = document.undoing();
        for (document, changes) in made.iter().rev() {
            undoing.undo(changes);
            let former = PreviousVersion { version: document.version, timestamp: document.timestamp, deleted: document.deleted };
            let undone = undoing.clone().arrive(former);
            prop_assert_eq!(state(&undone), state(document));
            prop_assert_eq!(undone.etag, document.etag);
            prop_assert_eq!(undone.leaves(), document.leaves());
        }
    }

    #[test]
    fn a_change_is_noticed_exactly_when_there_was_one(commands in vec(command(), 2..8), keys in vec(key(), 0..4), since in 1..6usize) {
        let documents: Vec<Document> = commands.iter().scan(Document::absent(), |document, command| {
            if decided(document, command, &DocumentLimits::default()).is_ok() {
                *document = after(document, command);
            }
            Some(document.clone())
        }).collect();
        let Some(known) = documents.get(since) else { return Ok(()) };
        let last = documents.last().unwrap();
        for section in SectionName::ALL {
            let path = Pointer { section, keys: keys.iter().map(|key| key.as_str().into()).collect() };
            let touched = documents[since..].windows(2).any(|pair| {
                naive::touched(&path, &sections(&pair[0]), &sections(&pair[1])) || (pair[1].deleted && !pair[0].deleted)
            });
            prop_assert_eq!(last.changed_after(&path, known.version), touched, "{} after {:?}", path, known.version);
        }
    }

    #[test]
    fn with_few_tombstones_no_change_is_missed(commands in vec(command(), 2..8), keys in vec(key(), 0..4), max in 0..3usize) {
        let limits = DocumentLimits { path_tombstones_max: max, ..DocumentLimits::default() };
        let mut documents = vec![Document::absent()];
        for command in &commands {
            let current = documents.last().unwrap();
            if let Ok(Decision::Changed { document, .. }) = decided(current, command, &limits) {
                prop_assert!(document.tombstones.len() <= max);
                documents.push(document);
            }
        }
        let last = documents.last().unwrap();
        let path = Pointer { section: SectionName::Desired, keys: keys.iter().map(|key| key.as_str().into()).collect() };
        for since in 1..documents.len() {
            let touched = documents[since..].windows(2).any(|pair| naive::touched(&path, &sections(&pair[0]), &sections(&pair[1])));
            prop_assert!(!touched || last.changed_after(&path, documents[since].version), "{} after {}", path, since);
        }
    }

    #[test]
    fn equal_values_have_equal_canonical_forms(a in value(false), b in value(false)) {
        let ours = |value: &Value| {
            let mut out = Vec::new();
            crate::shadow::document::canonical::write_value(&mut out, value);
            String::from_utf8(out).unwrap()
        };
        prop_assert_eq!(ours(&a), naive::canonical(&a));
        prop_assert_eq!(crate::shadow::document::equality::same(&a, &b), ours(&a) == ours(&b));
    }
}

/// Merging the delta into `reported` leaves no delta.
#[test]
fn a_delta_merged_into_reported_leaves_none() {
    let document = super::written(&[json!({
        "desired": {"a": 1, "b": {"c": [1], "d": {}}, "e": {}, "f": 1.0, "g": {"x": 1}},
        "reported": {"a": 2, "b": {"c": [2], "z": 0}, "f": 1, "g": 5},
    })]);
    let delta = crate::shadow::document::delta::delta(&document).unwrap();
    let values = crate::shadow::document::tree::values(&delta);
    assert_eq!(Value::Object(values.clone()), json!({"a": 1, "b": {"c": [1], "d": {}}, "e": {}, "g": {"x": 1}}));
    let reported = Command::Update(update(json!({"reported": object(values.into())})));
    assert_eq!(crate::shadow::document::delta::delta(&after(&document, &reported)), None);
    assert!(!crate::shadow::document::delta::has_delta(&after(&document, &reported)));
    assert!(crate::shadow::document::delta::has_delta(&document));
}
