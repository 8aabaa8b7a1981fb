//! What a search has found, for people and for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Exploration, Finding};
use crate::text::{Paint, Tone, duration, plural};

/// The kinds of findings, with what they mean.
pub const KINDS: [(&str, &str); 7] = [
    ("uncaught", "an error of a task that nothing catches"),
    ("no-default", "a choice of which no rule may hold, and which has no default"),
    ("fails", "expressions that fail on data that is known"),
    ("endless", "a loop that no path leaves but by an error"),
    ("waits-forever", "a task that nobody need ever answer"),
    ("unreached", "a state that no path leads to"),
    ("unused", "a rule, retrier or catcher that never applies"),
];

impl Exploration {
    /// Whether there is a finding that is not of an allowed kind.
    pub fn is_bad(&self, allowed: &[String]) -> bool {
        self.findings.iter().any(|finding| !allowed.iter().any(|kind| kind == finding.kind))
    }

    /// As people read it. `file` says where the case of a finding was written.
    pub fn render(&self, paint: Paint<'_>, file: &dyn Fn(&Finding) -> Option<String>) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "{} and {} were looked at",
            plural(self.paths, "path"),
            plural(self.situations, "situation")
        );
        if let Some((bound, faults)) = self.stopped {
            let stopped = format!("stopped by {bound}");
            let _ = writeln!(
                out,
                "{}: of the paths with {} or more, not all were run",
                paint(Tone::Bad, &stopped),
                plural(faults, "fault")
            );
        }
        let mut list = |what: &str, names: &[String]| {
            if !names.is_empty() {
                let _ = writeln!(out, "{}: {}", paint(Tone::Note, what), names.join(", "));
            }
        };
        list("loops were cut off at", &self.cut);
        for open in &self.open {
            list("open", std::slice::from_ref(open));
        }
        let loops = |state: &String| format!("no limit: a loop goes over '{state}'");
        let time = match &self.longest_millis {
            Ok(millis) => duration(i64::try_from(*millis).unwrap_or(i64::MAX)),
            Err(state) => loops(state),
        };
        let beside = match self.unlimited.as_slice() {
            [] => String::new(),
            names => format!(", and the time of {}", names.join(", ")),
        };
        let events = match &self.longest_events {
            Ok(events) => events.to_string(),
            Err(state) => loops(state),
        };
        let _ = writeln!(out, "longest duration: {time}{beside}\nmost events: {events}");
        let mut kind = "";
        for finding in &self.findings {
            if finding.kind != kind {
                kind = finding.kind;
                let about = KINDS.iter().find(|(name, _)| *name == kind).map_or("", |(_, about)| about);
                let _ = writeln!(out, "\n{}  {}", paint(Tone::Bad, kind), paint(Tone::Dim, about));
            }
            let Finding { state, message, certain, case, .. } = finding;
            let possible = if *certain { "" } else { "possible: " };
            let _ =
                writeln!(out, "  {}: {}{message}", paint(Tone::Strong, state), paint(Tone::Note, possible));
            if let Some(path) = case.as_ref().and_then(|case| case.expect.path.as_ref()) {
                let _ = writeln!(out, "      {} {}", paint(Tone::Dim, "path"), path.join(" → "));
            }
            if let Some(file) = file(finding) {
                let _ = writeln!(out, "      {} {file}", paint(Tone::Dim, "case"));
            }
        }
        out
    }

    /// The last line.
    pub fn summary(&self, paint: Paint<'_>) -> String {
        match self.findings.len() {
            0 => paint(Tone::Good, "nothing was found"),
            n => paint(Tone::Bad, &plural(n, "finding")),
        }
    }

    /// As programs read it; every finding with its case.
    pub fn to_json(&self) -> Value {
        let findings = self.findings.iter().map(|finding| {
            json!({
                "kind": finding.kind,
                "state": finding.state,
                "message": finding.message,
                "certain": finding.certain,
                "case": finding.case.as_ref().map(crate::Case::to_json),
            })
        });
        let missing: Vec<String> = self.coverage.missing().map(|item| self.coverage.describe(item)).collect();
        json!({
            "findings": findings.collect::<Vec<_>>(),
            "paths": self.paths,
            "situations": self.situations,
            "stopped": self.stopped.map(|(bound, faults)| json!({ "by": bound, "faults": faults })),
            "cutAt": self.cut,
            "open": self.open,
            "longestSeconds": self.longest_millis.as_ref().ok().map(|millis| *millis as f64 / 1000.0),
            "mostEvents": self.longest_events.as_ref().ok(),
            "loopAt": self.longest_events.as_ref().err(),
            "unlimited": self.unlimited,
            "notCovered": missing,
        })
    }
}

impl Finding {
    /// A name for the file of its case.
    pub fn file_name(&self) -> String {
        let error = self.case.as_ref().and_then(|case| case.expect.error.as_deref()).unwrap_or_default();
        let text = format!("{} {} {error}", self.kind, self.state);
        let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        format!("{}.json", words.collect::<Vec<_>>().join("-").to_lowercase())
    }
}
