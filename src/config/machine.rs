//! The memory that this process may use: that of the machine, or of its control group if that has less.

use std::{fs, path::Path};

/// The memory assumed where the system does not say.
const UNKNOWN: u64 = 1 << 30;

/// Returns the bytes of memory that this process may use.
pub(super) fn memory() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = groups.lines().filter_map(|line| group_limit(line, Path::new("/sys/fs/cgroup"))).min();
    [machine, group].into_iter().flatten().min().unwrap_or(UNKNOWN)
}

/// Returns the bytes of `MemTotal` in the text of `/proc/meminfo`.
fn total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Returns the smallest limit of the control group in a line of `/proc/self/cgroup` and of the groups above it. Version
/// 2 has one line, `0::PATH`; version 1 has one for each controller.
fn group_limit(line: &str, root: &Path) -> Option<u64> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, path) = (fields.next()?, fields.next()?);
    let (root, file) = match controllers {
        "" => (root.to_owned(), "memory.max"),
        names if names.split(',').any(|name| name == "memory") => (root.join("memory"), "memory.limit_in_bytes"),
        _ => return None,
    };
    // In a container the path may be that of the host, where only the root is visible.
    let own = root.join(path.trim_start_matches('/'));
    let above = own.ancestors().take_while(|folder| folder.starts_with(&root));
    above.filter_map(|folder| fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_memory_of_the_machine() {
        assert_eq!(total("MemTotal:       24689472 kB\nMemFree: 1 kB\n"), Some(24_689_472 * 1024));
        assert_eq!(total("MemFree: 1 kB\n"), None);
        assert!(memory() > 64 << 20);
    }

    #[test]
    fn takes_the_smallest_limit_of_its_groups() {
        let root = tempfile::tempdir().expect("a folder");
        let group = root.path().join("a/b");
        fs::create_dir_all(&group).expect("a group");
        fs::create_dir_all(root.path().join("memory/c")).expect("a group of version 1");
        fs::write(root.path().join("a/memory.max"), "1000\n").expect("a limit");
        fs::write(group.join("memory.max"), "max\n").expect("no limit");
        fs::write(root.path().join("memory/c/memory.limit_in_bytes"), "2000\n").expect("a limit");
        // line, limit
        for (line, limit) in [
            ("0::/a/b", Some(1000)),
            ("0::/", None),
            ("4:memory:/c", Some(2000)),
            ("4:cpu,memory:/c", Some(2000)),
            ("4:cpu:/c", None),
            ("0::/not/here", None),
            ("", None),
        ] {
            assert_eq!(group_limit(line, root.path()), limit, "{line}");
        }
    }
}
