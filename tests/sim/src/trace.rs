//! What happened, in order: a number for all of it, and its last lines.

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash, Hasher},
};

/// Takes note of every call to broker and store.
pub(crate) struct Trace {
    /// So many of the last lines are kept.
    tail_max: usize,
    hasher: DefaultHasher,
    lines: u64,
    tail: VecDeque<String>,
}

/// What a trace tells in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// A hash of all lines: two runs of one seed have the same.
    pub hash: u64,
    /// How many lines there were.
    pub lines: u64,
    /// The last of them.
    pub tail: Vec<String>,
}

impl Trace {
    pub(crate) fn new(tail_max: usize) -> Trace {
        Trace { tail_max, hasher: DefaultHasher::new(), lines: 0, tail: VecDeque::new() }
    }

    pub(crate) fn note(&mut self, millis: i64, who: &str, what: &str) {
        let line = format!("{millis:>8} {who} {what}");
        line.hash(&mut self.hasher);
        self.lines += 1;
        self.tail.push_back(line);
        if self.tail.len() > self.tail_max {
            self.tail.pop_front();
        }
    }

    pub(crate) fn told(&self) -> Told {
        Told { hash: self.hasher.finish(), lines: self.lines, tail: self.tail.iter().cloned().collect() }
    }
}
