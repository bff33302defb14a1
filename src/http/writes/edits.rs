//! PATCH with a JSON Patch: applied to what is read, decided by the engine only if that comes to the same there.
//!
//! If another write comes in between, and touches what this one touches or looked at, it is read and applied again. What
//! the client itself demands decides before that: a patch for another version does not become one for this version.

use axum::{http::Uri, response::Response};

use super::Write;
use crate::{
    http::{
        patch::{Edit, Misfit, Patch},
        problem::Problem,
        submit::{self, Accepted, Request},
    },
    quota::Admitted,
    shadow::{
        Command, Document, Keyed, OnConflict, Pointer, Preconditions, Rejection, Update, Version,
        command::{EtagCondition, Expectation},
        rejection::FailedExpectation,
    },
    store::Held,
    wire::{self, Dialect},
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
        // Whether a path is there, and what: who may not read it must not find out by what fails.
        if let Some(path) = patch.looks_at().find(|path| !self.projection.reads(path)) {
            let rejection = Rejection::Forbidden { what: path.to_string() };
            self.note(&rejection);
            return Attempt::Refused(rejection);
        }
        let state = wire::state_value(document, &self.projection);
        let applied = patch.apply(&state, 2 * (limits.document_bytes_max + limits.tags_bytes_max));
        let (update, guards, pins) = match applied {
            Ok(edit) => self.bound(edit, document),
            Err((misfit, paths)) => match self.misfit(&misfit, &paths, held, keyed.as_ref()) {
                Some(rejection) => {
                    self.note(&rejection);
                    return Attempt::Refused(rejection);
                }
                // It was accepted before, which the engine tells.
                None => (self.nothing(document), Vec::new(), Pins::All),
            },
        };
        let mut command = Command::Update(Update { keyed, dry_run: self.asked.dry_run, ..update });
        let sender = match submit::authorize(self.api, self.caller, &self.key, &mut command) {
            Ok(sender) => sender,
            Err(rejection) => return Attempt::Refused(rejection),
        };
        if let Command::Update(update) = &mut command {
            update.preconditions.expect.extend(guards);
        }
        let (key, bytes) = (self.key.clone(), bytes);
        let request = Request { key, command, dialect: Dialect::Native, client_token: None, bytes };
        match submit::send(self.api, self.caller, request, sender, self.projection.clone(), admitted.take()).await {
            Ok(accepted) => Attempt::Accepted(Box::new(accepted)),
            Err(rejection @ (Rejection::VersionConflict { .. } | Rejection::ExpectationFailed { .. })) => match pins {
                Pins::All => Attempt::Refused(rejection),
                Pins::Read => Attempt::Again(rejection),
            },
            Err(rejection) => Attempt::Refused(rejection),
        }
    }

    /// The update that `edit` of `document` comes to, accepted only where it would come to the same; what is needed for
    /// that besides, once it is known that the caller may do it.
    fn bound(&self, edit: Edit, document: &Document) -> (Update, Vec<Expectation>, Pins) {
        let own = &self.asked.preconditions;
        let read = document.version;
        let unless_it_fits =
            || if own.check(document, self.projection.paths(), |_| false).is_ok() { Pins::Read } else { Pins::All };
        // Since when nothing may have changed, if not all of the document is pinned anyway.
        let (version, on_conflict, since, pins) = match own {
            // The version that the client names, for all that it touches and looks at.
            Preconditions { version: Some(base), on_conflict: OnConflict::Rebase, .. } => {
                (Some(*base), OnConflict::Rebase, Some(*base), Pins::All)
            }
            Preconditions { version: Some(_), .. } => (own.version, OnConflict::Reject, None, Pins::All),
            // With a single tag only this version fits, or none does.
            Preconditions { etag: Some(EtagCondition::Tag(_) | EtagCondition::Other(_)), .. } => {
                (Some(read), OnConflict::Reject, None, Pins::All)
            }
            Preconditions { etag: Some(EtagCondition::OneOf(_)), .. } => {
                (Some(read), OnConflict::Reject, None, unless_it_fits())
            }
            Preconditions { etag: Some(EtagCondition::Any), .. } if !document.exists() => {
                (None, OnConflict::Reject, None, Pins::All)
            }
            // There was nothing to look at, so there must be nothing still.
            Preconditions { etag: None, .. } if !document.exists() => {
                (Some(Version(0)), OnConflict::Reject, None, Pins::Read)
            }
            Preconditions { etag: Some(EtagCondition::Any) | None, .. } => {
                (Some(read), OnConflict::Rebase, Some(read), unless_it_fits())
            }
        };
        let looks = edit.looks(since.unwrap_or(read));
        // A caller that looks at a path is always asked for the right to.
        let preconditions = Preconditions { version, on_conflict, expect: looks.collect(), ..own.clone() };
        let guards = since.map(|since| edit.guards(since).collect()).unwrap_or_default();
        (Update { preconditions, ..edit.update }, guards, pins)
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
        if let Err(rejection) = self.asked.preconditions.check(document, self.projection.paths(), clean) {
            return Some(rejection);
        }
        let (path, expected) = match misfit {
            Misfit::Refused(rejection) => return Some(rejection.clone()),
            Misfit::Absent(path) => (path, "present"),
            Misfit::Different(path) => (path, "value"),
        };
        let (version, etag) = (document.version, document.exists().then(|| self.projection.etag(document)));
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
            self.caller.note_refusal(&self.key, rejection, self.api);
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
