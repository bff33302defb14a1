//! Readers of server-sent events, each of one device, on a thread of their own.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};

use super::{
    event_loop::{CONNECT_DEADLINE, CONNECTING_MAX, Clients, EventLoop},
    http, message,
    socket::{Socket, Split},
    tally::UpdateStats,
};

/// Connected readers.
pub(crate) struct EventReaders {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<anyhow::Result<u64>>,
}

/// Bytes of an event stream, in pieces as they come.
enum Pieces {}

impl Split for Pieces {
    type Packet<'a> = &'a [u8];

    fn split(bytes: &[u8]) -> anyhow::Result<Option<(&[u8], &[u8])>> {
        Ok((!bytes.is_empty()).then_some((bytes, &[])))
    }
}

struct Reader {
    socket: Socket,
    dialling: bool,
    /// True once the head of the response has come.
    answered: bool,
}

struct Readers {
    readers: Vec<Reader>,
    bytes: u64,
    connecting: usize,
    tally: UpdateStats,
}

impl EventReaders {
    /// Connects `count` readers, of the events of the first `count` devices, and waits until all are answered.
    ///
    /// # Errors
    ///
    /// One of them could not be connected, or not in time.
    pub(crate) fn start(server: SocketAddr, count: usize) -> anyhow::Result<Self> {
        let (stop, ready) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, answered) = (stop.clone(), ready.clone());
        let thread = thread::Builder::new()
            .name("event-readers".to_owned())
            .spawn(move || read(server, count, &stopped, &answered))?;
        let (all, deadline) = (Self { stop, thread }, Instant::now() + CONNECT_DEADLINE);
        while ready.load(Ordering::Relaxed) == 0 && !all.thread.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        if ready.load(Ordering::Relaxed) == 0 {
            all.stop()?;
            anyhow::bail!("the readers of events were not answered");
        }
        Ok(all)
    }

    /// Ends the readers, and returns the bytes that they read.
    ///
    /// # Errors
    ///
    /// One of them was cut off.
    pub(crate) fn stop(self) -> anyhow::Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the readers' thread panicked"))?
    }
}

fn read(server: SocketAddr, count: usize, stop: &AtomicBool, ready: &AtomicUsize) -> anyhow::Result<u64> {
    let mut polled = EventLoop::new(&Arc::new(AtomicBool::new(false)))?;
    let mut all = Readers { readers: Vec::new(), bytes: 0, connecting: 0, tally: UpdateStats::new() };
    polled.turn_until(&mut all, CONNECT_DEADLINE, "readers not answered", |all, registry| {
        while all.readers.len() < count && all.connecting < CONNECTING_MAX {
            let socket = Socket::dial(all.readers.len(), server, registry)?;
            all.readers.push(Reader { socket, dialling: true, answered: false });
            all.connecting += 1;
        }
        // Also ends if the caller gives up.
        Ok(if stop.load(Ordering::Relaxed) { 0 } else { count - all.readers.len() + all.connecting })
    })?;
    ready.store(1, Ordering::Relaxed);
    while !stop.load(Ordering::Relaxed) {
        polled.turn(&mut all)?;
    }
    Ok(all.bytes)
}

impl Clients for Readers {
    fn writable(&mut self, token: usize) -> anyhow::Result<()> {
        let Some(reader) = self.readers.get_mut(token) else { return Ok(()) };
        if !reader.dialling {
            return reader.socket.flush();
        }
        reader.socket.dialled()?;
        reader.dialling = false;
        let (mut out, path) = (Vec::new(), format!("/v1/events?device={}", message::device_id(token)));
        http::write_request(&mut out, "GET", &path, b"", b"");
        reader.socket.send(&out)
    }

    fn readable(&mut self, token: usize, buffer: &mut [u8]) -> anyhow::Result<()> {
        let Some(reader) = self.readers.get_mut(token) else { return Ok(()) };
        let (bytes, mut refused) = (&mut self.bytes, None);
        let (mut first, new) = (!reader.answered, !reader.answered);
        reader.answered = true;
        let read = reader.socket.read::<Pieces>(buffer, |piece| {
            *bytes += piece.len() as u64;
            if std::mem::take(&mut first) && !piece.starts_with(b"HTTP/1.1 200") {
                refused = Some(String::from_utf8_lossy(piece).into_owned());
            }
            Ok(())
        });
        read.with_context(|| format!("reader {token} of events was cut off"))?;
        self.connecting -= usize::from(new);
        refused.map_or(Ok(()), |text| Err(anyhow!("a reader of events was refused: {text}")))
    }

    fn stats(&mut self) -> &mut UpdateStats {
        &mut self.tally
    }

    fn waiting_longer_than(&self, _: Duration) -> usize {
        0
    }
}
