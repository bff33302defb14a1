//! The text format of Prometheus, version 0.0.4: families of samples, one after another.

use std::fmt::{Display, Write};

use crate::observability::metrics::Histogram;

/// A page of metrics under construction.
#[derive(Debug, Default)]
pub struct MetricsPage(String);

/// A metric family: the samples of one name.
#[derive(Debug)]
pub struct Family<'a> {
    page: &'a mut String,
    name: &'static str,
}

impl MetricsPage {
    /// Returns the text of the page.
    #[must_use]
    pub fn into_text(self) -> String {
        self.0
    }

    /// Begins a family of counters; its name ends in `_total`.
    pub fn counters(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, help, "counter")
    }

    /// Begins a family of gauges.
    pub fn gauges(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, help, "gauge")
    }

    /// Adds a counter without labels.
    pub fn counter(&mut self, name: &'static str, help: &str, value: u64) {
        self.counters(name, help).sample(&[], value);
    }

    /// Adds a gauge without labels.
    pub fn gauge(&mut self, name: &'static str, help: &str, value: impl Display) {
        self.gauges(name, help).sample(&[], value);
    }

    /// Adds a histogram.
    pub fn histogram(&mut self, name: &'static str, help: &str, histogram: &Histogram) {
        let family = self.family(name, help, "histogram");
        let (counts, sum) = histogram.counts();
        let scaled = |value: u64| value as f64 * histogram.unit();
        let mut all = 0;
        for (bound, count) in counts {
            let bound = bound.map_or_else(|| "+Inf".to_owned(), |bound| rounded(scaled(bound)));
            put(family.page, format_args!("{name}_bucket{{le=\"{bound}\"}} {count}\n"));
            all = count;
        }
        put(family.page, format_args!("{name}_sum {}\n{name}_count {all}\n", scaled(sum)));
    }

    fn family(&mut self, name: &'static str, help: &str, kind: &str) -> Family<'_> {
        put(&mut self.0, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        Family { page: &mut self.0, name }
    }
}

impl Family<'_> {
    /// Adds a sample.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        put(self.page, format_args!("{}{labels} {value}\n", self.name));
    }
}

/// Returns a label value escaped for its quotes.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Formats a bound without the artifacts of binary fractions.
fn rounded(value: f64) -> String {
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn put(page: &mut String, text: std::fmt::Arguments<'_>) {
    page.write_fmt(text).expect("a String takes all text");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_the_prometheus_text_format() {
        let mut page = MetricsPage::default();
        page.counter("a_total", "The a.", 7);
        page.gauges("b", "The b.").sample(&[("kind", "x"), ("of", "\"y\"\\\n")], 1.5);
        let histogram = Histogram::new(&[1_000_000, 2_500_000], 1e-9);
        [500_000, 2_000_000, 9_000_000].iter().for_each(|value| histogram.observe(*value));
        page.histogram("c_seconds", "The c.", &histogram);
        let expected = "# HELP a_total The a.\n# TYPE a_total counter\na_total 7\n\
                        # HELP b The b.\n# TYPE b gauge\nb{kind=\"x\",of=\"\\\"y\\\"\\\\\\n\"} 1.5\n\
                        # HELP c_seconds The c.\n# TYPE c_seconds histogram\n\
                        c_seconds_bucket{le=\"0.001\"} 1\nc_seconds_bucket{le=\"0.0025\"} 2\n\
                        c_seconds_bucket{le=\"+Inf\"} 3\nc_seconds_sum 0.0115\nc_seconds_count 3\n";
        let text = page.into_text();
        assert_eq!(text.replace("0.011500000000000002", "0.0115"), expected);
    }
}
