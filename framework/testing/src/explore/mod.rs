//! Walks every path of a definition and tells what is wrong with it.
//!
//! ```text
//! definition ──► walk: plans, run on the engine ──► graph of situations ──► findings, each with a case
//!                  ▲ refs: what expressions look at        │ no way out? how long?
//!                  └ solve: data for the ways of choices ──┘
//! ```
//!
//! Every task answers with success, with each error that the handlers of its state and of the states around it tell
//! apart, with an error that none of them knows, and with a timeout. What a task gives is unknown, and made up as far as
//! expressions and choices need it. A situation (where every scope stands, and all data in sight) is looked at once.
//!
//! It is a search, not a proof: whatever it reports as certain was run, and the case that it comes with runs again in
//! `stagepost test`; whatever it could not settle is said to be open.

mod graph;
mod plan;
mod refs;
mod report;
mod solve;
mod walk;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::Value;
use stagepost_asl::{Finding as Refusal, StateIndex, StateKind, StateMachine};
use stagepost_engine::command::Way;
use stagepost_protocol::error_names;

use crate::{
    cases::{Case, Context, Expect},
    check::differences,
    coverage::{Coverage, Item},
    run::{EVENTS_MAX, Mock, Repeated, Run, Status},
    world::Said,
};
use graph::Longest;
use plan::{Names, Plan, unmarked};
use walk::{Seen, UNKNOWN_ERROR, Walk, What};

pub use report::KINDS;

/// Events after which a path that goes round in a loop is held to be endless, in the cases of findings.
const LOOP_EVENTS: u64 = 1_000;

/// How far the search goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// So many paths are run; 20,000.
    pub paths: usize,
    /// So often a path visits the same task; 12.
    pub visits: u32,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { paths: 20_000, visits: 12 }
    }
}

/// What is known of the input of an execution.
#[derive(Debug, Clone, PartialEq)]
pub enum Known {
    /// Nothing: it is made up as choices need it.
    Nothing,
    /// All of it.
    Value(Value),
}

/// Something that is wrong with a definition.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// What kind of thing; one of [`KINDS`].
    pub kind: &'static str,
    /// The state that it is about.
    pub state: String,
    /// What, in a sentence.
    pub message: String,
    /// It was run and happened, or, of what does not happen: everything was looked at. Otherwise it is possible.
    pub certain: bool,
    /// The way to it, as a case that passes.
    pub case: Option<Case>,
}

/// What a search has found.
#[derive(Debug)]
pub struct Exploration {
    /// In the order of [`KINDS`], and of the definition.
    pub findings: Vec<Finding>,
    /// How many paths were run.
    pub paths: usize,
    /// How many situations were told apart.
    pub situations: usize,
    /// The bound that ended the search, and the number of faults (errors and timeouts) of which not all paths were run.
    pub stopped: Option<(&'static str, usize)>,
    /// Tasks at which loops were cut off.
    pub cut: Vec<String>,
    /// What could not be settled: no data was found with which a choice takes a way, or a state does its work.
    pub open: Vec<String>,
    /// The longest possible duration in milliseconds, but for `unlimited`; the task of a loop where there is no limit.
    pub longest_millis: Result<u64, String>,
    /// The largest possible number of events; the task of a loop where there is no limit.
    pub longest_events: Result<u64, String>,
    /// Tasks that may take any time.
    pub unlimited: Vec<String>,
    /// What of the definition was seen.
    pub coverage: Coverage,
}

/// Walks every path of a definition, from each of the inputs. `out_of_time` is asked after every path. The error is what
/// is wrong with the text.
pub fn explore(
    definition: &str,
    inputs: &[Known],
    bounds: Bounds,
    out_of_time: &dyn Fn() -> bool,
) -> Result<Exploration, Vec<Refusal>> {
    let machine = crate::parse(definition)?;
    let text: Value = serde_json::from_str(definition).unwrap_or_default();
    let mut walk = Walk::new(&machine, &text, bounds, out_of_time);
    for input in inputs {
        walk.walk(input);
    }
    Ok(explored(&machine, &walk))
}

fn explored(machine: &Arc<StateMachine>, walk: &Walk<'_>) -> Exploration {
    let name = |state: StateIndex| machine.state(state).name.to_string();
    let names = |states: &BTreeSet<StateIndex>| states.iter().copied().map(name).collect::<Vec<_>>();
    let judge = Judge { machine, names: walk.names() };
    let mut findings: Vec<Finding> = walk.seen.values().map(|seen| judge.seen(seen)).collect();
    findings
        .extend(walk.graph.without_exit().iter().map(|(plan, states)| judge.endless(plan, &names(states))));
    let missing: BTreeSet<Item> = walk.coverage.missing().collect();
    // What was never seen is of consequence only where nothing else is known of it.
    let matters = |item: &Item| matches!(item, Item::State(_)) || missing.contains(item);
    let open: BTreeMap<Item, &str> = walk
        .undecided
        .iter()
        .filter(|(item, _)| matters(item))
        .map(|(item, cause)| (*item, cause.as_str()))
        .collect();
    // A Map state may have had no items only because of the data that was made up for it.
    let empty = |state: StateIndex| {
        let pointer = machine.state(state).pointer.as_str();
        (0..).map(StateIndex).zip(machine.states.iter()).any(|(index, around)| {
            matches!(around.kind, StateKind::Map(_))
                && pointer.starts_with(&format!("{}/", around.pointer))
                && !missing.contains(&Item::State(index))
        })
    };
    // What a choice looks at may have been computed from data that is unknown.
    let computed = missing.iter().any(|item| match item {
        Item::Way(state, Way::Rule(_) | Way::Default) => walk.dependent.contains(state),
        _ => false,
    });
    let all = walk.stopped.is_none() && walk.cut.is_empty() && open.is_empty() && !computed;
    let complete = all && !missing.iter().any(|item| matches!(item, Item::State(state) if empty(*state)));
    findings.extend(missing.iter().filter(|item| !open.contains_key(item)).filter_map(|item| {
        match item {
            Item::State(state) => Some(Finding {
                kind: "unreached",
                state: name(*state),
                message: "no path leads to it".to_owned(),
                certain: complete,
                case: None,
            }),
            Item::Way(state, _) if missing.contains(&Item::State(*state)) => None,
            Item::Way(state, _) => Some(Finding {
                kind: "unused",
                state: name(*state),
                message: walk
                    .coverage
                    .describe(*item)
                    .split_once(": ")
                    .map_or_else(String::new, |(_, way)| way.to_owned()),
                certain: complete,
                case: None,
            }),
        }
    }));
    let kind = |finding: &Finding| KINDS.iter().position(|(kind, _)| *kind == finding.kind);
    let place = |finding: &Finding| machine.by_name.get(finding.state.as_str()).copied();
    findings.sort_by_key(|finding| (kind(finding), place(finding)));
    let longest = |longest: Longest, cap: Option<u64>| match longest {
        Longest::AtMost(most) => Ok(cap.map_or(most, |cap| most.min(cap))),
        Longest::Loop(state) => cap.ok_or_else(|| name(state)),
    };
    let cap = machine.timeout_seconds.map(|seconds| seconds.saturating_mul(1000));
    let open = open.iter().map(|(item, cause)| match item {
        Item::State(state) => {
            format!("{}: no data was found with which it does its work: {cause}", name(*state))
        }
        item => format!("{}: no data was found that takes it there", walk.coverage.describe(*item)),
    });
    Exploration {
        paths: walk.runs,
        situations: walk.graph.situations(),
        stopped: walk.stopped,
        cut: names(&walk.cut),
        open: open.collect(),
        longest_millis: longest(walk.graph.longest(|edge| edge.millis.unsigned_abs()), cap),
        longest_events: longest(walk.graph.longest(|edge| edge.events), None),
        unlimited: if cap.is_some() { Vec::new() } else { names(&walk.unlimited) },
        coverage: walk.coverage.clone(),
        findings,
    }
}

/// Makes findings of what was seen, and cases that show them.
struct Judge<'w> {
    machine: &'w Arc<StateMachine>,
    names: &'w Names,
}

impl Judge<'_> {
    fn seen(&self, Seen { what, plan, run }: &Seen) -> Finding {
        let path = || Some(run.path().map(str::to_owned).collect::<Vec<_>>());
        let failed = |error: Option<&str>| Expect {
            status: Some(Status::Failed),
            error: error.map(str::to_owned),
            path: path(),
            ..Expect::default()
        };
        let running = Expect { status: Some(Status::Running), ..Expect::default() };
        let (kind, state, message, expect) = match what {
            What::Uncaught { state, error } => {
                let what = match error.as_str() {
                    UNKNOWN_ERROR => "an error that no Retry or Catch names".to_owned(),
                    error_names::TIMEOUT => "its timeout (States.Timeout)".to_owned(),
                    error => error.to_owned(),
                };
                // A Map state that tolerates failures fails with another error.
                ("uncaught", state, format!("nothing catches {what}"), failed(run.error()))
            }
            What::NoDefault { state } => {
                let message = "no rule holds, and there is no Default".to_owned();
                ("no-default", state, message, failed(run.error()))
            }
            What::Fails { state } => {
                let error = run.error().unwrap_or_default();
                ("fails", state, format!("it fails with {error}"), failed(run.error()))
            }
            What::Spins { state } => ("endless", state, "it goes round and round".to_owned(), running),
            What::WaitsForever { state } => {
                let message =
                    "nobody need ever answer: it has no TimeoutSeconds or HeartbeatSeconds".to_owned();
                let expect = Expect { path: path(), ..running };
                ("waits-forever", state, message, expect)
            }
        };
        let name = self.machine.state(*state).name.to_string();
        let mut mocks = mocks(run);
        if let What::WaitsForever { .. } = what {
            for asked in run.world.to_ask() {
                let state = self.machine.state(asked.state).name.to_string();
                mocks.entry(state).or_default().push(Said::Never);
            }
        }
        let events = if matches!(what, What::Spins { .. }) { LOOP_EVENTS } else { EVENTS_MAX };
        let case = self.case(&format!("{name}: {message}"), plan, &mocks, &expect, events, false);
        Finding { kind, state: name, message, certain: case.is_some(), case }
    }

    fn endless(&self, plan: &Plan, states: &[String]) -> Finding {
        let message = format!("no way out of {} but by an error", states.join(" → "));
        let mut mocks: BTreeMap<String, Vec<Said>> = BTreeMap::new();
        for visit in &plan.visits {
            let said = match &visit.fault {
                Some(fault) => fault.said.clone(),
                None => Said::Result(visit.result.clone()),
            };
            mocks.entry(self.machine.state(visit.state).name.to_string()).or_default().push(said);
        }
        let expect = Expect { status: Some(Status::Running), visited: states.to_vec(), ..Expect::default() };
        let case = self.case(&message, plan, &mocks, &expect, LOOP_EVENTS, true);
        let state = states.first().cloned().unwrap_or_default();
        Finding { kind: "endless", state, message, certain: case.is_some(), case }
    }

    /// A case, if it passes. `on`: the last answer of each state is given again and again.
    fn case(
        &self,
        name: &str,
        plan: &Plan,
        mocks: &BTreeMap<String, Vec<Said>>,
        expect: &Expect,
        max_events: u64,
        on: bool,
    ) -> Option<Case> {
        // Without the marks of unknown objects it is easier to read; not everything works without them.
        [true, false].into_iter().find_map(|plain| {
            let shown = |value: &Value| if plain { unmarked(value, self.names) } else { value.clone() };
            let case = Case {
                name: name.to_owned(),
                input: shown(&plan.input),
                now: None,
                context: Context::default(),
                seed: 0,
                max_events,
                mocks: mocks.iter().map(|(state, said)| (state.clone(), mock(said, on, &shown))).collect(),
                expect: expect.clone(),
            };
            let run = case.simulation(self.machine).run();
            differences(&case, &run).is_empty().then_some(case)
        })
    }
}

/// What was answered on a path, by state.
fn mocks(run: &Run) -> BTreeMap<String, Vec<Said>> {
    let mut mocks: BTreeMap<String, Vec<Said>> = BTreeMap::new();
    for (asked, answer) in &run.world.given {
        let name = run.world.machine().state(asked.state).name.to_string();
        mocks.entry(name).or_default().push(answer.said.clone());
    }
    mocks
}

fn mock(said: &[Said], on: bool, shown: &dyn Fn(&Value) -> Value) -> Mock {
    let mut mock = Mock::new();
    for said in said {
        let said = match said {
            Said::Result(value) => Said::Result(shown(value)),
            said => said.clone(),
        };
        match mock.answers.last_mut() {
            Some(Repeated { answer, times: Some(times) }) if answer.said == said => *times += 1,
            _ => mock.answers.push(Repeated { answer: said.into(), times: Some(1) }),
        }
    }
    if let Some(last) = mock.answers.last_mut().filter(|_| on) {
        last.times = None;
    }
    mock
}
