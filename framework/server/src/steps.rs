//! What a person sees of a run: its states as lines that pass by.
//!
//! ```text
//!    0.012s  ✓ CheckStock  10ms
//!    0.014s  ◷ PickAndInvoice
//!    0.052s    ✓ Pick  36ms
//!    0.040s    ✗ Invoice  24ms  Billing.Down: try later
//! ```
//!
//! A pure function of the events: which of them belong together is read off their `previous_id`. A Parallel branch
//! and a Map iteration are a scope each, in which one state at a time is open.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Write as _,
};

use stagepost_protocol::Timestamp;
use stagepost_store::ExecutionStatus;

use crate::{api_client::ExecutionDescription, history::HistoryEvent};

/// Longest text of an error that a line shows, in characters.
const ERROR_CHARS_MAX: usize = 120;
/// Of a Map's iterations the first so many are shown.
const ITERATIONS_SHOWN: u64 = 20;

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    colour: bool,
}

impl Style {
    /// Text alone.
    pub const fn plain() -> Style {
        Style { colour: false }
    }

    /// With colours, for terminals.
    pub const fn colour() -> Style {
        Style { colour: true }
    }

    /// Colours when the output is a terminal and `NO_COLOR` is not set (<https://no-color.org>).
    pub fn of(output: &impl std::io::IsTerminal) -> Style {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Style { colour: output.is_terminal() && !refused }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Success.
    pub fn green(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// Failure.
    pub fn red(self, text: &str) -> String {
        self.paint("31", text)
    }

    /// What is under way or was cut short.
    pub fn yellow(self, text: &str) -> String {
        self.paint("33", text)
    }

    /// What matters less.
    pub fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    /// What matters more.
    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }
}

/// A state that was entered and not left.
struct Open {
    name: String,
    /// `Task`, `Parallel`, …
    kind: String,
    /// A Parallel or Map state whose branches or iterations have all ended.
    joined: bool,
    entered_at: Timestamp,
    /// Whether a line said that it is under way.
    announced: bool,
    /// Its last attempt failed.
    failed: bool,
    attempts: u32,
}

/// The top level, a branch or an iteration.
struct Scope {
    parent: Option<usize>,
    depth: usize,
    /// The index of a Map iteration.
    index: Option<u64>,
    hidden: bool,
    /// A Map iteration that has ended.
    ended: bool,
    open: Option<Open>,
}

/// Shows a run: give it the events of one execution in their order, a few at a time.
pub struct Steps {
    style: Style,
    started_at: Option<Timestamp>,
    scopes: Vec<Scope>,
    /// The scopes with an open state.
    busy: BTreeSet<usize>,
    /// The scope in which each event leaves the run, and whether branches fork from it.
    places: HashMap<u64, (usize, bool)>,
}

#[derive(Clone, Copy)]
enum Mark {
    Done,
    Failed,
    Waiting,
    Aborted,
}

impl Steps {
    /// Nothing shown yet.
    pub fn new(style: Style) -> Steps {
        let top = Scope { parent: None, depth: 0, index: None, hidden: false, ended: false, open: None };
        Steps { style, started_at: None, scopes: vec![top], busy: BTreeSet::new(), places: HashMap::new() }
    }

    /// The lines that these events are worth, each with its line end.
    pub fn show(&mut self, events: &[HistoryEvent]) -> String {
        let mut out = String::new();
        for event in events {
            self.event(event, &mut out);
        }
        // What is still open after all that has come is what the run waits for now.
        if !events.is_empty() {
            for scope in self.busy.clone() {
                self.announce(scope, &mut out);
            }
        }
        out
    }

    /// The line that says how the execution ended.
    pub fn ended(&self, execution: &ExecutionDescription) -> String {
        let (mark, status) = match execution.status {
            ExecutionStatus::Succeeded => (Mark::Done, self.style.green("SUCCEEDED")),
            ExecutionStatus::Aborted => (Mark::Aborted, self.style.yellow("ABORTED")),
            other => (Mark::Failed, self.style.red(other.as_str())),
        };
        let took = execution.stopped_at.map(|stopped| millis(stopped.millis_since(execution.started_at)));
        let took = took.map_or_else(String::new, |took| format!(" after {took}"));
        let why = match (&execution.error, &execution.cause) {
            (Some(error), Some(cause)) if !cause.is_empty() => format!("  {error}: {cause}"),
            (Some(text), _) | (None, Some(text)) => format!("  {text}"),
            (None, None) => String::new(),
        };
        // Unlike on a step's line there is nothing after it, so it is whole.
        let why: String = why.chars().filter(|c| !c.is_control() || *c == '\n').collect();
        format!("{} {status}{took}{why}\n", self.mark(mark))
    }

    fn event(&mut self, event: &HistoryEvent, out: &mut String) {
        self.started_at.get_or_insert(event.at);
        let (from, fork) = self.places.get(&event.previous_id).copied().unwrap_or((0, false));
        let mut place = (from, false);
        match event.kind.as_str() {
            "ParallelStateStarted" | "MapStateStarted" => {
                // What is left of an earlier attempt.
                self.close_below(from, None, event.at, out);
                if let Some(open) = &mut self.scopes[from].open {
                    open.joined = false;
                }
                self.announce(from, out);
                place.1 = event.kind == "ParallelStateStarted";
            }
            "MapIterationStarted" => place.0 = self.iteration(from, event, out),
            "MapIterationSucceeded" | "MapIterationFailed" | "MapIterationAborted" => {
                if let Some(scope) = self.iteration_of(event) {
                    let failed = event.kind == "MapIterationFailed";
                    let mark = if failed { Mark::Failed } else { Mark::Aborted };
                    self.close_below(scope, failed.then_some(from), event.at, out);
                    self.leave(scope, event.at, Some(mark), out);
                    self.scopes[scope].ended = true;
                    place.0 = self.scopes[scope].parent.unwrap_or(0);
                }
            }
            "ParallelStateSucceeded" | "ParallelStateFailed" | "MapStateSucceeded" | "MapStateFailed" => {
                place.0 = self.join(from, event, out);
            }
            // The end of what it was in closes it: this event does not say which one it is about.
            kind if kind.ends_with("StateAborted") => {}
            kind if kind.ends_with("StateEntered") => {
                place.0 = if fork { self.branch(from) } else { from };
                self.enter(place.0, event);
            }
            kind if kind.ends_with("StateExited") => {
                let name = event.text("name").unwrap_or_default();
                let named = |scope: &Scope| scope.open.as_ref().is_some_and(|open| open.name == name);
                place.0 = self.up(from, named).unwrap_or(from);
                self.leave(place.0, event.at, None, out);
            }
            "ExecutionSucceeded" | "ExecutionFailed" | "ExecutionTimedOut" | "ExecutionAborted" => {
                let failed = event.kind != "ExecutionAborted";
                self.close_below(0, failed.then_some(from), event.at, out);
                self.leave(0, event.at, Some(if failed { Mark::Failed } else { Mark::Aborted }), out);
            }
            // `TaskScheduled`, `ActivityScheduled`, `LambdaFunctionScheduled`.
            kind if kind.ends_with("Scheduled") => self.attempt(from),
            kind if kind.ends_with("Failed") || kind.ends_with("TimedOut") => {
                self.attempt_failed(from, event, out);
            }
            _ => {}
        }
        self.places.insert(event.id, place);
    }

    /// The nearest scope, from this one upwards, that is as wanted.
    fn up(&self, from: usize, wanted: impl Fn(&Scope) -> bool) -> Option<usize> {
        let mut at = Some(from);
        while let Some(scope) = at {
            if wanted(&self.scopes[scope]) {
                return Some(scope);
            }
            at = self.scopes[scope].parent;
        }
        None
    }

    /// Whether a scope is another one or lies below it.
    fn is_within(&self, scope: usize, outer: usize) -> bool {
        let mut at = Some(scope);
        while at.is_some_and(|at| at > outer) {
            at = at.and_then(|at| self.scopes[at].parent);
        }
        at == Some(outer)
    }

    /// A Parallel or Map state has all it waited for. The event may follow one inside of a branch. Returns the
    /// state's scope.
    fn join(&mut self, from: usize, event: &HistoryEvent, out: &mut String) -> usize {
        let running = |open: &Open| !open.joined && event.kind.starts_with(&open.kind);
        let found = self.up(from, |scope| scope.open.as_ref().is_some_and(running));
        let scope = found.unwrap_or(from);
        self.close_below(scope, Some(from), event.at, out);
        if let Some(open) = &mut self.scopes[scope].open {
            open.joined = true;
            if event.kind.ends_with("Failed") {
                open.failed = true;
            }
        }
        scope
    }

    /// The scope of the Map iteration that an event is about.
    fn iteration_of(&self, event: &HistoryEvent) -> Option<usize> {
        let (index, name) = (index(event), event.text("name"));
        (0..self.scopes.len()).rev().find(|scope| {
            let scope = &self.scopes[*scope];
            let of_map = || {
                let parent = scope.parent.and_then(|parent| self.scopes[parent].open.as_ref());
                name.is_none() || parent.map(|open| open.name.as_str()) == name
            };
            !scope.ended && scope.index.is_some() && scope.index == index && of_map()
        })
    }

    /// Closes all that is open below a scope: what failed is the cause, the rest was cut short.
    fn close_below(&mut self, scope: usize, failed: Option<usize>, at: Timestamp, out: &mut String) {
        // From the inside out, as the end of the inner made the outer end.
        for inner in self.busy.clone().into_iter().rev().filter(|inner| *inner > scope) {
            let mut above = self.scopes[inner].parent;
            while above.is_some_and(|above| above > scope) {
                above = above.and_then(|above| self.scopes[above].parent);
            }
            if above == Some(scope) {
                let cause = failed.is_some_and(|failed| self.is_within(failed, inner));
                self.leave(inner, at, Some(if cause { Mark::Failed } else { Mark::Aborted }), out);
            }
        }
    }

    fn branch(&mut self, parent: usize) -> usize {
        let Scope { depth, hidden, .. } = self.scopes[parent];
        let (parent, depth) = (Some(parent), depth + 1);
        self.scopes.push(Scope { parent, depth, index: None, hidden, ended: false, open: None });
        self.scopes.len() - 1
    }

    fn iteration(&mut self, from: usize, event: &HistoryEvent, out: &mut String) -> usize {
        let index = index(event).unwrap_or(0);
        let Scope { depth, hidden, .. } = self.scopes[from];
        let scope = Scope {
            parent: Some(from),
            depth: depth + 1,
            index: Some(index),
            hidden: hidden || index >= ITERATIONS_SHOWN,
            ended: false,
            open: None,
        };
        if index == ITERATIONS_SHOWN && !hidden {
            let more = self.style.dim("… further items are not shown");
            self.line(event.at, depth + 1, &more, out);
        }
        self.scopes.push(scope);
        self.scopes.len() - 1
    }

    fn enter(&mut self, scope: usize, event: &HistoryEvent) {
        self.scopes[scope].open = Some(Open {
            name: event.text("name").unwrap_or("?").to_owned(),
            kind: event.kind.trim_end_matches("StateEntered").to_owned(),
            joined: false,
            entered_at: event.at,
            announced: false,
            failed: false,
            attempts: 0,
        });
        self.busy.insert(scope);
    }

    fn attempt(&mut self, scope: usize) {
        if let Some(open) = &mut self.scopes[scope].open {
            open.attempts += 1;
            open.failed = false;
        }
    }

    /// An attempt failed; a retry or a catch may follow.
    fn attempt_failed(&mut self, scope: usize, event: &HistoryEvent, out: &mut String) {
        let Some(open) = &mut self.scopes[scope].open else { return };
        open.failed = true;
        let text = format!("{}  attempt {}", open.name, open.attempts.max(1));
        let line = format!("{} {text}  {}", self.style.red("✗"), self.style.red(&failure(event)));
        self.line_of(scope, event.at, &line, out);
    }

    /// Says that a state is under way, once.
    fn announce(&mut self, scope: usize, out: &mut String) {
        let Some(open) = &mut self.scopes[scope].open else { return };
        if std::mem::replace(&mut open.announced, true) {
            return;
        }
        let (name, at) = (open.name.clone(), open.entered_at);
        let line = format!("{} {}", self.mark(Mark::Waiting), self.style.dim(&name));
        self.line_of(scope, at, &line, out);
    }

    /// The state of a scope is left; without a mark its last failure says how.
    fn leave(&mut self, scope: usize, at: Timestamp, mark: Option<Mark>, out: &mut String) {
        let Some(open) = self.scopes[scope].open.take() else { return };
        self.busy.remove(&scope);
        let took = self.style.dim(&millis(at.millis_since(open.entered_at)));
        let (mark, note) = match (mark, open.failed) {
            (None, false) => (Mark::Done, String::new()),
            (None, true) => (Mark::Failed, self.style.yellow("  caught")),
            (Some(mark), _) => (mark, String::new()),
        };
        let line = format!("{} {}  {took}{note}", self.mark(mark), open.name);
        self.line_of(scope, at, &line, out);
    }

    fn mark(&self, mark: Mark) -> String {
        match mark {
            Mark::Done => self.style.green("✓"),
            Mark::Failed => self.style.red("✗"),
            Mark::Waiting => self.style.yellow("◷"),
            Mark::Aborted => self.style.yellow("⊘"),
        }
    }

    fn line_of(&self, scope: usize, at: Timestamp, text: &str, out: &mut String) {
        let Scope { depth, index, hidden, .. } = &self.scopes[scope];
        if *hidden {
            return;
        }
        match index {
            Some(index) => {
                self.line(at, *depth, &format!("{} {text}", self.style.dim(&format!("[{index}]"))), out)
            }
            None => self.line(at, *depth, text, out),
        }
    }

    fn line(&self, at: Timestamp, depth: usize, text: &str, out: &mut String) {
        let after = at.millis_since(self.started_at.unwrap_or(at));
        let after = self.style.dim(&format!("{:>8.3}s", after as f64 / 1000.0));
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{after}  {:indent$}{text}", "", indent = 2 * depth);
    }
}

fn index(event: &HistoryEvent) -> Option<u64> {
    event.details.get("index").and_then(serde_json::Value::as_u64)
}

/// `Error: cause` on one line, shortened.
fn failure(event: &HistoryEvent) -> String {
    let default = if event.kind.ends_with("TimedOut") { "States.Timeout" } else { "failed" };
    let error = event.text("error").unwrap_or(default);
    let text = match event.text("cause").filter(|cause| !cause.is_empty()) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_owned(),
    };
    shortened(&text)
}

/// The text on one line, cut to what fits.
fn shortened(text: &str) -> String {
    let mut line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() > ERROR_CHARS_MAX {
        line = line.chars().take(ERROR_CHARS_MAX).collect();
        line.push('…');
    }
    // A cause comes from outside; it shall not steer the terminal.
    line.retain(|c| !c.is_control());
    line
}

/// A duration as a person reads it.
pub(crate) fn millis(millis: i64) -> String {
    match millis {
        ..1_000 => format!("{}ms", millis.max(0)),
        1_000..60_000 => format!("{:.1}s", millis as f64 / 1000.0),
        60_000..3_600_000 => format!("{}m{:02}s", millis / 60_000, millis / 1000 % 60),
        _ => format!("{}h{:02}m", millis / 3_600_000, millis / 60_000 % 60),
    }
}

#[cfg(test)]
mod tests;
