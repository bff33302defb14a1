//! `POST /v1/backup`: a backup of the running service, streamed to an operator.
//!
//! It needs all rights, as a backup contains every shadow and the name of every principal. One backup runs at a time,
//! on a blocking thread. A few chunks are queued. The client must take one within [`STALL_TIMEOUT`], because the store
//! keeps all replaced pages during a backup. With the default configuration, the write timeout of its connection
//! ([`crate::http::server::write_timeout`]) is shorter.
//!
//! *Invariant:* the body ends regularly only after [`BackupChunk::End`]. If the thread ends in any other way, the
//! connection is aborted before the end of the body.

use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::{runtime::Handle, sync::mpsc, time::timeout};

use crate::{
    http::{auth::caller::Caller, problem::Problem, state::Api},
    store::CopyError,
};

/// A part of a backup.
enum BackupChunk {
    Bytes(Bytes),
    /// The end of a complete backup.
    End,
}

/// The writer of a backup, which sends chunks to the response body.
struct ChunkWriter {
    chunks: mpsc::Sender<BackupChunk>,
    runtime: Handle,
    buffer: Vec<u8>,
}

/// Bytes of a chunk.
const CHUNK_BYTES: usize = 64 * 1024;
/// Chunks queued for the client.
const CHUNKS_QUEUED: usize = 4;
/// Longest time without space in the queue.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// `POST /v1/backup`
pub(in crate::http) async fn back_up(State(api): State<Arc<Api>>, caller: Caller) -> Result<Response, Problem> {
    caller.require_all_rights("a backup needs all rights", &api)?;
    let permit = api.backup_permit()?;
    let (sender, chunks) = mpsc::channel(CHUNKS_QUEUED);
    let (service, runtime) = (api.service.clone(), Handle::current());
    let by = caller.principal().name().clone();
    tracing::info!(%by, head = service.head().0, "backup started");
    let _ends_with_its_reader = tokio::task::spawn_blocking(move || {
        let mut out = ChunkWriter { chunks: sender, runtime, buffer: Vec::with_capacity(CHUNK_BYTES) };
        let written = service.back_up(&mut out);
        match written.and_then(|()| out.send(BackupChunk::End).map_err(CopyError::Write)) {
            Ok(()) => tracing::info!(%by, "backup finished"),
            Err(error) => tracing::error!(%by, %error, "backup aborted"),
        }
        drop(permit);
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, Body::from_stream(body(chunks))).into_response())
}

/// Returns the response body. It fails if `chunks` ends without [`BackupChunk::End`].
fn body(chunks: mpsc::Receiver<BackupChunk>) -> impl Stream<Item = io::Result<Bytes>> {
    stream::unfold(Some(chunks), async |chunks| {
        let mut chunks = chunks?;
        match chunks.recv().await {
            Some(BackupChunk::Bytes(bytes)) => Some((Ok(bytes), Some(chunks))),
            Some(BackupChunk::End) => None,
            None => Some((Err(io::Error::other("the backup was aborted")), None)),
        }
    })
}

impl ChunkWriter {
    fn send(&self, chunk: BackupChunk) -> io::Result<()> {
        match self.runtime.block_on(timeout(STALL_TIMEOUT, self.chunks.send(chunk))) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::Error::new(io::ErrorKind::BrokenPipe, "the client disconnected")),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads nothing")),
        }
    }
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK_BYTES));
        if chunk.is_empty() {
            return Ok(());
        }
        self.send(BackupChunk::Bytes(chunk.into()))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use axum::body::to_bytes;

    use super::*;

    /// A backup was aborted while the queue was full. The error did not fit into the queue, and the body looked
    /// complete.
    #[tokio::test]
    async fn a_body_is_complete_only_after_its_end_was_sent() {
        for whole in [true, false] {
            let (sender, chunks) = mpsc::channel(CHUNKS_QUEUED);
            for _ in 0..CHUNKS_QUEUED - usize::from(whole) {
                sender.try_send(BackupChunk::Bytes(Bytes::from_static(b"chunk"))).ok().unwrap();
            }
            if whole {
                sender.try_send(BackupChunk::End).ok().unwrap();
            }
            drop(sender);
            let read = to_bytes(Body::from_stream(body(chunks)), usize::MAX).await;
            assert_eq!(read.is_ok(), whole, "{read:?}");
        }
    }
}
