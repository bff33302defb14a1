//! The profile of this node for the others of its cluster: its version, and digests of the settings and files that it uses.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use crate::{
    auth::Authority,
    config::Written,
    store::{LogEvent, NodeProfile},
};

/// The sections that a reload applies. The others are those of the start.
const RELOADED: [&str; 4] = ["[[rule]]", "[[grant]]", "[[role]]", "[[query]]"];

/// Reports the profile at the start and at each reload.
pub(super) struct ProfileReporter {
    /// The sections in use.
    sections: Mutex<BTreeMap<String, String>>,
    authority: Arc<Authority>,
    events: Box<dyn Fn(LogEvent) -> bool + Send + Sync>,
}

impl ProfileReporter {
    /// Reports the profile of a node that was started with `config`.
    pub(super) fn new(
        config: &Written,
        authority: Arc<Authority>,
        events: impl Fn(LogEvent) -> bool + Send + Sync + 'static,
    ) -> Self {
        let new = Self { sections: Mutex::new(config.shared()), authority, events: Box::new(events) };
        new.report();
        new
    }

    /// Reports the profile after a reload; `config` is what was accepted.
    pub(super) fn reloaded(&self, config: Option<&Written>) {
        if let Some(config) = config {
            let mut new = config.shared();
            let mut sections = self.sections.lock();
            for name in RELOADED {
                match new.remove(name) {
                    Some(text) => _ = sections.insert(name.to_owned(), text),
                    None => _ = sections.remove(name),
                }
            }
        }
        self.report();
    }

    fn report(&self) {
        let sections = self.sections.lock();
        let sections = sections.iter().map(|(name, text)| (name.clone(), Sha256::digest(text).into()));
        let files = self.authority.digests().into_iter().map(|(key, digest)| (key.to_owned(), digest));
        let digests = sections.chain(files).collect();
        let profile = NodeProfile { version: env!("CARGO_PKG_VERSION").to_owned(), digests };
        // Nobody listens any more when the server ends.
        let _ = (self.events)(LogEvent::Profile(profile));
    }
}
