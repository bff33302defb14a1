//! Updates of a rollout, and the restoration of former values, as commands of its creator.
//!
//! 1. The document is read, and the update decided against it as the writer will decide it. That gives the former values.
//! 2. The update is submitted for the version that was read; it is rebased over changes of other paths. The row of the
//!    device is committed with it, so a restart finds both or neither.
//! 3. If one of its paths was changed in between, all is done again.
//!
//! An outcome that is unknown is asked for again with the same idempotency key. A write waits while the engine is full or
//! the principal above its rate, and is given up once the rollout does not want it any more. The writer asks for that too when it decides
//! the update ([`WantedLogin`]), so after the answer to a pause no update is made that was under way before.
//!
//! In a cluster, the log has the row of the device in the record of the update, and the rollout of every node changes by it. So an
//! outcome that is unknown is that of an update which the rollout still wants, or has. A write that was not accepted is made anew, with a
//! deadline of then: the log may have been away for long.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::oneshot, time::sleep};

use crate::{
    admission::Admitted,
    engine::{AcceptedCommand, Envelope, IncomingRequest, Requester, Taken},
    fleet::rollout::{
        DeviceEntry, RestoreOutcome, Rollout, UpdateOutcome,
        spec::Success,
        written::{restoring, written},
    },
    observability::request_id::RequestId,
    rollouts::{
        FORBIDDEN, RolloutController,
        actor::{Actor, QUOTA_WAIT_MAX},
        check::sees_convergence,
        slot::{Revoked, Slot},
    },
    shadow::{
        Change, Command, Decision, Disposition, Document, IdempotencyKey, Keyed, OnConflict, Rejection, Revocable,
        Sender, SenderLogin, ShadowKey, Timestamp, Update, Version, decide,
    },
    store::RowEdit,
    wire::Via,
};

/// Attempts after changes of the same paths by others.
const ATTEMPTS_MAX: usize = 20;
/// The wait after the service was unavailable.
const UNAVAILABLE_WAIT: Duration = Duration::from_secs(1);

/// The reasons that a device is skipped, beside [`FORBIDDEN`].
const NO_SHADOW: &str = "no shadow";
const UNCHANGED: &str = "nothing to change";

/// A write to one device.
struct Write<'a> {
    controller: &'a RolloutController,
    slot: &'a Arc<Slot>,
    index: usize,
    key: ShadowKey,
    /// Returns true while the rollout wants the write.
    is_wanted: fn(&Rollout, usize) -> bool,
    /// The prefix of the idempotency key.
    prefix: &'static str,
}

/// The login of a write on a single node, which counts as revoked once the rollout does not want the write any more. In a cluster, the
/// node that decides asks its rollouts ([`Rollout::permits`]).
struct WantedLogin {
    login: SenderLogin,
    slot: Arc<Slot>,
    index: usize,
    is_wanted: fn(&Rollout, usize) -> bool,
    /// True if the writer has refused the write because it was not wanted.
    was_unwanted: AtomicBool,
}

impl Revocable for WantedLogin {
    fn is_revoked(&self) -> bool {
        let is_unwanted = !self.slot.read(|rollout, _| (self.is_wanted)(rollout, self.index));
        self.was_unwanted.fetch_or(is_unwanted, Ordering::Relaxed);
        is_unwanted || self.login.is_revoked()
    }
}

/// The end of an attempt.
enum Attempt<T> {
    /// The result.
    Done(T),
    /// The paths were changed by others.
    Again,
}

/// The reason that a write ended early.
#[derive(Debug, PartialEq)]
enum Stopped {
    Revoked,
    /// The rollout does not want it any more.
    Unwanted,
    /// It is to be made anew.
    Later,
    Refused(Rejection),
}

/// An accepted write.
#[derive(Debug, PartialEq)]
struct Written {
    version: Version,
    /// The changes; `None` if the write was accepted before.
    changes: Option<Vec<Change>>,
}

/// Sends the update of a device.
pub(super) async fn update(
    controller: &RolloutController,
    slot: &Arc<Slot>,
    index: usize,
) -> Result<UpdateOutcome, Revoked> {
    let Some(write) = Write::new(controller, slot, index, Rollout::wants_update, "rollout") else {
        return Ok(UpdateOutcome::NotSent);
    };
    let mut attempts = 0;
    while attempts < ATTEMPTS_MAX {
        match write.update().await {
            Ok(Attempt::Done(outcome)) => return Ok(outcome),
            Ok(Attempt::Again) => attempts += 1,
            Err(Stopped::Later) => {}
            Err(Stopped::Revoked) => return Err(Revoked),
            Err(Stopped::Unwanted) => return Ok(UpdateOutcome::NotSent),
            Err(Stopped::Refused(rejection)) => return Ok(refused(&rejection, &write.key)),
        }
    }
    Ok(UpdateOutcome::Failed("changed by others again and again".into()))
}

/// Restores the former values of a device. Returns `None` if that is not wanted any more.
pub(super) async fn restore(
    controller: &RolloutController,
    slot: &Arc<Slot>,
    index: usize,
) -> Result<Option<RestoreOutcome>, Revoked> {
    let Some(write) = Write::new(controller, slot, index, Rollout::wants_restoration, "rollback") else {
        return Ok(None);
    };
    let mut attempts = 0;
    while attempts < ATTEMPTS_MAX {
        match write.restore().await {
            Ok(Attempt::Done(outcome)) => return Ok(Some(outcome)),
            Ok(Attempt::Again) => attempts += 1,
            Err(Stopped::Later) => {}
            Err(Stopped::Revoked) => return Err(Revoked),
            Err(Stopped::Unwanted) => return Ok(None),
            Err(Stopped::Refused(rejection)) => {
                return Ok(Some(RestoreOutcome::Kept(reason(&rejection, &write.key).into())));
            }
        }
    }
    Ok(Some(RestoreOutcome::Kept("changed by others again and again".into())))
}

impl<'a> Write<'a> {
    fn new(
        controller: &'a RolloutController,
        slot: &'a Arc<Slot>,
        index: usize,
        is_wanted: fn(&Rollout, usize) -> bool,
        prefix: &'static str,
    ) -> Option<Self> {
        let device = slot.read(|rollout, _| Some(rollout.devices().get(index)?.id.clone()))?;
        Some(Self { controller, slot, index, key: slot.key(device), is_wanted, prefix })
    }

    async fn update(&self) -> Result<Attempt<UpdateOutcome>, Stopped> {
        let (actor, document) = self.read().await?;
        let skipped = |reason: &str| Ok(Attempt::Done(UpdateOutcome::Skipped(reason.into())));
        let spec = self.slot.read(|rollout, _| rollout.spec().clone());
        let (command, author) = match self.command(&actor, &document, spec.patch.clone()) {
            Ok(authorized) => authorized,
            Err(_) => return skipped(FORBIDDEN),
        };
        let sees = || actor.projection(&self.key).is_some_and(|projection| sees_convergence(&projection, &spec));
        if spec.success == Success::Converged && !sees() {
            return skipped(FORBIDDEN);
        }
        // Only now, since who has no right to the shadow must not learn whether it exists.
        if !document.exists() {
            return skipped(NO_SHADOW);
        }
        let decision = decide(&document, &command, &author, self.controller.now(), &self.controller.document);
        let paths = match decision.map_err(Stopped::Refused)? {
            Decision::Unchanged => return skipped(UNCHANGED),
            Decision::Changed { changes, .. } => written(&changes),
        };
        let now = self.controller.moment();
        let expected = Version(document.version.0 + 1);
        let entry = self.slot.read(|rollout, _| rollout.sent_entry(self.index, now, expected, paths));
        let Some(mut entry) = entry else { return Err(Stopped::Unwanted) };
        let row = self.slot.row(self.index, &entry);
        match self.submit(&actor, command, author, row).await {
            Ok(Written { changes: Some(changes), .. }) if changes.is_empty() => skipped(UNCHANGED),
            Ok(Written { version, changes }) => {
                let mut is_exact = version == expected;
                entry.version = Some(version);
                if let Some(paths) = changes.map(|changes| written(&changes))
                    && entry.written.as_deref() != Some(&paths)
                {
                    entry.written = Some(paths.into());
                    is_exact = false;
                }
                Ok(Attempt::Done(UpdateOutcome::Written { entry: Box::new(entry), is_exact }))
            }
            Err(Stopped::Refused(Rejection::VersionConflict { .. })) => Ok(Attempt::Again),
            Err(stopped) => Err(stopped),
        }
    }

    async fn restore(&self) -> Result<Attempt<RestoreOutcome>, Stopped> {
        let (actor, document) = self.read().await?;
        let kept = |reason: String| Ok(Attempt::Done(RestoreOutcome::Kept(reason.into())));
        let entry = self.slot.read(|rollout, _| rollout.devices().get(self.index).cloned());
        let Some(DeviceEntry { written: Some(paths), .. }) = &entry else { return Err(Stopped::Unwanted) };
        let update = match restoring(paths, &document) {
            Ok(update) => update,
            Err(path) => return kept(format!("'{path}' was changed by another since")),
        };
        let (command, author) = match self.command(&actor, &document, update) {
            Ok(authorized) => authorized,
            Err(rejection) => return kept(reason(&rejection, &self.key)),
        };
        let now = self.controller.moment();
        let expected = Version(document.version.0 + 1);
        let row = entry.as_ref().map(|entry| self.slot.row(self.index, &entry.restored(now.date, expected)));
        let Some(row) = row else { return Err(Stopped::Unwanted) };
        match self.submit(&actor, command, author, row).await {
            Ok(Written { version, .. }) => Ok(Attempt::Done(RestoreOutcome::Restored(version))),
            Err(Stopped::Refused(Rejection::VersionConflict { .. })) => Ok(Attempt::Again),
            Err(stopped) => Err(stopped),
        }
    }

    /// Returns the present rights and the newest document.
    async fn read(&self) -> Result<(Actor, Arc<Document>), Stopped> {
        loop {
            let is_wanted = |rollout: &Rollout| (self.is_wanted)(rollout, self.index);
            let Some(actor) = self.slot.actor_if(is_wanted, self.controller) else { return Err(Stopped::Unwanted) };
            let actor = actor.map_err(|Revoked| Stopped::Revoked)?;
            actor.pay_command(&self.controller.search).await;
            match actor.read(&self.key, &self.controller.search).await {
                Ok(stored) => return Ok((actor, stored.document)),
                Err(Rejection::Unavailable(_)) => sleep(UNAVAILABLE_WAIT).await,
                Err(rejection) => return Err(Stopped::Refused(rejection)),
            }
        }
    }

    /// Returns the command that makes `update` of `document`, and its author.
    fn command(&self, actor: &Actor, document: &Document, mut update: Update) -> Result<(Command, Sender), Rejection> {
        update.preconditions.version = Some(document.version);
        update.preconditions.on_conflict = OnConflict::Rebase;
        let key = IdempotencyKey::new(&format!("{}-{:016x}", self.prefix, self.slot.nonce));
        let keyed = key.map(|key| Keyed::update(key, &update));
        let mut command = Command::Update(Update { keyed, ..update });
        let author = actor.authorize(&self.key, &mut command)?;
        Ok((command, author))
    }

    /// Passes a command to the engine and waits for its outcome.
    async fn submit(&self, actor: &Actor, command: Command, author: Sender, row: RowEdit) -> Result<Written, Stopped> {
        let is_replicated = self.controller.rollouts.is_replicated();
        let wanted = Arc::new(WantedLogin {
            login: author.login.clone(),
            slot: self.slot.clone(),
            index: self.index,
            is_wanted: self.is_wanted,
            was_unwanted: AtomicBool::new(false),
        });
        let login = if is_replicated { author.login.clone() } else { SenderLogin::new(wanted.clone()) };
        let author = Sender { login, ..author };
        let submit = || self.submit_once(actor, command.clone(), author.clone(), row.clone());
        let is_wanted = || self.slot.read(|rollout, _| (self.is_wanted)(rollout, self.index));
        let written = settled(submit, is_wanted, || self.found(actor, &command, &author), is_replicated).await;
        match written {
            // The rollout may want it again by now. Its login may act.
            Err(Stopped::Revoked) if wanted.was_unwanted.load(Ordering::Relaxed) => Err(Stopped::Unwanted),
            written => written,
        }
    }

    /// Returns the write that a command of an unknown outcome made. Its login is revoked, so it cannot be submitted again.
    async fn found(&self, actor: &Actor, command: &Command, author: &Sender) -> Result<Written, Stopped> {
        let Some(Keyed { key, .. }) = command.keyed() else { return Err(Stopped::Revoked) };
        loop {
            match actor.read(&self.key, &self.controller.search).await {
                Ok(stored) => {
                    let mut keys = stored.remembered.keys().iter();
                    let known = keys.find(|known| known.key == *key && known.by == author.by);
                    let written = known.map(|known| Written { version: known.first.version, changes: None });
                    return written.ok_or(Stopped::Revoked);
                }
                Err(Rejection::Internal) => return Err(Stopped::Revoked),
                Err(_) => sleep(UNAVAILABLE_WAIT).await,
            }
        }
    }

    async fn submit_once(
        &self,
        actor: &Actor,
        command: Command,
        author: Sender,
        row: RowEdit,
    ) -> Result<Written, Rejection> {
        let (answer, outcome) = oneshot::channel();
        let (key, client) = (self.key.clone(), self.slot.client.clone());
        let id = RequestId::current();
        let is_replicated = self.controller.rollouts.is_replicated();
        let (row, shared_row) = if is_replicated { (None, Some(row)) } else { (Some(row), None) };
        let envelope =
            Envelope { may_create: false, row, shared_row, ..Envelope::new(key, command, author, id, client) };
        let request = RolloutWrite { envelope, weight: self.slot.weight, answer };
        let taken = match self.controller.service().take(request, &actor.quota(&self.controller.search)) {
            Ok(Taken::Submitted) => Ok(()),
            Ok(Taken::AwaitingPermit(awaiting_permit)) => awaiting_permit.finish().await,
            Err(refused) => Err(refused),
        };
        taken.map_err(|refused| refused.refusal)?;
        // The sender is dropped without an outcome only if the notifier has stopped.
        outcome.await.unwrap_or(Err(Rejection::OutcomeUnknown))
    }
}

/// Submits a write until its outcome is known.
///
/// Once an outcome is unknown, the write may be on disk with its row. Then it is asked for until it is known, even if the
/// rollout does not want it any more, which would forget that it changed the device, and the former values. `find` looks for a
/// write that cannot be submitted again. One that `is_made_anew` ends by [`Stopped::Later`] instead.
async fn settled<S, F>(
    mut submit: impl FnMut() -> S,
    is_wanted: impl Fn() -> bool,
    find: impl FnOnce() -> F,
    is_made_anew: bool,
) -> Result<Written, Stopped>
where
    S: Future<Output = Result<Written, Rejection>>,
    F: Future<Output = Result<Written, Stopped>>,
{
    let mut may_be_written = false;
    loop {
        let wait = match submit().await {
            Ok(written) => return Ok(written),
            Err(Rejection::Unauthorized) if may_be_written => return find().await,
            Err(Rejection::Unauthorized) => return Err(Stopped::Revoked),
            Err(Rejection::TooManyRequests { retry_after_ms: Some(wait), .. }) => {
                Duration::from_millis(wait).min(QUOTA_WAIT_MAX)
            }
            Err(Rejection::OutcomeUnknown) => {
                may_be_written = true;
                UNAVAILABLE_WAIT
            }
            Err(Rejection::Unavailable(_)) => UNAVAILABLE_WAIT,
            Err(rejection) => return Err(Stopped::Refused(rejection)),
        };
        sleep(wait).await;
        if is_made_anew {
            return Err(Stopped::Later);
        }
        if !may_be_written && !is_wanted() {
            return Err(Stopped::Unwanted);
        }
    }
}

/// Returns the outcome of an update that was refused.
fn refused(rejection: &Rejection, key: &ShadowKey) -> UpdateOutcome {
    match rejection {
        Rejection::ExpectationFailed { .. } | Rejection::VersionConflict { .. } => {
            UpdateOutcome::Conflict(reason(rejection, key).into())
        }
        Rejection::Forbidden { .. } => UpdateOutcome::Skipped(FORBIDDEN.into()),
        rejection => UpdateOutcome::Failed(reason(rejection, key).into()),
    }
}

fn reason(rejection: &Rejection, key: &ShadowKey) -> String {
    match rejection {
        Rejection::ExpectationFailed { failed, .. } => {
            let paths: Vec<_> = failed.iter().map(|failed| format!("'{}'", failed.path)).collect();
            format!("not as expected: {}", paths.join(", "))
        }
        rejection => rejection.message(key),
    }
}

/// A command for the engine, which is authorized already.
struct RolloutWrite {
    envelope: Envelope,
    weight: usize,
    answer: oneshot::Sender<Result<Written, Rejection>>,
}

impl IncomingRequest for RolloutWrite {
    type Parsed = ();
    type Refusal = Rejection;

    fn key(&self) -> &ShadowKey {
        &self.envelope.key
    }

    fn weight(&self) -> usize {
        self.weight
    }

    fn parse(&mut self) -> Result<Option<()>, Rejection> {
        Ok(Some(()))
    }

    fn into_command(self, (): (), admitted: Admitted) -> (Envelope, Box<dyn Requester>) {
        (self.envelope, Box::new(PendingOutcome { answer: self.answer, admitted }))
    }
}

/// A write whose outcome is pending.
struct PendingOutcome {
    answer: oneshot::Sender<Result<Written, Rejection>>,
    /// The permit that counts the request until it is decided.
    admitted: Admitted,
}

impl Requester for PendingOutcome {
    fn via(&self) -> Via {
        Via::Http
    }

    fn on_outcome(self: Box<Self>, outcome: Result<AcceptedCommand<'_>, &Rejection>, _: Timestamp) {
        let outcome = match outcome {
            Ok(AcceptedCommand { applied, .. }) => Ok(match applied.disposition {
                Disposition::Replayed(first) => Written { version: first.version, changes: None },
                _ => Written { version: applied.after.version, changes: Some(applied.changes.clone()) },
            }),
            Err(rejection) => Err(rejection.clone()),
        };
        let Self { answer, admitted } = *self;
        drop(admitted);
        // An error means that the driver has ended.
        let _ = answer.send(outcome);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use futures_util::future::join_all;

    use super::*;
    use crate::shadow::{DeviceId, SizeLimit};

    /// A commit failed and reached the disk nevertheless. While the store healed, the rollout was paused: its device was
    /// queued again, and the resume found nothing to change and forgot the former value.
    #[tokio::test]
    async fn an_update_that_may_be_written_is_pursued_to_its_outcome() {
        use Rejection::{OutcomeUnknown, Unauthorized};
        let unavailable = || Rejection::Unavailable("the disk".to_owned());
        let forbidden = || Rejection::Forbidden { what: "/desired/a".to_owned() };
        let written = |version| Written { version: Version(version), changes: None };
        let found = 9;
        let cases = [
            (true, vec![], Ok(written(1))),
            (true, vec![unavailable()], Ok(written(1))),
            (false, vec![unavailable()], Err(Stopped::Unwanted)),
            (false, vec![OutcomeUnknown], Ok(written(1))),
            (false, vec![OutcomeUnknown, unavailable()], Ok(written(1))),
            (false, vec![OutcomeUnknown, unavailable(), Unauthorized], Ok(written(found))),
            (false, vec![OutcomeUnknown, forbidden()], Err(Stopped::Refused(forbidden()))),
            (true, vec![Unauthorized], Err(Stopped::Revoked)),
        ];
        join_all(cases.into_iter().map(async |(is_wanted, refusals, expected)| {
            let case = format!("{is_wanted} {refusals:?}");
            let mut refusals = refusals.into_iter();
            let submit = || std::future::ready(refusals.next().map_or_else(|| Ok(written(1)), Err));
            let outcome = settled(submit, || is_wanted, || std::future::ready(Ok(written(found))), false).await;
            assert_eq!(outcome, expected, "{case}");
        }))
        .await;
    }

    /// While the log of a cluster was away, an update was submitted again and again with the deadline of the first time, which was over
    /// once it was accepted. One that is too large for the log was submitted for ever.
    #[tokio::test]
    async fn a_write_that_a_cluster_did_not_accept_is_made_anew() {
        let too_large = || Rejection::TooLarge { what: SizeLimit::Record, size: 9, max: 8 };
        let cases = [
            (Rejection::Unavailable("the log".to_owned()), Stopped::Later),
            (Rejection::OutcomeUnknown, Stopped::Later),
            (Rejection::TooManyRequests { quota: "work".to_owned(), retry_after_ms: Some(1) }, Stopped::Later),
            (too_large(), Stopped::Refused(too_large())),
            (Rejection::Unauthorized, Stopped::Revoked),
        ];
        join_all(cases.into_iter().map(async |(refusal, expected)| {
            let mut refusals = [refusal.clone()].into_iter();
            let again = || Ok(Written { version: Version(1), changes: None });
            let submit = || std::future::ready(refusals.next().map_or_else(again, Err));
            let outcome = settled(submit, || true, || std::future::ready(Err(Stopped::Unwanted)), true).await;
            assert_eq!(outcome, Err(expected), "{refusal:?}");
        }))
        .await;
        let key = ShadowKey::classic(DeviceId::new("d").unwrap());
        assert!(matches!(refused(&too_large(), &key), UpdateOutcome::Failed(_)), "the device has failed");
    }
}
