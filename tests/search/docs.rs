//! The examples of `docs/search.md`: each query finds what its row says, on the fleet of the page, and each aggregate is as
//! its row says.

use serde_json::{Map, Value};

use crate::site::Site;

const PAGE: &str = include_str!("../../docs/search.md");

/// A server with the fleet of the page.
fn fleet() -> Site {
    let fleet = PAGE.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let fleet: Map<String, Value> = serde_json::from_str(fleet).unwrap();
    let site = Site::open();
    for (device, shadows) in &fleet {
        for (shadow, state) in shadows.as_object().unwrap() {
            site.write(&[(&format!("{device}/{shadow}"), state.clone())]);
        }
    }
    site
}

/// The two cells of each row of the table with this head, without the ticks of code.
fn rows(head: &str) -> Vec<(&str, &str)> {
    let table = PAGE.split(&format!("{head}\n|---|---|\n")).nth(1).unwrap_or_else(|| panic!("no table {head}"));
    let rows = table.lines().take_while(|line| line.starts_with('|')).map(|row| {
        let (first, second) = row.trim_matches('|').split_once(" | ").unwrap_or_else(|| panic!("{row}"));
        let code = |cell: &'static str| cell.trim().trim_start_matches('`').trim_end_matches('`');
        (code(first), code(second.trim_matches(['|', ' '])))
    });
    rows.collect()
}

#[test]
fn the_examples_of_the_page_find_what_they_say() {
    let (site, rows) = (fleet(), rows("| query | finds |"));
    assert!(rows.len() > 15, "{rows:?}");
    for (query, found) in rows {
        assert_eq!(site.found_at("web", query), found.replace(',', ""), "{query}");
    }
}

#[test]
fn the_aggregates_of_the_page_are_as_they_say() {
    let (site, rows) = (fleet(), rows("| parameters | answer |"));
    assert!(rows.len() > 5, "{rows:?}");
    for (parameters, answer) in rows {
        let pairs: Vec<_> = parameters.split('&').map(|pair| pair.split_once('=').unwrap()).collect();
        let found = site.aggregate_at("web", &pairs).json();
        let expected: Value = serde_json::from_str(answer).unwrap_or_else(|error| panic!("{answer}: {error}"));
        assert_eq!(found, expected, "{parameters}");
    }
}
