//! Runs the cases of a file and says how they went.

use std::{fmt::Write as _, sync::Arc};

use serde_json::{Value, json};
use stagepost_asl::StateMachine;

use crate::{
    cases::{Case, Cases},
    check::differences,
    coverage::{Count, Coverage},
    run::Run,
    text::{Paint, Tone, duration, plural},
};

/// How the cases of a file went.
#[derive(Debug)]
pub struct Report {
    /// In the order of the file.
    pub results: Vec<CaseResult>,
    /// Of all of them together.
    pub coverage: Coverage,
}

/// How one case went.
#[derive(Debug)]
pub struct CaseResult {
    /// The name of the case.
    pub name: String,
    /// What was not as expected; empty: it passed.
    pub differences: Vec<String>,
    /// The run.
    pub run: Run,
}

/// Runs all cases.
pub fn run_cases(machine: &Arc<StateMachine>, cases: &Cases) -> Report {
    run_selected(machine, &cases.cases)
}

/// Runs some cases.
pub fn run_selected<'c>(machine: &Arc<StateMachine>, cases: impl IntoIterator<Item = &'c Case>) -> Report {
    let mut coverage = Coverage::new(machine);
    let mut results = Vec::new();
    for case in cases {
        let run = case.simulation(machine).run();
        coverage.add(&run);
        results.push(CaseResult { name: case.name.clone(), differences: differences(case, &run), run });
    }
    Report { results, coverage }
}

impl Report {
    /// How many cases failed.
    pub fn failed(&self) -> usize {
        self.results.iter().filter(|result| !result.differences.is_empty()).count()
    }

    /// As people read it.
    pub fn render(&self, paint: Paint<'_>) -> String {
        let mut out = String::new();
        let width = self.results.iter().map(|r| r.name.chars().count()).max().unwrap_or(0).min(70);
        for CaseResult { name, differences, run } in &self.results {
            let word =
                if differences.is_empty() { paint(Tone::Good, "ok    ") } else { paint(Tone::Bad, "FAILED") };
            let about = format!(
                "{}, {}, {}",
                run.status(),
                plural(run.visits().count(), "state"),
                duration(run.duration_millis())
            );
            let padded = format!("{name:width$}");
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{word}  {padded}  {}", paint(Tone::Dim, &about));
            for difference in differences {
                let _ = writeln!(out, "          {difference}");
            }
        }
        out.push('\n');
        render_coverage(&mut out, &self.coverage, paint);
        out
    }

    /// The last line: how many passed and failed.
    pub fn summary(&self, paint: Paint<'_>) -> String {
        let failed = self.failed();
        let passed = format!("{} passed", self.results.len() - failed);
        match failed {
            0 => paint(Tone::Good, &passed),
            _ => format!("{passed}, {}", paint(Tone::Bad, &format!("{failed} failed"))),
        }
    }

    /// As programs read it.
    pub fn to_json(&self) -> Value {
        let cases = self.results.iter().map(|CaseResult { name, differences, run }| {
            json!({
                "name": name,
                "passed": differences.is_empty(),
                "differences": differences,
                "status": run.status().as_str(),
                "output": run.output(),
                "error": run.error(),
                "cause": run.cause(),
                "path": run.path().collect::<Vec<_>>(),
                "durationSeconds": run.duration_seconds(),
                "events": run.events(),
                "unusedMocks": run.unused_mocks(),
            })
        });
        json!({
            "cases": cases.collect::<Vec<_>>(),
            "passed": self.results.len() - self.failed(),
            "failed": self.failed(),
            "coverage": coverage_json(&self.coverage),
        })
    }

    /// As continuous integration reads it: a JUnit test suite.
    pub fn to_junit(&self, suite: &str) -> String {
        let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        let suite = escaped(suite);
        let _ = writeln!(
            out,
            "<testsuite name=\"{suite}\" tests=\"{}\" failures=\"{}\">",
            self.results.len(),
            self.failed()
        );
        for CaseResult { name, differences, .. } in &self.results {
            let _ = write!(out, "  <testcase classname=\"{suite}\" name=\"{}\"", escaped(name));
            if differences.is_empty() {
                out.push_str("/>\n");
                continue;
            }
            let (first, all) = (escaped(&differences[0]), escaped(&differences.join("\n")));
            let _ = writeln!(out, ">\n    <failure message=\"{first}\">{all}</failure>\n  </testcase>");
        }
        out.push_str("</testsuite>");
        out
    }
}

fn render_coverage(out: &mut String, coverage: &Coverage, paint: Paint<'_>) {
    let shown = |count: Count| format!("{} of {}", count.covered, count.total);
    let counts = coverage.counts().into_iter().filter(|(_, count)| count.total > 0);
    let parts: Vec<String> = counts.map(|(what, count)| format!("{} {what}", shown(count))).collect();
    let total = coverage.total();
    let _ = writeln!(out, "coverage {} %: {}", total.percent(), parts.join(", "));
    for item in coverage.missing() {
        let _ = writeln!(out, "  {} {}", paint(Tone::Note, "not covered"), coverage.describe(item));
    }
}

fn coverage_json(coverage: &Coverage) -> Value {
    let mut shown = serde_json::Map::new();
    for (what, count) in coverage.counts() {
        shown.insert(what.to_owned(), json!({ "covered": count.covered, "total": count.total }));
    }
    shown.insert("percent".to_owned(), coverage.total().percent().into());
    let missing: Vec<String> = coverage.missing().map(|item| coverage.describe(item)).collect();
    shown.insert("notCovered".to_owned(), missing.into());
    shown.into()
}

/// Text for XML; characters that XML cannot hold are left out.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}
