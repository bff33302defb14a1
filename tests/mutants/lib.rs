//! The core and the rendering of `umbrad`, which import nothing else of it.

pub mod shadow;
pub mod wire;
