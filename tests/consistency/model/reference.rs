//! A naive model of a shadow that keeps every version for ever.
//!
//! Each version is compared with the next to find the paths that changed in it and the version of a leaf. Sections are always there, empty or not; a deletion is a version at which nothing is.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// A section and the keys below it.
pub(crate) type Path = Vec<String>;

pub(crate) const SECTIONS: [&str; 3] = ["desired", "reported", "tags"];

/// The keys that a shadow remembers of one principal.
const KEYS_PER_PRINCIPAL: usize = 16;

/// A version of a shadow.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) state: Value,
    pub(crate) exists: bool,
    pub(crate) by: String,
    pub(crate) timestamp: u64,
    /// The leaves sent over AWS topics, whether or not they had that value before.
    pub(crate) resent: Vec<Path>,
}

/// A request to change a shadow.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) delete: bool,
    pub(crate) aws: bool,
    pub(crate) by: String,
    /// All its fields, those sent as user properties too.
    pub(crate) body: Value,
}

/// The outcome of a request.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Accepted { changed: bool, rebased_from: Option<u64> },
    Replayed { version: u64, changed: bool, rebased_from: Option<u64> },
    NotFound,
    Conflict { expected: Option<u64> },
    ExpectationFailed,
    KeyReused,
}

#[derive(Clone, Debug)]
struct Remembered {
    by: String,
    request: Value,
    outcome: Outcome,
}

/// A shadow with all its past; its version is the place in it.
#[derive(Clone, Debug)]
pub(crate) struct Shadow {
    pub(crate) history: Vec<Snapshot>,
    keys: Vec<(String, Remembered)>,
}

impl Shadow {
    pub(crate) fn new() -> Self {
        let never = Snapshot { state: nothing(), exists: false, by: String::new(), timestamp: 0, resent: Vec::new() };
        Self { history: vec![never], keys: Vec::new() }
    }

    pub(crate) fn version(&self) -> u64 {
        self.history.len() as u64 - 1
    }

    pub(crate) fn now(&self) -> &Snapshot {
        self.history.last().unwrap()
    }

    /// The first version that comparisons may start from: that of the last deletion.
    pub(crate) fn floor(&self) -> u64 {
        self.history.iter().rposition(|snapshot| !snapshot.exists).unwrap() as u64
    }

    pub(crate) fn etag(&self, version: u64) -> String {
        let state = &self.history[version as usize].state;
        let form = json!({"desired": state["desired"], "reported": state["reported"]});
        let digest = Sha256::digest(serde_json_canonicalizer::to_vec(&form).unwrap());
        let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        format!("\"{version}-{hex}\"")
    }

    /// Returns true if `path` changed in the step that made `version`.
    fn changed_at(&self, version: u64, path: &[String]) -> bool {
        let (before, after) = (&self.history[version as usize - 1].state, &self.history[version as usize].state);
        if at(before, path) != at(after, path) {
            return true;
        }
        // What is above it, its section not counted: that is always there.
        (2..path.len()).any(|length| {
            let (before, after) = (at(before, &path[..length]), at(after, &path[..length]));
            match (before, after) {
                (Some(Value::Object(_)), Some(Value::Object(_))) | (None, Some(Value::Object(_))) => false,
                _ => before != after,
            }
        })
    }

    /// The newest version after `since` at which `path` changed.
    pub(crate) fn last_change(&self, path: &[String], since: u64) -> Option<u64> {
        (since + 1..=self.version()).rev().find(|&version| self.changed_at(version, path))
    }

    pub(crate) fn changed_after(&self, path: &[String], since: u64) -> bool {
        since < self.floor() || self.last_change(path, since).is_some()
    }

    /// The version at which the leaf at `path` got the value it has at `version`.
    pub(crate) fn set_at(&self, path: &[String], version: u64) -> u64 {
        let differs =
            |v: &u64| at(&self.history[*v as usize].state, path) != at(&self.history[*v as usize - 1].state, path);
        (1..=version).rev().find(differs).expect("it is there and was not at first")
    }

    /// When the leaf at `path` was set, or sent again over AWS topics.
    pub(crate) fn time_of(&self, path: &[String], version: u64) -> u64 {
        let set = self.set_at(path, version);
        let recorded = |v: &u64| *v == set || self.history[*v as usize].resent.iter().any(|sent| sent == path);
        let last = (set..=version).rev().find(recorded).unwrap();
        self.history[last as usize].timestamp
    }

    /// Decides a request and, if it makes a version, makes it at `timestamp`.
    pub(crate) fn apply(&mut self, request: &Request, timestamp: u64) -> Outcome {
        let body = &request.body;
        let key = body["idempotencyKey"].as_str().map(str::to_owned);
        let asked = what_is_asked(request);
        if let Some(key) = &key
            && let Some((_, first)) = self.keys.iter().find(|(known, first)| known == key && first.by == request.by)
        {
            return if first.request == asked { first.outcome.clone() } else { Outcome::KeyReused };
        }
        if request.delete && !self.now().exists {
            return Outcome::NotFound;
        }
        let rebased_from = match self.check(request) {
            Ok(rebased_from) => rebased_from,
            Err(refusal) => return refusal,
        };
        let changed = self.write(request, timestamp);
        let dry = body["dryRun"] == json!(true);
        if let Some(key) = key
            && !dry
        {
            let outcome = Outcome::Replayed { version: self.version(), changed, rebased_from };
            self.remember(key, Remembered { by: request.by.clone(), request: asked, outcome });
        }
        Outcome::Accepted { changed, rebased_from }
    }

    fn remember(&mut self, key: String, outcome: Remembered) {
        let own: Vec<usize> = (0..self.keys.len()).filter(|&i| self.keys[i].1.by == outcome.by).collect();
        if own.len() == KEYS_PER_PRINCIPAL {
            self.keys.remove(own[0]);
        }
        self.keys.push((key, outcome));
    }

    /// Checks the preconditions; the version that was forgiven, if one was.
    fn check(&self, request: &Request) -> Result<Option<u64>, Outcome> {
        let (body, current) = (&request.body, self.version());
        let (version, etag) = (body["version"].as_u64(), body["etag"].as_str());
        let mut rebased_from = None;
        match version {
            Some(0) if self.now().exists => return Err(Outcome::Conflict { expected: version }),
            Some(expected) if expected != 0 && expected != current => {
                let rebase = body["onConflict"] == "rebase" && !request.delete;
                let stale = expected < current && expected >= self.floor();
                let touched = touched(request);
                if !rebase || !stale || touched.iter().any(|path| self.changed_after(path, expected)) {
                    return Err(Outcome::Conflict { expected: version });
                }
                rebased_from = version;
            }
            _ => {}
        }
        if let Some(etag) = etag
            && !(self.now().exists && etag == self.etag(current))
        {
            return Err(Outcome::Conflict { expected: version_of_etag(etag).or(version) });
        }
        let expectations = body["expect"].as_array().map_or(&[][..], Vec::as_slice);
        match expectations.iter().all(|expectation| self.holds(expectation)) {
            true => Ok(rebased_from),
            false => Err(Outcome::ExpectationFailed),
        }
    }

    /// Returns the value at `path` now; `None` for an empty section.
    pub(crate) fn present(&self, path: &[String]) -> Option<&Value> {
        at(&self.now().state, path).filter(|there| path.len() > 1 || !is_empty(there))
    }

    pub(crate) fn holds(&self, expectation: &Value) -> bool {
        let path = pointer(expectation["path"].as_str().unwrap());
        let there = self.present(&path);
        match (expectation.get("version"), expectation.get("value")) {
            (Some(version), _) => !self.changed_after(&path, version.as_u64().unwrap()),
            (_, Some(value)) => there == Some(&plain(value)),
            _ => there.is_none(),
        }
    }

    fn write(&mut self, request: &Request, timestamp: u64) -> bool {
        let mut next = Snapshot {
            state: nothing(),
            exists: !request.delete,
            by: request.by.clone(),
            timestamp,
            resent: Vec::new(),
        };
        if !request.delete {
            next.state = updated(&self.now().state, request);
            if request.aws {
                let sent = sent_leaves(&request.body["state"]);
                next.resent = sent.iter().filter_map(|(path, _)| leaf_towards(&next.state, path)).collect();
            }
        }
        let changed = request.aws || next.exists != self.now().exists || next.state != self.now().state;
        if changed {
            self.history.push(next);
        }
        changed
    }
}

/// Returns the content that an idempotency key stands for: all of a request but the token and the dry run, in any dialect.
fn what_is_asked(request: &Request) -> Value {
    let mut body = plain(&request.body);
    let members = body.as_object_mut().unwrap();
    members.retain(|field, value| {
        !["clientToken", "dryRun", "idempotencyKey"].contains(&field.as_str()) && value != "reject"
    });
    json!([request.delete, whole(request), body])
}

fn version_of_etag(etag: &str) -> Option<u64> {
    let (version, digest) = etag.strip_prefix('"')?.strip_suffix('"')?.split_once('-')?;
    (digest.len() == 32).then(|| version.parse().ok())?
}

/// The state that an update makes of `state`.
fn updated(state: &Value, request: &Request) -> Value {
    let mut next = state.clone();
    for name in named(request) {
        let patch = &request.body["state"][name];
        if patch.is_null() || request.body["replace"] == json!(true) {
            next[name] = json!({});
        }
        if patch.is_object() {
            merge(&mut next[name], &plain(patch));
        }
    }
    next
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        let members = target.as_object_mut().unwrap();
        match value {
            Value::Null => _ = members.remove(key),
            _ => merge(members.entry(key).or_insert(Value::Null), value),
        }
    }
}

/// Returns the document that `patch` makes of none.
pub(crate) fn merged(patch: &Value) -> Value {
    let mut target = json!({});
    merge(&mut target, patch);
    target
}

/// The sections that an update is about.
pub(crate) fn named(request: &Request) -> Vec<&'static str> {
    let state = &request.body["state"];
    let all = state.is_null();
    SECTIONS
        .into_iter()
        .filter(|&name| if all { name != "tags" || !request.aws } else { state.get(name).is_some() })
        .collect()
}

/// The sections that a request touches whole.
pub(crate) fn whole(request: &Request) -> Vec<&'static str> {
    if request.delete {
        return SECTIONS.to_vec();
    }
    let replace = request.body["replace"] == json!(true);
    named(request).into_iter().filter(|name| replace || request.body["state"][name].is_null()).collect()
}

/// The paths that an update touches.
fn touched(request: &Request) -> Vec<Path> {
    let whole = whole(request);
    let parts = sent_leaves(&request.body["state"]).into_iter().map(|(path, _)| path);
    let mut all: Vec<Path> = parts.filter(|path| !whole.contains(&path[0].as_str())).collect();
    all.extend(whole.iter().map(|name| vec![(*name).to_owned()]));
    all
}

/// The leaves and removals in what was sent; sections are none.
pub(crate) fn sent_leaves(state: &Value) -> Vec<(Path, Value)> {
    let mut found = Vec::new();
    for name in SECTIONS {
        if let Some(section) = state.get(name).filter(|section| !is_empty(section) && section.is_object()) {
            gather(section, &mut vec![name.to_owned()], &mut found);
        }
    }
    found
}

/// The leaves of a whole state.
pub(crate) fn leaves(state: &Value) -> Vec<(Path, Value)> {
    sent_leaves(state)
}

fn gather(value: &Value, path: &mut Path, found: &mut Vec<(Path, Value)>) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (key, value) in members {
                path.push(key.clone());
                gather(value, path, found);
                path.pop();
            }
        }
        _ => found.push((path.clone(), value.clone())),
    }
}

pub(crate) fn at<'a>(state: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(state, |value, key| value.as_object()?.get(key))
}

/// The leaf at `path`, or the `{}` above it in which nothing was put.
pub(crate) fn leaf_towards(state: &Value, path: &[String]) -> Option<Path> {
    let mut lengths = 2..=path.len();
    let length = lengths.find(|&length| at(state, &path[..length]).is_some_and(is_leaf))?;
    Some(path[..length].to_vec())
}

pub(crate) fn is_leaf(value: &Value) -> bool {
    !value.is_object() || is_empty(value)
}

pub(crate) fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty)
}

/// `value` with numbers that are equal made the same.
pub(crate) fn plain(value: &Value) -> Value {
    match value {
        Value::Number(number) => match number.as_f64().unwrap() {
            whole if whole.fract() == 0.0 => json!(whole as i64),
            other => json!(other),
        },
        Value::Array(elements) => elements.iter().map(plain).collect(),
        Value::Object(members) => members.iter().map(|(key, value)| (key.clone(), plain(value))).collect(),
        other => other.clone(),
    }
}

pub(crate) fn pointer(text: &str) -> Path {
    text.split('/').skip(1).map(|key| key.replace("~1", "/").replace("~0", "~")).collect()
}

pub(crate) fn to_pointer(path: &[String]) -> String {
    path.iter().map(|key| format!("/{}", key.replace('~', "~0").replace('/', "~1"))).collect()
}

fn nothing() -> Value {
    json!({"desired": {}, "reported": {}, "tags": {}})
}
