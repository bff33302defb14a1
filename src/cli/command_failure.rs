//! The cause of a failed command.

use umbra_client::{ConnectOptionsError, Error};

use super::Exit;

/// The cause of a failed command, and its exit code.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct CommandFailure {
    pub(super) message: String,
    pub(super) exit: Exit,
}

impl CommandFailure {
    pub(super) fn usage(message: String) -> Self {
        Self { message, exit: Exit::Usage }
    }

    pub(super) fn failed(message: String) -> Self {
        Self { message, exit: Exit::Failed }
    }

    /// Returns the failure of a request over HTTP.
    pub(super) fn http(error: &Error) -> Self {
        let exit = if error.rejection().is_some() { Exit::Rejected } else { Exit::Failed };
        Self { message: format!("{error:#}"), exit }
    }
}

impl From<ConnectOptionsError> for CommandFailure {
    fn from(error: ConnectOptionsError) -> Self {
        let exit = if matches!(error, ConnectOptionsError::File { .. }) { Exit::Failed } else { Exit::Usage };
        Self { message: format!("{:#}", anyhow::Error::from(error)), exit }
    }
}
