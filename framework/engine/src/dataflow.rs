//! What goes into a state and what comes out of it:
//!
//! ```text
//! input ─ InputPath ─ Parameters ─► the state's work ─ ResultSelector ─ ResultPath ─ OutputPath ─► output
//! ```
//!
//! Nothing is parsed that no path or template looks into: where all five are left out, the text of the input or
//! result is passed on as it is.

use std::{cell::OnceCell, sync::Arc};

use serde_json::{Map, Value};
use stagepost_asl::{
    Data, DataPath, EvalError, Number, ResultPath, State, choice::Rule, intrinsic::Intrinsic, path::Path,
    template::Template,
};
use stagepost_protocol::{Payload, error_names, limits};

use crate::{
    command::Env,
    context::{self, Extras, Need},
    decide::StateFailure,
    execution::Execution,
    history::ScopeId,
    live::Step,
};

/// A document, as text or parsed.
#[derive(Debug, Clone)]
pub(crate) enum Doc {
    Text(Payload),
    Parsed(Value),
}

impl Doc {
    pub(crate) fn into_value(self) -> Value {
        match self {
            Doc::Text(payload) => payload.to_value(),
            Doc::Parsed(value) => value,
        }
    }

    pub(crate) fn into_payload(self) -> Payload {
        match self {
            Doc::Text(payload) => payload,
            Doc::Parsed(value) => Payload::from_value(&value),
        }
    }

    fn parsed(self) -> Doc {
        Doc::Parsed(self.into_value())
    }
}

/// Evaluates the expressions of one state on one visit.
pub(crate) struct Evaluation<'e> {
    execution: &'e Execution,
    scope: ScopeId,
    step: &'e Step,
    state: &'e State,
    env: &'e Env<'e>,
    item: Option<(u32, &'e Payload)>,
    shows_token: bool,
    variables: Map<String, Value>,
    raw: OnceCell<Value>,
    /// The items of the Map state that the step runs under, with the place of its own.
    items: OnceCell<Option<(u32, Arc<Vec<Payload>>)>>,
}

impl<'e> Evaluation<'e> {
    pub(crate) fn new(
        execution: &'e Execution,
        scope: ScopeId,
        step: &'e Step,
        state: &'e State,
        env: &'e Env<'e>,
    ) -> Evaluation<'e> {
        Evaluation {
            execution,
            scope,
            step,
            state,
            env,
            item: None,
            shows_token: false,
            variables: Map::new(),
            raw: OnceCell::new(),
            items: OnceCell::new(),
        }
    }

    /// The context object shows the token of the attempt that the next event will schedule.
    pub(crate) fn with_token_of_next_event(mut self) -> Evaluation<'e> {
        self.shows_token = true;
        self
    }

    /// The context object shows this item.
    pub(crate) fn with_item(mut self, index: u32, item: &'e Payload) -> Evaluation<'e> {
        self.item = Some((index, item));
        self
    }

    /// The state's input as it came, parsed.
    fn raw(&self) -> &Value {
        self.raw.get_or_init(|| self.step.input.to_value())
    }

    fn context(&self, need: Need) -> Value {
        if need == Need::Nothing {
            return Value::Null;
        }
        let next = self.execution.last_event_id() + 1;
        let token = self.shows_token.then(|| self.env.token_key.sign(self.execution.id(), next));
        let item = self.item.or_else(|| self.surrounding_item());
        context::build(self.execution, self.step, &Extras { token, item }, need)
    }

    /// The item of the iteration that the state is in, if it is in one.
    fn surrounding_item(&self) -> Option<(u32, &Payload)> {
        let surrounding = self.items.get_or_init(|| {
            let scope = self.execution.live.scope(self.scope)?;
            let (map, index) = context::iteration(self.execution, scope)?;
            let items = crate::states::map::items(self.execution, map, self.env).ok()?;
            Some((index, items))
        });
        let (index, items) = surrounding.as_ref()?;
        Some((*index, items.get(*index as usize)?))
    }

    fn with_data<T>(&self, input: &Value, need: Need, evaluate: impl FnOnce(&Data<'_>) -> T) -> T {
        let context = self.context(need);
        evaluate(&Data { input, context: &context, variables: &self.variables, random: self.env.random })
    }

    /// What `InputPath` leaves of the input.
    pub(crate) fn input(&self) -> Result<Doc, StateFailure> {
        match &self.state.input_path {
            DataPath::Whole => Ok(Doc::Text(self.step.input.clone())),
            DataPath::Discard => Ok(Doc::Parsed(Value::Object(Map::new()))),
            DataPath::Path(path) => self.select(path, self.raw()).map(Doc::Parsed),
        }
    }

    /// What a path selects.
    pub(crate) fn select(&self, path: &Path, input: &Value) -> Result<Value, StateFailure> {
        let selected = self.with_data(input, Need::of_source(path.source()), |data| {
            path.select(data).map(|value| value.into_owned())
        });
        selected.map_err(|e| self.failure(&e))
    }

    /// What a path selects, for the field that `field` names in the error.
    pub(crate) fn select_for(&self, path: &Path, field: &str, input: &Value) -> Result<Value, StateFailure> {
        let selected = self.with_data(input, Need::of_source(path.source()), |data| {
            path.select_for(data, field).map(|value| value.into_owned())
        });
        selected.map_err(|e| self.failure(&e))
    }

    /// The array that an `ItemsPath` selects.
    pub(crate) fn select_items(&self, path: &Path, input: &Value) -> Result<Value, StateFailure> {
        let selected = self.with_data(input, Need::of_source(path.source()), |data| {
            path.select_items(data).map(|value| value.into_owned())
        });
        selected.map_err(|e| self.failure(&e))
    }

    /// What a path selects, if it does.
    pub(crate) fn find(&self, path: &Path, input: &Value) -> Option<Value> {
        self.with_data(input, Need::of_source(path.source()), |data| {
            path.find(data).map(|value| value.into_owned())
        })
    }

    /// The value of an intrinsic function.
    pub(crate) fn intrinsic(&self, call: &Intrinsic, input: &Value) -> Result<Value, StateFailure> {
        let value = self.with_data(input, Need::of_source(call.source()), |data| call.evaluate(data));
        value.map_err(|e| self.failure(&e))
    }

    /// The first rule that holds, by its place.
    pub(crate) fn first_rule<'r>(
        &self,
        rules: impl Iterator<Item = &'r Rule> + Clone,
        input: &Value,
    ) -> Result<Option<usize>, StateFailure> {
        let need = rules.clone().flat_map(Rule::paths).map(|path| Need::of_source(path.source())).max();
        self.with_data(input, need.unwrap_or(Need::Nothing), |data| {
            for (place, rule) in rules.enumerate() {
                if rule.matches(data)? {
                    return Ok(Some(place));
                }
            }
            Ok(None)
        })
        .map_err(|e| self.failure(&e))
    }

    /// What a template makes of a document; the document where there is none.
    pub(crate) fn fill(&self, template: Option<&Template>, doc: Doc) -> Result<Doc, StateFailure> {
        let Some(template) = template else { return Ok(doc) };
        let input = doc.into_value();
        let filled = self
            .with_data(&input, Need::of_template(template.source()), |data| template.evaluate(data))
            .map_err(|e| self.failure(&e))?;
        Ok(Doc::Parsed(filled))
    }

    /// The input after `InputPath` and `Parameters`.
    pub(crate) fn parameters(&self, template: Option<&Template>) -> Result<Doc, StateFailure> {
        self.fill(template, self.input()?)
    }

    /// From the result to the output: `ResultSelector`, `ResultPath`, `OutputPath`, and the limit on payloads.
    pub(crate) fn output(
        &self,
        result: Doc,
        selector: Option<&Template>,
        result_path: &ResultPath,
    ) -> Result<Payload, StateFailure> {
        let selected = self.fill(selector, result)?;
        let combined = self.place(selected, result_path)?;
        self.bounded(self.through_output_path(combined)?)
    }

    /// `ResultPath`: the input as it came, with the result in it.
    pub(crate) fn place(&self, result: Doc, result_path: &ResultPath) -> Result<Doc, StateFailure> {
        Ok(match result_path {
            ResultPath::Replace => result,
            ResultPath::Discard => Doc::Text(self.step.input.clone()),
            ResultPath::At(path) => {
                let raw = self.raw.get().cloned().unwrap_or_else(|| self.step.input.to_value());
                let placed = path.assign(raw, result.into_value());
                Doc::Parsed(placed.map_err(|e| self.failure(&e))?)
            }
        })
    }

    /// `OutputPath`.
    pub(crate) fn through_output_path(&self, doc: Doc) -> Result<Doc, StateFailure> {
        match &self.state.output_path {
            DataPath::Whole => Ok(doc),
            DataPath::Discard => Ok(Doc::Parsed(Value::Object(Map::new()))),
            DataPath::Path(path) => {
                let Doc::Parsed(value) = doc.parsed() else { return Ok(Doc::Parsed(Value::Null)) };
                self.select(path, &value).map(Doc::Parsed)
            }
        }
    }

    /// The text, if it is within the limit.
    pub(crate) fn bounded(&self, doc: Doc) -> Result<Payload, StateFailure> {
        let payload = doc.into_payload();
        if payload.len() > limits::PAYLOAD_BYTES_MAX { Err(too_large(&self.state.name)) } else { Ok(payload) }
    }

    /// A whole number from the definition or the data, for the field that `field` names.
    pub(crate) fn whole_number(
        &self,
        number: &Number,
        field: &str,
        input: &Value,
    ) -> Result<i64, StateFailure> {
        let path = match number {
            Number::Fixed(number) => return Ok(i64::try_from(*number).unwrap_or(i64::MAX)),
            Number::Path(path) => path,
        };
        let value = self.select(path, input)?;
        value.as_i64().ok_or_else(|| self.not_a_number(field, "integer", &value, path))
    }

    pub(crate) fn not_a_number(&self, field: &str, what: &str, value: &Value, path: &Path) -> StateFailure {
        let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let source = path.source();
        self.runtime(&format!(
            "The {field}Path field refers to value \"{shown}\" which is not a valid {what}: {source}"
        ))
    }

    /// A runtime error of this state, in the service's words.
    pub(crate) fn runtime(&self, cause: &str) -> StateFailure {
        self.failure(&EvalError::runtime(cause))
    }

    fn failure(&self, error: &EvalError) -> StateFailure {
        let (name, entered) = (&self.state.name, self.step.entered_id);
        StateFailure::new(
            error.error,
            format!(
                "An error occurred while executing the state '{name}' (entered at the event id #{entered}). {}",
                error.cause
            ),
        )
    }
}

/// A result that is too large for a payload.
pub(crate) fn too_large(of: &str) -> StateFailure {
    StateFailure::new(
        error_names::DATA_LIMIT_EXCEEDED,
        format!(
            "The state/task '{of}' returned a result with a size exceeding the maximum number of bytes service limit."
        ),
    )
}
