//! The soft limit of open files of this process, which its children inherit.

use anyhow::ensure;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit of open files to the hard one.
///
/// # Errors
///
/// The hard limit is too low for `devices` sockets; an administrator raises it with `ulimit -Hn`.
pub(crate) fn raise_open_files(devices: usize) -> anyhow::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    let needed = devices as u64 + OTHER_FILES;
    ensure!(
        maximum.is_none_or(|limit| limit >= needed),
        "{devices} devices need {needed} open files, and this process may have {}: raise it with `ulimit -Hn`",
        maximum.unwrap_or_default()
    );
    Ok(())
}

/// Files that a process has open beside its sockets to devices, generously.
const OTHER_FILES: u64 = 64;
