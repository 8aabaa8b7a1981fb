//! What holds of an execution between two decisions.

use super::{Children, Current, Live, Phase, Scope};
use crate::history::{ScopeId, TOP_LEVEL};

impl Live {
    /// What must hold after every decision; the error says what does not.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.end.is_none() {
            let mut again = self.clone();
            again.index_all();
            if again != *self {
                return Err("what is kept beside the scopes does not follow from them".to_owned());
            }
        }
        self.check_scopes()
    }

    /// The part of [`Live::check`] that looks at what is stored.
    pub(crate) fn check_scopes(&self) -> Result<(), String> {
        if self.end.is_some() {
            let clear = self.deadlines.is_empty() && self.attempts.is_empty();
            return if clear { Ok(()) } else { Err("an ended execution still waits".to_owned()) };
        }
        if self.deadlines.is_empty() && self.attempts.is_empty() && self.map_runs.is_empty() {
            return Err("it waits for nothing".to_owned());
        }
        if !self.signals.check() {
            return Err("the signals that are kept do not add up".to_owned());
        }
        if self.keeps_awaited_signal() {
            return Err("a signal is kept that a state waits for".to_owned());
        }
        for (id, scope) in &self.scopes {
            let parent = scope.parent.map(|p| self.scopes.get(&p).and_then(Scope::children));
            match parent {
                None if *id == TOP_LEVEL => {}
                Some(Some(children)) if children.open.contains(id) => {}
                _ => return Err(format!("scope {id} has no parent that knows it")),
            }
            match &scope.current {
                Current::ToEnter { .. } => {}
                Current::Between | Current::Done => return Err(format!("scope {id} goes nowhere")),
                Current::In(step) => match &step.phase {
                    Phase::Deciding | Phase::Closed(_) | Phase::ClosedMapRun(_) => {
                        return Err(format!("scope {id} is undecided"));
                    }
                    Phase::Waiting(_) | Phase::Retrying(_) | Phase::Attempting(_) => {}
                    Phase::Children(children) => self.check_children(*id, children)?,
                    Phase::MapRun(run) if run.check() => {}
                    Phase::MapRun(_) => return Err(format!("the Map Run in scope {id} does not add up")),
                },
            }
        }
        Ok(())
    }

    fn check_children(&self, id: ScopeId, children: &Children) -> Result<(), String> {
        let done = children.results.iter().flatten().count();
        // A failure that is not tolerated ends the state, so every iteration is done or open.
        let fits = done == children.done as usize
            && children.results.len() == children.total as usize
            && children.done as usize + children.open.len() == children.next_index as usize
            && children.next_index <= children.total
            && children.done < children.total
            && children.closed.is_empty()
            && (!children.open.is_empty() || children.paused.is_some())
            && children.open.iter().all(|child| self.scopes.contains_key(child));
        if fits { Ok(()) } else { Err(format!("the branches or iterations in scope {id} do not add up")) }
    }
}
