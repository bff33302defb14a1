//! `umbrad aggregate`. It uses HTTP, since MQTT has no such request.

use clap::{Args, ValueEnum};
use serde_json::Value;
use umbra_client::AggregateQuery;

use super::{
    Exit,
    command_failure::CommandFailure,
    connect_args::ContextArgs,
    list::http_client,
    output::{complain, printable, say},
};

/// Print counts or statistics of a field over the devices for which a query is true, over HTTP.
#[derive(Debug, Args)]
pub(super) struct Aggregate {
    /// The kind of the result.
    #[arg(value_enum)]
    kind: Kind,
    /// The field, such as reported.battery or tags.region.
    field: String,
    /// The query, such as 'connected:true'; all devices without one.
    #[arg(default_value = "")]
    query: String,
    /// terms: maximum number of values.
    #[arg(long, value_name = "N")]
    size: Option<u32>,
    /// percentiles: numbers from 0 to 100, separated by commas, such as 50,95,99.9.
    #[arg(long, value_name = "PERCENTS")]
    percents: Option<String>,
    /// histogram: the width of a bucket.
    #[arg(long, value_name = "NUMBER", required_if_eq("kind", "histogram"))]
    interval: Option<f64>,
    /// Print the JSON object as the server sent it.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ContextArgs,
}

/// The kind of an aggregate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// The values that most devices have, each with the number of devices.
    Terms,
    /// Count, sum, min, max, avg, variance and stdDev of the numbers.
    Stats,
    /// The numbers below which 1, 5, 25, 50, 75, 95 and 99 percent of them are.
    Percentiles,
    /// The lower bound of each bucket, and the number of numbers in it.
    Histogram,
    /// The number of distinct values.
    Cardinality,
}

impl Aggregate {
    pub(super) async fn run(self) -> Exit {
        let http = match http_client(&self.server) {
            Ok(http) => http,
            Err(failure) => return complain(&failure, failure.exit),
        };
        let of = match self.kind {
            Kind::Terms => AggregateQuery::terms,
            Kind::Stats => AggregateQuery::stats,
            Kind::Percentiles => AggregateQuery::percentiles,
            Kind::Histogram => |field: &str| AggregateQuery::histogram(field, 1.0),
            Kind::Cardinality => AggregateQuery::cardinality,
        };
        let mut query = of(&self.field).query(&self.query);
        (query.size, query.percents, query.interval) = (self.size, self.percents, self.interval);
        match http.aggregate(&query).await {
            Ok(result) if self.json => say(&result, Exit::Done),
            Ok(result) => print_lines(&result),
            Err(error) => {
                let failure = CommandFailure::http(&error);
                complain(&failure, failure.exit)
            }
        }
    }
}

/// Prints a result, each value on one line.
fn print_lines(result: &Value) -> Exit {
    for line in lines(result) {
        match say(&printable(&line), Exit::Done) {
            Exit::Done => {}
            exit => return exit,
        }
    }
    if result.get("truncated") == Some(&Value::Bool(true)) {
        return complain(&"there are too many distinct values; only a part of them was counted", Exit::Done);
    }
    if result.get("exact") == Some(&Value::Bool(false)) {
        return complain(&"there are too many values; the result is estimated", Exit::Done);
    }
    Exit::Done
}

fn lines(result: &Value) -> Vec<String> {
    let text = |value: Option<&Value>| match value {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => "?".to_owned(),
    };
    let pairs = |list: &str, name: &str, other: &str| -> Vec<String> {
        let entries = result.get(list).and_then(Value::as_array).into_iter().flatten();
        entries.map(|entry| format!("{} {}", text(entry.get(name)), text(entry.get(other)))).collect()
    };
    let statistics = result.get("stats").map(|stats| {
        let names = ["count", "sum", "min", "max", "avg", "variance", "stdDev"];
        names.iter().filter_map(|name| Some(format!("{name} {}", stats.get(*name)?))).collect()
    });
    let cardinality = result.get("cardinality").map(|count| vec![count.to_string()]);
    statistics.or(cardinality).unwrap_or_else(|| {
        let lists = [("terms", "value", "count"), ("percentiles", "percent", "value"), ("buckets", "from", "count")];
        lists.iter().flat_map(|(list, name, other)| pairs(list, name, other)).collect()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn formats_each_value_on_one_line() {
        for (result, expected) in [
            (json!({"terms": [{"value": "west", "count": 2}, {"value": 5, "count": 1}]}), "west 2|5 1"),
            (json!({"stats": {"count": 2, "avg": 1.5, "sum": 3}}), "count 2|sum 3|avg 1.5"),
            (json!({"stats": {"count": 0}}), "count 0"),
            (json!({"percentiles": [{"percent": 50, "value": 1.5}], "exact": true}), "50 1.5"),
            (json!({"buckets": [{"from": -10, "count": 3}]}), "-10 3"),
            (json!({"cardinality": 7, "exact": false}), "7"),
        ] {
            assert_eq!(lines(&result).join("|"), expected);
        }
    }
}
