//! Parts of a document: the paths that a reader asked for, and documents of former versions.

use std::str::FromStr;

use bytes::Bytes;

use crate::{
    auth::Projection,
    shadow::{
        Document, Pointer,
        document::tree::{Members, Node},
        pointer::{NotAPointer, SectionName},
    },
    wire::native::{message, metadata::Metadata, state_and_delta, values, version_and_time},
};

/// Paths into `state` as a reader sees it: of its sections, and of the delta beside them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    sections: Vec<Pointer>,
    /// Keys below `/delta`.
    delta: Vec<Vec<Box<str>>>,
}

impl Selection {
    /// Adds the path `text`.
    ///
    /// # Errors
    ///
    /// [`NotAPointer`]: it is none, or it begins with none of `/desired`, `/reported`, `/tags` and `/delta`.
    pub fn add(&mut self, text: &str) -> Result<(), NotAPointer> {
        match text.strip_prefix("/delta") {
            // A pointer into `desired` has the same keys.
            Some(rest) if rest.is_empty() || rest.starts_with('/') => {
                self.delta.push(Pointer::from_str(&format!("/desired{rest}"))?.keys);
            }
            _ => self.sections.push(text.parse()?),
        }
        Ok(())
    }

    fn section(&self, name: SectionName) -> impl Iterator<Item = &[Box<str>]> {
        self.sections.iter().filter(move |path| path.section == name).map(|path| path.keys.as_slice())
    }
}

/// `get/accepted` with nothing in `state` and `metadata` but what is at or below a path of `selection`. An array is a
/// value, so a path to an element selects it whole. Without `metadata` as [`former`].
#[must_use]
pub fn get_selected(document: &Document, projection: &Projection, selection: &Selection, metadata: bool) -> Bytes {
    let seen = projection.document(document);
    let sections = seen.sections().filter_map(|(name, section)| {
        let paths: Vec<_> = selection.section(name).collect();
        Some((name.as_str(), selected(&section.members, &paths)?))
    });
    let sections: Vec<_> = sections.collect();
    let paths: Vec<_> = selection.delta.iter().map(Vec::as_slice).collect();
    let delta = if paths.is_empty() { None } else { projection.delta(document) };
    let delta = delta.and_then(|delta| selected(&delta, &paths));
    message(|envelope| {
        let mut state = envelope.object("state");
        sections.iter().for_each(|(name, members)| values(state.key(name), members));
        delta.iter().for_each(|delta| values(state.key("delta"), delta));
        state.close();
        if metadata {
            let (mut all, mut metadata) = (envelope.object("metadata"), Metadata::default());
            sections.iter().for_each(|(name, members)| metadata.members(all.key(name), members));
            all.close();
        }
        version_and_time(envelope, document);
        envelope.text("etag", &seen.etag.to_string());
    })
}

/// `get/accepted` of a former version.
///
/// Without metadata: what is still known of the leaves depends on how far back the version is when it is asked for,
/// and an answer with a strong validator is the same every time.
#[must_use]
pub fn former(document: &Document, projection: &Projection) -> Bytes {
    let delta = projection.delta(document);
    let document = &*projection.document(document);
    message(|envelope| {
        state_and_delta(envelope, document, delta.as_ref());
        version_and_time(envelope, document);
        envelope.text("etag", &document.etag.to_string());
    })
}

/// What is at or below `paths`; `None`: nothing.
fn selected(members: &Members, paths: &[&[Box<str>]]) -> Option<Members> {
    if paths.iter().any(|keys| keys.is_empty()) {
        return Some(members.clone());
    }
    let found: Members =
        members.iter().filter_map(|(key, node)| Some((key.clone(), part(key, node, paths)?))).collect();
    (!found.is_empty()).then_some(found)
}

fn part(key: &str, node: &Node, paths: &[&[Box<str>]]) -> Option<Node> {
    let below: Vec<_> =
        paths.iter().filter_map(|keys| keys.split_first().filter(|(first, _)| ***first == *key)).collect();
    let below: Vec<_> = below.into_iter().map(|(_, rest)| rest).collect();
    match node {
        _ if below.is_empty() => None,
        Node::Object(inner) => selected(inner, &below).map(Node::Object),
        Node::Leaf(leaf) => {
            let whole = |rest: &&[Box<str>]| rest.is_empty() || leaf.value.is_array();
            below.iter().any(whole).then(|| node.clone())
        }
    }
}
