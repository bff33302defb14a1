//! Which of the two contracts a request came under.

/// The dialect of a request: which fields it may have, and which shape its answers take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Topics under `shadow/` and paths under `/v1/`.
    Native,
    /// Topics under `$aws/things/` and the AWS-compatible paths.
    Aws,
}
