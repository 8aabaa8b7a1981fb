//! Targets and reachability within one scope.

use std::collections::HashMap;

use super::{
    finding::{Severity, codes},
    node::{CANDIDATES_MAX, Findings, Node},
};
use crate::model::StateIndex;

/// The states of one scope while they are read: where they are, and where they lead.
pub(super) struct Scope<'a> {
    /// The index of its first state; the others follow.
    pub(super) first: u32,
    /// Its states' places in the scope.
    pub(super) names: HashMap<&'a str, u32>,
    /// Where each state leads, as places in the scope.
    pub(super) edges: Vec<Vec<u32>>,
    /// Some state ends the scope.
    pub(super) ends: bool,
    /// Something is missing, so that reachability cannot be told.
    pub(super) incomplete: bool,
}

impl<'a> Scope<'a> {
    pub(super) fn new(first: u32, names: impl Iterator<Item = &'a str>) -> Scope<'a> {
        let names: HashMap<&str, u32> = names.zip(0..).collect();
        let edges = vec![Vec::new(); names.len()];
        Scope { first, names, edges, ends: false, incomplete: false }
    }

    /// One of its states, to be read.
    pub(super) fn at(&mut self, place: u32) -> Origin<'_, 'a> {
        Origin { scope: self, place }
    }

    /// Reads `StartAt`.
    pub(super) fn start(&mut self, findings: &mut Findings, node: &Node<'_>) -> Option<StateIndex> {
        let name = findings.string(node, "StartAt")?;
        if let Some(place) = self.names.get(name) {
            return Some(StateIndex(self.first + place));
        }
        let message = format!("Missing 'StartAt' target: {name}");
        let help = self.proposal(findings, name);
        findings.add(Severity::Error, codes::TARGET, node.at("StartAt"), message).help = help;
        None
    }

    /// To which of its states each leads.
    pub(super) fn into_edges(self) -> Vec<Vec<u32>> {
        self.edges
    }

    fn proposal(&self, findings: &Findings, name: &str) -> Option<String> {
        // One more than are looked at, so that a larger scope is told apart.
        let names: Vec<&str> = self.names.keys().copied().take(CANDIDATES_MAX + 1).collect();
        let help = "a transition stays within its own 'States': it cannot enter or leave a branch";
        findings.near_match(name, &names).or_else(|| Some(help.to_owned()))
    }

    /// Whether the scope can end, and whether each state can be reached. A machine that cannot end is reported alone, as
    /// the service does; branches and iterations that cannot it accepts.
    pub(super) fn check(&self, findings: &mut Findings, node: &Node<'_>, start: Option<StateIndex>) {
        if self.incomplete || self.names.is_empty() {
            return;
        }
        if !self.ends {
            let help = "give one state '\"End\": true', or add a Succeed or Fail state";
            let pointer = node.pointer.as_str();
            if pointer.is_empty() {
                let message = "Workflow has no terminal state";
                findings.add(Severity::Error, codes::NO_END, pointer, message).help = Some(help.to_owned());
                return;
            }
            let message = "No state ends this part of the workflow: only an error or a timeout can";
            findings.add(Severity::Warning, codes::ENDLESS_SCOPE, pointer, message).help =
                Some(help.to_owned());
        }
        let Some(start) = start else { return };
        let mut reached = vec![false; self.edges.len()];
        let mut open = vec![start.0 - self.first];
        while let Some(place) = open.pop() {
            if !std::mem::replace(&mut reached[place as usize], true) {
                open.extend(&self.edges[place as usize]);
            }
        }
        let mut lost: Vec<(&str, u32)> =
            self.names.iter().filter(|(_, p)| !reached[**p as usize]).map(|(n, p)| (*n, *p)).collect();
        lost.sort_by_key(|(_, place)| *place);
        for (name, _) in lost {
            let mut pointer = node.at("States");
            super::node::push_segment(&mut pointer, name);
            let message = format!("State \"{name}\" is not reachable.");
            findings.add(Severity::Error, codes::TARGET, pointer, message);
        }
    }
}

/// A state from which transitions start.
pub(super) struct Origin<'s, 'a> {
    scope: &'s mut Scope<'a>,
    place: u32,
}

impl Origin<'_, '_> {
    /// Reads `field`, the name of a state that this one may lead to.
    pub(super) fn target(
        &mut self,
        findings: &mut Findings,
        node: &Node<'_>,
        field: &str,
    ) -> Option<StateIndex> {
        let Some(name) = findings.string(node, field) else {
            self.scope.incomplete = true;
            return None;
        };
        if let Some(place) = self.scope.names.get(name) {
            self.scope.edges[self.place as usize].push(*place);
            return Some(StateIndex(self.scope.first + place));
        }
        // The service says 'Next' wherever the name stands.
        let message = format!("Missing 'Next' target: {name}");
        let help = self.scope.proposal(findings, name);
        findings.add(Severity::Error, codes::TARGET, node.at(field), message).help = help;
        None
    }

    /// This state ends the scope.
    pub(super) fn ends(&mut self) {
        self.scope.ends = true;
    }

    /// Where this state leads cannot be told.
    pub(super) fn incomplete(&mut self) {
        self.scope.incomplete = true;
    }
}
