//! The sending side of a WebSocket: each MQTT packet becomes one binary message of one frame.
//!
//! MQTT allows any distribution of packets over messages [MQTT-6.0.0-2], but some clients read one packet per message
//! and lose the rest. Packets are framed here and not by the WebSocket library, which would keep a buffer as large as
//! the largest packet while the connection lives. Frames are staged, and several are written together.
//!
//! The library writes its control frames (pongs, close) through this as well. A control frame waits until the current
//! packet's frame is complete, as RFC 6455 allows none inside a frame.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The stream under a WebSocket, with a buffer of unwritten frames.
pub(in crate::http) struct FrameWriter<S> {
    stream: S,
    /// Staged frames. The last one may be incomplete.
    staged: Vec<u8>,
    /// Bytes of `staged` that were written.
    written: usize,
    /// Missing bytes of the last packet's frame.
    frame_left: usize,
    /// Control frames that wait until that frame is complete.
    control: Vec<u8>,
}

impl<S> FrameWriter<S> {
    /// Wraps `stream`, which must be between two frames.
    pub(super) fn new(stream: S) -> Self {
        Self { stream, staged: Vec::new(), written: 0, frame_left: 0, control: Vec::new() }
    }

    /// Returns the stream. Unwritten frames are dropped.
    pub(super) fn into_inner(self) -> S {
        self.stream
    }

    /// Frames as many of `bytes` as fit, and returns their number. `bytes` continue those of the last call.
    fn stage(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        while !rest.is_empty() && self.staged.len() < STAGED_BYTES_MAX {
            if self.frame_left == 0 {
                self.frame_left = packet_len(rest).unwrap_or(rest.len());
                put_head(self.frame_left, &mut self.staged);
            }
            let capacity = STAGED_BYTES_MAX.saturating_sub(self.staged.len()).max(1);
            let (now, later) = rest.split_at(capacity.min(self.frame_left).min(rest.len()));
            self.staged.extend_from_slice(now);
            self.frame_left -= now.len();
            rest = later;
            if self.frame_left == 0 {
                self.staged.append(&mut self.control);
            }
        }
        bytes.len() - rest.len()
    }
}

impl<S: AsyncWrite + Unpin> FrameWriter<S> {
    /// Accepts some of `bytes`. Over all calls they are a sequence of MQTT packets.
    pub(super) fn poll_packets(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.staged.len() >= STAGED_BYTES_MAX {
            ready!(self.poll_staged(context))?;
        }
        Poll::Ready(Ok(self.stage(bytes)))
    }

    /// Writes all staged bytes.
    fn poll_staged(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(unwritten) = self.staged.get(self.written..).filter(|unwritten| !unwritten.is_empty()) {
            match ready!(Pin::new(&mut self.stream).poll_write(context, unwritten))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
        }
        (self.staged, self.written) = (Vec::new(), 0); // an idle connection keeps no buffer
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FrameWriter<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

/// Writes the library's control frames.
impl<S: AsyncWrite + Unpin> AsyncWrite for FrameWriter<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let full = self.staged.len() + self.control.len() >= STAGED_BYTES_MAX + CONTROL_BYTES_MAX;
        if full {
            ready!(self.poll_staged(context))?;
        }
        if self.control.len() >= CONTROL_BYTES_MAX {
            return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into())); // the client sends pings and reads no pongs
        }
        match self.frame_left {
            0 => self.staged.extend_from_slice(bytes),
            _ => self.control.extend_from_slice(bytes),
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_staged(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Returns the bytes of the first MQTT packet in `bytes`, with its fixed header; `None` if its length is incomplete.
fn packet_len(bytes: &[u8]) -> Option<usize> {
    let mut remaining = 0;
    for (at, byte) in bytes.iter().skip(1).take(LENGTH_BYTES_MAX).enumerate() {
        remaining |= usize::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            return Some(remaining + at + 2);
        }
    }
    None
}

/// Appends the frame header of a binary message of `len` bytes. RFC 6455 section 5.2.
fn put_head(len: usize, out: &mut Vec<u8>) {
    out.push(FIN_BINARY);
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len @ 0..=125), _) => out.push(len),
        (_, Ok(len)) => {
            out.push(126);
            out.extend(len.to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend((len as u64).to_be_bytes());
        }
    }
}

const FIN_BINARY: u8 = 0x82;
/// Most bytes of the remaining length. [MQTT-2.1.4]
const LENGTH_BYTES_MAX: usize = 4;
/// Most bytes of frames written together.
const STAGED_BYTES_MAX: usize = 16 * 1024;
/// Most bytes of waiting control frames. More end the connection.
const CONTROL_BYTES_MAX: usize = 4 * 1024;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn packet(remaining: usize) -> Vec<u8> {
        let mut bytes = vec![0x30];
        let mut left = remaining;
        loop {
            let low = (left % 128) as u8;
            left /= 128;
            bytes.push(if left > 0 { low | 0x80 } else { low });
            if left == 0 {
                break;
            }
        }
        bytes.extend((0..remaining).map(|at| at as u8));
        bytes
    }

    /// Splits frames of binary messages and pongs into their payloads.
    fn frames(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut frames = Vec::new();
        while let [first, length, rest @ ..] = bytes {
            let extended = match length {
                126 => 2,
                127 => 8,
                _ => 0,
            };
            let (long, rest) = rest.split_at(extended);
            let long = long.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            let (payload, rest) = rest.split_at(if extended > 0 { long } else { usize::from(*length) });
            frames.push((*first, payload.to_vec()));
            bytes = rest;
        }
        frames
    }

    #[test]
    fn reads_packet_lengths() {
        for (bytes, expected) in [
            (&[0xD0, 0][..], Some(2)),
            (&[0x30, 127], Some(129)),
            (&[0x30, 0x80, 1], Some(131)),
            (&[0x30, 0xFF, 0xFF, 0xFF, 0x7F], Some(268_435_455 + 5)),
            (&[0x30, 0x80], None),
            (&[0x30, 0x80, 0x80, 0x80, 0x80, 1], None),
            (&[], None),
        ] {
            assert_eq!(packet_len(bytes), expected, "{bytes:02x?}");
        }
    }

    /// For any capacity of the stream, and with control frames in between.
    #[tokio::test]
    async fn each_packet_is_a_message() {
        let packets: Vec<_> = [0, 1, 123, 124, 200, 65_000, 70_000, 2, 300_000, 0].map(packet).into();
        let all = packets.concat();
        for capacity in [1_000_000, 7, 1000] {
            let (near, mut far) = tokio::io::duplex(capacity);
            let mut frame_writer = FrameWriter::new(near);
            let (all, pong) = (all.clone(), [0x8A, 1, 7]);
            let sending = async move {
                let mut left = &all[..];
                let mut pongs = 0;
                while !left.is_empty() {
                    let count = std::future::poll_fn(|context| frame_writer.poll_packets(context, left)).await.unwrap();
                    left = &left[count..];
                    if pongs < 20 {
                        frame_writer.write_all(&pong).await.unwrap();
                        pongs += 1;
                    }
                }
                frame_writer.shutdown().await.unwrap();
                pongs
            };
            let receiving = async {
                let mut bytes = Vec::new();
                far.read_to_end(&mut bytes).await.unwrap();
                bytes
            };
            let (pongs, bytes) = tokio::join!(sending, receiving);
            let (messages, controls): (Vec<_>, Vec<_>) =
                frames(&bytes).into_iter().partition(|(first, _)| *first == FIN_BINARY);
            assert!(messages.into_iter().map(|(_, payload)| payload).eq(packets.iter().cloned()), "{capacity}");
            assert_eq!(controls, vec![(0x8A, vec![7]); pongs]);
        }
    }

    #[tokio::test]
    async fn small_messages_are_written_together() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut frame_writer = FrameWriter::new(near);
        let all = packet(20).repeat(100);
        let count = std::future::poll_fn(|context| frame_writer.poll_packets(context, &all)).await.unwrap();
        assert_eq!(count, all.len());
        let mut bytes = [0; 1 << 16];
        assert!(far.read(&mut bytes).now_or_never().is_none(), "nothing is written before the flush");
        frame_writer.flush().await.unwrap();
        let read = far.read(&mut bytes).await.unwrap();
        assert_eq!(frames(&bytes[..read]).len(), 100);
    }

    /// The client sends pings and reads nothing.
    #[tokio::test]
    async fn control_frames_are_bounded() {
        let (near, _far) = tokio::io::duplex(10);
        let mut frame_writer = FrameWriter::new(near);
        let large = packet(100_000);
        while std::future::poll_fn(|context| frame_writer.poll_packets(context, &large)).now_or_never().is_some() {}
        let pong = [0x8A; 100];
        let taken = (0..1000).take_while(|_| matches!(frame_writer.write(&pong).now_or_never(), Some(Ok(_)))).count();
        assert!((40..=250).contains(&taken), "{taken}");
        assert!(frame_writer.staged.len() + frame_writer.control.len() < STAGED_BYTES_MAX + CONTROL_BYTES_MAX + 200);
    }
}
