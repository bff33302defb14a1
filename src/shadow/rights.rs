//! The rights of a command's sender on its shadow, and the checks of a command against them.
//!
//! The paths that a command names are checked when it arrives ([`Scope::admit`]). Values that it would overwrite are
//! checked when it is decided ([`Scope::overwrites`]): a write below `/desired/a` replaces a scalar at `/desired/a`. The
//! paths that a JSON Patch reads are checked when it arrives, and the paths it writes once it is an update.
//!
//! `"state": null` clears only the sections that the sender may write.
//!
//! - Writing a leaf, removing a value or setting `{}` requires the right to write the whole path.
//! - Clearing or replacing a section requires the right to write the section.
//! - Deleting the shadow requires the right to write all of `desired` and `reported`.
//! - Naming a path in `expect`, or reading it in a JSON Patch, requires the right to read it. So does setting an object
//!   by a JSON Patch that is to be rebased. So does touching a path in a dry run, which would reveal whether a guessed
//!   value changes anything.

pub(super) mod paths;
pub(super) mod projection;
pub(super) mod seen;
use std::{fmt, sync::Arc};

use serde_json::{Map, Value};

use crate::shadow::{
    command::{Command, Patch, SectionPatch, Update, conflicts::leaves_of, rejection::Rejection},
    document::{
        Document,
        tree::{Members, Node},
    },
    pointer::{Pointer, SectionName},
    rights::paths::Paths,
};

/// The rights of a principal on one shadow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// The readable paths. An etag condition is compared with the etag of these paths.
    pub reads: Paths,
    /// The writable paths.
    pub writes: Paths,
}

/// The author of a command and the author's rights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    /// The principal, for metadata and history.
    pub by: Arc<str>,
    /// The rights on the shadow of the command.
    pub scope: Scope,
    /// The login of the sender.
    pub login: SenderLogin,
}

/// A login that may be revoked while a command of it is queued.
pub trait Revocable: Send + Sync {
    /// Returns true if the login is revoked now.
    fn is_revoked(&self) -> bool;
}

/// The login of a sender; the default is never revoked.
#[derive(Clone, Default)]
pub struct SenderLogin(Option<Arc<dyn Revocable>>);

impl SenderLogin {
    /// Returns the login `revocable`.
    #[must_use]
    pub fn new(revocable: Arc<dyn Revocable>) -> Self {
        Self(Some(revocable))
    }

    /// Returns true if the login is revoked now.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        self.0.as_ref().is_some_and(|login| login.is_revoked())
    }
}

impl PartialEq for SenderLogin {
    /// Compares identities.
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        }
    }
}

impl Eq for SenderLogin {}

impl fmt::Debug for SenderLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SenderLogin").finish_non_exhaustive()
    }
}

impl Scope {
    /// All rights.
    pub const ALL: Self = Self { reads: Paths::ALL, writes: Paths::ALL };

    /// Checks every path that `command` names.
    ///
    /// # Errors
    ///
    /// [`Rejection::Forbidden`] with the first path that is not allowed.
    pub fn admit(&self, command: &mut Command) -> Result<(), Rejection> {
        match command {
            Command::Update(update) => {
                if update.state_is_null {
                    self.narrow(update);
                }
                self.check_update(update)
            }
            Command::Delete(_) => [SectionName::Desired, SectionName::Reported]
                .into_iter()
                .try_for_each(|name| allowed(&self.writes, &Pointer::section(name))),
            Command::Patch(patch) => self.check_patch(patch),
        }
    }

    /// Checks the paths that `patch` reads, so that its failures reveal nothing unreadable.
    fn check_patch(&self, patch: &Patch) -> Result<(), Rejection> {
        if self.writes.is_empty() {
            return Err(forbidden(&Pointer::section(SectionName::Desired)));
        }
        let expected = patch.preconditions.expect.iter().map(|expectation| &expectation.path);
        patch.operations.looks_at().chain(expected).try_for_each(|path| allowed(&self.reads, path))
    }

    /// Restricts `update`, which clears every section, to the writable sections, unless there is none.
    fn narrow(&self, update: &mut Update) {
        if !SectionName::ALL.into_iter().any(|name| self.writes.has_section(name)) {
            return;
        }
        for (name, patch) in [
            (SectionName::Desired, &mut update.desired),
            (SectionName::Reported, &mut update.reported),
            (SectionName::Tags, &mut update.tags),
        ] {
            if !self.writes.has_section(name) {
                *patch = SectionPatch::Keep;
            }
        }
    }

    /// Checks every path that `update` names.
    pub(super) fn check_update(&self, update: &Update) -> Result<(), Rejection> {
        if self.writes.is_empty() {
            return Err(forbidden(&Pointer::section(SectionName::Desired)));
        }
        for name in SectionName::ALL {
            each_touched(update, name, &mut |path| {
                allowed(&self.writes, path)?;
                if update.dry_run { allowed(&self.reads, path) } else { Ok(()) }
            })?;
        }
        update.preconditions.expect.iter().try_for_each(|expectation| allowed(&self.reads, &expectation.path))
    }

    /// Returns the first scalar or array of `current` that `update` would overwrite with an object, without the right
    /// to write it.
    pub(super) fn overwrites(&self, update: &Update, current: &Document) -> Option<Pointer> {
        if self.writes == Paths::ALL || update.replace {
            return None;
        }
        SectionName::ALL.into_iter().find_map(|name| match update.section(name) {
            SectionPatch::Merge(patch) if !self.writes.has_section(name) => {
                self.overwritten(patch, &current.section(name).members, &mut Pointer::section(name))
            }
            _ => None,
        })
    }

    fn overwritten(&self, patch: &Map<String, Value>, current: &Members, at: &mut Pointer) -> Option<Pointer> {
        patch.iter().find_map(|(key, value)| {
            let (Value::Object(patch), Some(node)) = (value, current.get(key.as_str())) else { return None };
            at.keys.push(key.as_str().into());
            let found = match node {
                Node::Object(inner) => self.overwritten(patch, inner, at),
                Node::Leaf(leaf) if leaf.value.is_object() => None,
                Node::Leaf(_) => (!self.writes.has(at)).then(|| at.clone()),
            };
            at.keys.pop();
            found
        })
    }
}

impl Update {
    /// Returns the paths that the update touches: the leaves and removals of its patches, and whole sections.
    #[must_use]
    pub fn touched_paths(&self) -> Vec<Pointer> {
        let mut paths = Vec::new();
        for name in SectionName::ALL {
            let _never_fails = each_touched(self, name, &mut |path| {
                paths.push(path.clone());
                Ok(())
            });
        }
        paths
    }
}

/// Calls `each` for every path of section `name` that `update` touches, until a call fails.
fn each_touched(
    update: &Update,
    name: SectionName,
    each: &mut dyn FnMut(&Pointer) -> Result<(), Rejection>,
) -> Result<(), Rejection> {
    let mut section = Pointer::section(name);
    match update.section(name) {
        SectionPatch::Keep => Ok(()),
        SectionPatch::Clear => each(&section),
        SectionPatch::Merge(_) if update.replace => each(&section),
        SectionPatch::Merge(patch) => {
            let mut result = Ok(());
            leaves_of(patch, &mut section, &mut |path, _| {
                result = each(path);
                result.is_ok()
            });
            result
        }
    }
}

pub(super) fn allowed(paths: &Paths, path: &Pointer) -> Result<(), Rejection> {
    if paths.has(path) { Ok(()) } else { Err(forbidden(path)) }
}

fn forbidden(path: &Pointer) -> Rejection {
    Rejection::Forbidden { what: path.to_string() }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

    use serde_json::{Value, json};

    use super::*;
    use crate::shadow::{
        DocumentLimits, Timestamp,
        command::{Delete, Expectation, Expected},
        decide,
        tests::{update, written},
    };

    fn scope(reads: &[&str], writes: &[&str]) -> Scope {
        let paths = |texts: &[&str]| {
            texts.iter().map(|text| text.parse::<Pointer>().unwrap()).collect::<Vec<_>>().iter().collect()
        };
        Scope { reads: paths(reads), writes: paths(writes) }
    }

    fn refused(result: Result<(), Rejection>) -> Option<String> {
        result.err().map(|rejection| match rejection {
            Rejection::Forbidden { what } => what,
            other => panic!("{other:?}"),
        })
    }

    struct Login(bool);

    impl Revocable for Login {
        fn is_revoked(&self) -> bool {
            self.0
        }
    }

    #[test]
    fn a_login_is_that_of_its_sender() {
        let [one, other] = [true, false].map(|is_revoked| SenderLogin::new(Arc::new(Login(is_revoked))));
        let none = SenderLogin::default();
        assert!(one.is_revoked() && !other.is_revoked() && !none.is_revoked());
        for (login, is_one, is_none) in [(&one, true, false), (&other, false, false), (&none, false, true)] {
            assert_eq!((*login == one, one == *login), (is_one, is_one));
            assert_eq!((*login == none, none == *login), (is_none, is_none));
        }
    }

    #[test]
    fn the_touched_paths_are_leaves_removals_and_whole_sections() {
        let sent = update(json!({"desired": {"a": {"b": 1, "c": null}, "d": {}}, "reported": null}));
        let touched = |update: &Update| update.touched_paths().iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(touched(&sent), ["/desired/a/b", "/desired/a/c", "/desired/d", "/reported"]);
        assert_eq!(touched(&Update { replace: true, ..sent }), ["/desired", "/reported"]);
    }

    /// A replaced section is written whole, so nothing in it is overwritten beyond that.
    #[test]
    fn a_replacement_overwrites_no_parent() {
        let document = written(&[json!({"desired": {"a": 5}})]);
        let sent = update(json!({"desired": {"a": {"b": 2}}}));
        let scope = scope(&[], &["/desired/a/b"]);
        assert!(scope.overwrites(&sent, &document).is_some());
        assert_eq!(scope.overwrites(&Update { replace: true, ..sent.clone() }, &document), None);
        assert_eq!(Scope::ALL.overwrites(&sent, &document), None);
    }

    #[test]
    fn every_path_that_an_update_names_is_checked() {
        let scope = scope(&["/desired", "/reported"], &["/desired/zone/t", "/desired/m", "/reported"]);
        for (state, replace, expected) in [
            (json!({"desired": {"zone": {"t": 1}, "m": {"deep": [1]}}}), false, None),
            (json!({"desired": {"zone": {"u": 1}}}), false, Some("/desired/zone/u")),
            (json!({"desired": {"zone": null}}), false, Some("/desired/zone")),
            (json!({"desired": {"zone": {}}}), false, Some("/desired/zone")),
            (json!({"desired": {"zone": {"t": null}}}), false, None),
            (json!({"desired": {"Zone": {"t": 1}}}), false, Some("/desired/Zone/t")),
            (json!({"desired": {"zone": {"t\u{200b}": 1}}}), false, Some("/desired/zone/t\u{200b}")),
            (json!({"desired": {"zone/t": 1}}), false, Some("/desired/zone~1t")),
            (json!({"desired": null}), false, Some("/desired")),
            (json!({"desired": {"m": 1}}), true, Some("/desired")),
            (json!({"reported": {"a": 1}}), true, None),
            (json!({"reported": null}), false, None),
            (json!({"tags": {"a": 1}}), false, Some("/tags/a")),
            (json!({"tags": {}}), false, None),
            (json!(null), false, None),
            (json!({}), false, None),
        ] {
            let command = Command::Update(Update { replace, ..update(state.clone()) });
            assert_eq!(refused(scope.admit(&mut command.clone())).as_deref(), expected, "{state} {replace}");
            assert_eq!(refused(Scope::ALL.admit(&mut command.clone())), None, "{state}");
        }
    }

    #[test]
    fn an_unreadable_path_cannot_be_expected_or_probed() {
        let scope = scope(&["/desired/m"], &["/desired"]);
        let expecting = |path: &str| {
            let holds = Expected::Value(json!(1));
            let mut command = update(json!({"desired": {"m": 1}}));
            command.preconditions.expect.push(Expectation { path: path.parse().unwrap(), holds });
            Command::Update(command)
        };
        assert_eq!(refused(scope.admit(&mut expecting("/desired/m"))), None);
        assert_eq!(refused(scope.admit(&mut expecting("/desired/secret"))).as_deref(), Some("/desired/secret"));
        assert_eq!(refused(scope.admit(&mut expecting("/desired"))).as_deref(), Some("/desired"));
        assert_eq!(refused(scope.admit(&mut expecting("/tags/t"))).as_deref(), Some("/tags/t"));
        let dry = |state: Value| Command::Update(Update { dry_run: true, ..update(state) });
        assert_eq!(refused(scope.admit(&mut dry(json!({"desired": {"m": 1}})))), None);
        assert_eq!(refused(scope.admit(&mut dry(json!({"desired": {"pin": 1}})))).as_deref(), Some("/desired/pin"));
    }

    #[test]
    fn a_null_state_clears_the_writable_sections() {
        let keep = SectionPatch::Keep;
        for (writes, expected) in [
            (&["/desired", "/reported"][..], Some([SectionPatch::Clear, SectionPatch::Clear, keep.clone()])),
            (&["/reported", "/tags/a"], Some([keep.clone(), SectionPatch::Clear, keep.clone()])),
            (&["/desired/a"], None),
            (&[], None),
        ] {
            let mut command = Command::Update(update(Value::Null));
            let admitted = scope(&[], writes).admit(&mut command);
            let Command::Update(update) = command else { panic!("an update") };
            let cleared = admitted.is_ok().then_some([update.desired, update.reported, update.tags]);
            assert_eq!(cleared, expected, "{writes:?}");
        }
    }

    #[test]
    fn a_deletion_requires_the_right_to_write_the_state() {
        let delete = Command::Delete(Delete::default());
        for (writes, expected) in [
            (&["/desired", "/reported"][..], None),
            (&["/desired"], Some("/reported")),
            (&["/desired/a", "/reported"], Some("/desired")),
            (&["/tags"], Some("/desired")),
        ] {
            assert_eq!(refused(scope(&[], writes).admit(&mut delete.clone())).as_deref(), expected, "{writes:?}");
        }
    }

    /// Setting an object at `/desired/a` would let a writer of `/desired/a/b` remove the value at `/desired/a`.
    #[test]
    fn a_write_does_not_overwrite_a_parent_without_the_right() {
        let scope = scope(&["/desired"], &["/desired/a/b"]);
        for (there, expected) in [
            (json!({"a": 5}), Some("/desired/a")),
            (json!({"a": [1]}), Some("/desired/a")),
            (json!({"a": {}}), None),
            (json!({"a": {"c": 1}}), None),
            (json!({"a": {"b": 1}}), None),
            (json!({"z": 1}), None),
        ] {
            let document = written(&[json!({ "desired": there })]);
            let mut command = Command::Update(update(json!({"desired": {"a": {"b": 2}}})));
            assert_eq!(refused(scope.admit(&mut command)), None);
            let sender = Sender { by: "x".into(), scope: scope.clone(), login: SenderLogin::default() };
            let result = decide(&document, &command, &sender, Timestamp(9), &DocumentLimits::default());
            assert_eq!(refused(result.map(|_| ())).as_deref(), expected, "{there}");
        }
    }
}
