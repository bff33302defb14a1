//! The append of the writer: the step between deciding a batch and applying it.

use crate::store::{database::CommitFailure, replication::batch_record::BatchRecord};

/// The log to which the writer appends each batch.
pub(in crate::store) trait BatchLog: Send {
    /// Makes `record` durable, so that the writer may apply it. After a failure the store is opened again, as after a failed
    /// commit.
    fn append(&mut self, record: &BatchRecord) -> Result<(), CommitFailure>;
}

/// The log of a single node. The commit that applies a batch also makes it durable, so nothing is encoded or written
/// before it.
pub(in crate::store) struct FileLog;

impl BatchLog for FileLog {
    fn append(&mut self, _record: &BatchRecord) -> Result<(), CommitFailure> {
        Ok(())
    }
}
