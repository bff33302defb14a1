//! The text format of Prometheus, version 0.0.4: families of samples, one after another.

use std::fmt::{Display, Write};

use crate::observability::metrics::Histogram;

/// A page of metrics in the making.
#[derive(Debug, Default)]
pub struct MetricsPage(String);

/// A family of the page: the samples of one name.
#[derive(Debug)]
pub struct Family<'a> {
    page: &'a mut String,
    name: &'static str,
}

impl MetricsPage {
    /// The text.
    #[must_use]
    pub fn into_text(self) -> String {
        self.0
    }

    /// Begins a family of numbers that only rise; its name ends in `_total`.
    pub fn counters(&mut self, name: &'static str, about: &str) -> Family<'_> {
        self.family(name, about, "counter")
    }

    /// Begins a family of numbers that go up and down.
    pub fn gauges(&mut self, name: &'static str, about: &str) -> Family<'_> {
        self.family(name, about, "gauge")
    }

    /// A counter without labels.
    pub fn counter(&mut self, name: &'static str, about: &str, value: u64) {
        self.counters(name, about).sample(&[], value);
    }

    /// A gauge without labels.
    pub fn gauge(&mut self, name: &'static str, about: &str, value: impl Display) {
        self.gauges(name, about).sample(&[], value);
    }

    /// A histogram.
    pub fn histogram(&mut self, name: &'static str, about: &str, histogram: &Histogram) {
        let family = self.family(name, about, "histogram");
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

    fn family(&mut self, name: &'static str, about: &str, kind: &str) -> Family<'_> {
        put(&mut self.0, format_args!("# HELP {name} {about}\n# TYPE {name} {kind}\n"));
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

/// A label value as it stands between quotes.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// A bound without the traces of binary fractions.
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
    fn a_page_is_written_as_prometheus_reads_it() {
        let mut page = MetricsPage::default();
        page.counter("a_total", "What a is.", 7);
        page.gauges("b", "What b is.").sample(&[("kind", "x"), ("of", "\"y\"\\\n")], 1.5);
        let histogram = Histogram::new(&[1_000_000, 2_500_000], 1e-9);
        [500_000, 2_000_000, 9_000_000].iter().for_each(|value| histogram.observe(*value));
        page.histogram("c_seconds", "What c is.", &histogram);
        let expected = "# HELP a_total What a is.\n# TYPE a_total counter\na_total 7\n\
                        # HELP b What b is.\n# TYPE b gauge\nb{kind=\"x\",of=\"\\\"y\\\"\\\\\\n\"} 1.5\n\
                        # HELP c_seconds What c is.\n# TYPE c_seconds histogram\n\
                        c_seconds_bucket{le=\"0.001\"} 1\nc_seconds_bucket{le=\"0.0025\"} 2\n\
                        c_seconds_bucket{le=\"+Inf\"} 3\nc_seconds_sum 0.0115\nc_seconds_count 3\n";
        let text = page.into_text();
        assert_eq!(text.replace("0.011500000000000002", "0.0115"), expected);
    }
}
