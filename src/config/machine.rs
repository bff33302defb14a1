//! The memory that this process may use: that of the machine, or of its control group if that has less.

use std::{fs, path::Path};

use rustix::system::sysinfo;

/// Returns the bytes of memory that this process may use.
///
/// The size of the machine comes from the kernel by a call, since `/proc/meminfo` is hidden from a service with
/// `ProcSubset=pid`. The files of the control group stay visible there.
pub(super) fn memory() -> u64 {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = groups.lines().filter_map(|line| group_limit(line, Path::new("/sys/fs/cgroup"))).min();
    group.unwrap_or(u64::MAX).min(machine())
}

/// Returns the bytes of memory of the machine.
#[expect(clippy::useless_conversion, reason = "the number is narrower on machines of 32 bits")]
fn machine() -> u64 {
    let info = sysinfo();
    u64::from(info.totalram).saturating_mul(u64::from(info.mem_unit))
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

    /// The size was read from `/proc/meminfo`, which the unit for systemd hides: every machine had 1 GiB then.
    #[test]
    fn asks_the_kernel_for_the_memory_of_the_machine() {
        let meminfo = fs::read_to_string("/proc/meminfo").expect("tests see all of /proc");
        let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")).expect("a total");
        let total: u64 = total.trim().trim_end_matches(" kB").parse().expect("a number");
        assert_eq!(machine(), total * 1024);
        assert!((64 << 20..=machine()).contains(&memory()));
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
