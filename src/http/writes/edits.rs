//! PATCH with a JSON Patch: applied to what is read, decided by the engine only if that comes to the same there.
//!
//! If another write comes in between, and touches what this one touches or looked at, it is read and applied again. What
//! the client itself demands decides before that: a patch for another version does not become one for this version.

use axum::{http::Uri, response::Response};

use super::{Asked, Write};
use crate::{
    http::{
        patch::{Edit, Misfit, Patch},
        problem::Problem,
        submit::Accepted,
    },
    quota::Admitted,
    shadow::{
        Command, Document, Keyed, OnConflict, Pointer, Preconditions, Rejection, Update, Version,
        command::EtagCondition, rejection::FailedExpectation,
    },
    store::Held,
    wire,
};

/// How often a patch is applied again before its client has to.
const ATTEMPTS_MAX: usize = 64;

/// Levels of a body: the array, the operation, a section and the value in it.
const LEVELS: usize = 3;

/// What an attempt came to.
enum Attempt {
    Accepted(Box<Accepted>),
    Refused(Rejection),
    /// Something came in between.
    Again(Rejection),
}

impl Write<'_> {
    /// Applies the patch in `body`, and answers.
    pub(super) async fn edit(&self, body: &[u8], admitted: Admitted, uri: &Uri) -> Result<Response, Problem> {
        let max = self.api.document.depth_max;
        let json = wire::parse_json(body, max + LEVELS).map_err(|rejection| match rejection {
            Rejection::TooDeep { .. } => Rejection::TooDeep { max },
            rejection => rejection,
        });
        let json = self.parsed(json)?;
        let key = self.asked.idempotency_key.clone();
        let keyed = key.map(|key| Keyed::edits(key, &json, &self.asked.preconditions));
        let patch = self.parsed(Patch::read(json))?;
        let mut admitted = Some(admitted);
        let mut refusal = Rejection::NotFound;
        for _ in 0..ATTEMPTS_MAX {
            let held = self.api.service.read(&self.key).await.map_err(|rejection| self.refused(&rejection))?;
            match self.attempt(&patch, &held, keyed.clone(), body.len(), &mut admitted).await {
                Attempt::Accepted(accepted) => return Ok(self.answer(&accepted, uri)),
                Attempt::Refused(rejection) => return Err(self.refused(&rejection)),
                Attempt::Again(rejection) => refusal = rejection,
            }
        }
        Err(self.refused(&refusal))
    }

    async fn attempt(
        &self,
        patch: &Patch,
        held: &Held,
        keyed: Option<Keyed>,
        bytes: usize,
        admitted: &mut Option<Admitted>,
    ) -> Attempt {
        let (document, limits) = (&*held.document, &self.api.document);
        let state = wire::state_value(document, self.projection);
        let applied = patch.apply(&state, 2 * (limits.document_bytes_max + limits.tags_bytes_max));
        let (update, pins) = match applied {
            Ok(edit) => self.bound(edit, document),
            Err((misfit, paths)) => match self.misfit(&misfit, &paths, held, keyed.as_ref()) {
                Some(rejection) => {
                    self.note(&rejection);
                    return Attempt::Refused(rejection);
                }
                // It was accepted before, which the engine tells.
                None => (self.nothing(document), Pins::All),
            },
        };
        let update = Update { keyed, dry_run: self.asked.dry_run, ..update };
        match self.submit(Command::Update(update), bytes, admitted.take()).await {
            Ok(accepted) => Attempt::Accepted(Box::new(accepted)),
            Err(rejection @ (Rejection::VersionConflict { .. } | Rejection::ExpectationFailed { .. })) => match pins {
                Pins::All => Attempt::Refused(rejection),
                Pins::Read => Attempt::Again(rejection),
            },
            Err(rejection) => Attempt::Refused(rejection),
        }
    }

    /// The update that `edit` of `document` comes to, accepted only where it would come to the same.
    fn bound(&self, edit: Edit, document: &Document) -> (Update, Pins) {
        let Asked { preconditions: own, .. } = &self.asked;
        let read = document.version;
        let (preconditions, pins) = match own {
            // The version that the client names, for all that it touched and looked at.
            Preconditions { version: Some(base), on_conflict: OnConflict::Rebase, .. } => {
                (Preconditions { expect: edit.expectations(*base), ..own.clone() }, Pins::All)
            }
            Preconditions { version: Some(_), .. } => (own.clone(), Pins::All),
            Preconditions { etag: Some(EtagCondition::Tag(_) | EtagCondition::Other(_)), .. } => {
                // Of this version or of none: with its tag, only this one fits.
                (Preconditions { version: Some(read), ..own.clone() }, Pins::All)
            }
            Preconditions { etag: Some(EtagCondition::OneOf(_)), .. } => {
                let fits = own.check(document, |_| false).is_ok();
                let bound = Preconditions { version: Some(read), ..own.clone() };
                (bound, if fits { Pins::Read } else { Pins::All })
            }
            // Nothing was there to look at, so there must be nothing still.
            Preconditions { etag: None, .. } if !document.exists() => {
                (Preconditions { version: Some(Version(0)), ..own.clone() }, Pins::Read)
            }
            Preconditions { etag: Some(EtagCondition::Any), .. } if !document.exists() => (own.clone(), Pins::All),
            Preconditions { etag: Some(EtagCondition::Any) | None, .. } => {
                let fits = own.check(document, |_| false).is_ok();
                let (version, on_conflict) = (Some(read), OnConflict::Rebase);
                let bound = Preconditions { version, on_conflict, expect: edit.expectations(read), ..own.clone() };
                (bound, if fits { Pins::Read } else { Pins::All })
            }
        };
        (Update { preconditions, ..edit.update }, pins)
    }

    /// Why a patch that does not fit is refused; `None`: it was accepted before.
    fn misfit(&self, misfit: &Misfit, paths: &[Pointer], held: &Held, keyed: Option<&Keyed>) -> Option<Rejection> {
        let (document, now) = (&*held.document, self.api.now());
        if let Some(keyed) = keyed
            && held.remembered.find(self.caller.principal().name(), &keyed.key, now).is_some()
        {
            return None;
        }
        let clean = |since: Version| !paths.iter().any(|path| document.changed_after(path, since));
        if let Err(rejection) = self.asked.preconditions.check(document, clean) {
            return Some(rejection);
        }
        let (path, expected) = match misfit {
            Misfit::Refused(rejection) => return Some(rejection.clone()),
            Misfit::Absent(path) => (path, "present"),
            Misfit::Different(path) => (path, "value"),
        };
        let (version, etag) = (document.version, document.exists().then_some(document.etag));
        let failed = vec![FailedExpectation::at(path, expected, document)];
        Some(Rejection::ExpectationFailed { version, etag, failed })
    }

    /// What changes nothing, and is refused if it is no replay.
    fn nothing(&self, document: &Document) -> Update {
        let impossible = Some(EtagCondition::Other(String::new()));
        let preconditions = Preconditions { version: Some(document.version), etag: impossible, ..Default::default() };
        Update { preconditions, ..Update::default() }
    }

    fn note(&self, rejection: &Rejection) {
        if !self.asked.dry_run {
            self.api.service.note_refusal(&self.key, self.caller.principal(), self.caller.client(), rejection);
        }
    }
}

/// Whose conditions an update carries.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pins {
    /// The client's: where they fail, the patch is refused.
    All,
    /// Those of the reading too: where they fail, there is something newer to read.
    Read,
}
