//! Runs this program under callgrind.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

/// Returns the instructions that all threads execute while the pass of the case `name` is counted.
pub(crate) fn instructions(name: &str) -> Result<u64, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("instructions");
    let out = folder.join(name);
    // The first dump; the second one has what follows until the end.
    let dump = out.with_added_extension("1");
    let _ = fs::remove_file(&dump);
    fs::create_dir_all(&folder).map_err(|error| format!("cannot create {}: {error}", folder.display()))?;
    let program = std::env::current_exe().map_err(|error| format!("the path of this program is unknown: {error}"))?;
    let valgrind = Command::new("valgrind")
        .args(["--tool=callgrind", "--zero-before=*reset_counts*", "--dump-after=*counted_region*"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program)
        .args(["run", name])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot start valgrind: {error}"))?;
    if !valgrind.status.success() {
        return Err(format!("{name}: {}\n{}", valgrind.status, String::from_utf8_lossy(&valgrind.stderr)));
    }
    let text = fs::read_to_string(&dump).map_err(|error| format!("cannot read {}: {error}", dump.display()))?;
    // Not the line `summary`: that of threads other than the first also has what they executed before.
    let totals = text.lines().find_map(|line| line.strip_prefix("totals: "));
    totals.and_then(|number| number.trim().parse().ok()).ok_or(format!("{} has no totals", dump.display()))
}

/// Returns the version that `program` prints, without its name and its origin.
pub(crate) fn version(program: &str) -> Result<String, String> {
    let output = Command::new(program).arg("--version").output();
    let output = output.map_err(|error| format!("cannot start {program}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let number = text.split([' ', '-', '\n']).find(|word| word.starts_with(|first: char| first.is_ascii_digit()));
    number.map(str::to_owned).ok_or(format!("{program} prints no version: {text}"))
}
