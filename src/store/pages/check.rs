//! The check of the page checksums of a store, as of the commit with which it was opened.
//!
//! Until a table is verified, each key is checked before it is read: the pages from the root to it. [`PageCheck::walk`] verifies
//! whole tables, at once or in the background, and leaves the ranges of keys under damaged pages. A key in such a range is
//! neither absent nor readable, and no write goes there, so
//!
//! *Invariant:* a damaged page is never rewritten with a new checksum, and each start finds it again.
//!
//! Writes elsewhere touch sound pages only, as long as nothing is removed: a removal may merge pages. Retention and purges
//! wait until their tables are known to be sound.
//!
//! redb must not reuse pages while they are checked, so a read transaction is held until the walk has ended. Pages of
//! redb's own tables are not protected by it; they are verified when the file is opened.

use std::{
    cmp::Ordering,
    collections::BTreeSet,
    ops::ControlFlow,
    path::Path,
    sync::OnceLock,
    time::{Duration, Instant},
};

use parking_lot::{RwLock, RwLockReadGuard};
use redb::ReadTransaction;

use crate::store::{
    error::StoreError,
    health::Pages,
    index,
    journal::entry::Seq,
    pages::{
        file::{Header, Leaf, PageFile},
        links::{self, Links},
        tree::{KeyOrder, KeyRange, Tree, Visited},
    },
    rows::tables as rows,
    shadow_counts::ShadowCounts,
    state::record,
};

/// Pages verified between two pauses of a background walk.
const PAGES_PER_STEP: u32 = 256;

/// A table whose pages are verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum CheckedTable {
    State,
    Floors,
    Journal,
}

/// The check of one file.
pub(in crate::store) struct PageCheck {
    file: PageFile,
    /// Keeps the pages of the commit; `None` once the walk has ended or the file is to be closed.
    snapshot: RwLock<Option<ReadTransaction>>,
    tables: [TableCheck; 3],
    /// The newest entry up to which all changes are in the state table of that commit.
    checkpoint: Seq,
    /// True if the pages of redb's own tables are sound.
    is_system_sound: bool,
    /// True if the pages with the rows of the broker are sound.
    is_rows_sound: bool,
    /// The tables of indexes, which are verified before the others.
    indexes: Vec<IndexCheck>,
    /// The numbers of records in the state table, without those in damaged pages; set before `TableCheck::damaged`.
    records: OnceLock<ShadowCounts>,
}

/// The check of one table.
struct TableCheck {
    tree: Tree,
    /// The damaged ranges in key order, once all pages were visited.
    damaged: OnceLock<Vec<KeyRange>>,
}

/// The check of the table of an index, which is used as a whole or not at all.
struct IndexCheck {
    number: u64,
    tree: Tree,
    /// True if no page is damaged, once all were visited.
    is_sound: OnceLock<bool>,
}

/// The reasons why a key cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::store) enum Obstacle {
    /// It is in this range.
    Damaged(KeyRange),
    /// The file is being closed.
    Closing,
}

impl CheckedTable {
    const ALL: [Self; 3] = [Self::State, Self::Floors, Self::Journal];

    /// Returns the name of the table.
    pub(in crate::store) fn name(self) -> &'static str {
        match self {
            Self::State => crate::store::state::record::STATE,
            Self::Floors => crate::store::state::floor::FLOORS,
            Self::Journal => crate::store::journal::entry::JOURNAL,
        }
    }
}

/// Returns an error text if the file at `path`, which is not open, has an older commit marked as its newest.
pub(in crate::store) fn stale(path: &Path) -> Option<&'static str> {
    let is_stale = PageFile::open(path).ok()??.header.is_stale;
    is_stale.then_some("its header is damaged: it names a commit that is not the newest")
}

impl PageCheck {
    /// Begins the check of the file at `path`, which is open and was not written since `snapshot` began.
    ///
    /// # Errors
    ///
    /// The text for [`StoreError::Corrupt`], if the list of tables or the facts about the file are damaged.
    pub(in crate::store) fn begin(
        path: &Path,
        snapshot: ReadTransaction,
        checkpoint: Seq,
    ) -> Result<Result<Self, &'static str>, StoreError> {
        let file = PageFile::open(path).map_err(|error| StoreError::Io { path: path.to_owned(), error })?;
        let Some(file) = file else { return Ok(Err("its header is damaged")) };
        let Header { tables, system, .. } = file.header;
        let of_root = |root| Tree { root, widths: Default::default(), order: KeyOrder::Bytes };
        let Some(found) = of_root(tables).tables(&file) else {
            return Ok(Err("a page with its list of tables is damaged"));
        };
        let tree = |name: &str| found.iter().find(|(found, _)| found == name.as_bytes()).map(|(_, tree)| *tree);
        if !tree(crate::store::schema::META).is_some_and(|meta| meta.is_sound(&file)) {
            return Ok(Err("a page with facts about the file is damaged"));
        }
        // They are read as a whole at the start.
        let is_rows_sound = [rows::ROWS, rows::ROW_LOG].map(tree).iter().flatten().all(|rows| rows.is_sound(&file));
        let indexes = found.iter().filter_map(|(name, tree)| {
            let number = index::generation_of(str::from_utf8(name).ok()?)?;
            Some(IndexCheck { number, tree: *tree, is_sound: OnceLock::new() })
        });
        let indexes = indexes.collect();
        let system = of_root(system).tables(&file);
        let is_system_sound = system.is_some_and(|tables| tables.iter().all(|(_, tree)| tree.is_sound(&file)));
        let tables = CheckedTable::ALL.map(|table| {
            let tree = tree(table.name()).unwrap_or(of_root(None));
            let order = if table == CheckedTable::Journal { KeyOrder::Number } else { KeyOrder::Bytes };
            TableCheck { tree: Tree { order, ..tree }, damaged: OnceLock::new() }
        });
        Ok(Ok(Self {
            file,
            snapshot: RwLock::new(Some(snapshot)),
            tables,
            checkpoint,
            is_system_sound,
            is_rows_sound,
            indexes,
            records: OnceLock::new(),
        }))
    }

    /// Returns the bytes of the file when the check began.
    pub(in crate::store) fn length(&self) -> u64 {
        self.file.length()
    }

    /// Returns true if nothing can go wrong with redb's own tables.
    pub(in crate::store) fn is_system_sound(&self) -> bool {
        self.is_system_sound
    }

    /// Returns true if the pages with the rows of the broker are sound.
    pub(in crate::store) fn is_rows_sound(&self) -> bool {
        self.is_rows_sound
    }

    /// Returns true if no page of the table of an index with this number is damaged; `None` until that is known. A table that the
    /// commit lacks was made later.
    pub(in crate::store) fn index_is_sound(&self, number: u64) -> Option<bool> {
        let check = self.indexes.iter().find(|check| check.number == number);
        check.map_or(Some(true), |check| check.is_sound.get().copied())
    }

    /// Lets redb reuse the pages of the commit, and ends checks.
    pub(in crate::store) fn release(&self) {
        *self.snapshot.write() = None;
    }

    /// Returns true once all tables were walked.
    pub(in crate::store) fn is_finished(&self) -> bool {
        self.tables.iter().all(|table| table.damaged.get().is_some())
    }

    /// Returns true once all pages of `table` are known to be sound.
    pub(in crate::store) fn is_sound(&self, table: CheckedTable) -> bool {
        self.table(table).damaged.get().is_some_and(Vec::is_empty)
    }

    /// Returns the damaged ranges known so far.
    pub(in crate::store) fn damaged(&self) -> impl Iterator<Item = (CheckedTable, &KeyRange)> {
        let of = |table| self.table(table).damaged.get().into_iter().flatten().map(move |range| (table, range));
        CheckedTable::ALL.into_iter().flat_map(of)
    }

    /// Returns the numbers of records in the state table that are not in damaged pages, once it was walked.
    pub(in crate::store) fn records(&self) -> Option<ShadowCounts> {
        self.records.get().copied()
    }

    /// Returns the number of records in the state table, as the page with its root says.
    pub(in crate::store) fn state_records(&self) -> u64 {
        self.table(CheckedTable::State).tree.root.map_or(0, |root| root.pairs)
    }

    /// Returns the state for health checks.
    pub(in crate::store) fn health(&self) -> Pages {
        match (self.is_finished(), self.damaged().count()) {
            (_, damaged) if damaged > 0 => Pages::Damaged(damaged),
            (true, _) => Pages::Sound,
            (false, _) => Pages::Unverified,
        }
    }

    /// Checks the pages that lead to `key`.
    pub(in crate::store) fn key(&self, table: CheckedTable, key: &[u8]) -> Result<(), Obstacle> {
        let tree = self.table(table).tree;
        let damaged = self.first_damaged(table, key, &mut |_| true, &|range| range.contains(&tree, key))?;
        damaged.map_or(Ok(()), |range| Err(Obstacle::Damaged(range)))
    }

    /// Checks the pages with keys of `table`, sorted by bytes, from `from` to `to`.
    pub(in crate::store) fn range(&self, table: CheckedTable, from: &[u8], to: &[u8]) -> Result<(), Obstacle> {
        let mut is_enough = |leaf: &Leaf| leaf.last_key().is_some_and(|last| last > to);
        let is_before_end = |range: &KeyRange| range.above.as_deref().is_none_or(|above| above < to);
        let damaged = self.first_damaged(table, from, &mut is_enough, &is_before_end)?;
        damaged.map_or(Ok(()), |range| Err(Obstacle::Damaged(range)))
    }

    /// Checks the pages with the next `limit` keys after `after` of `table`, sorted by bytes. Returns the last key up to
    /// which they are sound; `None` for the end of the table or more than `limit` keys.
    pub(in crate::store) fn scan(
        &self,
        table: CheckedTable,
        after: &[u8],
        limit: usize,
    ) -> Result<Option<Vec<u8>>, Obstacle> {
        let mut found = 0;
        let mut is_enough = |leaf: &Leaf| {
            let keys = (0..leaf.pairs()).filter_map(|n| leaf.pair(n));
            found += keys.filter(|(key, _)| *key > after).count();
            found >= limit
        };
        let is_next = |range: &KeyRange| range.up_to.as_deref().is_none_or(|up_to| up_to > after);
        match self.first_damaged(table, after, &mut is_enough, &is_next)? {
            None => Ok(None),
            Some(KeyRange { above: Some(above), .. }) if above.as_slice() > after => Ok(Some(above)),
            Some(range) => Err(Obstacle::Damaged(range)),
        }
    }

    /// Returns the first damaged range that ends at `from` or later and for which `matters` is true. Ends the search after
    /// a sound leaf for which `is_enough` is true.
    fn first_damaged(
        &self,
        table: CheckedTable,
        from: &[u8],
        is_enough: &mut dyn FnMut(&Leaf) -> bool,
        matters: &dyn Fn(&KeyRange) -> bool,
    ) -> Result<Option<KeyRange>, Obstacle> {
        let TableCheck { tree, damaged } = self.table(table);
        let known = |damaged: &Vec<KeyRange>| {
            let is_before =
                |range: &KeyRange| range.up_to.as_deref().is_some_and(|up_to| tree.compare(up_to, from).is_lt());
            // The first may end at `from`, the second not.
            damaged.iter().skip(damaged.partition_point(is_before)).take(2).find(|range| matters(range)).cloned()
        };
        if let Some(damaged) = damaged.get() {
            return Ok(known(damaged));
        }
        let Some(_snapshot) = self.pinned() else {
            // The walk has ended in between, or the file is being closed.
            return damaged.get().map(known).ok_or(Obstacle::Closing);
        };
        let mut first = None;
        let _ = tree.visit(&self.file, Some(from), &mut |visited| match visited {
            Visited::Leaf(leaf) if is_enough(leaf) => ControlFlow::Break(()),
            Visited::Damaged(range) if matters(&range) => {
                first = Some(range);
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        });
        Ok(first)
    }

    /// Verifies all tables, unless that was done. `pause` is called now and then, with the time since the last pause, and
    /// returns true to end early.
    pub(in crate::store) fn walk(&self, mut pause: impl FnMut(Duration) -> bool) {
        if self.is_finished() {
            return;
        }
        for check in &self.indexes {
            if check.is_sound.get().is_some() {
                continue;
            }
            let Some(is_sound) = self.walk_index(check, &mut pause) else { return };
            // As below.
            if self.pinned().is_none() {
                return;
            }
            let _ = check.is_sound.set(is_sound);
        }
        let mut links = Links::new(self.checkpoint);
        let mut records = ShadowCounts::default();
        let mut walked = Vec::new();
        for table in CheckedTable::ALL {
            match self.walk_table(table, &mut links, &mut records, &mut pause) {
                Some(damaged) => walked.push((table, damaged)),
                None => return,
            }
        }
        // Pages read after a release may belong to later commits.
        if self.pinned().is_none() {
            return;
        }
        let _ = self.records.set(records);
        for (table, mut damaged) in walked {
            if table == CheckedTable::State {
                self.add_lost(&mut damaged, std::mem::take(&mut links.lost));
            }
            let _ = self.table(table).damaged.set(damaged);
        }
        self.release();
    }

    /// Returns true if no page of an index is damaged; `None` if the walk was ended early.
    fn walk_index(&self, check: &IndexCheck, pause: &mut dyn FnMut(Duration) -> bool) -> Option<bool> {
        let (mut is_sound, mut is_stopped, mut pages, mut pairs) = (true, false, 0_u32, 0);
        let mut since = Instant::now();
        let _ = check.tree.visit(&self.file, None, &mut |visited| {
            match visited {
                Visited::Branch => {}
                Visited::Leaf(leaf) => pairs += leaf.pairs() as u64,
                Visited::Damaged(_) => is_sound = false,
            }
            pages += 1;
            if pages.is_multiple_of(PAGES_PER_STEP) {
                is_stopped = pause(since.elapsed());
                since = Instant::now();
            }
            if is_sound && !is_stopped { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        let expected = check.tree.root.map_or(0, |root| root.pairs);
        (!is_stopped).then_some(is_sound && pairs == expected)
    }

    /// Returns the damaged ranges of `table`; `None` if the walk was ended early.
    fn walk_table(
        &self,
        table: CheckedTable,
        links: &mut Links,
        records: &mut ShadowCounts,
        pause: &mut dyn FnMut(Duration) -> bool,
    ) -> Option<Vec<KeyRange>> {
        let tree = &self.table(table).tree;
        let (mut damaged, mut pages, mut pairs) = (Vec::new(), 0_u32, 0);
        let mut since = Instant::now();
        let walked = tree.visit(&self.file, None, &mut |visited| {
            match visited {
                Visited::Branch => {}
                Visited::Damaged(range) => damaged.push(range),
                Visited::Leaf(leaf) => {
                    pairs += leaf.pairs() as u64;
                    for (key, value) in (0..leaf.pairs()).filter_map(|n| leaf.pair(n)) {
                        match table {
                            CheckedTable::State => {
                                records.add(record::may_be_deleted(value));
                                links.state(key, value);
                            }
                            CheckedTable::Journal => links.journal(key, value),
                            CheckedTable::Floors => {}
                        }
                    }
                }
            }
            pages += 1;
            if pages.is_multiple_of(PAGES_PER_STEP) {
                if pause(since.elapsed()) {
                    return ControlFlow::Break(());
                }
                since = Instant::now();
            }
            ControlFlow::Continue(())
        });
        let expected = tree.root.map_or(0, |root| root.pairs);
        if walked.is_continue() && damaged.is_empty() && pairs != expected {
            tracing::error!(table = table.name(), pairs, expected, "a table has too many or too few records");
            damaged.push(KeyRange::default());
        }
        walked.is_continue().then_some(damaged)
    }

    /// Adds the shadows that lack a change, unless they are in a damaged page.
    fn add_lost(&self, damaged: &mut Vec<KeyRange>, lost: BTreeSet<Vec<u8>>) {
        let tree = self.table(CheckedTable::State).tree;
        let pages = damaged.len();
        for key in lost {
            let next = damaged.get(..pages).unwrap_or_default();
            let next = next.partition_point(|range| range.up_to.as_ref().is_some_and(|up_to| *up_to < key));
            if damaged.get(next).filter(|_| next < pages).is_none_or(|range| !range.contains(&tree, &key)) {
                tracing::error!(key = %key.escape_ascii(), "the journal has a change of a shadow that is not in its record");
                damaged.push(links::only(key));
            }
        }
        damaged.sort_by(|a, b| match (&a.up_to, &b.up_to) {
            (None, _) => Ordering::Greater,
            (_, None) => Ordering::Less,
            (Some(a), Some(b)) => a.cmp(b),
        });
    }

    fn pinned(&self) -> Option<RwLockReadGuard<'_, Option<ReadTransaction>>> {
        Some(self.snapshot.read()).filter(|snapshot| snapshot.is_some())
    }

    fn table(&self, table: CheckedTable) -> &TableCheck {
        let [state, floors, journal] = &self.tables;
        match table {
            CheckedTable::State => state,
            CheckedTable::Floors => floors,
            CheckedTable::Journal => journal,
        }
    }
}

impl KeyRange {
    fn contains(&self, tree: &Tree, key: &[u8]) -> bool {
        self.above.as_deref().is_none_or(|above| tree.compare(above, key).is_lt())
            && self.up_to.as_deref().is_none_or(|up_to| tree.compare(key, up_to).is_le())
    }
}

impl Leaf {
    fn last_key(&self) -> Option<&[u8]> {
        self.pair(self.pairs().checked_sub(1)?).map(|(key, _)| key)
    }
}
