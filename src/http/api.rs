//! The handlers, a file per resource.

pub(super) mod aggregate;
pub(super) mod aws;
pub(super) mod aws_index;
pub(super) mod aws_topics;
pub(super) mod backup;
pub(super) mod cluster;
pub(super) mod conditional;
pub(super) mod device;
pub(super) mod devices;
pub(super) mod history;
pub(super) mod operating;
pub(super) mod payload;
pub(super) mod principals;
pub(super) mod purge;
pub(super) mod queries;
pub(super) mod query;
pub(super) mod roles;
pub(super) mod rollouts;
pub(super) mod search;
pub(super) mod sessions;
pub(super) mod shadows;
pub(super) mod sign_in;
pub(super) mod submit;
pub(super) mod target;
mod text_cursor;
pub(super) mod wait;
pub(super) mod writes;
