//! Questions on the terminal whose answers must not be shown.
//!
//! Echo is off from before the first question to after the last answer, so that nothing typed ahead or pasted is shown.
//! Signals from the keyboard are off for that time too, since a process that ends in between leaves the terminal
//! without echo. Ctrl-C instead ends the line and the questions.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

/// The terminal of this process, without echo until it is dropped.
pub(super) struct SilentTerminal {
    file: File,
    /// The modes to restore.
    modes: Termios,
}

/// The byte that Ctrl-C sends.
const INTERRUPT: u8 = 3;
/// Maximum length of a line that a terminal returns.
const LINE_BYTES: usize = 4_096;

impl SilentTerminal {
    /// Opens the terminal and discards pending input.
    pub(super) fn open() -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open("/dev/tty")?;
        let modes = tcgetattr(&file)?;
        let mut silent = modes.clone();
        silent.local_modes -= LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ISIG;
        silent.local_modes |= LocalModes::ICANON;
        silent.special_codes[SpecialCodeIndex::VEOL] = INTERRUPT;
        tcsetattr(&file, OptionalActions::Flush, &silent)?;
        Ok(Self { file, modes })
    }

    /// Shows `question` and reads a line, without its end.
    pub(super) fn ask(&mut self, question: &str) -> io::Result<Zeroizing<Vec<u8>>> {
        self.file.write_all(question.as_bytes())?;
        let mut line = Zeroizing::new(vec![0; LINE_BYTES]);
        let length = self.file.read(&mut line)?;
        self.file.write_all(b"\n")?; // in place of the line end that was not shown
        line.truncate(length);
        match line.pop() {
            Some(b'\n') => Ok(line),
            Some(INTERRUPT) => Err(io::Error::new(io::ErrorKind::Interrupted, "interrupted")),
            _ => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "unexpected end of input")),
        }
    }
}

impl Drop for SilentTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.file, OptionalActions::Now, &self.modes);
    }
}
