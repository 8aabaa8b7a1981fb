//! The child executions of a Map Run that ended without success, for a redrive: which ones, how many items each has and
//! how often it was redriven.
//!
//! Those that follow each other and are alike are kept as one, so all of a million that fail take no more room than one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Unsuccessful {
    /// By the number of the first.
    runs: BTreeMap<u64, Alike>,
    children: u64,
    items: u64,
}

/// Child executions that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Alike {
    count: u64,
    /// How many items each of them has.
    items: u32,
    /// How often each of them was redriven.
    redrives: u32,
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UnsuccessfulChild {
    pub(crate) index: u64,
    pub(crate) items: u32,
    pub(crate) redrives: u32,
}

const RUN_BYTES: usize = 48;

impl Unsuccessful {
    pub(crate) fn children(&self) -> u64 {
        self.children
    }

    pub(crate) fn items(&self) -> u64 {
        self.items
    }

    /// How many places they take.
    pub(crate) fn places(&self) -> usize {
        self.runs.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.runs.len() * RUN_BYTES
    }

    /// Adds one, unless that would take more than so many places.
    pub(crate) fn insert(&mut self, child: UnsuccessfulChild, places_max: usize) -> bool {
        let UnsuccessfulChild { index, items, redrives } = child;
        self.insert_run(index, Alike { count: 1, items, redrives }, places_max)
    }

    /// Adds those of another one, none of which are here.
    pub(crate) fn append(&mut self, other: Unsuccessful) {
        for (first, run) in other.runs {
            self.insert_run(first, run, usize::MAX);
        }
    }

    fn insert_run(&mut self, first: u64, run: Alike, places_max: usize) -> bool {
        let alike = |other: &Alike| other.items == run.items && other.redrives == run.redrives;
        let before = self.runs.range(..first).next_back();
        let before =
            before.filter(|(at, other)| *at + other.count == first && alike(other)).map(|(at, _)| *at);
        let end = first.saturating_add(run.count);
        let after = self.runs.get(&end).filter(|other| alike(other)).map(|other| other.count);
        if before.is_none() && after.is_none() && self.runs.len() >= places_max {
            return false;
        }
        if after.is_some() {
            self.runs.remove(&end);
        }
        let joined = Alike { count: run.count + after.unwrap_or(0), ..run };
        match before.and_then(|at| self.runs.get_mut(&at)) {
            Some(other) => other.count += joined.count,
            None => drop(self.runs.insert(first, joined)),
        }
        self.children += run.count;
        self.items += run.count * u64::from(run.items);
        true
    }

    /// Takes the first one out.
    pub(crate) fn pop_first(&mut self) -> Option<UnsuccessfulChild> {
        let (index, run) = self.runs.pop_first()?;
        if run.count > 1 {
            self.runs.insert(index + 1, Alike { count: run.count - 1, ..run });
        }
        self.children -= 1;
        self.items -= u64::from(run.items);
        Some(UnsuccessfulChild { index, items: run.items, redrives: run.redrives })
    }

    /// Their numbers, in order.
    pub(crate) fn indices(&self) -> impl Iterator<Item = u64> {
        self.runs.iter().flat_map(|(first, run)| *first..*first + run.count)
    }

    /// What must hold after every decision.
    pub(crate) fn check(&self) -> bool {
        let items = self.runs.values().map(|run| run.count * u64::from(run.items)).sum::<u64>();
        self.children == self.indices().count() as u64 && self.items == items
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(index: u64, redrives: u32) -> UnsuccessfulChild {
        UnsuccessfulChild { index, items: 2, redrives }
    }

    #[test]
    fn neighbours_that_are_alike_take_one_place() {
        let mut all = Unsuccessful::default();
        for index in [4, 2, 3, 0, 1, 6] {
            assert!(all.insert(child(index, 0), 3));
            assert!(all.check());
        }
        assert_eq!((all.places(), all.children(), all.items()), (2, 6, 12));
        // One that was redriven more often is another kind.
        assert!(all.insert(child(5, 1), 3));
        assert!(!all.insert(child(9, 0), 3), "there is no place left");
        assert!(all.insert(child(7, 0), 3), "but beside one that is there");
        assert_eq!((all.places(), all.indices().collect::<Vec<_>>()), (3, (0..8).collect()));
        let mut taken = Vec::new();
        while let Some(first) = all.pop_first() {
            assert!(all.check());
            taken.push(first);
        }
        assert_eq!(taken.iter().map(|c| c.index).collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
        assert_eq!(taken.iter().filter(|c| c.redrives == 1).count(), 1);
        assert_eq!(all, Unsuccessful::default());
    }

    #[test]
    fn two_become_one() {
        let (mut some, mut others) = (Unsuccessful::default(), Unsuccessful::default());
        (0..10).filter(|n| n % 2 == 0).for_each(|n| assert!(some.insert(child(n, 0), 10)));
        (0..10).filter(|n| n % 2 == 1).for_each(|n| assert!(others.insert(child(n, 0), 10)));
        some.append(others);
        assert_eq!((some.places(), some.children()), (1, 10));
        assert!(some.check());
    }
}
