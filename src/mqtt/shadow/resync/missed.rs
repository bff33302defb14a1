//! The changes that a session missed.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use super::{
    ReadFailed, SourceResult, first,
    selects::{self, Devices, PAGE},
    step::{self, Reader, ResyncStep},
};
use crate::{
    admission::work,
    auth::Operation,
    engine::{ENTRIES_PER_LOOKUP, NewestChange, NewestChanges},
    shadow::{DeviceId, Rejection, ShadowKey},
    store::Seq,
};

/// The missed changes that have yet to be read and sent.
#[derive(Debug, Default)]
pub(super) struct MissedChanges {
    /// The page that is being sent.
    pub(super) steps: VecDeque<ResyncStep>,
    /// The journal position reached, while there is lag.
    pub(super) walked: Option<Seq>,
    /// True if states are sent that may be newer than `walked`.
    pub(super) is_ahead: bool,
    /// The journal position that such states cannot be newer than.
    pub(super) ahead: Seq,
    /// The devices that have yet to be looked up, and the position that is reached then.
    pub(super) lookup: Option<(VecDeque<DeviceId>, Seq)>,
    /// True if the shadows of a device cannot be looked up, so that the journal has to be read.
    pub(super) reads_journal: bool,
    /// The last shadow sent, while every shadow is sent again.
    pub(super) resent: Option<Option<ShadowKey>>,
}

impl MissedChanges {
    pub(super) fn is_done(&self) -> bool {
        self.steps.is_empty() && self.walked.is_none() && self.resent.is_none()
    }

    pub(super) async fn next(&mut self, reader: Reader<'_>) -> Result<SourceResult, ReadFailed> {
        if self.steps.is_empty() {
            let Some(lag) = reader.outbox.resync_since() else { return Ok(SourceResult::Nothing) };
            self.walk(reader, Seq(lag)).await?;
        }
        first(&mut self.steps, reader).await
    }

    /// Reads the next page of missed changes, or ends the lag.
    pub(super) async fn walk(&mut self, reader: Reader<'_>, lag: Seq) -> Result<(), Rejection> {
        let Reader { broker, outbox, .. } = reader;
        if std::mem::take(&mut self.is_ahead) {
            // All of the page has been sent.
            self.ahead = broker.service.head();
        }
        if let Some(after) = self.resent.clone() {
            return self.resend(reader, after).await;
        }
        if self.lookup.is_some() {
            return self.look_up(reader, lag).await;
        }
        if let Some(walked) = self.walked
            && walked >= self.ahead
            && outbox.finish_resync(walked.0, broker.events.fan_out_position())
        {
            self.walked = None;
            return Ok(());
        }
        let walked = self.walked.map_or(lag, |walked| walked.max(lag));
        // Changes above may have to be sent for a subscription that is made meanwhile.
        let through = Seq(broker.events.fan_out_position().finished());
        if !self.reads_journal
            && let Some(devices) = few_changed(reader, through.0.saturating_sub(walked.0))
        {
            (self.walked, self.lookup) = (Some(walked), Some((devices, through)));
            return self.look_up(reader, lag).await;
        }
        self.read_journal(reader, walked).await
    }

    async fn read_journal(&mut self, reader: Reader<'_>, walked: Seq) -> Result<(), Rejection> {
        let Reader { broker, outbox, .. } = reader;
        let page = broker.service.journal_if_sound(walked, PAGE, reader.turn().await).await?;
        let Some(page) = page.filter(|page| !page.gone) else {
            // The missed changes are unknown: every shadow is sent, then the journal from the current head.
            self.walked = Some(broker.service.head());
            self.resent = Some(None);
            return Ok(());
        };
        let bytes = page.entries.iter().map(|entry| entry.bytes).sum();
        let _pauses_its_connection = outbox.quota().charge_work(work::journal_read(bytes), Instant::now());
        self.walked = Some(page.entries.last().map_or(walked, |last| last.seq));
        let unsent = outbox.unsent();
        let entries = page.entries.into_iter().filter(|entry| is_visible(reader, &entry.key)).map(Arc::new);
        self.steps.extend(entries.flat_map(|entry| step::missed(&entry, unsent.as_ref())));
        Ok(())
    }

    /// Reads the newest changes of the next devices. If retention has removed one, the current state is sent.
    async fn look_up(&mut self, reader: Reader<'_>, lag: Seq) -> Result<(), Rejection> {
        let Some((devices, through)) = &mut self.lookup else { return Ok(()) };
        let (walked, through) = (self.walked.map_or(lag, |walked| walked.max(lag)), *through);
        let page = devices.iter().take(PAGE).cloned().collect();
        let found = reader.broker.service.newest_changes(page, walked, through, reader.turn().await).await?;
        let Some(NewestChanges { changes, devices: read, shadows }) = found else {
            (self.reads_journal, self.lookup) = (true, None);
            self.walked = self.walked.filter(|walked| *walked > lag);
            return Ok(());
        };
        let work = work::times(shadows, work::SCANNED_SHADOW);
        let _pauses_its_connection = reader.outbox.quota().charge_work(work, Instant::now());
        devices.drain(..read);
        if devices.is_empty() {
            (self.walked, self.lookup) = (Some(through), None);
        }
        let unsent = reader.outbox.unsent();
        for NewestChange { key, entry } in changes.into_iter().filter(|change| is_visible(reader, &change.key)) {
            match entry {
                Some(entry) => self.steps.extend(step::missed(&Arc::new(entry), unsent.as_ref())),
                None => {
                    self.is_ahead = true;
                    self.steps.extend(step::present(&key));
                }
            }
        }
        Ok(())
    }

    async fn resend(&mut self, reader: Reader<'_>, after: Option<ShadowKey>) -> Result<(), Rejection> {
        let (page, next) = selects::page(reader, reader.devices(), after).await?;
        self.is_ahead = true;
        self.resent = next.map(Some);
        let existing = page.into_iter().filter(|listed| !listed.deleted);
        self.steps.extend(existing.flat_map(|listed| step::present(&listed.key).collect::<Vec<_>>()));
        Ok(())
    }
}

fn is_visible(reader: Reader<'_>, key: &ShadowKey) -> bool {
    reader.outbox.with_access(|access| access.projection(key, Operation::Subscribe).is_some())
}

/// Returns the devices that the session selects if to look them up is less work than to read `entries` of the journal.
fn few_changed(reader: Reader<'_>, entries: u64) -> Option<VecDeque<DeviceId>> {
    if entries <= PAGE as u64 {
        return None;
    }
    let devices = selects::few(reader, Devices::with_changes)?;
    let lookups = devices.len() as u64 * ENTRIES_PER_LOOKUP;
    (lookups < entries).then(|| devices.into_iter().collect())
}
