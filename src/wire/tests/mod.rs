//! Requests as bytes and envelopes as text.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod envelopes;
mod given;
mod outcomes;
mod reference;
mod requests;
mod speed;
