//! `umbrad queries`. It uses HTTP, since MQTT has no such requests.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    Exit,
    command_failure::CommandFailure,
    connect_args::ContextArgs,
    list::{EntriesArgs, http_client},
    output::{complain, print, printable},
};

/// Show and change the named queries, whose devices can be followed over MQTT, over HTTP.
#[derive(Debug, Args)]
pub(super) struct Queries {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(List),
    Show(Named),
    Set(Set),
    Delete(Delete),
}

/// List the named queries in the order of their names.
#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    entries: EntriesArgs,
}

/// Print one named query as JSON.
#[derive(Debug, Args)]
struct Named {
    /// Name of the query.
    name: String,
    #[command(flatten)]
    server: ContextArgs,
}

/// Store a named query, or replace it, and print it.
#[derive(Debug, Args)]
struct Set {
    /// Name of the query: 1 to 64 of A-Z a-z 0-9 : _ -
    name: String,
    /// The query, such as "reported.firmware:1.4* AND connected:true".
    query: String,
    /// A text for people.
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    #[command(flatten)]
    server: ContextArgs,
}

/// Delete a named query.
#[derive(Debug, Args)]
struct Delete {
    #[command(flatten)]
    query: Named,
}

impl Queries {
    pub(super) async fn run(self) -> Exit {
        let done = match self.command {
            Command::List(list) => list.run().await,
            Command::Show(named) => named.show().await,
            Command::Set(set) => set.run().await,
            Command::Delete(Delete { query }) => query.delete().await,
        };
        done.unwrap_or_else(|failure| complain(&failure, failure.exit))
    }
}

impl List {
    async fn run(self) -> Result<Exit, CommandFailure> {
        let queries = self.entries.http_client()?.queries();
        Ok(self.entries.print(queries.raw(), query_line).await)
    }
}

impl Named {
    async fn show(self) -> Result<Exit, CommandFailure> {
        let query = http_client(&self.server)?.query(&self.name).await;
        Ok(print(&json!(query.map_err(|error| CommandFailure::http(&error))?)))
    }

    async fn delete(self) -> Result<Exit, CommandFailure> {
        let deleted = http_client(&self.server)?.delete_query(&self.name).await;
        deleted.map(|()| Exit::Done).map_err(|error| CommandFailure::http(&error))
    }
}

impl Set {
    async fn run(self) -> Result<Exit, CommandFailure> {
        let Self { name, query, description, server } = self;
        let stored = http_client(&server)?.put_query(&name, &query, description.as_deref()).await;
        Ok(print(&json!(stored.map_err(|error| CommandFailure::http(&error))?)))
    }
}

fn query_line(query: &Value) -> String {
    let text = |name: &str| query.get(name).and_then(Value::as_str).map(printable);
    let (name, q) = (text("name").unwrap_or_else(|| "?".into()), text("q").unwrap_or_default());
    match text("description") {
        Some(description) => format!("{name}: {q} ({description})"),
        None => format!("{name}: {q}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_each_query_on_one_line() {
        for (entry, expected) in [
            (json!({"name": "old", "q": "reported.firmware:1.4*"}), "old: reported.firmware:1.4*"),
            (json!({"name": "d", "q": "drift:true", "description": "to do"}), "d: drift:true (to do)"),
        ] {
            assert_eq!(query_line(&entry), expected);
        }
    }
}
