//! A configuration file with the line numbers of its keys, which the `config` crate does not keep.

use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    error::{ConfigError, Problem, UnlocatedError, ValueSource},
    known::{KnownEntry, KnownKeys},
};

/// A file that is TOML and has only known keys.
pub(super) struct SourceFile {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

/// A problem with the span of its key.
type LocatedProblem = (Range<usize>, UnlocatedError);

impl SourceFile {
    pub(super) fn read(path: &Path, known: &KnownKeys) -> Result<Self, ConfigError> {
        let refuse =
            |problem, line| ConfigError { place: ValueSource::File(path.to_owned(), line), key: None, problem };
        let text = fs::read_to_string(path).map_err(|error| refuse(Problem::Unreadable(error.to_string()), None))?;
        let table = DeTable::parse(&text).map_err(|error| {
            let line = error.span().map(|span| line_of(&text, span.start));
            refuse(Problem::Syntax(error.message().to_owned()), line)
        })?;
        check_file(table.get_ref(), known).map_err(|(span, fault)| {
            let line = line_of(&text, span.start);
            fault.at(ValueSource::File(path.to_owned(), Some(line)))
        })?;
        Ok(Self { path: path.to_owned(), text })
    }

    /// Returns the line, from 1, of the value of `key`; `key` is as in a [`UnlocatedError`]. For a key missing in a list
    /// section, returns the line of the section.
    pub(super) fn line(&self, key: &str) -> Option<usize> {
        let table = DeTable::parse(&self.text).ok()?;
        let mut names = key.split(['.', '[', ']']).filter(|name| !name.is_empty());
        let mut value = table.get_ref().get(names.next()?)?;
        let mut listed = false;
        for name in names {
            value = match value.get_ref() {
                DeValue::Table(table) if listed => table.get(name).unwrap_or(value),
                DeValue::Table(table) => table.get(name)?,
                DeValue::Array(array) => {
                    listed = true;
                    array.get(name.parse::<usize>().ok()?)?
                }
                _ => return None,
            };
        }
        Some(line_of(&self.text, value.span().start))
    }
}

impl SourceFile {
    /// Returns the top-level names.
    pub(super) fn keys(&self) -> Vec<String> {
        let table = DeTable::parse(&self.text);
        table.map_or_else(|_| Vec::new(), |table| table.get_ref().keys().map(|key| key.get_ref().to_string()).collect())
    }

    /// Returns the number of sections in the list `name`.
    pub(super) fn count(&self, name: &str) -> usize {
        let Ok(table) = DeTable::parse(&self.text) else { return 0 };
        match table.get_ref().get(name).map(Spanned::get_ref) {
            Some(DeValue::Array(sections)) => sections.len(),
            _ => 0,
        }
    }
}

fn check_file(file: &DeTable<'_>, known: &KnownKeys) -> Result<(), LocatedProblem> {
    for (name, value) in file {
        let fault = |problem| (name.span(), UnlocatedError::new(name.get_ref().clone(), problem));
        match (known.entry(name.get_ref()), value.get_ref()) {
            (None, _) => return Err(fault(known.unknown(None, name.get_ref()))),
            (Some(KnownEntry::Key), _) => check_number(name.get_ref(), value)?,
            (Some(KnownEntry::Section(_)), DeValue::Table(section)) => {
                check_section(section, name.get_ref(), name.get_ref(), known)?;
            }
            (Some(KnownEntry::List(_)), DeValue::Array(sections)) => {
                for (index, section) in sections.iter().enumerate() {
                    let DeValue::Table(section) = section.get_ref() else {
                        return Err(fault(Problem::Type(format!("must be sections, each [[{}]]", name.get_ref()))));
                    };
                    check_section(section, name.get_ref(), &format!("{}[{index}]", name.get_ref()), known)?;
                }
            }
            (Some(KnownEntry::Section(_)), _) => {
                return Err(fault(Problem::Type(format!("must be a section, [{}]", name.get_ref()))));
            }
            (Some(KnownEntry::List(_)), _) => {
                return Err(fault(Problem::Type(format!("must be sections, each [[{}]]", name.get_ref()))));
            }
        }
    }
    Ok(())
}

/// Checks a section; `path` is its name, with its index if it is in a list.
fn check_section(section: &DeTable<'_>, name: &str, path: &str, known: &KnownKeys) -> Result<(), LocatedProblem> {
    for (key, value) in section {
        let full = format!("{path}.{}", key.get_ref());
        if known.default(Some(name), key.get_ref()).is_none() {
            return Err((key.span(), UnlocatedError::new(full, known.unknown(Some(name), key.get_ref()))));
        }
        check_number(&full, value)?;
    }
    Ok(())
}

/// Checks the range of integers. The `config` crate reads `i64` and would report a larger one without a line.
fn check_number(key: &str, value: &Spanned<DeValue<'_>>) -> Result<(), LocatedProblem> {
    match value.get_ref() {
        DeValue::Integer(number) if i64::from_str_radix(number.as_str(), number.radix()).is_err() => {
            let problem = Problem::Type(format!("is {number}, which is beyond any range"));
            Err((value.span(), UnlocatedError::new(key, problem)))
        }
        _ => Ok(()),
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}
