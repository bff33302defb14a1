//! A walk over one tree of pages, in key order, past damaged pages.

use std::{cmp::Ordering, ops::ControlFlow};

use crate::store::pages::file::{Leaf, Node, PageFile, Pointer, ROOT_BYTES, Root, Widths, array, root_if};

/// The deepest tree that is walked. redb's are far shallower, and a pointer to a page above itself ends here.
const DEPTH_MAX: usize = 32;

/// The order of the keys of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyOrder {
    /// By bytes.
    Bytes,
    /// By the little-endian number.
    Number,
}

/// One tree.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tree {
    pub(super) root: Option<Root>,
    pub(super) widths: Widths,
    pub(super) order: KeyOrder,
}

/// The keys under one page: above `above`, up to `up_to`. `None` is the end of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct KeyRange {
    pub(in crate::store) above: Option<Vec<u8>>,
    pub(in crate::store) up_to: Option<Vec<u8>>,
}

/// A page as met by a walk.
pub(super) enum Visited<'a> {
    Branch,
    Leaf(&'a Leaf),
    /// A damaged page, which may be the root of others.
    Damaged(KeyRange),
}

/// The bounds of [`KeyRange`], borrowed.
#[derive(Clone, Copy, Default)]
struct Bounds<'a> {
    above: Option<&'a [u8]>,
    up_to: Option<&'a [u8]>,
}

type Each<'a> = dyn FnMut(Visited<'_>) -> ControlFlow<()> + 'a;

impl Tree {
    /// Calls `each` for the pages that may have keys from `from` on, until it breaks.
    pub(super) fn visit(&self, file: &PageFile, from: Option<&[u8]>, each: &mut Each<'_>) -> ControlFlow<()> {
        match self.root {
            None => ControlFlow::Continue(()),
            Some(root) => self.visit_page(file, root.at, Bounds::default(), 0, from, each),
        }
    }

    fn visit_page(
        &self,
        file: &PageFile,
        at: Pointer,
        bounds: Bounds<'_>,
        depth: usize,
        from: Option<&[u8]>,
        each: &mut Each<'_>,
    ) -> ControlFlow<()> {
        let node = file.node(at, self.widths).filter(|_| depth < DEPTH_MAX);
        let branch = match node {
            None => return each(Visited::Damaged(bounds.to_range())),
            Some(Node::Leaf(leaf)) => return each(Visited::Leaf(&leaf)),
            Some(Node::Branch(branch)) => branch,
        };
        each(Visited::Branch)?;
        for n in 0..=branch.keys() {
            let above = n.checked_sub(1).map_or(bounds.above, |before| branch.key(before));
            let bounds = Bounds { above, up_to: branch.key(n).or(bounds.up_to) };
            if let (Some(from), Some(up_to)) = (from, bounds.up_to)
                && self.compare(up_to, from).is_lt()
            {
                continue;
            }
            match branch.child(n) {
                Some(child) => self.visit_page(file, child, bounds, depth + 1, from, each)?,
                None => each(Visited::Damaged(bounds.to_range()))?,
            }
        }
        ControlFlow::Continue(())
    }

    /// Compares two keys.
    pub(super) fn compare(&self, a: &[u8], b: &[u8]) -> Ordering {
        let number = |key: &[u8]| array(key, 0).map(u64::from_le_bytes);
        match self.order {
            KeyOrder::Bytes => a.cmp(b),
            KeyOrder::Number => number(a).cmp(&number(b)),
        }
    }

    /// Returns true if no page is damaged.
    pub(super) fn is_sound(&self, file: &PageFile) -> bool {
        let mut each = |visited: Visited<'_>| match visited {
            Visited::Damaged(_) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        };
        self.visit(file, None, &mut each).is_continue()
    }

    /// Returns the names and trees in this tree of tables; `None` if it is damaged.
    pub(super) fn tables(&self, file: &PageFile) -> Option<Vec<(Vec<u8>, Tree)>> {
        let mut tables = Some(Vec::new());
        let mut each = |visited: Visited<'_>| {
            match visited {
                Visited::Branch => {}
                Visited::Damaged(_) => tables = None,
                Visited::Leaf(leaf) => {
                    for n in 0..leaf.pairs() {
                        let table =
                            leaf.pair(n).and_then(|(name, definition)| Some((name.to_owned(), table(definition)?)));
                        tables = tables.take().zip(table).map(|(mut tables, table)| {
                            tables.push(table);
                            tables
                        });
                    }
                }
            }
            if tables.is_some() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        let _ = self.visit(file, None, &mut each);
        tables
    }
}

/// Decodes the definition of a table.
fn table(bytes: &[u8]) -> Option<Tree> {
    // A byte for the kind, eight for the number of pairs, one that says whether there is a root.
    const ROOT: usize = 10;
    let width = |at: usize| {
        let width = u32::from_le_bytes(array(bytes, at + 1)?);
        Some(if *bytes.get(at)? == 0 { None } else { Some(usize::try_from(width).ok()?) })
    };
    let widths = Widths { key: width(ROOT + ROOT_BYTES)?, value: width(ROOT + ROOT_BYTES + 5)? };
    Some(Tree { root: root_if(bytes, ROOT - 1, ROOT)?, widths, order: KeyOrder::Bytes })
}

impl Bounds<'_> {
    fn to_range(self) -> KeyRange {
        KeyRange { above: self.above.map(<[u8]>::to_vec), up_to: self.up_to.map(<[u8]>::to_vec) }
    }
}
