//! The server of this workspace, for the tests of the simulator.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// Builds the server, which is nothing to do after `cargo test --workspace`. A test is built with it, because only then the
/// dependencies have the same features as there; with others all of them are compiled again.
pub(crate) fn umbrad() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--locked", "--workspace", "--bin", "umbrad", "--test", "tidy", "--message-format", "json"]);
    // The variables that Cargo sets for this test would have it compile ring again, now and the next time.
    let is_of_package = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_of_package(&name.to_string_lossy())) {
        build.env_remove(name);
    }
    let built = build.current_dir(root).output().expect("cargo runs");
    let text = String::from_utf8_lossy(&built.stdout);
    let programs = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut built_bins = programs.filter(|message| message["target"]["kind"][0] == "bin");
    let path = built_bins.find_map(|message| message["executable"].as_str().map(PathBuf::from));
    path.unwrap_or_else(|| panic!("umbrad was not built: {}", String::from_utf8_lossy(&built.stderr)))
}
