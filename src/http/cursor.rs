//! Cursors for pages that end at a device which their reader may not see.
//!
//! A page examines a bounded number of shadows, so it may end at one that its reader may not see. Its cursor must not
//! contain the device's id. The id is encrypted for this reader, and padded to a fixed length. Such a cursor reveals only that there is a
//! next page.
//!
//! The secret is random, and a row of the store: a cursor can be used after a restart. In a cluster, each node that has none proposes one in
//! the log, and the last of them is that of all nodes: a cursor can be used at any. A proposal is a byte ([`KIND`]) and the secret.

use std::{future::pending, sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use parking_lot::Mutex;
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use tokio::{sync::watch, time::sleep};

use crate::{auth::Principal, engine::Service, shadow::DeviceId, store::RowEdit};

/// The prefix of sealed cursors, which no device id contains.
const PREFIX: char = '~';

/// Bytes of the longest device id, to which all ids are padded.
const SEALED_BYTES: usize = 128;

/// The padding, which no device id contains.
const PADDING: u8 = 0;

/// Bytes of the random salt of a cursor, from which its key is made: so many that no two cursors of any nodes share a key.
const SALT_BYTES: usize = 16;

/// The first byte of a proposal in the log. Those of rollouts and named queries begin with 0 and 1, and those of the broker with a letter.
const KIND: u8 = 2;
/// The key of the row.
const ROW: &[u8] = b"k";
/// The time after which a secret is proposed again, until there is one.
const PROPOSAL_INTERVAL: Duration = Duration::from_secs(5);

type Secret = [u8; 32];

/// The secret with which cursors are sealed and opened.
pub struct Cursors {
    /// The secret of the store, once it has one.
    agreed: Mutex<Option<Secret>>,
    /// The secret until then, which this node proposes.
    proposed: Secret,
}

impl Default for Cursors {
    /// Creates a random secret.
    fn default() -> Self {
        Self { agreed: Mutex::default(), proposed: random() }
    }
}

impl Cursors {
    /// Takes the row of the store. Returns false for one of another kind, or a damaged one.
    pub fn take(&self, key: &[u8], value: &[u8]) -> bool {
        let secret = Secret::try_from(value).ok().filter(|_| key == ROW);
        secret.inspect(|secret| *self.agreed.lock() = Some(*secret)).is_some()
    }

    /// Returns true for a proposal in the log.
    #[must_use]
    pub fn is_message(bytes: &[u8]) -> bool {
        bytes.first() == Some(&KIND)
    }

    /// Applies a proposal of the log. Returns the edits that it makes.
    #[must_use]
    pub fn apply(&self, bytes: &[u8]) -> Vec<RowEdit> {
        let Some(secret) = bytes.strip_prefix(&[KIND]).and_then(|secret| Secret::try_from(secret).ok()) else {
            tracing::error!("a secret of cursors cannot be read; it is of a later version");
            return Vec::new();
        };
        *self.agreed.lock() = Some(secret);
        vec![row(&secret)]
    }

    /// Gives the store a secret if it has none: writes it, or proposes it to the nodes of a cluster. Returns once the server is `closing`.
    pub async fn agree(self: Arc<Self>, service: Arc<Service>, mut closing: watch::Receiver<bool>) {
        let agreed = async {
            while self.lacks_secret() {
                self.propose(&service).await;
                sleep(PROPOSAL_INTERVAL).await;
            }
            pending().await
        };
        tokio::select! {
            () = agreed => {}
            _ = closing.wait_for(|closing| *closing) => {}
        }
    }

    async fn propose(&self, service: &Service) {
        if !service.is_in_cluster() {
            *self.agreed.lock() = Some(self.proposed);
            return service.write_rows(vec![row(&self.proposed)], None);
        }
        // There may be one that this node has not applied yet.
        if service.reach_log_end("a secret of cursors may exist").await.is_ok() && self.lacks_secret() {
            let proposal = Bytes::from([&[KIND], &self.proposed[..]].concat());
            if let Some(permit) = service.reserve_broadcast(proposal.len()) {
                service.broadcast_in_time(proposal, None, permit);
            }
        }
    }

    fn lacks_secret(&self) -> bool {
        self.agreed.lock().is_none()
    }

    /// Returns a cursor for `reader` that continues after `device`.
    pub(in crate::http) fn seal(&self, device: &DeviceId, reader: &Principal) -> String {
        let salt: [u8; SALT_BYTES] = random();
        let mut text = device.as_str().as_bytes().to_vec();
        text.resize(SEALED_BYTES, PADDING);
        let sealed = self.key(&salt).seal_in_place_append_tag(nonce(), associated_data(reader), &mut text);
        sealed.expect("the text is below the cipher's limit");
        format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode([&salt[..], &text].concat()))
    }

    /// Returns the device after which `cursor` continues; `None` if it was not sealed with this secret for `reader`.
    pub(in crate::http) fn open(&self, cursor: &str, reader: &Principal) -> Option<DeviceId> {
        let mut bytes = BASE64_URL_SAFE_NO_PAD.decode(cursor.strip_prefix(PREFIX)?).ok()?;
        let (salt, sealed) = bytes.split_at_mut_checked(SALT_BYTES)?;
        let text = self.key(salt).open_in_place(nonce(), associated_data(reader), sealed).ok()?;
        let end = text.iter().position(|byte| *byte == PADDING).unwrap_or(text.len());
        DeviceId::new(std::str::from_utf8(text.get(..end)?).ok()?).ok()
    }

    /// Returns the key of the cursor with this salt.
    fn key(&self, salt: &[u8]) -> LessSafeKey {
        let secret = self.agreed.lock().unwrap_or(self.proposed);
        let secret = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        let key = UnboundKey::new(&AES_256_GCM, hmac::sign(&secret, salt).as_ref());
        LessSafeKey::new(key.expect("a key of AES-256 has as many bytes as SHA-256 returns"))
    }
}

/// Returns the nonce of each cursor, since it has a key of its own.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key(Default::default())
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("an operating system that has started a process has random bytes");
    bytes
}

/// Returns the edit of the row of a secret.
fn row(secret: &Secret) -> RowEdit {
    RowEdit::Put(ROW.into(), Bytes::copy_from_slice(secret))
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
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test")]

    use super::*;

    #[test]
    fn sealed_cursors_open_only_for_their_reader_and_reveal_nothing() {
        let (cursors, longest) = (Cursors::default(), "d".repeat(SEALED_BYTES));
        let (reader, other) = (Principal::named("a").unwrap(), Principal::named("b").unwrap());
        let sealed = |id: &str| cursors.seal(&DeviceId::new(id).unwrap(), &reader);
        let length = sealed("x").len();
        for id in ["x", "customer-acme", &longest] {
            let cursor = sealed(id);
            assert_eq!(cursors.open(&cursor, &reader).unwrap().as_str(), id);
            assert_eq!(cursors.open(&cursor, &other), None);
            assert_eq!(Cursors::default().open(&cursor, &reader), None, "another secret");
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

    /// Each process had a secret of its own: the cursor of one node of a cluster was refused by the others, and none outlived a restart.
    #[test]
    fn the_last_proposal_is_the_secret_of_all_nodes() {
        let (device, reader) = (DeviceId::new("d").unwrap(), Principal::named("a").unwrap());
        let nodes = [Cursors::default(), Cursors::default(), Cursors::default()];
        let before = nodes[0].seal(&device, &reader);
        let proposals = nodes.each_ref().map(|node| [&[KIND], &node.proposed[..]].concat());
        let mut rows = Vec::new();
        for node in &nodes {
            let edits: Vec<_> = [2, 0, 1].into_iter().flat_map(|index| node.apply(&proposals[index])).collect();
            assert!(Cursors::is_message(&proposals[0]) && node.apply(&[KIND, 1]).is_empty());
            rows.push(edits);
        }
        assert!(rows.iter().all(|edits| *edits == rows[0] && edits.len() == 3));
        let restored = Cursors::default();
        let RowEdit::Put(key, value) = &rows[0][2] else { panic!("no row") };
        assert!(!restored.take(b"n", value) && !restored.take(key, b"short") && restored.take(key, value));
        let cursor = nodes[2].seal(&device, &reader);
        for node in nodes.iter().chain([&restored]) {
            assert_eq!(node.open(&cursor, &reader).as_ref(), Some(&device));
            assert_eq!(node.open(&before, &reader), None, "of a secret that was not chosen");
        }
    }
}
