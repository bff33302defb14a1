//! Commands decided one after another: each makes of the document what RFC 7396 makes of its values, at the next
//! version; can be applied again and undone; is noticed at exactly the paths it changed; and is stored and read as it
//! was.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::{arbitrary::Unstructured, fuzz_target};
use serde_json::Value;
use umbra_fuzz::{commands, merge_patch};
use umbrad::{
    shadow::{
        Change, Command, Decision, Document, DocumentLimits, Pointer, PreviousVersion, Rejection, Scope, Sender,
        SenderLogin, SizeLimit, Stamp, Timestamp, Version, decide, document::delta, pointer::SectionName,
    },
    store::{Seq, StoredShadow, fuzzing},
};

fuzz_target!(|data: &[u8]| {
    let mut bytes = Unstructured::new(data);
    let limits = if bytes.arbitrary() == Ok(true) { TIGHT } else { DocumentLimits::default() };
    let (mut documents, mut watched) = (vec![Document::absent()], Vec::new());
    while let (false, true, Ok(command)) =
        (bytes.is_empty(), documents.len() <= VERSIONS_MAX, commands::command(&mut bytes))
    {
        let current = documents.last().expect("never empty");
        documents.extend(decided(current, &command, &limits));
        watched.extend(commands::path(&mut bytes));
    }
    watched.iter().for_each(|path| changes_are_noticed(path, &documents, &limits));
});

/// Each version is compared with all before it.
const VERSIONS_MAX: usize = 32;

/// Within reach of a few commands.
const TIGHT: DocumentLimits =
    DocumentLimits { document_bytes_max: 60, tags_bytes_max: 30, leaves_max: 6, depth_max: 2, path_tombstones_max: 2 };

/// Checks what `command` makes of `current`, and gives the next document.
fn decided(current: &Document, command: &Command, limits: &DocumentLimits) -> Option<Document> {
    let now = Timestamp(1_000 + current.version.0 / 2);
    let before = merge_patch::state(current);
    let expected = merge_patch::after(&before, command);
    let same = merge_patch::canonical_state(&before) == merge_patch::canonical_state(&expected);
    match decide(current, command, &sender(), now, limits) {
        Ok(Decision::Changed { document, changes }) => {
            let state = merge_patch::state(&document);
            assert_eq!(merge_patch::canonical_state(&state), merge_patch::canonical_state(&expected));
            assert_eq!(document.version.0, current.version.0 + 1);
            assert!(!same || !document.exists() || !current.exists() || bumps(command), "a change of nothing");
            measured(&document, &state);
            repeated_and_undone(current, &document, &changes, now, limits);
            stored(&document, &changes);
            Some(document)
        }
        Ok(Decision::Unchanged) => {
            assert!(same && current.exists() && !bumps(command), "a change was not made");
            None
        }
        Err(Rejection::NotFound) => {
            assert!(matches!(command, Command::Delete(_)) && !current.exists());
            None
        }
        Err(rejection) => {
            beyond(limits, current, &expected, &rejection);
            None
        }
    }
}

fn bumps(command: &Command) -> bool {
    matches!(command, Command::Update(update) if update.bumps)
}

/// Sizes, leaves and the etag are those of the values; and the delta is what `reported` lacks.
fn measured(document: &Document, state: &merge_patch::State) {
    let forms = merge_patch::canonical_state(state);
    for (name, (form, values)) in SectionName::ALL.into_iter().zip(forms.iter().zip(state)) {
        let section = document.section(name);
        let (bytes, leaves) = if values.is_empty() { (0, 0) } else { (form.len(), leaves(values)) };
        assert_eq!((section.canonical_bytes, section.leaves), (bytes, leaves), "{name:?} {form}");
    }
    assert_eq!(document.etag.to_string(), merge_patch::etag(state, document.version.0));
    let difference = delta::delta(document);
    assert_eq!(difference.is_some(), delta::has_delta(document));
    let [desired, reported, _] = state;
    let missing = difference.map(|members| umbrad::shadow::document::tree::values(&members)).unwrap_or_default();
    let expected = lacking(&Value::Object(desired.clone()), &Value::Object(reported.clone()));
    let missing = Some(Value::Object(missing)).filter(|missing| *missing != Value::Object(<_>::default()));
    assert_eq!(missing.as_ref().map(merge_patch::canonical), expected.as_ref().map(merge_patch::canonical));
}

fn leaves(members: &serde_json::Map<String, Value>) -> usize {
    members.values().map(merge_patch::leaves).sum()
}

/// Returns the part of `desired` that `reported` lacks. An object that is there lacks nothing of `{}`.
fn lacking(desired: &Value, reported: &Value) -> Option<Value> {
    match (desired, reported) {
        (Value::Object(desired), Value::Object(reported)) => {
            let lacks = |(key, value): (&String, &Value)| {
                let part = reported.get(key).map_or_else(|| Some(value.clone()), |other| lacking(value, other));
                Some((key.clone(), part?))
            };
            let members: serde_json::Map<String, Value> = desired.iter().filter_map(lacks).collect();
            (!members.is_empty()).then_some(Value::Object(members))
        }
        _ => (merge_patch::canonical(desired) != merge_patch::canonical(reported)).then(|| desired.clone()),
    }
}

fn repeated_and_undone(
    current: &Document,
    next: &Document,
    changes: &[Change],
    now: Timestamp,
    limits: &DocumentLimits,
) {
    let stamp = Arc::new(Stamp { version: next.version, timestamp: now, by: "p".into() });
    assert_eq!(&current.apply(changes, &stamp, next.deleted, limits.path_tombstones_max), next, "applied again");
    let Document { version, timestamp, deleted, .. } = *current;
    let undone = next.undo(changes, PreviousVersion { version, timestamp, deleted });
    assert_eq!(merge_patch::state(&undone), merge_patch::state(current), "undone");
    assert_eq!((undone.etag, undone.leaves(), undone.deleted), (current.etag, current.leaves(), deleted), "undone");
}

fn stored(document: &Document, changes: &[Change]) {
    let held = StoredShadow { document: Arc::new(document.clone()), last_entry: Seq(7), remembered: <_>::default() };
    let framed = fuzzing::encode_record(&held);
    assert_eq!(fuzzing::record(&framed).as_ref(), Some(&framed), "the record comes back otherwise");
    let framed = fuzzing::encode_change(document, changes);
    assert_eq!(fuzzing::entry(&framed).as_ref(), Some(&framed), "the journal entry comes back otherwise");
}

/// The result would really be beyond a limit, and further beyond than what is there.
fn beyond(limits: &DocumentLimits, current: &Document, expected: &merge_patch::State, rejection: &Rejection) {
    let [desired, reported, tags] = expected.each_ref().map(|section| {
        if section.is_empty() { 0 } else { merge_patch::canonical(&Value::Object(section.clone())).len() }
    });
    let depth = expected.iter().flat_map(|section| section.values()).map(umbra_fuzz::json::depth).max().unwrap_or(0);
    let leaves: usize = expected.iter().map(leaves).sum();
    let justified = match *rejection {
        Rejection::TooLarge { what: SizeLimit::State, size, max } => {
            let is_so = size == desired + reported && max == limits.document_bytes_max;
            is_so && size > max && size > current.state_bytes()
        }
        Rejection::TooLarge { what: SizeLimit::Tags, size, max } => {
            size == tags && max == limits.tags_bytes_max && size > max && size > current.tags.canonical_bytes
        }
        Rejection::TooManyLeaves { count, max } => count == leaves && count > max && count > current.leaves(),
        // These are of the update, and not of its result.
        Rejection::TooManyPaths { count, max } => count > max && max == 2 * limits.leaves_max.max(current.leaves()),
        Rejection::TooLarge { what: SizeLimit::Paths, size, max } => {
            size > max && max >= 16 * (limits.document_bytes_max + limits.tags_bytes_max)
        }
        Rejection::TooDeep { max } => depth > max,
        _ => false,
    };
    assert!(justified, "{rejection:?} of {expected:?}");
}

/// A path changed since a version exactly if a write since then touched it. Where tombstones were evicted, no change is
/// missed.
fn changes_are_noticed(path: &Pointer, documents: &[Document], limits: &DocumentLimits) {
    let last = documents.last().expect("never empty");
    let mut changed = false;
    for pair in documents.windows(2).rev() {
        let [before, after] = pair else { continue };
        let deleted = after.deleted && !before.deleted;
        changed |= deleted || merge_patch::touched(path, &merge_patch::state(before), &merge_patch::state(after));
        let found = last.changed_after(path, Version(before.version.0));
        let exact = limits.path_tombstones_max > TIGHT.path_tombstones_max || before.version >= last.floor;
        assert!(found == changed || (found && !exact), "{path} after {:?}: {found}", before.version);
    }
}

/// Somebody who may do everything.
fn sender() -> Sender {
    Sender { by: "p".into(), scope: Scope::ALL, login: SenderLogin::default() }
}
