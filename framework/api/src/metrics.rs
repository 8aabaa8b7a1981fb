//! Metrics in the Prometheus text format (exposition format 0.0.4), without a library: counters of requests, and
//! helpers for other sources.

use std::{
    collections::BTreeMap,
    fmt::{Display, Write as _},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Appends families to the answer of `/metrics`.
pub type Source = Box<dyn Fn(&mut String) + Send + Sync>;

/// Upper bounds of the buckets of request durations, in seconds. The last ones are for long polls.
const BUCKETS_SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 65.0];

/// The kind of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, until the process restarts.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations in buckets.
    Histogram,
}

/// Begins a family: its help and its type.
pub fn family(out: &mut String, name: &str, kind: Kind, help: &str) {
    let kind = match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    // Writing to a String cannot fail.
    let _ = writeln!(out, "# HELP {name} {}", help.replace('\\', "\\\\").replace('\n', "\\n"));
    let _ = writeln!(out, "# TYPE {name} {kind}");
}

/// Writes one sample of the family that [`family`] began.
pub fn sample(out: &mut String, name: &str, labels: &[(&str, &str)], value: impl Display) {
    out.push_str(name);
    for (i, (label, text)) in labels.iter().enumerate() {
        out.push(if i == 0 { '{' } else { ',' });
        let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(out, "{label}=\"{text}\"");
    }
    if !labels.is_empty() {
        out.push('}');
    }
    let _ = writeln!(out, " {value}");
}

#[derive(Debug, Default)]
struct Durations {
    /// Observations per bucket, not cumulated; the last one holds those above all bounds.
    buckets: [u64; BUCKETS_SECONDS.len() + 1],
    sum_seconds: f64,
}

#[derive(Debug, Default)]
struct Requests {
    codes: BTreeMap<(&'static str, &'static str), u64>,
    durations: BTreeMap<&'static str, Durations>,
}

/// Counts of requests by operation and code. Both come from fixed sets, so the number of series is bounded.
#[derive(Debug, Default)]
pub(crate) struct RequestMetrics(Mutex<Requests>);

impl RequestMetrics {
    pub(crate) fn count(&self, operation: &'static str, code: &'static str, took: Duration) {
        let mut requests = self.lock();
        *requests.codes.entry((operation, code)).or_default() += 1;
        let seconds = took.as_secs_f64();
        let bucket = BUCKETS_SECONDS.iter().position(|b| seconds <= *b).unwrap_or(BUCKETS_SECONDS.len());
        let durations = requests.durations.entry(operation).or_default();
        durations.buckets[bucket] += 1;
        durations.sum_seconds += seconds;
    }

    pub(crate) fn render(&self, out: &mut String) {
        let requests = self.lock();
        let name = "stagepost_api_requests_total";
        family(out, name, Kind::Counter, "Requests to the AWS-compatible API by operation and code.");
        for ((operation, code), n) in &requests.codes {
            sample(out, name, &[("operation", operation), ("code", code)], n);
        }
        let name = "stagepost_api_request_seconds";
        family(out, name, Kind::Histogram, "Time from a request's headers to its answer, in seconds.");
        for (operation, durations) in &requests.durations {
            let mut cumulated = 0;
            for (i, n) in durations.buckets.iter().enumerate() {
                cumulated += n;
                let bound = BUCKETS_SECONDS.get(i).map_or("+Inf".to_owned(), f64::to_string);
                let labels = [("operation", *operation), ("le", bound.as_str())];
                sample(out, &format!("{name}_bucket"), &labels, cumulated);
            }
            let labels = [("operation", *operation)];
            sample(out, &format!("{name}_sum"), &labels, durations.sum_seconds);
            sample(out, &format!("{name}_count"), &labels, cumulated);
        }
    }

    /// A panic elsewhere leaves counters that are at worst off by one: a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, Requests> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_operation_and_code() {
        let metrics = RequestMetrics::default();
        metrics.count("ListActivities", "OK", Duration::from_millis(2));
        metrics.count("ListActivities", "OK", Duration::from_millis(7));
        metrics.count("ListActivities", "InvalidToken", Duration::from_secs(100));
        let mut out = String::new();
        metrics.render(&mut out);
        for line in [
            "# TYPE stagepost_api_requests_total counter",
            "stagepost_api_requests_total{operation=\"ListActivities\",code=\"InvalidToken\"} 1",
            "stagepost_api_requests_total{operation=\"ListActivities\",code=\"OK\"} 2",
            "# TYPE stagepost_api_request_seconds histogram",
            "stagepost_api_request_seconds_bucket{operation=\"ListActivities\",le=\"0.0025\"} 1",
            "stagepost_api_request_seconds_bucket{operation=\"ListActivities\",le=\"0.01\"} 2",
            "stagepost_api_request_seconds_bucket{operation=\"ListActivities\",le=\"65\"} 2",
            "stagepost_api_request_seconds_bucket{operation=\"ListActivities\",le=\"+Inf\"} 3",
            "stagepost_api_request_seconds_count{operation=\"ListActivities\"} 3",
        ] {
            assert!(out.lines().any(|l| l == line), "{line}\n{out}");
        }
    }

    #[test]
    fn labels_are_escaped() {
        let mut out = String::new();
        sample(&mut out, "m", &[("a", "x\"\\\n")], 1);
        sample(&mut out, "m", &[], 0.5);
        assert_eq!(out, "m{a=\"x\\\"\\\\\\n\"} 1\nm 0.5\n");
    }
}
