//! `umbrad cluster check`: asks nodes what they know, compares their answers, and prints one table.

use std::collections::BTreeMap;

use clap::Args;
use futures_util::future::join_all;
use serde_json::{Value, json};
use umbra_client::{Error, HttpClient, InvalidAddress};

use super::super::{
    Exit,
    command_failure::CommandFailure,
    connect_args::ContextArgs,
    output::{print, printable, say},
};

/// Check that the nodes of a cluster agree and that its NATS servers are set as they must be, over HTTP.
///
/// A node that is not named is known by what the others have heard of it. Exit code 0: nothing is wrong. 1: something is, or a node
/// cannot be asked; standard output has each problem in a sentence.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// http:// or https:// URLs of nodes. Default: the one of --http-url.
    #[arg(value_name = "NODE_URL")]
    nodes: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ContextArgs,
}

/// The answers of nodes, by their numbers, and what is wrong.
#[derive(Default)]
struct Findings {
    answers: BTreeMap<u64, Value>,
    problems: Vec<Problem>,
}

/// A problem, and the nodes that report it; none for those of this command.
struct Problem {
    severity: String,
    message: String,
    nodes: Vec<u64>,
}

impl Check {
    pub(super) async fn run(self) -> Result<Exit, CommandFailure> {
        let options = self.server.resolve()?;
        let mut clients = Vec::new();
        for url in &self.nodes {
            let mut options = options.clone();
            let address = url.parse().map_err(|error: InvalidAddress| CommandFailure::usage(error.to_string()))?;
            options.http_url = Some(address);
            clients.push((url.clone(), options.http_client()?));
        }
        if clients.is_empty() {
            clients.push(("the node".to_owned(), options.http_client()?));
        }
        let asked =
            clients.iter().map(|(name, http): &(String, HttpClient)| async move { (name, http.cluster().await) });
        let mut findings = Findings::default();
        for (name, answer) in join_all(asked).await {
            match answer {
                Ok(answer) => findings.add(name, answer),
                Err(Error::Http { source, .. }) => findings.fail(format!("{name} cannot be asked: {source}")),
                Err(error) => findings.fail(format!("{name} cannot be asked: {error:#}")),
            }
        }
        findings.compare();
        let exit = if findings.problems.is_empty() { Exit::Done } else { Exit::Failed };
        if self.json {
            return Ok(match print(&findings.json()) {
                Exit::Done => exit,
                failed => failed,
            });
        }
        Ok(say(&findings.table(), exit))
    }
}

impl Findings {
    fn fail(&mut self, message: String) {
        self.problems.push(Problem { severity: "error".to_owned(), message, nodes: Vec::new() });
    }

    fn add(&mut self, name: &str, answer: Value) {
        let node = number(&answer, "node");
        for problem in list(&answer, "problems") {
            let (severity, message) = (text(problem, "severity").to_owned(), text(problem, "message").to_owned());
            match self.problems.iter_mut().find(|known| known.message == message) {
                Some(known) => known.nodes.push(node),
                None => self.problems.push(Problem { severity, message, nodes: vec![node] }),
            }
        }
        if self.answers.insert(node, answer).is_some() {
            self.fail(format!("{name} is node {node}, as another one that was named"));
        }
    }

    /// Compares the nodes that answered: each must name the same decider. Of one epoch there is one, so a difference may only be that
    /// one has not heard of the newest.
    fn compare(&mut self) {
        // One that has left hears of none.
        let following = self.answers.iter().filter(|(_, answer)| answer.get("left").is_none());
        let deciders: BTreeMap<_, _> =
            following.map(|(node, answer)| (*node, (number(answer, "epoch"), decider(answer)))).collect();
        let mut different: Vec<_> = deciders.values().collect();
        different.sort_unstable();
        different.dedup();
        if different.len() > 1 {
            let said = deciders.iter().map(|(node, (epoch, decider))| match decider {
                Some(decider) => format!("node {node} says {decider} in epoch {epoch}"),
                None => format!("node {node} says nobody"),
            });
            let said = said.collect::<Vec<_>>().join(", ");
            self.fail(format!("The nodes do not agree about the one that decides: {said}; ask again in some seconds"));
        }
    }

    /// Returns the nodes: by their own answers, or as others know them.
    fn nodes(&self) -> BTreeMap<u64, Value> {
        let mut nodes = BTreeMap::new();
        for (asked, answer) in &self.answers {
            for node in list(answer, "nodes") {
                let known = number(node, "node");
                let is_own = known == *asked;
                if is_own || !self.answers.contains_key(&known) {
                    nodes.insert(known, node.clone());
                }
            }
        }
        nodes
    }

    /// Returns true if the node receives the store of another one.
    fn is_seeded(&self, node: u64) -> bool {
        self.answers.values().any(|answer| list(answer, "seedings").iter().any(|it| number(it, "node") == node))
    }

    fn log(&self) -> Option<&Value> {
        self.answers.values().find_map(|answer| answer.get("log"))
    }

    fn json(&self) -> Value {
        let problem = |Problem { severity, message, nodes }: &Problem| json!({ "severity": severity, "message": message, "nodes": nodes });
        let mut found = json!({
            "nodes": self.nodes().into_values().collect::<Value>(),
            "problems": self.problems.iter().map(problem).collect::<Value>(),
        });
        if let (Some(log), Some(members)) = (self.log(), found.as_object_mut()) {
            members.insert("log".to_owned(), log.clone());
        }
        found
    }

    /// Returns the nodes, the servers and the problems as text.
    fn table(&self) -> String {
        let mut rows = vec![["NODE", "STATE", "DECIDES", "EPOCH", "APPLIED", "BEHIND", "VERSION"].map(str::to_owned)];
        let newest = self.answers.values().max_by_key(|answer| number(answer, "epoch"));
        let newest = newest.and_then(decider);
        for (node_number, node) in self.nodes() {
            let state = match (flag(&node, "left"), flag(&node, "alive")) {
                (true, _) => "has left",
                (false, true) => "alive",
                (false, false) if self.is_seeded(node_number) => "no store yet",
                (false, false) => "not heard of",
            };
            let epoch = self.answers.get(&node_number).map_or("-".to_owned(), |own| number(own, "epoch").to_string());
            let decides = if newest == Some(node_number) { "yes" } else { "no" };
            rows.push([
                node_number.to_string(),
                state.to_owned(),
                decides.to_owned(),
                epoch,
                number(&node, "applied").to_string(),
                number(&node, "lag").to_string(),
                text(&node, "version").to_owned(),
            ]);
        }
        let mut out = aligned(&rows);
        if let Some(log) = self.log() {
            out += &log_table(log);
        }
        if self.problems.is_empty() {
            return out + "\nNothing is wrong.";
        }
        for Problem { severity, message, nodes } in &self.problems {
            let by = match nodes.as_slice() {
                [] => String::new(),
                [node] => format!(" (node {node})"),
                nodes => format!(" (nodes {})", nodes.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")),
            };
            out += &format!("\n{severity}: {}{by}", printable(message));
        }
        out
    }
}

/// Returns the servers of the log, and its size.
fn log_table(log: &Value) -> String {
    let mut rows = vec![["NATS", "ROLE", "STATE", "VERSION", "SYNC_INTERVAL", "MAX_PAYLOAD"].map(str::to_owned)];
    for server in list(log, "servers") {
        let known = |name| match server.get(name) {
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
            None => "unknown".to_owned(),
        };
        rows.push([
            text(server, "name").to_owned(),
            if flag(server, "leader") { "leader" } else { "follower" }.to_owned(),
            if flag(server, "current") { "up to date" } else { "away or behind" }.to_owned(),
            known("version"),
            known("syncInterval"),
            known("maxPayload"),
        ]);
    }
    let [first, last, records, bytes] = ["first", "last", "records", "bytes"].map(|name| number(log, name));
    format!("\n{}\nThe log has {records} records, from {first} to {last}, with {bytes} bytes.\n", aligned(&rows))
}

/// Returns the rows with their columns below each other. Control characters of names are replaced.
fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let rows: Vec<_> = rows.iter().map(|row| row.each_ref().map(|cell| printable(cell))).collect();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or_default());
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn number(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or_default()
}

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value.get(name).and_then(Value::as_str).unwrap_or("-")
}

fn flag(value: &Value, name: &str) -> bool {
    value.get(name).and_then(Value::as_bool).unwrap_or_default()
}

fn decider(answer: &Value) -> Option<u64> {
    answer.get("decider").and_then(Value::as_u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(node: u64, decider: u64, epoch: u64, problems: &[&str]) -> Value {
        let one = |number: u64| json!({ "node": number, "alive": number != 3, "left": false, "applied": 10 + node, "lag": 0, "version": "1.0" });
        let problem = |message: &&str| json!({ "severity": "warning", "message": message });
        let servers = json!([{ "name": "n1", "leader": true, "current": true, "version": "2.15.1", "syncInterval": "always",
            "maxPayload": 8 }, { "name": "n20", "leader": false, "current": false }]);
        json!({ "node": node, "decider": decider, "epoch": epoch, "nodes": [one(1), one(2), one(3)],
            "problems": problems.iter().map(problem).collect::<Value>(),
            "log": { "first": 1, "last": 9, "records": 9, "bytes": 100, "servers": servers } })
    }

    #[test]
    fn one_table_has_all_answers() {
        let mut findings = Findings::default();
        findings.add("a", answer(1, 2, 4, &["Node 3 is not heard of"]));
        findings.add("b", answer(2, 2, 4, &["Node 3 is not heard of", "x"]));
        findings.compare();
        assert_eq!(
            findings.table(),
            "NODE  STATE         DECIDES  EPOCH  APPLIED  BEHIND  VERSION\n\
             1     alive         no       4      11       0       1.0\n\
             2     alive         yes      4      12       0       1.0\n\
             3     not heard of  no       -      12       0       1.0\n\
             \n\
             NATS  ROLE      STATE           VERSION  SYNC_INTERVAL  MAX_PAYLOAD\n\
             n1    leader    up to date      2.15.1   always         8\n\
             n20   follower  away or behind  unknown  unknown        unknown\n\
             \n\
             The log has 9 records, from 1 to 9, with 100 bytes.\n\
             \n\
             warning: Node 3 is not heard of (nodes 1, 2)\n\
             warning: x (node 2)"
        );
    }

    #[test]
    fn nodes_that_do_not_agree_are_named() {
        let mut findings = Findings::default();
        findings.add("a", answer(1, 2, 4, &[]));
        findings.add("b", answer(2, 1, 3, &[]));
        findings.add("c", answer(2, 1, 3, &[]));
        let mut left = answer(4, 4, 9, &[]);
        left.as_object_mut().expect("it is an object").insert("left".to_owned(), "another history".into());
        findings.add("d", left);
        findings.compare();
        let found: Vec<_> = findings.problems.iter().map(|problem| problem.message.as_str()).collect();
        assert_eq!(
            found,
            [
                "c is node 2, as another one that was named",
                "The nodes do not agree about the one that decides: node 1 says 2 in epoch 4, node 2 says 1 in epoch 3; ask \
                 again in some seconds"
            ]
        );
    }
}
