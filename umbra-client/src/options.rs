//! What a client is told before it connects.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    address::Address,
    backoff::Backoff,
    error::Error,
    observer::{NoopObserver, Observer},
    tls::Tls,
};

/// Where the broker is, and how to behave towards it.
#[derive(Clone)]
pub struct Options {
    pub(crate) address: Address,
    /// `None`: the authorities of the system, if the address is encrypted.
    pub(crate) tls: Option<Tls>,
    pub(crate) client_id: String,
    pub(crate) credentials: Option<(String, String)>,
    pub(crate) keep_alive: Duration,
    pub(crate) reply_deadline: Duration,
    pub(crate) reconnect: Backoff,
    pub(crate) connects_once: bool,
    pub(crate) observer: Arc<dyn Observer>,
}

impl Options {
    /// A client called `client_id` of the broker at `address`, such as `127.0.0.1:1883` or `mqtts://broker.example`.
    ///
    /// # Errors
    ///
    /// [`Error::Address`]: the address is malformed.
    pub fn new(address: &str, client_id: &str) -> Result<Self, Error> {
        Ok(Self::at(address.parse()?, client_id))
    }

    /// A client called `client_id` of the broker at `address`.
    #[must_use]
    pub fn at(address: Address, client_id: &str) -> Self {
        Self {
            address,
            tls: None,
            client_id: client_id.to_owned(),
            credentials: None,
            keep_alive: Duration::from_secs(30),
            reply_deadline: Duration::from_secs(10),
            reconnect: Backoff::CONNECTS,
            connects_once: false,
            observer: Arc::new(NoopObserver),
        }
    }

    /// Sets the authorities to trust and the client certificate, for an address that is encrypted.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Takes another client id.
    #[must_use]
    pub fn client_id(mut self, client_id: &str) -> Self {
        self.client_id = client_id.to_owned();
        self
    }

    /// Introduces itself with a user name and a password.
    #[must_use]
    pub fn credentials(mut self, user: &str, password: &str) -> Self {
        self.credentials = Some((user.to_owned(), password.to_owned()));
        self
    }

    /// How long the connection may be silent; 30 seconds without this, at least 5.
    #[must_use]
    pub fn keep_alive(mut self, keep_alive: Duration) -> Self {
        self.keep_alive = keep_alive.max(Duration::from_secs(5));
        self
    }

    /// How long a reply may take before a try counts as unanswered; 10 seconds without this.
    #[must_use]
    pub fn reply_deadline(mut self, deadline: Duration) -> Self {
        self.reply_deadline = deadline;
        self
    }

    /// Waits between attempts to connect again, which have no end whatever `tries_max` says.
    #[must_use]
    pub fn reconnect(mut self, backoff: Backoff) -> Self {
        self.reconnect = Backoff { tries_max: u32::MAX, ..backoff };
        self
    }

    /// Ends the client at the first connection that fails or breaks, instead of connecting again.
    #[must_use]
    pub fn connect_once(mut self) -> Self {
        self.connects_once = true;
        self
    }

    /// Tells `observer` what happens.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = observer;
        self
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the password.
        let Self { address, client_id, keep_alive, reply_deadline, .. } = self;
        write!(f, "Options({client_id} at {address}, keep-alive {keep_alive:?}, replies {reply_deadline:?})")
    }
}
