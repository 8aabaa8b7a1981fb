//! What TestState shows of a state's data flow: its intermediate values, as the evaluation of the state comes by them.

use std::{cell::RefCell, collections::BTreeMap};

use serde_json::{Value, json};
use stagepost_protocol::{Payload, TaskToken};

use crate::context::Item;

/// A place in a state's data flow that can be looked at: a field of the API's `InspectionData`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The input as it came.
    Input,
    /// The input after `InputPath`.
    InputPath,
    /// After `Parameters`.
    Parameters,
    /// After `Arguments`, in JSONata.
    Arguments,
    /// The items of a Map state, after `ItemsPath`.
    ItemsPath,
    /// The items after `ItemSelector`: an array.
    ItemSelector,
    /// `MaxConcurrency`; 0: no limit.
    MaxConcurrency,
    /// `ToleratedFailureCount`.
    ToleratedFailureCount,
    /// `ToleratedFailurePercentage`, 0 to 100.
    ToleratedFailurePercentage,
    /// What the state's work gave.
    Result,
    /// The result after `ResultSelector`.
    ResultSelector,
    /// The result in the input, by `ResultPath`.
    ResultPath,
}

impl Stage {
    /// The name of the field of `InspectionData`.
    pub const fn name(self) -> &'static str {
        match self {
            Stage::Input => "input",
            Stage::InputPath => "afterInputPath",
            Stage::Parameters => "afterParameters",
            Stage::Arguments => "afterArguments",
            Stage::ItemsPath => "afterItemsPath",
            Stage::ItemSelector => "afterItemSelector",
            Stage::MaxConcurrency => "maxConcurrency",
            Stage::ToleratedFailureCount => "toleratedFailureCount",
            Stage::ToleratedFailurePercentage => "toleratedFailurePercentage",
            Stage::Result => "result",
            Stage::ResultSelector => "afterResultSelector",
            Stage::ResultPath => "afterResultPath",
        }
    }

    /// Whether the field is a number; all others are texts that hold JSON.
    pub const fn is_number(self) -> bool {
        matches!(
            self,
            Stage::MaxConcurrency | Stage::ToleratedFailureCount | Stage::ToleratedFailurePercentage
        )
    }
}

/// Watches the evaluation of one state, and stands in for the execution around it.
pub(crate) struct Observer {
    /// The context object, instead of the execution's.
    context: Value,
    seen: RefCell<BTreeMap<Stage, Payload>>,
}

impl Observer {
    pub(crate) fn new(context: Value) -> Observer {
        Observer { context, seen: RefCell::default() }
    }

    /// Keeps a value; a later one of the same stage replaces it.
    pub(crate) fn saw(&self, stage: Stage, value: Payload) {
        self.seen.borrow_mut().insert(stage, value);
    }

    pub(crate) fn into_seen(self) -> BTreeMap<Stage, Payload> {
        self.seen.into_inner()
    }

    /// The context object, with the item of an iteration and, where it names none, a task token.
    pub(crate) fn context(&self, token: Option<&TaskToken>, item: Option<&Item>) -> Value {
        let mut context = self.context.clone();
        if let (Some(token), None) = (token, context.get("Task")) {
            context["Task"] = json!({ "Token": token.as_str() });
        }
        if let Some(item) = item {
            context["Map"] = json!({ "Item": item.shown() });
        }
        context
    }
}
