//! A JSON writer that appends to a buffer.

use serde::Serialize;

use crate::shadow::document::canonical;

/// Appends `value` as JSON.
pub(super) fn json(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    serde_json::to_writer(out, value).expect("all keys are strings, and a Vec accepts every write");
}

/// A JSON object under construction.
pub(super) struct Object<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    is_empty: bool,
}

impl<'a> Object<'a> {
    pub(super) fn open(out: &'a mut Vec<u8>) -> Self {
        let start = out.len();
        out.push(b'{');
        Self { out, start, is_empty: true }
    }

    /// Starts a member. The caller writes its value to the returned buffer.
    pub(super) fn key(&mut self, key: &str) -> &mut Vec<u8> {
        if !self.is_empty {
            self.out.push(b',');
        }
        self.is_empty = false;
        canonical::write_string(self.out, key);
        self.out.push(b':');
        self.out
    }

    /// Writes an array member, each element with `write`.
    pub(super) fn array<T>(&mut self, key: &str, items: impl Iterator<Item = T>, write: impl Fn(&mut Vec<u8>, T)) {
        let out = self.key(key);
        out.push(b'[');
        for (index, item) in items.enumerate() {
            if index > 0 {
                out.push(b',');
            }
            write(out, item);
        }
        out.push(b']');
    }

    /// Writes a member.
    pub(super) fn member(&mut self, key: &str, value: &(impl Serialize + ?Sized)) {
        json(self.key(key), value);
    }

    /// Writes a string member.
    pub(super) fn text(&mut self, key: &str, value: &str) {
        canonical::write_string(self.key(key), value);
    }

    /// Starts an object member.
    pub(super) fn object(&mut self, key: &str) -> Object<'_> {
        Object::open(self.key(key))
    }

    /// Writes a member with `write`, or nothing if that returns false.
    pub(super) fn member_if(&mut self, key: &str, write: impl FnOnce(&mut Vec<u8>) -> bool) {
        let (length, was_empty) = (self.out.len(), self.is_empty);
        if !write(self.key(key)) {
            self.out.truncate(length);
            self.is_empty = was_empty;
        }
    }

    pub(super) fn close(self) {
        self.out.push(b'}');
    }

    /// Closes the object, or removes it if it is empty. Returns true if it has members.
    pub(super) fn close_unless_empty(self) -> bool {
        if self.is_empty {
            self.out.truncate(self.start);
        } else {
            self.out.push(b'}');
        }
        !self.is_empty
    }
}
