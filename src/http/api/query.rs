//! The query of a request, parsed by the declaration of its parameters.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::http::parameter::{BadParameter, Kind, Parameter, ParameterLocation, bad};

/// Most JSON Pointers in one parameter. Each is compared with every path.
const POINTERS_MAX: usize = 32;

/// The query of a request. Each parameter is known and present at most once.
#[derive(Debug, Default)]
pub(in crate::http) struct Query<'q>(Vec<(&'static Parameter, &'q str)>);

impl<'q> Query<'q> {
    /// Parses `text`, in which only the parameters `known` are allowed.
    pub(in crate::http) fn read(text: Option<&'q str>, known: &[&'static Parameter]) -> Result<Self, BadParameter> {
        let mut found: Vec<(&'static Parameter, &str)> = Vec::new();
        for pair in text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name, "query")?;
            let parameter = known.iter().find(|known| known.location == ParameterLocation::Query && known.name == name);
            let parameter = *parameter.ok_or_else(|| bad(&name, unknown(known)))?;
            if found.iter().any(|(other, _)| *other == parameter) {
                return Err(bad(&name, "is present more than once".to_owned()));
            }
            found.push((parameter, value));
        }
        Ok(Self(found))
    }

    /// Returns the percent-encoded value of `parameter`.
    fn raw(&self, parameter: &'static Parameter) -> Option<&'q str> {
        self.0.iter().find(|(found, _)| *found == parameter).map(|(_, value)| *value)
    }

    /// Returns the decoded value of `parameter`.
    pub(in crate::http) fn text(&self, parameter: &'static Parameter) -> Result<Option<Cow<'q, str>>, BadParameter> {
        self.raw(parameter).map(|value| decode(value, parameter.name)).transpose()
    }

    /// Returns the JSON Pointers in `parameter`, separated by commas. A comma is a separator only before the name of a
    /// section, else part of a key: clients percent-encode both alike.
    pub(in crate::http) fn pointers(&self, parameter: &'static Parameter) -> Result<Vec<String>, BadParameter> {
        let mut pointers: Vec<String> = Vec::new();
        let Some(text) = self.text(parameter)? else { return Ok(pointers) };
        for part in text.split(',') {
            match pointers.last_mut() {
                Some(last) if !is_section(part) => {
                    last.push(',');
                    last.push_str(part);
                }
                _ => pointers.push(part.to_owned()),
            }
        }
        match pointers.len() {
            0..=POINTERS_MAX => Ok(pointers),
            _ => Err(bad(parameter.name, format!("has more than {POINTERS_MAX} JSON Pointers"))),
        }
    }

    /// Returns the value of an integer parameter.
    pub(in crate::http) fn integer(&self, parameter: &'static Parameter) -> Result<Option<u64>, BadParameter> {
        let Some(text) = self.text(parameter)? else { return Ok(None) };
        let Kind::Integer { min, max } = parameter.kind else { return Ok(None) };
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let value = text.parse().ok().filter(|value| digits && (min..=max).contains(value));
        value.map(Some).ok_or_else(|| bad(parameter.name, format!("must be an integer from {min} to {max}")))
    }

    /// Returns the value of a flag.
    pub(in crate::http) fn flag(&self, parameter: &'static Parameter) -> Result<Option<bool>, BadParameter> {
        match self.text(parameter)?.as_deref() {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(bad(parameter.name, "must be true or false".to_owned())),
        }
    }
}

fn is_section(pointer: &str) -> bool {
    let first = pointer.strip_prefix('/').map(|rest| rest.split('/').next().unwrap_or(rest));
    matches!(first, Some("desired" | "reported" | "tags" | "delta"))
}

fn unknown(known: &[&'static Parameter]) -> String {
    let names: Vec<_> =
        known.iter().filter(|known| known.location == ParameterLocation::Query).map(|known| known.name).collect();
    match names.is_empty() {
        true => "unknown; this path has no parameters".to_owned(),
        false => format!("unknown; the parameters are {}", names.join(", ")),
    }
}

/// Decodes percent-encoding, and a plus as a space, as in forms.
fn decode<'t>(text: &'t str, name: &str) -> Result<Cow<'t, str>, BadParameter> {
    if !text.contains(['%', '+']) {
        return Ok(Cow::Borrowed(text));
    }
    let mut parts = text.split('%').skip(1);
    let escaped = |part: &str| part.get(..2).is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let decoded = if parts.all(escaped) {
        let spaced = text.replace('+', " ");
        percent_decode_str(&spaced).decode_utf8().ok().map(|decoded| decoded.into_owned())
    } else {
        None
    };
    decoded.map(Cow::Owned).ok_or_else(|| bad(name, "is not percent-encoded UTF-8"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

    use super::*;

    static NUMBER: Parameter =
        Parameter { name: "n", location: ParameterLocation::Query, kind: Kind::Integer { min: 1, max: 10 }, about: "" };
    static PATHS: Parameter =
        Parameter { name: "paths", location: ParameterLocation::Query, kind: Kind::Text("^"), about: "" };
    static KNOWN: [&Parameter; 2] = [&NUMBER, &PATHS];

    #[test]
    fn parses_queries_strictly() {
        for (text, expected) in [
            ("", Ok((None, vec![]))),
            ("n=3", Ok((Some(3), vec![]))),
            ("paths=/desired/a%2Cb,/tags/c+d&n=10", Ok((Some(10), vec!["/desired/a,b", "/tags/c d"]))),
            ("paths=%2Fdesired%2C%2Ftags%2Fa,b", Ok((None, vec!["/desired", "/tags/a,b"]))),
            ("paths=", Ok((None, vec![""]))),
            ("&&n=1&", Ok((Some(1), vec![]))),
            ("n=0", Err("n")),
            ("n=11", Err("n")),
            ("n=+1", Err("n")),
            ("n=", Err("n")),
            ("n=1&n=1", Err("n")),
            ("m=1", Err("m")),
            ("paths=%2", Err("paths")),
            ("paths=%zz", Err("paths")),
            ("paths=%ff", Err("paths")),
            ("%ff=1", Err("query")),
        ] {
            let read = || {
                let query = Query::read(Some(text), &KNOWN)?;
                Ok((query.integer(&NUMBER)?, query.pointers(&PATHS)?))
            };
            match (read(), expected) {
                (Ok((number, paths)), Ok(expected)) => {
                    assert_eq!((number, paths.iter().map(String::as_str).collect::<Vec<_>>()), expected, "{text}");
                }
                (Err(BadParameter { name, .. }), Err(expected)) => assert_eq!(name, expected, "{text}"),
                (found, expected) => panic!("{text}: {found:?}, not {expected:?}"),
            }
        }
        assert!(Query::read(None, &KNOWN).unwrap().0.is_empty());
    }
}
