//! Shared by the end-to-end tests: the server as a child process, and clients of the tests' own.
//!
//! Nothing here uses the server's crate: the client writes and reads literal bytes, so a mistake in the server's codec
//! cannot hide in both ends. Nothing here decides by time either: every wait is for a thing, and gives up only after
//! [`DEADLINE`], which no healthy machine reaches. That something does *not* arrive is shown by a later thing that
//! does.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses another part of it")]

pub mod client;
pub mod cluster;
pub mod http;
pub mod linearizability;
pub mod nats;
pub mod packet;
pub mod program;
pub mod proxy;
pub mod server;
pub mod shadow;
pub mod users;
pub mod wire;

use std::{
    sync::{Condvar, LazyLock, Mutex},
    time::{Duration, Instant},
};

/// How long a test waits for something that must happen; `UMBRA_TEST_DEADLINE` sets another number of seconds.
pub static DEADLINE: LazyLock<Duration> = LazyLock::new(|| {
    let seconds = std::env::var("UMBRA_TEST_DEADLINE").map(|text| text.parse().expect("a number of seconds"));
    Duration::from_secs(seconds.unwrap_or(120))
});

/// Asks again and again until `probe` has an answer; for what has no event to wait for, such as a process's memory.
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + *DEADLINE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {:?} in vain for: {what}", *DEADLINE);
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Where threads wait for one another; unlike [`std::sync::Barrier`] it gives up when one of them has failed.
pub struct Meeting {
    members: usize,
    arrived: Mutex<usize>,
    complete: Condvar,
}

impl Meeting {
    pub fn of(members: usize) -> Self {
        Self { members, arrived: Mutex::new(0), complete: Condvar::new() }
    }

    /// Waits until every member has come; may be used again and again.
    pub fn wait(&self) {
        let mut arrived = self.arrived.lock().expect("no member has failed");
        *arrived += 1;
        let complete = arrived.div_ceil(self.members) * self.members;
        self.complete.notify_all();
        let (_arrived, waited) = self
            .complete
            .wait_timeout_while(arrived, *DEADLINE, |arrived| *arrived < complete)
            .expect("no member has failed");
        assert!(!waited.timed_out(), "a member did not come");
    }
}

/// A generator of pseudo-random numbers (SplitMix64): a run is repeated by its seed.
pub struct Seed(pub u64);

impl Seed {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// The next number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
