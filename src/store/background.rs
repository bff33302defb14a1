//! A thread with work that nobody waits for.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

/// A thread that works until it is done or stopped.
pub(super) struct BackgroundThread {
    name: &'static str,
    is_stopped: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl BackgroundThread {
    /// Starts a thread. `work` ends soon after its flag is set, which also unparks the thread.
    pub(super) fn start(name: &'static str, work: impl FnOnce(&AtomicBool) + Send + 'static) -> io::Result<Self> {
        let is_stopped = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&is_stopped);
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || work(&stopped))?;
        Ok(Self { name, is_stopped, thread })
    }

    /// Stops the thread, and waits for its end.
    pub(super) fn stop(self) {
        self.is_stopped.store(true, Ordering::Release);
        self.thread.thread().unpark();
        if self.thread.join().is_err() {
            tracing::error!("the thread {} panicked", self.name);
        }
    }
}
