//! Aggregates of a field over the devices for which a query is true.

use super::pages::parameter;

/// An aggregate of a field.
///
/// ```
/// use umbra_client::AggregateQuery;
///
/// let regions = AggregateQuery::terms("tags.region").query("connected:true").size(50);
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct AggregateQuery {
    /// The kind, by its name in the request.
    kind: &'static str,
    /// The field.
    pub field: String,
    /// The query; empty: all devices.
    pub query: String,
    /// The most values that [`AggregateQuery::terms`] returns; 10 by default.
    pub size: Option<u32>,
    /// The percents of [`AggregateQuery::percentiles`], separated by commas.
    pub percents: Option<String>,
    /// The width of a bucket of [`AggregateQuery::histogram`].
    pub interval: Option<f64>,
}

impl AggregateQuery {
    /// Returns the aggregate of the values that most devices have.
    #[must_use]
    pub fn terms(field: &str) -> Self {
        Self::of("terms", field)
    }

    /// Returns the aggregate of count, sum, least, greatest, mean, variance and standard deviation of the numbers.
    #[must_use]
    pub fn stats(field: &str) -> Self {
        Self::of("stats", field)
    }

    /// Returns the aggregate of the numbers below which given percents of them are.
    #[must_use]
    pub fn percentiles(field: &str) -> Self {
        Self::of("percentiles", field)
    }

    /// Returns the aggregate of the numbers in buckets of this width.
    #[must_use]
    pub fn histogram(field: &str, interval: f64) -> Self {
        Self { interval: Some(interval), ..Self::of("histogram", field) }
    }

    /// Returns the aggregate of the number of distinct values.
    #[must_use]
    pub fn cardinality(field: &str) -> Self {
        Self::of("cardinality", field)
    }

    fn of(kind: &'static str, field: &str) -> Self {
        let (field, query) = (field.to_owned(), String::new());
        Self { kind, field, query, size: None, percents: None, interval: None }
    }

    /// Restricts the aggregate to the devices for which `query` is true.
    #[must_use]
    pub fn query(mut self, query: &str) -> Self {
        self.query = query.to_owned();
        self
    }

    /// Sets the most values that [`AggregateQuery::terms`] returns.
    #[must_use]
    pub fn size(mut self, size: u32) -> Self {
        self.size = Some(size);
        self
    }

    /// Sets the percents of [`AggregateQuery::percentiles`], separated by commas, such as `50,99.9`.
    #[must_use]
    pub fn percents(mut self, percents: &str) -> Self {
        self.percents = Some(percents.to_owned());
        self
    }

    pub(super) fn parameters(&self) -> String {
        let query = (!self.query.is_empty()).then(|| parameter("q", &self.query));
        let size = self.size.map(|size| format!("&size={size}"));
        let percents = self.percents.as_ref().map(|percents| parameter("percents", percents));
        let interval = self.interval.map(|interval| format!("&interval={interval}"));
        let optional: String = [query, size, percents, interval].into_iter().flatten().collect();
        format!("type={}{}{optional}", self.kind, parameter("field", &self.field))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_those_of_the_kind() {
        for (query, expected) in [
            (AggregateQuery::stats("reported.a"), "type=stats&field=reported%2Ea"),
            (AggregateQuery::terms("tags.a").size(5).query("a b"), "type=terms&field=tags%2Ea&q=a%20b&size=5"),
            (AggregateQuery::percentiles("version").percents("5,95"), "type=percentiles&field=version&percents=5%2C95"),
            (AggregateQuery::histogram("version", 0.5), "type=histogram&field=version&interval=0.5"),
            (AggregateQuery::cardinality("device"), "type=cardinality&field=device"),
        ] {
            assert_eq!(query.parameters(), expected);
        }
    }
}
