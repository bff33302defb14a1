//! Searches over HTTP, one after the other on one connection.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, ensure};

use super::{
    http::{self, Http},
    socket::Split,
};

/// The longest wait for an answer; the server gives up earlier.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);

/// A connection for searches.
pub(crate) struct Searcher {
    stream: TcpStream,
    received: Vec<u8>,
}

/// Searches that go on, on a thread of their own.
pub(crate) struct RunningSearches {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<anyhow::Result<Vec<Duration>>>,
}

impl Searcher {
    /// Connects.
    ///
    /// # Errors
    ///
    /// The server does not accept the connection.
    pub(crate) fn connect(server: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(server).context("connecting for searches")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_DEADLINE))?;
        Ok(Self { stream, received: Vec::new() })
    }

    /// Requests `path`, and returns the answer and its time.
    ///
    /// # Errors
    ///
    /// The answer is a failure, or is none.
    pub(crate) fn get(&mut self, path: &str) -> anyhow::Result<(serde_json::Value, Duration)> {
        let (text, took) = self.text(path)?;
        let body = serde_json::from_str(&text).with_context(|| format!("GET {path}: {text}"))?;
        Ok((body, took))
    }

    /// Returns the value of a metric without labels.
    ///
    /// # Errors
    ///
    /// As [`Searcher::get`]; there is no such metric.
    pub(crate) fn metric(&mut self, name: &str) -> anyhow::Result<f64> {
        let (page, _) = self.text("/metrics")?;
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        value.with_context(|| format!("the server has no metric {name}"))
    }

    fn text(&mut self, path: &str) -> anyhow::Result<(String, Duration)> {
        let mut out = Vec::new();
        http::write_request(&mut out, "GET", path, b"", b"");
        let (sent, mut piece) = (Instant::now(), vec![0; 1 << 16]);
        self.stream.write_all(&out)?;
        loop {
            if let Some((response, rest)) = Http::split(&self.received)? {
                let took = sent.elapsed();
                let text = String::from_utf8_lossy(response.body).into_owned();
                ensure!(response.status == 200, "GET {path}: {} {text}", response.status);
                self.received = rest.to_vec();
                return Ok((text, took));
            }
            let read = self.stream.read(&mut piece).with_context(|| format!("GET {path}"))?;
            ensure!(read > 0, "GET {path}: the connection ended");
            self.received.extend_from_slice(piece.get(..read).unwrap_or_default());
        }
    }
}

impl RunningSearches {
    /// Begins to request `path`, again and again.
    ///
    /// # Errors
    ///
    /// As [`Searcher::connect`].
    pub(crate) fn start(server: SocketAddr, path: &str) -> anyhow::Result<Self> {
        let (mut searcher, path, stop) =
            (Searcher::connect(server)?, path.to_owned(), Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        let thread = thread::Builder::new().name("searches".to_owned()).spawn(move || {
            let mut times = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                times.push(searcher.get(&path)?.1);
            }
            Ok(times)
        })?;
        Ok(Self { stop, thread })
    }

    /// Waits for the request under way, and returns the times of all.
    ///
    /// # Errors
    ///
    /// One of them failed.
    pub(crate) fn stop(self) -> anyhow::Result<Vec<Duration>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the thread of searches panicked"))?
    }
}
