//! Selected paths of a document, and documents of earlier versions.

use std::str::FromStr;

use bytes::Bytes;

use crate::{
    shadow::{
        Document, Pointer, Projection,
        document::tree::{Members, Node},
        pointer::{NotAPointer, SectionName},
    },
    wire::native::{message, metadata::Metadata, state_and_delta, values, version_and_time},
};

/// Paths into the visible `state`: into its sections, and into the delta.
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
    /// [`NotAPointer`]: `text` is no pointer, or begins with none of `/desired`, `/reported`, `/tags` and `/delta`.
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

/// Renders `get/accepted` with the values and metadata at or below the paths of `selection`. A path to an element
/// selects the whole array. Without `metadata` for the same reason as [`former`].
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

/// Renders `get/accepted` of an earlier version.
///
/// It has no metadata: the known metadata of an earlier version shrinks with time, and a response with a strong
/// validator must always be the same.
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

/// Returns the members at or below `paths`; `None` if there are none.
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
