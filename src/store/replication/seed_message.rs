//! The messages by which a node without a store receives one from another node.
//!
//! A node asks all others ([`SeedMessage::Wanted`]), and begins with one of those that offer their store. That node streams a
//! backup in chunks, of which a bounded number is not acknowledged. Messages may be lost: then the seed begins anew.

use bytes::Bytes;

use crate::store::{
    codec::{DecodeError, put_len, put_str, put_u64},
    frame,
    replication::record::NodeId,
};

/// The kind of value, part of each checksum.
const SEED: &str = "seed";
/// The format of messages that this program writes, and the only one it reads.
const SEED_FORMAT: u64 = 1;

const WANTED: u8 = 1;
const OFFERED: u8 = 2;
const BEGIN: u8 = 3;
const CHUNK: u8 = 4;
const END: u8 = 5;
const FAILED: u8 = 6;
const TAKEN: u8 = 7;
const STOP: u8 = 8;

/// A message about a seed. `seed` is a random number of each attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeedMessage {
    /// The node has no store that can go on from the log.
    Wanted {
        /// The node.
        node: NodeId,
        /// The attempt.
        seed: u64,
    },
    /// A node offers its store.
    Offered {
        /// The attempt.
        seed: u64,
        /// The offer.
        offer: SeedOffer,
    },
    /// The node takes the offer.
    Begin {
        /// The node that receives the store.
        node: NodeId,
        /// The attempt.
        seed: u64,
    },
    /// A part of the backup.
    Chunk {
        /// The attempt.
        seed: u64,
        /// The number of chunks before it.
        index: u64,
        /// Its bytes.
        bytes: Bytes,
    },
    /// The backup is complete.
    End {
        /// The attempt.
        seed: u64,
        /// The number of chunks.
        chunks: u64,
    },
    /// The node cannot stream its store, or not now.
    Failed {
        /// The attempt.
        seed: u64,
        /// The reason.
        reason: String,
    },
    /// The first `chunks` chunks are received.
    Taken {
        /// The attempt.
        seed: u64,
        /// The number of chunks.
        chunks: u64,
    },
    /// The backup is not wanted any more.
    Stop {
        /// The attempt.
        seed: u64,
    },
}

/// A store with data of a node, and the offer to seed another node from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeedOffer {
    /// The node that offers its store.
    pub source: NodeId,
    /// The last record of the log that its file has applied; 0 for a store with data that has applied none yet.
    pub applied: u64,
    /// The bytes of its file.
    pub file_bytes: u64,
    /// True if it decides.
    pub is_deciding: bool,
    /// True while it seeds another node.
    pub is_busy: bool,
    /// True if it can stream its store: it is a sound one that takes part in the cluster.
    pub can_stream: bool,
}

impl SeedMessage {
    /// Returns the encoded message.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        frame::begin(&mut out);
        put_u64(&mut out, SEED_FORMAT);
        match self {
            Self::Wanted { node, seed } => put_numbers(&mut out, WANTED, &[node.0, *seed]),
            Self::Offered { seed, offer } => {
                let SeedOffer { source, applied, file_bytes, is_deciding, is_busy, can_stream } = *offer;
                let flags = [is_deciding, is_busy, can_stream].map(u64::from);
                put_numbers(&mut out, OFFERED, &[*seed, source.0, applied, file_bytes]);
                flags.iter().for_each(|flag| put_u64(&mut out, *flag));
            }
            Self::Begin { node, seed } => put_numbers(&mut out, BEGIN, &[node.0, *seed]),
            Self::Chunk { seed, index, bytes } => {
                put_numbers(&mut out, CHUNK, &[*seed, *index]);
                put_len(&mut out, bytes.len());
                out.extend_from_slice(bytes);
            }
            Self::End { seed, chunks } => put_numbers(&mut out, END, &[*seed, *chunks]),
            Self::Failed { seed, reason } => {
                put_numbers(&mut out, FAILED, &[*seed]);
                put_str(&mut out, reason);
            }
            Self::Taken { seed, chunks } => put_numbers(&mut out, TAKEN, &[*seed, *chunks]),
            Self::Stop { seed } => put_numbers(&mut out, STOP, &[*seed]),
        }
        frame::finish(&mut out, SEED, &[]);
        out.into()
    }

    /// Decodes a message.
    ///
    /// # Errors
    ///
    /// The reason, as a sentence: it is damaged, or of another format.
    pub fn decode(framed: &[u8]) -> Result<Self, String> {
        decode(framed).map_err(|error| error.to_string())
    }
}

fn put_numbers(out: &mut Vec<u8>, kind: u8, numbers: &[u64]) {
    out.push(kind);
    numbers.iter().for_each(|number| put_u64(out, *number));
}

fn decode(framed: &[u8]) -> Result<SeedMessage, DecodeError> {
    let mut payload = frame::open(framed, SEED, &[])?;
    let format = payload.u64()?;
    if format != SEED_FORMAT {
        return Err(DecodeError::of_format(format, SEED_FORMAT));
    }
    let message = match payload.u8()? {
        WANTED => SeedMessage::Wanted { node: NodeId(payload.u64()?), seed: payload.u64()? },
        OFFERED => {
            let seed = payload.u64()?;
            let offer = SeedOffer {
                source: NodeId(payload.u64()?),
                applied: payload.u64()?,
                file_bytes: payload.u64()?,
                is_deciding: payload.u64()? != 0,
                is_busy: payload.u64()? != 0,
                can_stream: payload.u64()? != 0,
            };
            SeedMessage::Offered { seed, offer }
        }
        BEGIN => SeedMessage::Begin { node: NodeId(payload.u64()?), seed: payload.u64()? },
        CHUNK => {
            let (seed, index, length) = (payload.u64()?, payload.u64()?, payload.count()?);
            SeedMessage::Chunk { seed, index, bytes: Bytes::copy_from_slice(payload.bytes(length)?) }
        }
        END => SeedMessage::End { seed: payload.u64()?, chunks: payload.u64()? },
        FAILED => SeedMessage::Failed { seed: payload.u64()?, reason: payload.str()?.to_owned() },
        TAKEN => SeedMessage::Taken { seed: payload.u64()?, chunks: payload.u64()? },
        STOP => SeedMessage::Stop { seed: payload.u64()? },
        _ => return Err(DecodeError::Invalid("the kind of a message about a seed")),
    };
    payload.finish()?;
    Ok(message)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::indexing_slicing, reason = "a test")]

    use super::*;

    #[test]
    fn messages_come_back_and_damaged_ones_do_not() {
        let (node, seed) = (NodeId(3), u64::MAX);
        let (source, applied, file_bytes) = (NodeId(2), 1 << 40, 7);
        let offer = SeedOffer { source, applied, file_bytes, is_deciding: true, is_busy: false, can_stream: true };
        for message in [
            SeedMessage::Wanted { node, seed },
            SeedMessage::Offered { seed, offer },
            SeedMessage::Begin { node, seed },
            SeedMessage::Chunk { seed, index: 9, bytes: Bytes::from_static(b"some bytes") },
            SeedMessage::End { seed, chunks: 10 },
            SeedMessage::Failed { seed, reason: "no".to_owned() },
            SeedMessage::Taken { seed, chunks: 1 },
            SeedMessage::Stop { seed },
        ] {
            let encoded = message.encode();
            for bit in 0..encoded.len() * 8 {
                let mut damaged = encoded.to_vec();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(SeedMessage::decode(&damaged).is_err(), "{message:?}, bit {bit}");
            }
            assert_eq!(SeedMessage::decode(&encoded), Ok(message));
        }
    }
}
