//! Logging to standard error: `tracing` events, and those of libraries that use `log`.
//!
//! Standard output is for results. The filter of [`LogConfig`] alone selects the lines. There is no `RUST_LOG`, so that
//! the configuration shows what a log contains.
//!
//! Lines that a client can cause as often as it likes are limited to a few a minute ([`LineLimit`]). Warnings of libraries about
//! unauthenticated clients are filtered out ([`crate::config`]).
//!
//! Lines contain client ids and other texts of clients. Characters that end a line, move the cursor or change the
//! direction of writing are escaped, so that no client can add or disguise lines.

use std::{
    fmt::{self, Write as _},
    io::{self, IsTerminal},
    time::Instant,
};

use parking_lot::Mutex;
use tracing_subscriber::{
    Layer,
    fmt::{
        FormatFields, MakeWriter,
        format::{self, Writer},
        layer,
    },
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use crate::{
    config::{LogConfig, LogFormat},
    rate::{Gcra, Rate},
    shadow::excerpt,
};

/// Lines of one kind a minute that clients can cause.
const LINES_PER_MINUTE: u64 = 10;

/// A limit on the lines of one kind that clients can cause, so that they do not fill the log.
#[derive(Debug)]
pub struct LineLimit {
    rate: Rate,
    written: Mutex<LinesWritten>,
}

#[derive(Debug)]
struct LinesWritten {
    rate: Gcra,
    left_out: u64,
}

impl Default for LineLimit {
    fn default() -> Self {
        Self::new(Rate::per_minute(LINES_PER_MINUTE))
    }
}

impl LineLimit {
    /// Returns a limit at this rate.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        Self { rate, written: Mutex::new(LinesWritten { rate: Gcra::new(Instant::now()), left_out: 0 }) }
    }

    /// Counts a line. Returns the number of lines dropped since the last written one, or `None` if this one is dropped
    /// too.
    pub fn take(&self) -> Option<u64> {
        let mut written = self.written.lock();
        match written.rate.take(self.rate, Instant::now()) {
            Ok(()) => Some(std::mem::take(&mut written.left_out)),
            Err(_) => {
                written.left_out += 1;
                None
            }
        }
    }
}

/// Logs a line at a level if a [`LineLimit`] admits it, else at `debug`. `left_out` is the number of lines before it that
/// were not admitted.
macro_rules! limited {
    ($level:ident, $limit:expr, target: $target:expr, $($line:tt)*) => {
        match $limit.take() {
            Some(left_out) => {
                let left_out = (left_out > 0).then_some(left_out);
                tracing::$level!(target: $target, left_out, $($line)*)
            }
            None => tracing::debug!(target: $target, $($line)*),
        }
    };
    ($level:ident, $limit:expr, $($line:tt)*) => {
        match $limit.take() {
            Some(left_out) => {
                let left_out = (left_out > 0).then_some(left_out);
                tracing::$level!(left_out, $($line)*)
            }
            None => tracing::debug!($($line)*),
        }
    };
}
pub(crate) use limited;

/// Text of a client, cut to 128 characters for the log.
pub struct Shortened<'a>(pub &'a str);

impl fmt::Display for Shortened<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = excerpt(self.0, 128);
        f.write_str(shown)?;
        if shown.len() < self.0.len() { f.write_str("…") } else { Ok(()) }
    }
}

/// Starts the log of this process.
///
/// # Errors
///
/// Returns an error if the log was started before.
pub fn start(config: &LogConfig) -> anyhow::Result<()> {
    let lines = lines(config.format, io::stderr, io::stderr().is_terminal());
    tracing_subscriber::registry().with(lines.with_filter(config.filter.clone())).try_init()?;
    Ok(())
}

/// Writes events as lines of `format`.
fn lines<S, W>(format: LogFormat, writer: W, ansi: bool) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    match format {
        LogFormat::Human => layer().fmt_fields(fields()).with_writer(writer).with_ansi(ansi).boxed(),
        LogFormat::Json => {
            let writer = JsonWriter(writer);
            layer().with_writer(writer).json().flatten_event(true).boxed()
        }
    }
}

/// Formats the fields of an event like [`format::DefaultFields`], escaped.
fn fields() -> impl for<'w> FormatFields<'w> + Send + Sync + 'static {
    format::debug_fn(|out: &mut Writer<'_>, field, value| {
        match field.name() {
            name if name.starts_with("log.") => return Ok(()), // the origin, with which the line begins
            "message" => {}
            name if out.has_ansi_escapes() => write!(out, " \x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m")?,
            name => write!(out, " {name}=")?,
        }
        write!(Escaped(out), "{value:?}")
    })
}

/// A writer that escapes unsafe characters.
struct Escaped<'a, 'w>(&'a mut Writer<'w>);

impl fmt::Write for Escaped<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|c| match is_unsafe(c) {
            true => write!(self.0, "{}", c.escape_default()),
            false => self.0.write_char(c),
        })
    }
}

/// Makes writers for JSON, one object a line. Only texts in it can contain unsafe characters.
struct JsonWriter<W>(W);

struct JsonLine<W>(W);

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for JsonWriter<W> {
    type Writer = JsonLine<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        JsonLine(self.0.make_writer())
    }
}

impl<W: io::Write> io::Write for JsonLine<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut escaped = String::with_capacity(line.len());
        for c in String::from_utf8_lossy(line).chars() {
            match is_unsafe(c) && c != '\n' {
                true => escaped.push_str(&format!("\\u{:04x}", u32::from(c))),
                false => escaped.push(c),
            }
        }
        self.0.write_all(escaped.as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Returns true if a log must not contain `c` unescaped: control characters, line ends, and marks and overrides of the
/// direction of writing. All of them are in the basic multilingual plane.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Returns the log line about a client with the id `client`.
    fn logged(format: LogFormat, ansi: bool, client: &str) -> String {
        let kept = Lines::default();
        let writer = kept.clone();
        let subscriber = tracing_subscriber::registry().with(lines(format, move || writer.clone(), ansi));
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(%client, quoted = client, count = 7, "refused: {client}");
        });
        String::from_utf8(kept.0.lock().clone()).unwrap()
    }

    /// A client id with line breaks wrote lines of its own, one with an override reversed the rest of a line.
    #[test]
    fn escapes_control_characters_of_clients() {
        let hostile = "a\r\nWARN b\u{1b}[2J\0\u{7f}\u{9b}c\u{202e}d\u{2066}e\u{2028}f\u{61c}";
        let shown = r"a\r\nWARN b\u{1b}[2J\u{0}\u{7f}\u{9b}c\u{202e}d\u{2066}e\u{2028}f\u{61c}";
        let human = logged(LogFormat::Human, false, hostile);
        assert!(
            human
                .ends_with(&format!("refused: {shown} client={shown} quoted=\"{}\" count=7\n", hostile.escape_debug()))
        );
        for line in [human, logged(LogFormat::Json, false, hostile), logged(LogFormat::Human, true, hostile)] {
            assert_eq!(line.chars().filter(|c| is_unsafe(*c) && !matches!(c, '\n' | '\u{1b}')).count(), 0, "{line:?}");
            assert_eq!(line.lines().count(), 1, "{line:?}");
            assert!(!line.contains("\u{1b}[2J"), "{line:?}");
        }
        let json: serde_json::Value = serde_json::from_str(&logged(LogFormat::Json, false, hostile)).unwrap();
        assert_eq!((&json["client"], &json["quoted"]), (&hostile.into(), &hostile.into()));
    }

    #[test]
    fn counts_lines_beyond_the_limit() {
        let limit = LineLimit::default();
        let admitted = (0..LINES_PER_MINUTE + 7).filter_map(|_| limit.take()).collect::<Vec<_>>();
        assert_eq!(admitted, vec![0; LINES_PER_MINUTE as usize]);
        limit.written.lock().rate = Gcra::new(Instant::now());
        assert_eq!([limit.take(), limit.take()], [Some(7), Some(0)]);
    }

    #[test]
    fn cuts_long_texts() {
        let long = "é".repeat(129);
        for (text, expected) in [("", ""), (&long[2..], &long[2..]), (&long, &format!("{}…", &long[2..]))] {
            assert_eq!(Shortened(text).to_string(), expected);
        }
    }

    #[test]
    fn keeps_harmless_characters() {
        let human = logged(LogFormat::Human, false, "Größe 日本 🙂 \\");
        assert!(human.contains(" client=Größe 日本 🙂 \\ "), "{human}");
    }
}
