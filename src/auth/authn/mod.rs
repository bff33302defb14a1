//! Authentication: the identity of a client from certificate, password, token or access key.
//!
//! [`login`] tries the credentials of a client in a fixed order. Passwords are hashed by [`hash_pool`] only;
//! [`crate::admission::login_throttle`] delays guesses.

pub mod access_keys;
pub mod certificate;
pub(super) mod fair_queue;
pub(super) mod hash_pool;
pub(super) mod identity;
pub mod login;
pub(super) mod password;
pub(super) mod password_cache;
pub(super) mod passwords;
pub(super) mod ring_provider;
pub(super) mod token_keys;
pub(super) mod tokens;
pub(super) mod users;
pub mod users_file;
