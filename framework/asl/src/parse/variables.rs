//! Which variables a state may refer to: those that are assigned on some way to it.
//!
//! The service decides this when a state runs. Here it is told before: a name that nobody assigns, and one that is
//! assigned only where it cannot be seen (in a branch, after the state, or outside of a distributed Map).

use std::collections::{HashMap, HashSet};

use super::{
    finding::{Severity, codes},
    node::{CANDIDATES_MAX, Findings},
};
use crate::model::State;

/// The machine, a branch or an item processor.
pub(super) struct ScopeShape {
    /// The index of its first state; they follow each other.
    pub(super) first: u32,
    /// To which states of the scope each leads, as distances from the first.
    pub(super) edges: Vec<Vec<u32>>,
    /// The state that it is a part of.
    pub(super) container: Option<u32>,
    /// Nothing of what is around it can be seen in it: the processor of a distributed Map.
    pub(super) closed: bool,
}

/// The most steps that following assignments through a machine may take. Beyond, a variable counts as assigned
/// everywhere: warnings are a courtesy, and a hostile definition must not cost seconds.
const STEPS_MAX: usize = 5_000_000;

/// Warns about references to variables that are not there.
pub(super) fn check(found: &mut Findings, states: &[State], scopes: &[ScopeShape]) {
    let references: Vec<Vec<&str>> = states.iter().map(State::variable_references).collect();
    if references.iter().all(Vec::is_empty) {
        return;
    }
    let asked: HashSet<&str> = references.iter().flatten().copied().collect();
    let mut assigned: HashMap<&str, Vec<u32>> = HashMap::new();
    for (index, state) in (0..).zip(states) {
        for name in state.assigned_names().filter(|name| asked.contains(name)) {
            assigned.entry(name).or_default().push(index);
        }
    }
    let mut scope_of = vec![0_usize; states.len()];
    for (scope, shape) in scopes.iter().enumerate() {
        scope_of[shape.first as usize..][..shape.edges.len()].fill(scope);
    }
    let mut ways = Ways { scopes, scope_of, assigned: &assigned, reached: HashMap::new(), left: STEPS_MAX };
    let names: Vec<&str> = {
        let all: HashSet<&str> = states.iter().flat_map(State::assigned_names).collect();
        all.into_iter().take(CANDIDATES_MAX + 1).collect()
    };
    for (index, names_of_state) in (0..).zip(&references) {
        for name in names_of_state {
            let pointer = states[index as usize].pointer.as_str();
            let Some(by) = assigned.get(name) else {
                let help = found.near_match(name, &names);
                let message = format!("No state assigns the variable '${name}'");
                found.add(Severity::Warning, codes::UNASSIGNED_VARIABLE, pointer, message).help = help;
                continue;
            };
            if !ways.visible(name, index) {
                let message = format!("The variable '${name}' is not assigned on any way to this state");
                let help =
                    format!("'{}' assigns it, where this state cannot see it", states[by[0] as usize].name);
                found.add(Severity::Warning, codes::UNASSIGNED_VARIABLE, pointer, message).help = Some(help);
            }
        }
    }
}

struct Ways<'a> {
    scopes: &'a [ScopeShape],
    scope_of: Vec<usize>,
    assigned: &'a HashMap<&'a str, Vec<u32>>,
    /// Which states of a scope come after one that assigns a name; `None`: it was not worth finding out.
    reached: HashMap<(usize, &'a str), Option<Vec<bool>>>,
    left: usize,
}

impl<'a> Ways<'a> {
    /// Whether a name may have a value when a state begins.
    fn visible(&mut self, name: &'a str, state: u32) -> bool {
        let mut state = state;
        loop {
            let scope = self.scope_of[state as usize];
            let shape = &self.scopes[scope];
            let after = self.after(scope, name);
            if after.is_none_or(|after| after[(state - shape.first) as usize]) {
                return true;
            }
            match shape.container {
                Some(container) if !shape.closed => state = container,
                _ => return false,
            }
        }
    }

    fn after(&mut self, scope: usize, name: &'a str) -> Option<&Vec<bool>> {
        if !self.reached.contains_key(&(scope, name)) {
            let found = self.follow(scope, name);
            self.reached.insert((scope, name), found);
        }
        self.reached[&(scope, name)].as_ref()
    }

    fn follow(&mut self, scope: usize, name: &str) -> Option<Vec<bool>> {
        let shape = &self.scopes[scope];
        self.left = self.left.checked_sub(shape.edges.len())?;
        let states = shape.first..shape.first + shape.edges.len() as u32;
        let by = self.assigned.get(name).into_iter().flatten().filter(|state| states.contains(state));
        let mut open: Vec<u32> = by.map(|state| state - shape.first).collect();
        let mut reached = vec![false; shape.edges.len()];
        while let Some(place) = open.pop() {
            let next = &shape.edges[place as usize];
            self.left = self.left.checked_sub(next.len())?;
            open.extend(next.iter().filter(|next| !std::mem::replace(&mut reached[**next as usize], true)));
        }
        Some(reached)
    }
}
