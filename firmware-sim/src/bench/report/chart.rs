//! Bar charts as SVG: one bar per series, the median, with the range of the rounds as a line.
//!
//! The background is transparent and the text follows the reader's colour scheme, so a chart reads on light and dark pages.

use std::fmt::Write as _;

use super::{
    Metric,
    metric::short,
    results::{Results, Series},
};
use crate::bench::suite::names::{DISK, UMBRAD};

/// Returns the chart of a workload: the main metric of its first series, for every series that has it.
pub(super) fn chart(results: &Results, workload: &str) -> Option<String> {
    let series: Vec<&Series> = results.series.iter().filter(|series| series.name.workload == workload).collect();
    // The disk is no server.
    let metric = series.iter().find(|series| series.name.server != DISK)?.main_metric()?;
    let bars: Vec<Bar> = series.iter().filter_map(|series| Bar::of(series, metric)).collect();
    Some(svg(&format!("{workload}: {}", metric.label()), &bars))
}

/// One bar.
#[derive(Debug, Clone, PartialEq)]
struct Bar {
    label: String,
    own: bool,
    median: f64,
    lowest: f64,
    highest: f64,
}

impl Bar {
    fn of(series: &Series, metric: Metric) -> Option<Self> {
        let label = match &*series.name.load {
            "" => series.name.server.clone(),
            load => format!("{}, {load}", series.name.server),
        };
        Some(Self {
            label,
            own: series.name.server == UMBRAD,
            median: series.median(metric)?,
            lowest: series.values(metric).min_by(f64::total_cmp)?,
            highest: series.values(metric).max_by(f64::total_cmp)?,
        })
    }
}

fn svg(title: &str, bars: &[Bar]) -> String {
    let height = TOP + bars.len() * ROW + 8;
    let scale = bars.iter().map(|bar| bar.highest).fold(f64::MIN_POSITIVE, f64::max);
    let width = |value: f64| value / scale * BAR_WIDTH;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         role=\"img\" aria-label=\"{title}\">\n<style>{STYLE}</style>\n<text class=\"title\" x=\"0\" y=\"18\">{title}</text>\n",
        title = escaped(title)
    );
    for (number, bar) in bars.iter().enumerate() {
        let (top, class) = (TOP + number * ROW, if bar.own { "own" } else { "peer" });
        let (middle, end) = (top + ROW / 2, BAR_LEFT + width(bar.median));
        let (from, to) = (BAR_LEFT + width(bar.lowest), BAR_LEFT + width(bar.highest));
        let _ = writeln!(
            text,
            "<text class=\"label\" x=\"{:.0}\" y=\"{}\">{}</text>\n\
             <rect class=\"{class}\" x=\"{BAR_LEFT}\" y=\"{}\" width=\"{:.1}\" height=\"{}\"/>\n\
             <path class=\"range\" d=\"M{from:.1} {middle}H{to:.1}\"/>\n\
             <text x=\"{:.1}\" y=\"{}\">{}</text>",
            BAR_LEFT - 10.0,
            middle + 4,
            escaped(&bar.label),
            top + 4,
            width(bar.median),
            ROW - 8,
            end.max(to) + 8.0,
            middle + 4,
            short(bar.median),
        );
    }
    text.push_str("</svg>\n");
    text
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

const WIDTH: usize = 860;
const BAR_LEFT: f64 = 330.0;
const BAR_WIDTH: f64 = 420.0;
const TOP: usize = 30;
const ROW: usize = 28;
const STYLE: &str = "\
text{font:13px system-ui,sans-serif;fill:#24292f}.title{font-weight:600;font-size:14px}.label{text-anchor:end}\
.own{fill:#3b82c4}.peer{fill:#9aa4ae}.range{stroke:#24292f;stroke-width:1.5;fill:none}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.own{fill:#58a6ff}.peer{fill:#6e7681}.range{stroke:#e6edf3}}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_median_and_the_range_spans_the_rounds() {
        let bar =
            |label: &str, median, lowest, highest| Bar { label: label.to_owned(), own: true, median, lowest, highest };
        let text = svg("a < b", &[bar("one", 50.0, 40.0, 60.0), bar("two & \"three\"", 100.0, 100.0, 100.0)]);
        assert!(text.contains("width=\"210.0\"") && text.contains("width=\"420.0\""), "half and whole: {text}");
        assert!(text.contains("M498.0 44H582.0"), "40 to 60 of 100: {text}");
        assert!(text.contains("a &lt; b") && text.contains("two &amp; &quot;three&quot;"), "{text}");
        assert_eq!(text.matches("<rect").count(), 2);
    }
}
