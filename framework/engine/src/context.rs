//! The context object, `$$`, built where somebody looks at it.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use stagepost_asl::{StateKind, template::Template};
use stagepost_protocol::{Payload, TaskToken};

use crate::{
    execution::Execution,
    live::{Scope, Step},
};

/// How much of the context object an expression can see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// Nothing: it does not name `$$`.
    Nothing,
    /// All but the execution's input, which may be large.
    WithoutInput,
    /// All.
    All,
}

impl Need {
    /// What the source text of an expression needs; too much rather than too little.
    pub(crate) fn of_source(source: &str) -> Need {
        const SMALL: [&str; 6] =
            [".State", ".Task", ".Map", ".Execution.Id", ".Execution.Name", ".Execution.StartTime"];
        let mut rest = source;
        let mut need = Need::Nothing;
        while let Some(at) = rest.find("$$") {
            rest = &rest[at + 2..];
            if !SMALL.iter().any(|small| rest.starts_with(small)) {
                return Need::All;
            }
            need = Need::WithoutInput;
        }
        need
    }

    /// What a template of either language needs.
    pub(crate) fn of(template: &Template) -> Need {
        if !template.is_jsonata() {
            return Need::of_template(template.source());
        }
        if template.reads_context() { Need::All } else { Need::Nothing }
    }

    /// What a payload template needs.
    fn of_template(source: &Value) -> Need {
        match source {
            Value::Object(fields) => fields
                .iter()
                .map(|(name, value)| match value {
                    Value::String(text) if name.ends_with(".$") => Need::of_source(text),
                    _ => Need::of_template(value),
                })
                .max()
                .unwrap_or(Need::Nothing),
            Value::Array(elements) => elements.iter().map(Need::of_template).max().unwrap_or(Need::Nothing),
            _ => Need::Nothing,
        }
    }
}

/// What the context object shows besides the execution and its state.
pub(crate) struct Extras<'a> {
    /// The token of the attempt that is about to be scheduled.
    pub(crate) token: Option<TaskToken>,
    /// The item of the iteration.
    pub(crate) item: Option<&'a Item>,
}

/// An item of a Map state, as `Map.Item` shows it (Step Functions Developer Guide, "Context object data for Map states").
pub(crate) struct Item {
    /// Its place.
    pub(crate) index: u64,
    /// Its key, where the items are the fields of an object.
    pub(crate) key: Option<String>,
    /// The item.
    pub(crate) value: Value,
    /// Where it comes from: [`Item::STATE_DATA`] or a URI.
    pub(crate) source: Arc<str>,
}

impl Item {
    /// The source of items that were in the state's input.
    pub(crate) const STATE_DATA: &'static str = "STATE_DATA";

    /// An item that was in the state's input.
    pub(crate) fn of_state(index: u32, value: &Payload) -> Item {
        Item { index: index.into(), key: None, value: value.to_value(), source: Item::STATE_DATA.into() }
    }

    /// `Map.Item`.
    pub(crate) fn shown(&self) -> Value {
        let mut shown = json!({ "Index": self.index, "Value": self.value, "Source": &*self.source });
        if let Some(key) = &self.key {
            shown["Key"] = key.as_str().into();
        }
        shown
    }
}

/// The context object.
pub(crate) fn build(execution: &Execution, step: &Step, extras: &Extras<'_>, need: Need) -> Value {
    if need == Need::Nothing {
        return Value::Null;
    }
    let origin = execution.origin();
    let mut about = Map::new();
    about.insert("Id".into(), origin.arn.to_string().into());
    if need == Need::All {
        about.insert("Input".into(), origin.input.to_value());
    }
    about.insert("StartTime".into(), origin.started_at.to_string().into());
    about.insert("Name".into(), origin.arn.name.as_str().into());
    about.insert("RoleArn".into(), origin.role_arn.as_str().into());
    // Express executions cannot be redriven, and the service does not speak of it there.
    if !origin.arn.is_express() {
        let (redrives, redriven_at) = execution.redrives();
        about.insert("RedriveCount".into(), redrives.into());
        if let Some(at) = redriven_at {
            about.insert("RedriveTime".into(), at.to_string().into());
        }
    }
    let machine = &origin.state_machine;
    let mut context = Map::new();
    context.insert("Execution".into(), about.into());
    context
        .insert("StateMachine".into(), json!({ "Id": machine.to_string(), "Name": machine.name.as_str() }));
    let state = execution.definition().state(step.state());
    let mut shown = Map::new();
    shown.insert("Name".into(), (*state.name).into());
    shown.insert("EnteredTime".into(), step.entered_at.to_string().into());
    if matches!(state.kind, StateKind::Task(_) | StateKind::Parallel(_) | StateKind::Map(_)) {
        shown.insert("RetryCount".into(), step.retries().into());
    }
    context.insert("State".into(), shown.into());
    if let Some(token) = &extras.token {
        context.insert("Task".into(), json!({ "Token": token.as_str() }));
    }
    if let Some(item) = extras.item {
        context.insert("Map".into(), json!({ "Item": item.shown() }));
    }
    context.into()
}

/// The nearest scope from `scope` upwards that is an iteration, as the scope of its Map state and the item's place.
pub(crate) fn iteration(execution: &Execution, scope: &Scope) -> Option<(u32, u32)> {
    let (mut parent, mut index) = (scope.parent?, scope.index);
    loop {
        let above = execution.live.scope(parent)?;
        if above.children()?.is_map {
            return Some((parent, index));
        }
        (parent, index) = (above.parent?, above.index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_gets_as_much_of_the_context_object_as_it_names() {
        for (source, need) in [
            ("$.a", Need::Nothing),
            ("$$", Need::All),
            ("$$.Execution", Need::All),
            ("$$.Execution.Input.a", Need::All),
            ("$$.Execution.Id", Need::WithoutInput),
            ("States.Format('{}', $$.Task.Token)", Need::WithoutInput),
            ("States.Format('{}{}', $$.State.Name, $$['Execution'])", Need::All),
        ] {
            assert_eq!(Need::of_source(source), need, "{source}");
        }
        let template = json!({ "a": "$$", "b": [{ "c.$": "$$.Map.Item.Index" }] });
        assert_eq!(Need::of_template(&template), Need::WithoutInput);
    }
}
