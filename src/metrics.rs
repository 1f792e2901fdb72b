//! What an engine shows of itself as metrics: a row for each, and how it is read.
//!
//! Pure: `serving` takes the table to `triton`, which makes the series, and the
//! worker's [`Stats`] through [`values`] around each step. Names are those that
//! dashboards and routers made for vLLM look for; the texts are ours.

use crate::engine::Stats;

/// A metric that goes up and down.
pub(crate) struct Gauge {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    /// Its value; that of a model is the sum over its engines.
    read: fn(&Stats) -> f64,
}

/// Every gauge; docs/metrics.md lists them, too.
pub(crate) const GAUGES: &[Gauge] = &[
    Gauge {
        name: "vllm:num_requests_running",
        help: "Requests that have a slot.",
        read: |stats| stats.n_running as f64,
    },
    Gauge {
        name: "vllm:num_requests_waiting",
        help: "Requests that wait for a slot, those that had to give theirs back included.",
        read: |stats| stats.n_waiting as f64,
    },
];

/// What the gauges show, in their order.
pub(crate) fn values(stats: &Stats) -> impl Iterator<Item = f64> {
    GAUGES.iter().map(|gauge| (gauge.read)(stats))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_gauge_reads_its_own_figure() {
        let stats = Stats {
            n_running: 3,
            n_waiting: 5,
            ..Stats::default()
        };
        let shown = GAUGES.iter().map(|gauge| gauge.name).zip(values(&stats));
        let expected = [
            ("vllm:num_requests_running", 3.0),
            ("vllm:num_requests_waiting", 5.0),
        ];
        assert_eq!(shown.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn the_page_lists_each_gauge_once_with_its_text() {
        let page = include_str!("../docs/metrics.md");
        for gauge in GAUGES {
            let row = format!("| `{}` | gauge | {} |", gauge.name, gauge.help);
            assert_eq!(page.matches(&row).count(), 1, "no row {row}");
        }
        let names: BTreeSet<&str> = GAUGES.iter().map(|gauge| gauge.name).collect();
        assert_eq!(names.len(), GAUGES.len());
        let rows = page.lines().filter(|line| line.starts_with("| `"));
        assert_eq!(rows.count(), GAUGES.len());
    }
}
