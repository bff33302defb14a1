//! The metrics of the results: their names, units, and which direction is better.

use serde::{Deserialize, Serialize};

/// A metric. The order is that of the columns of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Metric {
    /// Connected devices, or other clients.
    Clients,
    /// Shadows.
    Shadows,
    /// Accepted updates.
    UpdatesPerSecond,
    /// Shadows created.
    FillPerSecond,
    /// Events that reached a dashboard.
    DeliveriesPerSecond,
    /// Messages that were acknowledged and received.
    MessagesPerSecond,
    /// Requests of all kinds.
    RequestsPerSecond,
    /// Median latency.
    P50Ms,
    /// 99th percentile.
    P99Ms,
    /// 99.9th percentile.
    P999Ms,
    /// The longest time of a request.
    LongestMs,
    /// Attempts per accepted update.
    Attempts,
    /// Bytes written to disk per update.
    WrittenBytes,
    /// Seconds until all clients were served.
    ServedSeconds,
    /// Seconds until all clients were connected and subscribed.
    ConnectSeconds,
    /// Seconds from the start of the process until it served.
    StartSeconds,
    /// Resident memory of the server.
    MemoryMb,
    /// Growth of resident memory per client.
    ClientBytes,
    /// Connections that were refused and tried again.
    Redials,
    /// CPU time of the server per request.
    ServerCpuUs,
    /// CPU time of the load generator per request.
    GeneratorCpuUs,
}

/// The direction in which a metric improves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    /// A higher value.
    Higher,
    /// A lower value.
    Lower,
    /// It describes the load.
    Neither,
}

impl Metric {
    /// Returns its label, with the unit.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Clients => "clients",
            Self::Shadows => "shadows",
            Self::UpdatesPerSecond => "updates/s",
            Self::FillPerSecond => "created/s",
            Self::DeliveriesPerSecond => "deliveries/s",
            Self::MessagesPerSecond => "messages/s",
            Self::RequestsPerSecond => "requests/s",
            Self::P50Ms => "p50 ms",
            Self::P99Ms => "p99 ms",
            Self::P999Ms => "p99.9 ms",
            Self::LongestMs => "longest ms",
            Self::Attempts => "attempts",
            Self::WrittenBytes => "bytes written",
            Self::ServedSeconds => "served after s",
            Self::ConnectSeconds => "connected after s",
            Self::StartSeconds => "started after s",
            Self::MemoryMb => "memory MB",
            Self::ClientBytes => "bytes/client",
            Self::Redials => "redials",
            Self::ServerCpuUs => "server CPU µs",
            Self::GeneratorCpuUs => "generator CPU µs",
        }
    }

    /// Returns the direction in which it improves.
    pub(crate) fn better(self) -> Better {
        match self {
            Self::UpdatesPerSecond
            | Self::FillPerSecond
            | Self::DeliveriesPerSecond
            | Self::MessagesPerSecond
            | Self::RequestsPerSecond => Better::Higher,
            Self::P50Ms
            | Self::P99Ms
            | Self::P999Ms
            | Self::LongestMs
            | Self::Attempts
            | Self::WrittenBytes
            | Self::ServedSeconds
            | Self::ConnectSeconds
            | Self::StartSeconds
            | Self::MemoryMb
            | Self::ClientBytes
            | Self::ServerCpuUs => Better::Lower,
            Self::Clients | Self::Shadows | Self::Redials | Self::GeneratorCpuUs => Better::Neither,
        }
    }
}

/// Returns a number with as many digits as a reader needs: thousands with separators, small ones with decimals.
pub(crate) fn short(value: f64) -> String {
    if value.abs() < 100.0 {
        let text = format!("{value:.2}");
        return text.strip_suffix(".00").unwrap_or(&text).to_owned();
    }
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_matter() {
        for (value, text) in [
            (0.0, "0"),
            (1.234, "1.23"),
            (99.0, "99"),
            (100.4, "100"),
            (1_234.5, "1,234"),
            (1e6, "1,000,000"),
            (-2e3, "-2,000"),
        ] {
            assert_eq!(short(value), text);
        }
    }

    #[test]
    fn a_metric_is_read_as_it_is_written() {
        let json = serde_json::to_string(&Metric::UpdatesPerSecond).expect("JSON");
        assert_eq!(json, "\"updatesPerSecond\"");
        assert_eq!(serde_json::from_str::<Metric>(&json).expect("a metric"), Metric::UpdatesPerSecond);
    }
}
