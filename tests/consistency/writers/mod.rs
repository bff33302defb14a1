//! Several writers on one shadow: conflicts that say what collided, rebases, expectations, requests sent again, dry
//! runs.

mod conflicts;
mod cuts;
mod dry_runs;
mod expectations;
mod keys;
mod three_writers;
mod user_properties;
