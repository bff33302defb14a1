//! Requests as bytes and envelopes as text.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod envelopes;
mod requests;
mod speed;
