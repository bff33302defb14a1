//! Files with secrets, which only their owner may be able to read.

use std::{
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

/// Permissions of the group and of everybody else.
const OTHERS: u32 = 0o077;
/// [`OTHERS`] without the permission of the group to read.
const OTHERS_OF_ROOT: u32 = 0o037;

/// Checks that nobody but its owner may read the file at `path`. A file of root may also be read by its group, which is
/// how a secret is handed to a service that runs as another user.
///
/// # Errors
///
/// The file cannot be inspected, or others may read it; the text says what to do.
pub fn check(path: &Path) -> io::Result<()> {
    let metadata = path.metadata()?;
    let (mode, of_root) = (metadata.permissions().mode(), metadata.uid() == 0);
    let others = if of_root { OTHERS_OF_ROOT } else { OTHERS };
    match mode & others {
        0 => Ok(()),
        _ => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "holds a secret and has mode {:03o}: others than its owner may read it; run chmod 600 on it",
                mode & 0o777
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use std::fs;

    use super::*;

    #[test]
    fn accepts_only_private_modes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let of_root = file.path().metadata().unwrap().uid() == 0;
        for (mode, accepted) in [
            (0o600, true),
            (0o400, true),
            (0o640, of_root),
            (0o440, of_root),
            (0o660, false),
            (0o650, false),
            (0o604, false),
            (0o644, false),
            (0o666, false),
        ] {
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
            let checked = check(file.path()).map_err(|error| error.to_string());
            assert_eq!(checked.is_ok(), accepted, "{mode:o} {checked:?}");
        }
        assert_eq!(check(Path::new("/nonexistent/key")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
