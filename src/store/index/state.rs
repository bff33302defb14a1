//! The record of an index: its table, its paths, and how far they are built.

use crate::{
    shadow::index::{IndexedPath, IndexedPaths, ValuePath},
    store::{
        codec::{DecodeError, Decoder, put_len, put_str, put_u64},
        frame,
        schema::META,
    },
};

/// The key of the record in the table `meta`.
pub(in crate::store) const INDEX_KEY: &str = "index";

/// The version of the terms that this program makes, and the version of Unicode by which it folds case: text may have other terms
/// under other ones.
pub(in crate::store) const TERMS: Terms =
    [1, char::UNICODE_VERSION.0, char::UNICODE_VERSION.1, char::UNICODE_VERSION.2];

/// The version of the terms in a table; zeros for one that was made before its record had any.
pub(in crate::store) type Terms = [u8; 4];

/// The extension with the version of the terms.
const TERMS_TAG: u64 = 1;

/// The state of an index; see the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct IndexState {
    /// The number of the table; 0 for none.
    pub(in crate::store) generation: u64,
    /// The version of the terms in the table.
    pub(in crate::store) terms: Terms,
    /// The number of the next path.
    next_number: u16,
    /// The paths that are complete.
    pub(in crate::store) ready: Vec<KeptPath>,
    /// The paths that are not.
    pub(in crate::store) building: Option<Building>,
    /// The numbers of paths whose entries are to be removed.
    pub(in crate::store) removing: Vec<u16>,
    /// The number of devices with a shadow in the state table; `None` until they were counted.
    pub(in crate::store) devices: Option<u64>,
    /// True if records were flushed before the pages of the table were verified, so that it lacks their entries. The writer
    /// has them in memory and adds them; if it ends before, the table is of no use.
    pub(in crate::store) is_behind: bool,
}

/// A path and its number in the keys of entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct KeptPath {
    pub(in crate::store) number: u16,
    pub(in crate::store) path: IndexedPath,
}

/// The paths that are built together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Building {
    pub(in crate::store) paths: Vec<KeptPath>,
    /// The key in the state table of the last record that has entries; empty before the first one.
    pub(in crate::store) cursor: String,
    /// The number of devices with a shadow up to the cursor, if they are counted.
    pub(in crate::store) devices: Option<u64>,
}

impl Building {
    /// Returns true if the record with this key in the state table has entries.
    pub(in crate::store) fn has_passed(&self, name: &[u8]) -> bool {
        !self.cursor.is_empty() && name <= self.cursor.as_bytes()
    }
}

impl IndexState {
    /// Returns the state of an empty table for these paths, which have to be built.
    pub(in crate::store) fn empty(generation: u64, paths: &IndexedPaths) -> Self {
        Self { generation, terms: TERMS, ..Self::default() }.declared(paths, generation)
    }

    /// Returns the state after these paths were declared instead of those before. If it needs another table, that is `newest`
    /// and 1.
    pub(in crate::store) fn declared(mut self, paths: &IndexedPaths, newest: u64) -> Self {
        if paths.is_empty() {
            return Self::default();
        }
        let is_declared = |kept: &KeptPath| paths.iter().any(|path| *path == kept.path);
        let (ready, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.ready).into_iter().partition(is_declared);
        self.ready = ready;
        self.removing.extend(gone.iter().map(|kept| kept.number));
        let missing: Vec<_> = paths.iter().filter(|path| !self.ready.iter().any(|kept| kept.path == **path)).collect();
        let built = self.building.take();
        let goes_on = |built: &Building| {
            built.paths.len() == missing.len() && built.paths.iter().all(|kept| missing.contains(&&kept.path))
        };
        if let Some(built) = built {
            if goes_on(&built) {
                self.building = Some(built);
                return self;
            }
            // Their entries would become outdated while the paths are built from the beginning.
            self.removing.extend(built.paths.iter().map(|kept| kept.number));
        }
        if missing.is_empty() && self.devices.is_some() {
            return self;
        }
        let Some(next_number) = u16::try_from(missing.len()).ok().and_then(|more| self.next_number.checked_add(more))
        else {
            return Self::empty(newest + 1, paths);
        };
        let numbered = (self.next_number..).zip(missing).map(|(number, path)| KeptPath { number, path: path.clone() });
        let devices = self.devices.is_none().then_some(0);
        self.building = Some(Building { paths: numbered.collect(), cursor: String::new(), devices });
        self.next_number = next_number;
        self
    }

    /// Returns the complete path that indexes `path`, and the keys of that below it.
    pub(in crate::store) fn find<'a>(&self, path: &'a ValuePath) -> Option<(u16, &IndexedPath, &'a [Box<str>])> {
        self.ready.iter().find_map(|kept| Some((kept.number, &kept.path, kept.path.below(path)?)))
    }

    /// Returns the framed value.
    pub(in crate::store) fn encode(&self) -> Vec<u8> {
        self.framed(|out| frame::put_extension(out, TERMS_TAG, |out| out.extend_from_slice(&self.terms)))
    }

    /// Returns the framed value as programs wrote it before it had the version of the terms.
    #[cfg(test)]
    pub(in crate::store) fn encode_without_terms(&self) -> Vec<u8> {
        self.framed(|_| ())
    }

    fn framed(&self, put_extensions: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        frame::begin(&mut out);
        put_u64(&mut out, self.generation);
        put_u64(&mut out, self.next_number.into());
        put_paths(&mut out, &self.ready);
        put_optional(&mut out, self.devices);
        out.push(self.is_behind.into());
        put_len(&mut out, self.removing.len());
        self.removing.iter().for_each(|number| put_u64(&mut out, (*number).into()));
        out.push(self.building.is_some().into());
        if let Some(building) = &self.building {
            put_paths(&mut out, &building.paths);
            put_str(&mut out, &building.cursor);
            put_optional(&mut out, building.devices);
        }
        put_extensions(&mut out);
        frame::finish(&mut out, META, INDEX_KEY.as_bytes());
        out
    }

    /// Decodes the framed value.
    pub(in crate::store) fn decode(framed: &[u8]) -> Result<Self, DecodeError> {
        let mut payload = frame::open(framed, META, INDEX_KEY.as_bytes())?;
        let mut state = Self {
            generation: payload.u64()?,
            terms: Terms::default(),
            next_number: number(&mut payload)?,
            ready: paths(&mut payload)?,
            devices: optional(&mut payload)?,
            is_behind: payload.u8()? != 0,
            removing: (0..payload.count()?).map(|_| number(&mut payload)).collect::<Result<_, _>>()?,
            building: None,
        };
        if payload.u8()? != 0 {
            let (paths, cursor) = (paths(&mut payload)?, payload.str()?.to_owned());
            state.building = Some(Building { paths, cursor, devices: optional(&mut payload)? });
        }
        frame::extensions(payload, |tag, mut extension| {
            if tag == TERMS_TAG {
                let bytes = extension.bytes(size_of::<Terms>())?;
                state.terms = bytes.try_into().map_err(|_| DecodeError::Truncated)?;
            }
            Ok(tag == TERMS_TAG)
        })?;
        Ok(state)
    }
}

fn put_paths(out: &mut Vec<u8>, paths: &[KeptPath]) {
    put_len(out, paths.len());
    for KeptPath { number, path } in paths {
        put_u64(out, (*number).into());
        put_str(out, &path.to_string());
    }
}

fn paths(payload: &mut Decoder<'_>) -> Result<Vec<KeptPath>, DecodeError> {
    (0..payload.count()?)
        .map(|_| {
            let (number, text) = (number(payload)?, payload.str()?);
            let path = text.parse().map_err(|_| DecodeError::Invalid("an indexed path"))?;
            Ok(KeptPath { number, path })
        })
        .collect()
}

fn number(payload: &mut Decoder<'_>) -> Result<u16, DecodeError> {
    u16::try_from(payload.u64()?).map_err(|_| DecodeError::Invalid("the number of a path"))
}

fn put_optional(out: &mut Vec<u8>, number: Option<u64>) {
    out.push(number.is_some().into());
    number.into_iter().for_each(|number| put_u64(out, number));
}

fn optional(payload: &mut Decoder<'_>) -> Result<Option<u64>, DecodeError> {
    (payload.u8()? != 0).then(|| payload.u64()).transpose()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn paths_of(text: &str) -> IndexedPaths {
        IndexedPaths::new(text.split_whitespace().map(|path| path.parse().unwrap()).collect())
    }

    fn complete(mut state: IndexState) -> IndexState {
        let Some(built) = state.building.take() else { return state };
        state.devices = state.devices.or(built.devices);
        state.ready.extend(built.paths);
        state
    }

    fn numbers(kept: &[KeptPath]) -> Vec<u16> {
        kept.iter().map(|kept| kept.number).collect()
    }

    #[test]
    fn the_record_comes_back() {
        let new = IndexState::empty(3, &paths_of("reported.a tags.*"));
        let mut half = new.clone();
        half.building = half.building.map(|built| Building { cursor: "dev\0".to_owned(), devices: Some(300), ..built });
        let done = complete(half.clone()).declared(&paths_of("tags.* reported.b.c"), 3);
        let behind = IndexState { is_behind: true, ..done.clone() };
        for state in [new, half, done, behind, IndexState::default()] {
            assert_eq!(IndexState::decode(&state.encode()), Ok(state.clone()));
            let expected = IndexState { terms: [0; 4], ..state.clone() };
            assert_eq!(IndexState::decode(&state.encode_without_terms()), Ok(expected));
        }
    }

    #[test]
    fn new_paths_are_built_and_old_ones_removed() {
        let first = IndexState::empty(1, &paths_of("tags.a tags.b"));
        assert_eq!(
            first.building.as_ref().map(|built| (numbers(&built.paths), built.devices)),
            Some((vec![0, 1], Some(0)))
        );
        let done = complete(first.clone());
        assert_eq!(done.clone().declared(&paths_of("tags.b tags.a"), 1), done);
        let changed = done.clone().declared(&paths_of("tags.b tags.c"), 1);
        assert_eq!((numbers(&changed.ready), changed.removing.clone()), (vec![1], vec![0]));
        assert_eq!(
            changed.building.as_ref().map(|built| (numbers(&built.paths), built.devices)),
            Some((vec![2], None))
        );
        // A path that is declared again while its entries are removed has another number.
        let again = changed.clone().declared(&paths_of("tags.a tags.b tags.c"), 1);
        assert_eq!(again.removing, [0, 2]);
        assert_eq!(again.building.as_ref().map(|built| numbers(&built.paths)), Some(vec![3, 4]));
        // The same paths go on where they were.
        let mut half = first;
        half.building = half.building.map(|built| Building { cursor: "x".to_owned(), ..built });
        assert_eq!(half.clone().declared(&paths_of("tags.a tags.b"), 1), half);
        assert!(half.declared(&paths_of("tags.a"), 1).building.unwrap().cursor.is_empty());
        assert_eq!(done.declared(&paths_of(""), 1), IndexState::default());
    }
}
