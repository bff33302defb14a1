//! The header and the pages of a redb file, as described in redb's `docs/design.md` (file format 3).
//!
//! A page is addressed by its number, and whoever points to it has its XXH3-128 checksum. Pages are read with a
//! descriptor of their own, so a damaged pointer can lead nowhere but to a wrong checksum.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

use twox_hash::XxHash3_128;

const MAGIC: &[u8] = b"redb\x1A\x0A\xA9\x0D\x0A";
const HEADER_BYTES: usize = 320;
const SLOT_BYTES: usize = 128;
const FORMAT: u8 = 3;

/// Bits of the byte after the magic number.
const PRIMARY: u8 = 1;
const RECOVERY_REQUIRED: u8 = 2;

const LEAF: u8 = 1;
const BRANCH: u8 = 2;

/// The bytes of a [`Root`] in the file.
pub(super) const ROOT_BYTES: usize = 32;

/// A page number and the checksum of that page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pointer {
    page: u64,
    checksum: u128,
}

/// The root of a tree, and the number of its pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Root {
    pub(super) at: Pointer,
    pub(super) pairs: u64,
}

/// The widths of keys and values; `None` for those of variable length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Widths {
    pub(super) key: Option<usize>,
    pub(super) value: Option<usize>,
}

/// The header: the newest commit, and the place of pages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    /// The root of the tree of tables.
    pub(super) tables: Option<Root>,
    /// The root of the tree of tables that redb keeps for itself.
    pub(super) system: Option<Root>,
    /// True if the other slot has a newer commit although the file was closed.
    pub(super) is_stale: bool,
    page_bytes: u64,
    region_bytes: u64,
    region_header_bytes: u64,
}

/// A redb file, open for reading.
pub(super) struct PageFile {
    file: File,
    length: u64,
    pub(super) header: Header,
}

/// A sound page of a tree.
pub(super) enum Node {
    Leaf(Leaf),
    Branch(Branch),
}

/// A page with pairs of keys and values.
pub(super) struct Leaf {
    bytes: Vec<u8>,
    widths: Widths,
    pairs: usize,
}

/// A page with pointers to others, and the keys that separate them.
pub(super) struct Branch {
    bytes: Vec<u8>,
    key_width: Option<usize>,
    keys: usize,
}

impl PageFile {
    /// Opens the file at `path`; `None` if its header is damaged or of another format.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut bytes = vec![0; HEADER_BYTES];
        match file.read_exact_at(&mut bytes, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        Ok(Header::decode(&bytes).map(|header| Self { file, length, header }))
    }

    /// Returns the bytes of the file when it was opened.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Returns the page at `at`; `None` if it is damaged or cannot be read.
    pub(super) fn node(&self, at: Pointer, widths: Widths) -> Option<Node> {
        let (start, bytes) = self.header.place(at.page)?;
        // The file may have grown since, but not by pages of the commit that is read.
        if start.checked_add(bytes)? > self.length {
            return None;
        }
        let mut page = vec![0; usize::try_from(bytes).ok()?];
        self.file.read_exact_at(&mut page, start).ok()?;
        let count = usize::from(u16::from_le_bytes(array(&page, 2)?));
        let node = match *page.first()? {
            LEAF => Node::Leaf(Leaf { bytes: page, widths, pairs: count }),
            BRANCH => Node::Branch(Branch { bytes: page, key_width: widths.key, keys: count }),
            _ => return None,
        };
        (XxHash3_128::oneshot(node.used()?) == at.checksum).then_some(node)
    }
}

impl Header {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let flags = *bytes.strip_prefix(MAGIC)?.first()?;
        let slot = |n: usize| bytes.get(64 + n * SLOT_BYTES..64 + (n + 1) * SLOT_BYTES).filter(|slot| is_sound(slot));
        let primary = usize::from(flags & PRIMARY != 0);
        let (newest, other) = (slot(primary)?, slot(1 - primary));
        let commit = |slot: &[u8]| Some(u64::from_le_bytes(array(slot, 104)?));
        let is_newer = other.and_then(commit) > commit(newest);
        let size = |at| Some(u64::from(u32::from_le_bytes(array(bytes, at)?)));
        let page_bytes = size(12)?;
        let region_header_bytes = size(16)?.checked_mul(page_bytes)?;
        Some(Self {
            tables: root_if(newest, 1, 8)?,
            system: root_if(newest, 2, 8 + ROOT_BYTES)?,
            is_stale: is_newer && flags & RECOVERY_REQUIRED == 0,
            page_bytes,
            region_bytes: region_header_bytes.checked_add(size(20)?.checked_mul(page_bytes)?)?,
            region_header_bytes,
        })
    }

    /// Returns the offset and length of a page.
    fn place(&self, page: u64) -> Option<(u64, u64)> {
        const INDEX: u64 = 0x000F_FFFF;
        let order = page >> 59;
        let bytes = self.page_bytes.checked_mul(1 << order)?;
        let (index, region) = (page & (INDEX >> order), (page >> 20) & INDEX);
        let region = region.checked_mul(self.region_bytes)?;
        let start = self.page_bytes.checked_add(region)?.checked_add(self.region_header_bytes)?;
        Some((start.checked_add(index.checked_mul(bytes)?)?, bytes))
    }
}

fn is_sound(slot: &[u8]) -> bool {
    const CHECKED: usize = SLOT_BYTES - 16;
    let checksum = array(slot, CHECKED).map(u128::from_le_bytes);
    slot.first() == Some(&FORMAT) && slot.get(..CHECKED).map(XxHash3_128::oneshot) == checksum
}

/// Returns the root at `at`, if the flag at `flag` says that there is one.
pub(super) fn root_if(bytes: &[u8], flag: usize, at: usize) -> Option<Option<Root>> {
    if *bytes.get(flag)? == 0 {
        return Some(None);
    }
    let pairs = u64::from_le_bytes(array(bytes, at + 24)?);
    Some(Some(Root { at: pointer(bytes, at, at + 8)?, pairs }))
}

fn pointer(bytes: &[u8], page: usize, checksum: usize) -> Option<Pointer> {
    let page = u64::from_le_bytes(array(bytes, page)?);
    Some(Pointer { page, checksum: u128::from_le_bytes(array(bytes, checksum)?) })
}

/// Returns the `N` bytes at `at`.
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// Returns the offset stored at `at`.
fn offset(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(array(bytes, at)?)).ok()
}

impl Node {
    /// Returns the bytes that the checksum covers.
    fn used(&self) -> Option<&[u8]> {
        match self {
            Self::Leaf(leaf) => leaf.bytes.get(..leaf.value_end(leaf.pairs.checked_sub(1)?)?),
            Self::Branch(branch) => branch.bytes.get(..branch.key_end(branch.keys.checked_sub(1)?)?),
        }
    }
}

impl Leaf {
    /// Returns the number of pairs.
    pub(super) fn pairs(&self) -> usize {
        self.pairs
    }

    /// Returns the key and value of pair `n`.
    pub(super) fn pair(&self, n: usize) -> Option<(&[u8], &[u8])> {
        if n >= self.pairs {
            return None;
        }
        let (key, value) = match n.checked_sub(1) {
            None => (self.keys_start(), self.key_end(self.pairs - 1)?),
            Some(before) => (self.key_end(before)?, self.value_end(before)?),
        };
        Some((self.bytes.get(key..self.key_end(n)?)?, self.bytes.get(value..self.value_end(n)?)?))
    }

    fn keys_start(&self) -> usize {
        let variable = [self.widths.key, self.widths.value].into_iter().filter(Option::is_none).count();
        4 + 4 * self.pairs * variable
    }

    fn key_end(&self, n: usize) -> Option<usize> {
        match self.widths.key {
            Some(width) => Some(self.keys_start() + width * (n + 1)),
            None => offset(&self.bytes, 4 + 4 * n),
        }
    }

    fn value_end(&self, n: usize) -> Option<usize> {
        let offsets = if self.widths.key.is_none() { 4 * self.pairs } else { 0 };
        match self.widths.value {
            Some(width) => Some(self.key_end(self.pairs.checked_sub(1)?)? + width * (n + 1)),
            None => offset(&self.bytes, 4 + offsets + 4 * n),
        }
    }
}

impl Branch {
    /// Returns the number of keys; there is one child more.
    pub(super) fn keys(&self) -> usize {
        self.keys
    }

    /// Returns the greatest key that child `n` may have; `None` for the last child.
    pub(super) fn key(&self, n: usize) -> Option<&[u8]> {
        if n >= self.keys {
            return None;
        }
        let start = n.checked_sub(1).map_or(Some(self.keys_start()), |before| self.key_end(before))?;
        self.bytes.get(start..self.key_end(n)?)
    }

    /// Returns child `n`.
    pub(super) fn child(&self, n: usize) -> Option<Pointer> {
        pointer(&self.bytes, 8 + 16 * (self.keys + 1) + 8 * n, 8 + 16 * n)
    }

    fn keys_start(&self) -> usize {
        let offsets = if self.key_width.is_none() { 4 * self.keys } else { 0 };
        8 + 24 * (self.keys + 1) + offsets
    }

    fn key_end(&self, n: usize) -> Option<usize> {
        match self.key_width {
            Some(width) => Some(self.keys_start() + width * (n + 1)),
            None => offset(&self.bytes, 8 + 24 * (self.keys + 1) + 4 * n),
        }
    }
}
