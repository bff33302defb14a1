//! The results of the suite, and their forms: table, targets, Markdown, charts, JSON, and the difference of two.

mod chart;
pub(crate) mod diff;
mod machine;
mod markdown;
mod metric;
mod results;
mod table;
mod targets;

pub(crate) use machine::Machine;
pub(crate) use markdown::write_pages;
pub(crate) use metric::{Metric, short};
pub(crate) use results::{Results, Round, SeriesName, median, round};
pub(crate) use table::{measured, overview};
pub(crate) use targets::targets;
