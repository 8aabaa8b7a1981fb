//! The branches of a Parallel state and the iterations of a Map state, and how they begin and end.

use std::{collections::BTreeSet, sync::Arc};

use serde::{Deserialize, Serialize};
use stagepost_protocol::{Payload, Timestamp, limits};

use super::{Live, Phase};
use crate::history::{HistoryEvent, ScopeId};

/// The branches or iterations of a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Children {
    pub(crate) is_map: bool,
    /// The event that the next `MapIterationStarted` follows.
    pub(crate) follows: u64,
    pub(crate) total: u32,
    /// The first that has not begun.
    pub(crate) next_index: u32,
    /// 0: no limit.
    pub(crate) max_concurrency: u32,
    pub(crate) tolerated_failures: Option<u32>,
    pub(crate) failed: u32,
    pub(crate) done: u32,
    /// Scopes that run.
    pub(crate) open: BTreeSet<ScopeId>,
    /// Iterations that failed or were aborted, which fails the state: for a redrive.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) closed: BTreeSet<ScopeId>,
    pub(crate) results: Vec<Option<Payload>>,
    pub(super) result_bytes: usize,
    /// More iterations start by a wake-up that is due already.
    pub(super) paused: Option<Timestamp>,
    /// The items, where they cannot be found again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) given: Option<Payload>,
    #[serde(skip)]
    pub(super) items: Items,
}

/// The items of a Map state, kept from when they were last found in its input. No part of the state: they can be
/// found again.
#[derive(Debug, Clone, Default)]
pub(super) struct Items(pub(super) Option<Arc<Vec<Payload>>>);

impl PartialEq for Items {
    fn eq(&self, _: &Items) -> bool {
        true
    }
}

impl Children {
    pub(super) fn scopes(&self) -> impl Iterator<Item = ScopeId> {
        self.open.iter().chain(&self.closed).copied()
    }

    pub(super) fn put(&mut self, index: u32, result: &Payload) -> Result<(), String> {
        match self.results.get_mut(index as usize) {
            Some(place @ None) => *place = Some(result.clone()),
            _ => return Err(format!("the result at {index} has no place or is there already")),
        }
        self.result_bytes += result.len();
        self.done += 1;
        Ok(())
    }
}

impl Live {
    pub(super) fn start_branches(&mut self, event: &HistoryEvent, branches: u32) -> Result<(), String> {
        self.start_children(event, branches, 0, None, false)?;
        (0..branches).try_for_each(|index| self.open_child(event.scope, index, event.id))
    }

    pub(super) fn start_children(
        &mut self,
        event: &HistoryEvent,
        total: u32,
        max_concurrency: u32,
        tolerated_failures: Option<u32>,
        is_map: bool,
    ) -> Result<(), String> {
        // An array of more items is larger than any payload.
        if total as usize > limits::SHARD_MESSAGE_BYTES_MAX {
            return Err("it has too many branches or items".to_owned());
        }
        self.change(event.scope, |s| {
            s.chain = event.id;
            let step = s.step_mut()?;
            if !matches!(step.phase, Phase::Deciding | Phase::Retrying(_)) {
                return Err("its state waits for something else".to_owned());
            }
            step.phase = Phase::Children(Box::new(Children {
                is_map,
                follows: event.id,
                total,
                next_index: 0,
                max_concurrency,
                tolerated_failures,
                failed: 0,
                done: 0,
                open: BTreeSet::new(),
                closed: BTreeSet::new(),
                results: vec![None; total as usize],
                result_bytes: 0,
                paused: None,
                given: None,
                items: Items::default(),
            }));
            Ok(())
        })
    }

    fn open_child(&mut self, parent: ScopeId, index: u32, chain: u64) -> Result<(), String> {
        let child = self.next_scope;
        self.change(parent, |s| {
            let children = s.children_mut()?;
            if index >= children.total {
                return Err(format!("there are {} items", children.total));
            }
            children.next_index = index + 1;
            children.open.insert(child);
            Ok(())
        })?;
        self.open_scope(Some(parent), index, chain);
        Ok(())
    }

    pub(super) fn start_iteration(&mut self, event: &HistoryEvent, index: u32) -> Result<(), String> {
        let next = self.change(event.scope, |s| {
            let children = s.children_mut()?;
            children.paused = None;
            Ok(children.next_index)
        })?;
        if next != index {
            return Err(format!("the next iteration is {next}"));
        }
        self.open_child(event.scope, index, event.id)
    }

    pub(super) fn fail_iteration(
        &mut self,
        event: &HistoryEvent,
        result: Option<&Payload>,
    ) -> Result<(), String> {
        let (map, index) = match result {
            Some(_) => self.close_iteration(event.scope, event.previous_id)?,
            None => self.stop_iteration(event.scope, event.previous_id)?,
        };
        self.change(map, |s| {
            s.chain = event.previous_id;
            let Some(result) = result else { return Ok(()) };
            let children = s.children_mut()?;
            children.failed += 1;
            children.put(index, result)
        })
    }

    /// Gives the scope of the Map state and the index of the iteration.
    pub(super) fn close_iteration(&mut self, scope: ScopeId, follows: u64) -> Result<(ScopeId, u32), String> {
        let found = self.leave_iteration(scope, follows, false)?;
        self.close_scope(scope);
        Ok(found)
    }

    /// As [`Live::close_iteration`], of an iteration whose end fails the state.
    pub(super) fn stop_iteration(&mut self, scope: ScopeId, follows: u64) -> Result<(ScopeId, u32), String> {
        self.leave_iteration(scope, follows, true)
    }

    fn leave_iteration(
        &mut self,
        scope: ScopeId,
        follows: u64,
        keep: bool,
    ) -> Result<(ScopeId, u32), String> {
        let child = self.scopes.get(&scope).ok_or_else(|| format!("there is no scope {scope}"))?;
        let index = child.index;
        let parent = child.parent.ok_or("the top level is no iteration")?;
        self.change(parent, |s| {
            let children = s.children_mut()?;
            if !children.open.remove(&scope) {
                return Err("the iteration does not run".to_owned());
            }
            if keep {
                children.closed.insert(scope);
            }
            if children.max_concurrency > 0 {
                children.follows = follows;
            }
            Ok(())
        })?;
        Ok((parent, index))
    }
}
