//! The examples of `docs/search.md`: each query finds what its row says, on the fleet of the page.

use serde_json::{Map, Value};

use crate::site::Site;

const PAGE: &str = include_str!("../../docs/search.md");

#[test]
fn the_examples_of_the_page_find_what_they_say() {
    let fleet = PAGE.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let fleet: Map<String, Value> = serde_json::from_str(fleet).unwrap();
    let site = Site::open();
    for (device, shadows) in &fleet {
        for (shadow, state) in shadows.as_object().unwrap() {
            site.write(&[(&format!("{device}/{shadow}"), state.clone())]);
        }
    }
    let table = PAGE.split("| query | finds |\n|---|---|\n").nth(1).unwrap();
    let rows: Vec<_> = table.lines().take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 15, "{rows:?}");
    for row in rows {
        let mut cells = row.trim_matches('|').split(" | ").map(str::trim);
        let query = cells.next().and_then(|cell| cell.strip_prefix('`')?.strip_suffix('`'));
        let query = query.unwrap_or_else(|| panic!("no query: {row}"));
        let found = cells.next().unwrap_or_default().trim_matches(['|', ' ']).replace(',', "");
        assert_eq!(site.found_at("web", query), found, "{query}");
    }
}
