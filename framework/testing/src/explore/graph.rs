//! The situations that were seen, and what leads from one to the other.

use std::collections::BTreeSet;

use stagepost_asl::StateIndex;

use super::plan::Plan;

/// The place of a situation.
pub(super) type NodeId = usize;

/// Before anything has happened.
pub(super) const START: NodeId = 0;
/// The execution succeeded, or failed as its definition wants it.
pub(super) const GOOD: NodeId = 1;
/// It failed because nothing caught an error.
pub(super) const FAILED: NodeId = 2;
/// Nobody looked further.
pub(super) const CUT: NodeId = 3;

/// Most situations without a way out that are looked at for the loops that they are in.
const LOOKED_AT_MAX: usize = 1_000;

/// From one situation to another one.
#[derive(Debug, Clone)]
pub(super) struct Edge {
    pub(super) to: NodeId,
    pub(super) millis: i64,
    pub(super) events: u64,
    /// The path that goes over it.
    pub(super) plan: Plan,
}

#[derive(Debug)]
struct Node {
    /// The task that is asked there.
    state: Option<StateIndex>,
    edges: Vec<Edge>,
}

#[derive(Debug)]
pub(super) struct Graph {
    nodes: Vec<Node>,
}

/// The most that a path can come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Longest {
    /// So much.
    AtMost(u64),
    /// A loop goes over this task.
    Loop(StateIndex),
}

impl Graph {
    pub(super) fn new() -> Graph {
        let nodes = (0..4).map(|_| Node { state: None, edges: Vec::new() }).collect();
        Graph { nodes }
    }

    pub(super) fn node(&mut self, state: Option<StateIndex>) -> NodeId {
        self.nodes.push(Node { state, edges: Vec::new() });
        self.nodes.len() - 1
    }

    pub(super) fn edge(&mut self, from: NodeId, edge: Edge) {
        self.nodes[from].edges.push(edge);
    }

    pub(super) fn situations(&self) -> usize {
        self.nodes.len() - 4
    }

    /// The most that a path weighs.
    pub(super) fn longest(&self, weight: impl Fn(&Edge) -> u64) -> Longest {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            Open,
            Done(u64),
        }
        let mut marks = vec![Mark::New; self.nodes.len()];
        // The nodes on the way, each with the edge that is looked at next, and what led to it.
        let mut way: Vec<(NodeId, usize, u64)> = vec![(START, 0, 0)];
        marks[START] = Mark::Open;
        while let Some((node, next, _)) = way.last_mut() {
            let Some(edge) = self.nodes[*node].edges.get(*next) else {
                let most = self.nodes[*node].edges.iter().map(|edge| match marks[edge.to] {
                    Mark::Done(rest) => weight(edge).saturating_add(rest),
                    _ => weight(edge),
                });
                marks[*node] = Mark::Done(most.max().unwrap_or(0));
                way.pop();
                continue;
            };
            *next += 1;
            match marks[edge.to] {
                Mark::New => {
                    marks[edge.to] = Mark::Open;
                    way.push((edge.to, 0, weight(edge)));
                }
                Mark::Open => {
                    let round = way.iter().rev().take_while(|(node, ..)| *node != edge.to);
                    let round = round.fold(weight(edge), |sum, (_, _, weight)| sum.saturating_add(*weight));
                    if let (true, Some(state)) = (round > 0, self.nodes[edge.to].state) {
                        return Longest::Loop(state);
                    }
                }
                Mark::Done(_) => {}
            }
        }
        match marks[START] {
            Mark::Done(most) => Longest::AtMost(most),
            _ => Longest::AtMost(0),
        }
    }

    /// Loops from which no path leads to an end but by an error: a path into each, with the tasks in it.
    pub(super) fn without_exit(&self) -> Vec<(Plan, BTreeSet<StateIndex>)> {
        let mut backwards: Vec<Vec<NodeId>> = vec![Vec::new(); self.nodes.len()];
        for (from, node) in self.nodes.iter().enumerate() {
            node.edges.iter().for_each(|edge| backwards[edge.to].push(from));
        }
        let mut leaves = vec![false; self.nodes.len()];
        let mut open = vec![GOOD, CUT];
        while let Some(node) = open.pop() {
            if !std::mem::replace(&mut leaves[node], true) {
                open.extend(&backwards[node]);
            }
        }
        let caught = |node: NodeId| node > CUT && !leaves[node];
        let mut loops = Vec::new();
        let mut placed: BTreeSet<NodeId> = BTreeSet::new();
        let mut looked_at = 0;
        for from in (0..self.nodes.len()).filter(|node| caught(*node)) {
            if placed.contains(&from) || looked_at >= LOOKED_AT_MAX {
                continue;
            }
            looked_at += 1;
            // What it leads to and what leads to it, it goes round with.
            let onwards = reached(from, |node| self.nodes[node].edges.iter().map(|edge| edge.to).collect());
            let back = reached(from, |node| backwards[node].clone());
            let round: BTreeSet<NodeId> = onwards.intersection(&back).copied().collect();
            placed.extend(&round);
            let states: BTreeSet<StateIndex> =
                round.iter().filter_map(|node| self.nodes[*node].state).collect();
            let edges = round.iter().flat_map(|node| &self.nodes[*node].edges);
            // The edge that closes the loop has gone all the way round.
            let closes = edges.filter(|edge| round.contains(&edge.to)).filter(|edge| {
                edge.plan.visits.iter().any(|visit| Some(visit.state) == self.nodes[edge.to].state)
            });
            let shortest = closes.min_by_key(|edge| (edge.plan.faults(), edge.plan.visits.len()));
            loops.extend(shortest.map(|edge| (edge.plan.clone(), states)));
        }
        loops
    }
}

fn reached(from: NodeId, next: impl Fn(NodeId) -> Vec<NodeId>) -> BTreeSet<NodeId> {
    let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(node) = open.pop() {
        if seen.insert(node) {
            open.extend(next(node));
        }
    }
    seen
}
