//! Cursors for pages that end at a device which their reader may not see.
//!
//! A page examines a bounded number of shadows, so it may end at one that its reader may not see. Its cursor must not
//! contain the device's id. The id is encrypted for this reader with a key made at the start of the process, and padded
//! to a fixed length. Such a cursor reveals only that there is a next page.

use std::sync::atomic::{AtomicU64, Ordering};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};

use crate::{auth::Principal, shadow::DeviceId};

/// The prefix of sealed cursors, which no device id contains.
const PREFIX: char = '~';

/// Bytes of the longest device id, to which all ids are padded.
const SEALED_BYTES: usize = 128;

/// The padding, which no device id contains.
const PADDING: u8 = 0;

/// The key with which cursors are sealed and opened.
pub(in crate::http) struct Cursors {
    key: LessSafeKey,
    /// The number of sealed cursors, which makes each nonce unique.
    sealed: AtomicU64,
}

impl Cursors {
    /// Creates a random key.
    pub(in crate::http) fn new() -> Self {
        let mut key = [0; 32];
        SystemRandom::new().fill(&mut key).expect("an operating system that has started a process has random bytes");
        let key = UnboundKey::new(&AES_256_GCM, &key).expect("a key of AES-256 has 32 bytes");
        Self { key: LessSafeKey::new(key), sealed: AtomicU64::new(0) }
    }

    /// Returns a cursor for `reader` that continues after `device`.
    pub(in crate::http) fn seal(&self, device: &DeviceId, reader: &Principal) -> String {
        let mut nonce = [0; NONCE_LEN];
        let (count, _) = nonce.split_at_mut(8);
        count.copy_from_slice(&self.sealed.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        let mut text = device.as_str().as_bytes().to_vec();
        text.resize(SEALED_BYTES, PADDING);
        let sealed =
            self.key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), associated_data(reader), &mut text);
        sealed.expect("the text is below the cipher's limit");
        format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode([&nonce[..], &text].concat()))
    }

    /// Returns the device after which `cursor` continues; `None` if this process did not seal it for `reader`.
    pub(in crate::http) fn open(&self, cursor: &str, reader: &Principal) -> Option<DeviceId> {
        let mut bytes = BASE64_URL_SAFE_NO_PAD.decode(cursor.strip_prefix(PREFIX)?).ok()?;
        let (nonce, sealed) = bytes.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let text = self.key.open_in_place(nonce, associated_data(reader), sealed).ok()?;
        let end = text.iter().position(|byte| *byte == PADDING).unwrap_or(text.len());
        DeviceId::new(std::str::from_utf8(text.get(..end)?).ok()?).ok()
    }
}

/// Returns true if `cursor` has the form of a sealed one.
pub(in crate::http) fn is_sealed(cursor: &str) -> bool {
    cursor.starts_with(PREFIX)
}

/// Returns the associated data that binds a cursor to `reader`.
fn associated_data(reader: &Principal) -> Aad<&[u8]> {
    Aad::from(reader.name().as_bytes())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;

    #[test]
    fn sealed_cursors_open_only_for_their_reader_and_reveal_nothing() {
        let (cursors, longest) = (Cursors::new(), "d".repeat(SEALED_BYTES));
        let (reader, other) = (Principal::named("a").unwrap(), Principal::named("b").unwrap());
        let sealed = |id: &str| cursors.seal(&DeviceId::new(id).unwrap(), &reader);
        let length = sealed("x").len();
        for id in ["x", "customer-acme", &longest] {
            let cursor = sealed(id);
            assert_eq!(cursors.open(&cursor, &reader).unwrap().as_str(), id);
            assert_eq!(cursors.open(&cursor, &other), None);
            assert_eq!(Cursors::new().open(&cursor, &reader), None, "another process");
            assert_ne!(sealed(id), cursor, "two cursors for one device differ");
            assert_eq!(cursor.len(), length);
            for place in [1, 20, length - 1] {
                let mut forged = cursor.clone().into_bytes();
                let byte = forged.get_mut(place).unwrap();
                *byte = if *byte == b'A' { b'Q' } else { b'A' };
                assert_eq!(cursors.open(&String::from_utf8(forged).unwrap(), &reader), None, "{place}");
            }
        }
        for nonsense in ["", "~", "~A", "~~", "x", "~é", &format!("~{}", "A".repeat(length - 1))] {
            assert_eq!(cursors.open(nonsense, &reader), None, "{nonsense}");
        }
    }
}
