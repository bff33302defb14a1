//! The example and the commands of `docs/rollouts.md`.

use serde_json::Value;

use crate::{
    harness::program::{ended, umbrad},
    site::Site,
};

const PAGE: &str = include_str!("../../docs/rollouts.md");

#[test]
fn the_example_of_the_page_is_a_description() {
    let site = Site::open();
    let example = PAGE.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let spec: Value = serde_json::from_str(example).unwrap();
    let created = site.create("web", "fw-1.5", &spec);
    assert_eq!((created.status, &created.json()["spec"]), (201, &spec), "{}", created.text());
    for member in spec.as_object().unwrap().keys() {
        assert!(PAGE.contains(&format!("\n| `{member}` |")), "no row of {member}");
    }
}

#[test]
fn the_commands_of_the_page_are_those_of_the_program() {
    let commands = PAGE.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    for line in commands.replace("\\\n", "").lines() {
        // In the place of a shell: quotes, and words between spaces.
        let mut arguments: Vec<String> = Vec::new();
        for (index, part) in line.split('\'').enumerate() {
            match index % 2 {
                1 => arguments.push(part.to_owned()),
                _ => arguments.extend(part.split_whitespace().map(str::to_owned)),
            }
        }
        assert_eq!(arguments.remove(0), "umbrad", "{line}");
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let nowhere = ["--url", "http://127.0.0.1:9"];
        // `rollout watch` waits for a server that is starting again.
        if arguments.starts_with(&["rollout", "watch"]) {
            assert_eq!(ended(umbrad(&["rollout", "watch", "--help"]).output().unwrap()).0, 0, "{line}");
            continue;
        }
        let (code, _, err) = ended(umbrad(&[&arguments[..], &nowhere].concat()).output().unwrap());
        assert_eq!(code, 1, "{line}: it is understood, and nobody answers: {err}");
    }
}
