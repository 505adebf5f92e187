//! The figures in Prometheus' text format (version 0.0.4).

use std::fmt::Display;

use crate::figures::{Figures, State};

/// Every metric, each with what it means. What only the database knows is left out while it does not answer.
pub(super) fn text(figures: &Figures) -> String {
    let mut page = Page::default();
    let (tally, positions) = (&figures.tally, &figures.positions);
    let (load, _) = tally.load();
    page.one("streaming", "gauge", "1 while the change stream is read.", u8::from(figures.state() == State::Streaming));
    page.one("restarts_total", "counter", "Faults after which the daemon started again.", figures.restarts());
    page.one(
        "received_lsn",
        "gauge",
        "Position in the write-ahead log up to which the stream was received.",
        positions.received().0,
    );
    page.one("confirmed_lsn", "gauge", "Position up to which the slot was told to forget.", positions.confirmed().0);
    page.one(
        "events_recorded_total",
        "counter",
        "Events recorded since setup: the position of the last.",
        figures.committed(),
    );
    let outcomes = [("delivered", tally.delivered()), ("failed", tally.given_up())];
    page.many(
        "deliveries_total",
        "counter",
        "Deliveries that were settled since the start, by outcome.",
        "outcome",
        &outcomes,
    );
    page.one(
        "attempts_failed_total",
        "counter",
        "Attempts that failed since the start, retried or not.",
        tally.failed_attempts(),
    );
    page.one("deliveries_queued", "gauge", "Deliveries in memory that are not settled.", load.queued);
    page.one("deliveries_in_flight", "gauge", "Requests under way.", load.in_flight);
    let mut endpoints = vec![("working", load.endpoints.saturating_sub(load.failing)), ("failing", load.failing)];
    if let Some(seen) = figures.seen() {
        endpoints.push(("disabled", usize::try_from(seen.disabled).unwrap_or_default()));
        page.one("slot_lag_bytes", "gauge", "Write-ahead log that is not confirmed.", seen.behind());
        page.one(
            "slot_retained_bytes",
            "gauge",
            "Write-ahead log that the server keeps for the slot.",
            seen.retained(),
        );
        page.one(
            "deliveries_pending",
            "gauge",
            "Deliveries without an outcome, those of disabled endpoints included.",
            seen.pending,
        );
    }
    page.many(
        "endpoints",
        "gauge",
        "Endpoints by state: failing means that the last attempt failed.",
        "state",
        &endpoints,
    );
    page.0
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.head(name, kind, help);
        self.line(format_args!("portalhook_{name} {value}"));
    }

    fn many(&mut self, name: &str, kind: &str, help: &str, label: &str, values: &[(&str, impl Display)]) {
        self.head(name, kind, help);
        for (of, value) in values {
            self.line(format_args!("portalhook_{name}{{{label}=\"{of}\"}} {value}"));
        }
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP portalhook_{name} {help}"));
        self.line(format_args!("# TYPE portalhook_{name} {kind}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        self.0.push_str(&format!("{line}\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Seen;
    use crate::lsn::Lsn;

    #[test]
    fn every_metric_has_its_meaning_and_its_type() {
        let figures = Figures::default();
        figures.set_state(State::Streaming);
        figures.set_seen(Some(Seen { end: Lsn(700), confirmed: Lsn(500), restart: Lsn(100), pending: 3, disabled: 1 }));
        let text = text(&figures);
        for line in [
            "portalhook_streaming 1",
            "portalhook_slot_lag_bytes 200",
            "portalhook_slot_retained_bytes 600",
            "portalhook_deliveries_pending 3",
            "portalhook_deliveries_total{outcome=\"delivered\"} 0",
            "portalhook_endpoints{state=\"disabled\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap_or_default();
            assert!(text.contains(&format!("# TYPE {name} ")), "{name} has no type");
            assert!(!name.ends_with("_total") || text.contains(&format!("# TYPE {name} counter")), "{name} counts");
        }
    }
}
