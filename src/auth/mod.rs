//! Who may do what.
//!
//! For now everybody may do everything: `projection` is the one place where reading rights are applied, so that they
//! hold everywhere once there are some.

pub mod projection;

pub use projection::Projection;
