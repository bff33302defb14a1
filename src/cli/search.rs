//! `umbrad search`. It uses HTTP, since MQTT has no such request.

use clap::Args;
use serde_json::Value;
use umbra_client::SearchQuery;

use super::{
    Exit,
    command_failure::CommandFailure,
    connect_args::ContextArgs,
    list::{device_line, http_client, print_entries},
    output::{complain, say},
};

/// Print the devices for which a query is true, over HTTP.
#[derive(Debug, Args)]
pub(super) struct Search {
    /// The query, such as 'reported.firmware:1.4* AND connected:true'; all devices without one.
    #[arg(default_value = "")]
    query: String,
    /// Fields to print after each device, separated by commas, such as reported.firmware,tags.region.
    #[arg(long, value_name = "FIELDS")]
    fields: Option<String>,
    /// Order by this field; -FIELD for the descending order.
    #[arg(long, value_name = "FIELD", allow_hyphen_values = true)]
    sort: Option<String>,
    /// Maximum number of devices.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Print the number of devices only.
    #[arg(long, conflicts_with_all = ["fields", "sort", "limit", "json"])]
    count: bool,
    /// Print one JSON object per line, as the server sent it.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ContextArgs,
}

impl Search {
    pub(super) async fn run(self) -> Exit {
        let http = match http_client(&self.server) {
            Ok(http) => http,
            Err(failure) => return complain(&failure, failure.exit),
        };
        if self.count {
            return match http.count(&self.query).await {
                Ok(count) => say(&count, Exit::Done),
                Err(error) => {
                    let failure = CommandFailure::http(&error);
                    complain(&failure, failure.exit)
                }
            };
        }
        let mut search = SearchQuery::new(&self.query);
        (search.fields, search.sort) = (self.fields, self.sort);
        let limit = self.limit.unwrap_or(usize::MAX);
        print_entries(http.search(&search).raw(), limit, self.json, found_line).await
    }
}

fn found_line(found: &Value) -> String {
    let fields = found.get("fields").and_then(Value::as_object).into_iter().flatten();
    let fields: String = fields.map(|(name, value)| format!(" {name}={value}")).collect();
    device_line(found) + &fields
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn formats_each_device_on_one_line() {
        for (found, expected) in [
            (json!({"id": "a", "drift": true, "fields": {}}), "a - differs"),
            (
                json!({"id": "a", "connected": true, "drift": false, "fields": {"tags.n": 1, "tags.x": "y z"}}),
                "a connected converged tags.n=1 tags.x=\"y z\"",
            ),
        ] {
            assert_eq!(found_line(&found), expected);
        }
    }
}
