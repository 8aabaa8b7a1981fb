//! What of a definition runs have seen: states, the ways out of choices, retriers and catchers.

use std::{collections::BTreeSet, fmt, sync::Arc};

use stagepost_asl::{ErrorHandling, State, StateIndex, StateKind, StateMachine};
use stagepost_engine::command::Way;

use crate::run::Run;

/// A thing that runs can cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Item {
    /// A state.
    State(StateIndex),
    /// A way on from a state: a rule, a default, a retrier, a catcher.
    Way(StateIndex, Way),
}

/// What of a definition was covered.
#[derive(Debug, Clone)]
pub struct Coverage {
    machine: Arc<StateMachine>,
    all: Vec<Item>,
    seen: BTreeSet<Item>,
}

/// How many of how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Covered.
    pub covered: usize,
    /// There are.
    pub total: usize,
}

impl Count {
    /// Rounded down, so that 100 means all; 100 of nothing.
    pub fn percent(self) -> usize {
        (self.covered * 100).checked_div(self.total).unwrap_or(100)
    }
}

impl Coverage {
    /// Nothing is covered yet.
    pub fn new(machine: &Arc<StateMachine>) -> Coverage {
        let mut all = Vec::new();
        for (n, state) in (0..).zip(machine.states.iter()) {
            let index = StateIndex(n);
            all.push(Item::State(index));
            let mut ways = |count: usize, way: fn(u32) -> Way| {
                all.extend((0..).take(count).map(|n| Item::Way(index, way(n))));
            };
            if let StateKind::Choice(choice) = &state.kind {
                ways(choice.choices.len(), Way::Rule);
                all.extend(choice.default.map(|_| Item::Way(index, Way::Default)));
            } else if let Some(errors) = handlers(&state.kind) {
                ways(errors.retry.len(), Way::Retrier);
                ways(errors.catch.len(), Way::Catcher);
            }
        }
        Coverage { machine: Arc::clone(machine), all, seen: BTreeSet::new() }
    }

    /// Counts what a run has covered.
    pub fn add(&mut self, run: &Run) {
        self.seen.extend(run.visits().map(Item::State));
        self.seen.extend(run.ways().iter().map(|taken| Item::Way(taken.state, taken.way)));
    }

    /// Of the items that a test selects.
    pub fn count(&self, select: impl Fn(&Item) -> bool) -> Count {
        let mut count = Count::default();
        for item in self.all.iter().filter(|item| select(item)) {
            count.total += 1;
            count.covered += usize::from(self.seen.contains(item));
        }
        count
    }

    /// States, ways out of choices, retriers, catchers.
    pub fn counts(&self) -> [(&'static str, Count); 4] {
        [
            ("states", self.count(|item| matches!(item, Item::State(_)))),
            ("choices", self.count(|item| matches!(item, Item::Way(_, Way::Rule(_) | Way::Default)))),
            ("retriers", self.count(|item| matches!(item, Item::Way(_, Way::Retrier(_))))),
            ("catchers", self.count(|item| matches!(item, Item::Way(_, Way::Catcher(_))))),
        ]
    }

    /// Everything together.
    pub fn total(&self) -> Count {
        self.count(|_| true)
    }

    /// Whether an item was covered.
    pub fn has(&self, item: Item) -> bool {
        self.seen.contains(&item)
    }

    /// What was not covered, in the order of the definition.
    pub fn missing(&self) -> impl Iterator<Item = Item> {
        self.all.iter().copied().filter(|item| !self.seen.contains(item))
    }

    /// An item, as people read it.
    pub fn describe(&self, item: Item) -> String {
        Described { machine: &self.machine, item }.to_string()
    }
}

/// `Retry` and `Catch` of the states that have them.
pub(crate) fn handlers(kind: &StateKind) -> Option<&ErrorHandling> {
    match kind {
        StateKind::Task(task) => Some(&task.errors),
        StateKind::Parallel(parallel) => Some(&parallel.errors),
        StateKind::Map(map) => Some(&map.errors),
        _ => None,
    }
}

pub(crate) struct Described<'m> {
    pub(crate) machine: &'m StateMachine,
    pub(crate) item: Item,
}

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (index, way) = match self.item {
            Item::State(state) => return write!(f, "state {}", self.machine.state(state).name),
            Item::Way(state, way) => (state, way),
        };
        let state: &State = self.machine.state(index);
        let next = |next: StateIndex| format!(" → {}", self.machine.state(next).name);
        let errors = |list: Option<&Vec<String>>| {
            list.map(|names| format!(" ({})", names.join(", "))).unwrap_or_default()
        };
        let handlers = handlers(&state.kind);
        match (way, &state.kind) {
            (Way::Rule(n), StateKind::Choice(choice)) => {
                let to = choice.choices.get(n as usize).map(|c| next(c.next)).unwrap_or_default();
                write!(f, "{}: rule {}{to}", state.name, n + 1)
            }
            (Way::Default, StateKind::Choice(choice)) => {
                write!(f, "{}: default{}", state.name, choice.default.map(next).unwrap_or_default())
            }
            (Way::Retrier(n), _) => {
                let retrier = handlers.and_then(|h| h.retry.get(n as usize));
                write!(f, "{}: retrier {}{}", state.name, n + 1, errors(retrier.map(|r| &r.error_equals)))
            }
            (Way::Catcher(n), _) => {
                let catcher = handlers.and_then(|h| h.catch.get(n as usize));
                let to = catcher.map(|c| next(c.next)).unwrap_or_default();
                write!(f, "{}: catcher {}{}{to}", state.name, n + 1, errors(catcher.map(|c| &c.error_equals)))
            }
            (Way::NoDefault, _) => write!(f, "{}: no rule holds", state.name),
            (way, _) => write!(f, "{}: {way:?}", state.name),
        }
    }
}
