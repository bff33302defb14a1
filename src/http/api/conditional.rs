//! Conditional requests. RFC 9110 section 13.
//!
//! Conditions of reads are evaluated here, in the order of section 13.2.2. Those of writes become preconditions, which
//! the engine checks atomically with the write. Dates cannot guard writes, as several versions may have the same
//! second. `If-Unmodified-Since` is therefore ignored for writes, as the section allows.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::{HeaderMap, HeaderName, header};

use crate::{
    http::parameter::{BadParameter, bad},
    shadow::{Etag, Preconditions, Timestamp, Version, command::EtagCondition},
};

/// An entity tag of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::http) struct EntityTag {
    pub(in crate::http) weak: bool,
    /// The opaque tag with its quotes.
    pub(in crate::http) quoted: String,
}

/// The value of `If-Match` or `If-None-Match`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::http) enum Tags {
    /// `*`
    Any,
    /// Entity tags; may be empty.
    List(Vec<EntityTag>),
}

/// The conditions of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::http) struct Conditions {
    pub(in crate::http) if_match: Option<Tags>,
    pub(in crate::http) if_none_match: Option<Tags>,
    if_modified_since: Option<SystemTime>,
    if_unmodified_since: Option<SystemTime>,
}

/// The result of a read's conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum ConditionResult {
    /// The read is answered as if it were unconditional.
    Proceed,
    /// The response is 304.
    NotModified,
    /// The response is 412.
    Failed,
}

impl Conditions {
    /// Parses the conditions in `headers`.
    ///
    /// # Errors
    ///
    /// A malformed field of entity tags. A malformed date is ignored (section 13.1.3).
    pub(in crate::http) fn read(headers: &HeaderMap) -> Result<Self, BadParameter> {
        let date = |name: HeaderName| {
            let mut values = headers.get_all(name).iter();
            // A repeated field is malformed.
            let (Some(value), None) = (values.next(), values.next()) else { return None };
            httpdate::parse_http_date(value.to_str().ok()?).ok()
        };
        Ok(Self {
            if_match: tags(headers, header::IF_MATCH, "If-Match")?,
            if_none_match: tags(headers, header::IF_NONE_MATCH, "If-None-Match")?,
            if_modified_since: date(header::IF_MODIFIED_SINCE),
            if_unmodified_since: date(header::IF_UNMODIFIED_SINCE),
        })
    }

    /// Evaluates a GET or HEAD of a representation with this tag, in header form, last modified at `modified`.
    pub(in crate::http) fn of_read(&self, etag: &[u8], modified: Timestamp) -> ConditionResult {
        let modified = UNIX_EPOCH + Duration::from_secs(modified.0);
        // Section 13.2.2, steps 1 and 2.
        let matched = match (&self.if_match, self.if_unmodified_since) {
            (Some(tags), _) => tags.match_strongly(etag),
            (None, Some(date)) => modified <= date,
            (None, None) => true,
        };
        if !matched {
            return ConditionResult::Failed;
        }
        // Steps 3 and 4.
        let same = match (&self.if_none_match, self.if_modified_since) {
            (Some(tags), _) => tags.match_weakly(etag),
            (None, Some(date)) => modified <= date,
            (None, None) => false,
        };
        if same { ConditionResult::NotModified } else { ConditionResult::Proceed }
    }

    /// Returns true if `If-Match` has a weak tag, which cannot match.
    pub(in crate::http) fn has_weak_if_match(&self) -> bool {
        matches!(&self.if_match, Some(Tags::List(tags)) if tags.iter().any(|tag| tag.weak))
    }

    /// Returns the preconditions of a write for the engine; `None` if the write is unconditional.
    pub(in crate::http) fn of_write(&self) -> Option<Preconditions> {
        // An empty list excludes nothing, like a missing field.
        let if_none_match = self.if_none_match.as_ref().filter(|tags| **tags != Tags::List(Vec::new()));
        let mut preconditions = Preconditions::default();
        match &self.if_match {
            None => {}
            Some(Tags::Any) => preconditions.etag = Some(EtagCondition::Any),
            Some(Tags::List(tags)) => preconditions.etag = Some(one_of(tags)),
        }
        match if_none_match {
            None if self.if_match.is_none() => return None,
            None => {}
            Some(Tags::Any) => preconditions.version = Some(Version(0)),
            // The comparison is weak (section 13.1.2). A tag of another form cannot match.
            Some(Tags::List(tags)) => {
                preconditions.none_of = tags.iter().filter_map(|tag| tag.quoted.parse::<Etag>().ok()).collect();
            }
        }
        Some(preconditions)
    }
}

/// Returns the condition for `If-Match`. A single tag has the meaning of the field `etag`.
fn one_of(tags: &[EntityTag]) -> EtagCondition {
    let condition = |tag: &EntityTag| match tag.weak {
        true => EtagCondition::Other(format!("W/{}", tag.quoted)),
        false => EtagCondition::from(tag.quoted.as_str()),
    };
    match tags {
        [tag] => condition(tag),
        tags => EtagCondition::OneOf(tags.iter().map(condition).collect()),
    }
}

impl Tags {
    fn match_strongly(&self, etag: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::List(tags) => tags.iter().any(|tag| !tag.weak && tag.quoted.as_bytes() == etag),
        }
    }

    fn match_weakly(&self, etag: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::List(tags) => tags.iter().any(|tag| tag.quoted.as_bytes() == etag),
        }
    }
}

fn tags(headers: &HeaderMap, name: HeaderName, shown: &str) -> Result<Option<Tags>, BadParameter> {
    let lines: Vec<_> = headers.get_all(name).iter().map(|value| value.as_bytes().trim_ascii()).collect();
    match lines.as_slice() {
        [] => return Ok(None),
        [b"*"] => return Ok(Some(Tags::Any)),
        _ => {}
    }
    let mut list = Vec::new();
    for line in lines {
        read_list(line, &mut list).ok_or_else(|| bad(shown, "must be * or a list of entity tags in quotes"))?;
    }
    Ok(Some(Tags::List(list)))
}

/// Parses `#entity-tag`; empty elements are allowed (section 5.6.1.2).
fn read_list(mut rest: &[u8], list: &mut Vec<EntityTag>) -> Option<()> {
    loop {
        rest = rest.trim_ascii_start();
        match rest {
            [] => return Some(()),
            [b',', after @ ..] => {
                rest = after;
                continue;
            }
            _ => {}
        }
        let (weak, opaque) = rest.strip_prefix(b"W/").map_or((false, rest), |opaque| (true, opaque));
        let inner = opaque.strip_prefix(b"\"")?;
        let length = inner.iter().position(|byte| *byte == b'"')?;
        let quoted = opaque.get(..length + 2)?;
        // etagc: no controls, space or DEL.
        let valid = |byte: &u8| *byte == 0x21 || (0x23..=0x7E).contains(byte) || *byte >= 0x80;
        if !inner.get(..length)?.iter().all(valid) {
            return None;
        }
        list.push(EntityTag { weak, quoted: String::from_utf8_lossy(quoted).into_owned() });
        rest = opaque.get(length + 2..)?.trim_ascii_start();
        match rest {
            [] => return Some(()),
            [b',', after @ ..] => rest = after,
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use axum::http::HeaderValue;

    use super::{ConditionResult::*, *};

    const ETAG: &str = "\"7-0123456789abcdef0123456789abcdef\"";
    /// 2026-09-21T14:13:20Z
    const MODIFIED: Timestamp = Timestamp(1_790_000_000);
    const AT: &str = "Mon, 21 Sep 2026 14:13:20 GMT";
    const BEFORE: &str = "Mon, 21 Sep 2026 14:13:19 GMT";

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn evaluates_reads_in_the_order_of_the_rfc() {
        let weak = format!("W/{ETAG}");
        let list = format!("\"a,b\" , {ETAG}");
        for (lines, expected) in [
            (vec![], Proceed),
            (vec![("if-match", ETAG)], Proceed),
            (vec![("if-match", "*")], Proceed),
            (vec![("if-match", &list)], Proceed),
            (vec![("if-match", "\"a\""), ("if-match", ETAG)], Proceed),
            (vec![("if-match", &weak)], Failed),
            (vec![("if-match", "\"a\"")], Failed),
            (vec![("if-match", "")], Failed),
            (vec![("if-none-match", ETAG)], NotModified),
            (vec![("if-none-match", &weak)], NotModified),
            (vec![("if-none-match", &list)], NotModified),
            (vec![("if-none-match", "*")], NotModified),
            (vec![("if-none-match", "\"a\"")], Proceed),
            (vec![("if-none-match", "")], Proceed),
            (vec![("if-match", ETAG), ("if-none-match", ETAG)], NotModified),
            (vec![("if-match", "\"a\""), ("if-none-match", ETAG)], Failed),
            (vec![("if-unmodified-since", AT)], Proceed),
            (vec![("if-unmodified-since", BEFORE)], Failed),
            (vec![("if-unmodified-since", "yesterday")], Proceed),
            (vec![("if-match", ETAG), ("if-unmodified-since", BEFORE)], Proceed),
            (vec![("if-modified-since", AT)], NotModified),
            (vec![("if-modified-since", BEFORE)], Proceed),
            (vec![("if-modified-since", AT), ("if-modified-since", AT)], Proceed),
            (vec![("if-none-match", "\"a\""), ("if-modified-since", AT)], Proceed),
            (vec![("if-none-match", ETAG), ("if-modified-since", BEFORE)], NotModified),
            (vec![("if-unmodified-since", AT), ("if-none-match", ETAG)], NotModified),
        ] {
            let conditions = Conditions::read(&headers(&lines)).unwrap();
            assert_eq!(conditions.of_read(ETAG.as_bytes(), MODIFIED), expected, "{lines:?}");
        }
    }

    #[test]
    fn refuses_lists_against_the_grammar() {
        for (text, valid) in [
            ("\"\"", true),
            ("\"a\",\"b\"", true),
            (",, \"a\" ,,W/\"b\" ,", true),
            ("\"!#~\"", true),
            ("a", false),
            ("\"a", false),
            ("\"a\" \"b\"", false),
            ("\"a b\"", false),
            ("w/\"a\"", false),
            ("W/ \"a\"", false),
            ("*, \"a\"", false),
            ("\"a\", *", false),
            ("\"\u{7f}\"", false),
        ] {
            let mut list = Vec::new();
            assert_eq!(read_list(text.as_bytes(), &mut list).is_some(), valid, "{text}");
            if !text.contains('\u{7f}') {
                let read = Conditions::read(&headers(&[("if-match", text)]));
                assert_eq!(read.is_ok(), valid, "{text}");
            }
        }
        assert!(Conditions::read(&headers(&[("if-match", "*"), ("if-match", "*")])).is_err());
    }

    #[test]
    fn conditions_of_writes_become_preconditions() {
        let weak = format!("W/{ETAG}");
        let tag = || EtagCondition::from(ETAG);
        let other = |text: &str| EtagCondition::Other(text.to_owned());
        let list = format!("{ETAG}, {weak}");
        for (lines, etag, version, excluded) in [
            (vec![("if-match", ETAG)], Some(tag()), None, 0),
            (vec![("if-match", "*")], Some(EtagCondition::Any), None, 0),
            (vec![("if-match", weak.as_str())], Some(other(&weak)), None, 0),
            (vec![("if-match", list.as_str())], Some(EtagCondition::OneOf(vec![tag(), other(&weak)])), None, 0),
            (vec![("if-none-match", "*")], None, Some(Version(0)), 0),
            (vec![("if-none-match", list.as_str())], None, None, 2),
            (vec![("if-none-match", "\"a\"")], None, None, 0),
            (vec![("if-match", ETAG), ("if-none-match", "*")], Some(tag()), Some(Version(0)), 0),
        ] {
            let found = Conditions::read(&headers(&lines)).unwrap().of_write().unwrap();
            assert_eq!((found.etag, found.version, found.none_of.len()), (etag, version, excluded), "{lines:?}");
        }
        let unconditional = Conditions::read(&headers(&[("if-unmodified-since", AT)])).unwrap();
        assert_eq!(unconditional.of_write(), None);
    }
}
