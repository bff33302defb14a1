//! The paths of a conflict in the native dialect. Paths that the reader may not see are left out.

use crate::{
    shadow::{Collisions, Conflict, Projection, Stamp, command::rejection::FailedExpectation},
    wire::write::Object,
};

/// Writes `conflicts`, `clean` and `truncated`.
pub(in crate::wire) fn collisions(envelope: &mut Object<'_>, found: &Collisions, projection: &Projection) {
    let visible = found.conflicts.iter().filter(|conflict| projection.reads(&conflict.path));
    envelope.array("conflicts", visible, |out, conflict| conflict_of(Object::open(out), conflict));
    let visible = found.clean.iter().filter(|path| projection.reads(path));
    let clean: Vec<String> = visible.map(ToString::to_string).collect();
    envelope.member("clean", &clean);
    if found.truncated {
        envelope.member("truncated", &true);
    }
}

fn conflict_of(mut object: Object<'_>, conflict: &Conflict) {
    object.text("path", &conflict.path.to_string());
    object.member("yours", &conflict.yours);
    if let Some(base) = &conflict.base {
        object.member("base", base);
    }
    match &conflict.current {
        Some(current) => object.member("current", current),
        None => object.member("removed", &true),
    }
    changed(&mut object, conflict.changed.as_deref());
    object.close();
}

/// Writes `failed`: the failed expectations with the current values.
pub(in crate::wire) fn failed(envelope: &mut Object<'_>, failed: &[FailedExpectation], projection: &Projection) {
    let visible = failed.iter().filter(|failed| projection.reads(&failed.path));
    envelope.array("failed", visible, |out, failed| {
        let mut object = Object::open(out);
        object.text("path", &failed.path.to_string());
        object.text("expected", failed.expected);
        if let Some(current) = &failed.current {
            object.member("current", current);
        }
        changed(&mut object, failed.changed.as_deref());
        object.close();
    });
}

fn changed(object: &mut Object<'_>, stamp: Option<&Stamp>) {
    if let Some(Stamp { version, timestamp, by }) = stamp {
        object.member("version", &version.0);
        object.text("by", by);
        object.member("timestamp", &timestamp.0);
    }
}
