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
    Catcher, Data, DataPath, EvalError, Number, QueryLanguage, Resource, ResultPath, State, StateKind,
    choice::Rule, intrinsic::Intrinsic, path::Path, template::Template,
};
use stagepost_protocol::{IntegrationPattern, Payload, error_names, limits};

use crate::{
    command::Env,
    context::{self, Extras, Item, Need},
    decide::{FailedEvaluation, StateFailure},
    execution::Execution,
    history::{Assigned, ScopeId},
    live::Step,
    observe::{Observer, Stage},
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

    /// Its text, to look at.
    pub(crate) fn shown(&self) -> Payload {
        match self {
            Doc::Text(payload) => payload.clone(),
            Doc::Parsed(value) => Payload::from_value(value),
        }
    }

    fn parsed(self) -> Doc {
        Doc::Parsed(self.into_value())
    }
}

/// The most that all variables of an execution may weigh, in bytes.
const VARIABLES_BYTES_MAX: usize = 10 << 20;

/// What a state is left with.
#[derive(Debug)]
pub(crate) struct Exit {
    pub(crate) output: Payload,
    pub(crate) assigned: Vec<Assigned>,
}

/// What JSONata sees of a state's work, besides its input.
#[derive(Default)]
struct Work {
    result: Option<Value>,
    error_output: Option<Value>,
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
    /// The state is tried on its own, and watched.
    observer: Option<&'e Observer>,
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
            observer: None,
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

    /// `observer` is told of what comes by, and its context object is the one that is seen.
    pub(crate) fn observed(mut self, observer: &'e Observer) -> Evaluation<'e> {
        self.observer = Some(observer);
        self
    }

    /// Shows a value to the observer, if there is one.
    pub(crate) fn show(&self, stage: Stage, value: impl FnOnce() -> Payload) {
        if let Some(observer) = self.observer {
            observer.saw(stage, value());
        }
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
        let item = item.map(|(index, value)| Item::of_state(index, value));
        if let Some(observer) = self.observer {
            return observer.context(token.as_ref().filter(|_| self.waits_for_token()), item.as_ref());
        }
        context::build(self.execution, self.step, &Extras { token, item: item.as_ref() }, need)
    }

    fn waits_for_token(&self) -> bool {
        let StateKind::Task(task) = &self.state.kind else { return false };
        matches!(task.resource, Resource::Service { pattern: IntegrationPattern::WaitForTaskToken, .. })
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

    fn with_data<'n, T>(
        &self,
        input: &Value,
        need: Need,
        variables: impl IntoIterator<Item = &'n str>,
        evaluate: impl FnOnce(&Data<'_>) -> T,
    ) -> T {
        self.with_work(input, need, variables, &Work::default(), evaluate)
    }

    /// `variables` are those that the expression may name.
    fn with_work<'n, T>(
        &self,
        input: &Value,
        need: Need,
        variables: impl IntoIterator<Item = &'n str>,
        work: &Work,
        evaluate: impl FnOnce(&Data<'_>) -> T,
    ) -> T {
        self.with_context(input, &self.context(need), variables, work, evaluate)
    }

    fn with_context<'n, T>(
        &self,
        input: &Value,
        context: &Value,
        variables: impl IntoIterator<Item = &'n str>,
        work: &Work,
        evaluate: impl FnOnce(&Data<'_>) -> T,
    ) -> T {
        let found = variables.into_iter().filter_map(|name| {
            let value = self.execution.live.variable(self.scope, name)?;
            Some((name.to_owned(), value.to_value()))
        });
        let variables: Map<String, Value> = found.collect();
        evaluate(&Data {
            input,
            context,
            variables: &variables,
            result: work.result.as_ref(),
            error_output: work.error_output.as_ref(),
            now: self.env.now,
            random: self.env.random,
        })
    }

    /// Whether the state's expressions are JSONata.
    pub(crate) fn is_jsonata(&self) -> bool {
        self.state.query_language == QueryLanguage::Jsonata
    }

    /// What a template in JSONata gives, whatever it is.
    fn query(&self, template: &Template, work: &Work) -> Result<Value, StateFailure> {
        self.with_work(self.raw(), Need::of(template), template.variables(), work, |data| {
            template.evaluate(data)
        })
        .map_err(|e| self.failure(&e))
    }

    /// What a template in JSONata gives for the field `field`, of a type by its JSON name.
    pub(crate) fn query_for(
        &self,
        template: &Template,
        field: &str,
        expected: &str,
    ) -> Result<Value, StateFailure> {
        let value = self.query(template, &Work::default())?;
        match template.unexpected(expected, field, &value) {
            Some(error) => Err(self.failure(&error)),
            None => Ok(value),
        }
    }

    /// What `Items` gives: an array or, where they are allowed, an object.
    pub(crate) fn query_items(&self, template: &Template, objects: bool) -> Result<Value, StateFailure> {
        let value = self.query(template, &Work::default())?;
        match template.unexpected("array", "Items", &value) {
            Some(_) if objects && value.is_object() => Ok(value),
            Some(error) => Err(self.failure(&error)),
            None => Ok(value),
        }
    }

    /// What `ItemSelector` makes of an item. `input` is the state's input after `InputPath`.
    pub(crate) fn fill_for_item(
        &self,
        template: &Template,
        input: &Value,
        item: &Item,
    ) -> Result<Doc, StateFailure> {
        let context = match self.observer {
            Some(observer) => observer.context(None, Some(item)),
            None => {
                let extras = Extras { token: None, item: Some(item) };
                context::build(self.execution, self.step, &extras, Need::of(template))
            }
        };
        let evaluate = |data: &Data<'_>| template.evaluate(data);
        let filled = self.with_context(input, &context, template.variables(), &Work::default(), evaluate);
        filled.map(Doc::Parsed).map_err(|e| self.failure(&e))
    }

    /// A value that an expression gave and that is of no use, for the field `field`.
    pub(crate) fn useless(&self, field: &str, cause: &str) -> StateFailure {
        let failure = self.failure(&EvalError::new(error_names::QUERY_EVALUATION_ERROR, cause));
        failure.of_evaluation(FailedEvaluation { location: Some(field.to_owned()), late: true })
    }

    /// What `InputPath` leaves of the input.
    pub(crate) fn input(&self) -> Result<Doc, StateFailure> {
        let input = match &self.state.input_path {
            DataPath::Whole => Doc::Text(self.step.input.clone()),
            DataPath::Discard => Doc::Parsed(Value::Object(Map::new())),
            DataPath::Path(path) => Doc::Parsed(self.select(path, self.raw())?),
        };
        self.show(Stage::InputPath, || input.shown());
        Ok(input)
    }

    /// What a path selects.
    pub(crate) fn select(&self, path: &Path, input: &Value) -> Result<Value, StateFailure> {
        let selected = self.with_data(input, Need::of_source(path.source()), path.variable(), |data| {
            path.select(data).map(|value| value.into_owned())
        });
        selected.map_err(|e| self.failure(&e))
    }

    /// What a path selects, for the field that `field` names in the error.
    pub(crate) fn select_for(&self, path: &Path, field: &str, input: &Value) -> Result<Value, StateFailure> {
        let selected = self.with_data(input, Need::of_source(path.source()), path.variable(), |data| {
            path.select_for(data, field).map(|value| value.into_owned())
        });
        selected.map_err(|e| self.failure(&e))
    }

    /// The array that an `ItemsPath` selects.
    pub(crate) fn select_items(&self, path: &Path, input: &Value) -> Result<Value, StateFailure> {
        let selected = self.with_data(input, Need::of_source(path.source()), path.variable(), |data| {
            path.select_items(data).map(|value| value.into_owned())
        });
        selected.map_err(|e| self.failure(&e))
    }

    /// What a path selects, if it does.
    pub(crate) fn find(&self, path: &Path, input: &Value) -> Option<Value> {
        self.with_data(input, Need::of_source(path.source()), path.variable(), |data| {
            path.find(data).map(|value| value.into_owned())
        })
    }

    /// The value of an intrinsic function.
    pub(crate) fn intrinsic(&self, call: &Intrinsic, input: &Value) -> Result<Value, StateFailure> {
        let variables = call.paths().into_iter().filter_map(Path::variable);
        let value =
            self.with_data(input, Need::of_source(call.source()), variables, |data| call.evaluate(data));
        value.map_err(|e| self.failure(&e))
    }

    /// The first rule that holds, by its place.
    pub(crate) fn first_rule<'r>(
        &self,
        rules: impl Iterator<Item = &'r Rule> + Clone,
        input: &Value,
    ) -> Result<Option<usize>, StateFailure> {
        let paths = rules.clone().flat_map(Rule::paths).map(|path| Need::of_source(path.source())).max();
        let queries = if rules.clone().any(Rule::reads_context) { Need::All } else { Need::Nothing };
        let need = paths.unwrap_or(Need::Nothing).max(queries);
        let variables: Vec<&str> = rules.clone().flat_map(Rule::variables).collect();
        self.with_data(input, need, variables, |data| {
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
            .with_data(&input, Need::of(template), template.variables(), |data| template.evaluate(data))
            .map_err(|e| self.failure(&e))?;
        Ok(Doc::Parsed(filled))
    }

    /// The input after `InputPath` and `Parameters`.
    pub(crate) fn parameters(&self, template: Option<&Template>) -> Result<Doc, StateFailure> {
        let parameters = self.fill(template, self.input()?)?;
        let stage = if self.is_jsonata() { Stage::Arguments } else { Stage::Parameters };
        self.show(stage, || parameters.shown());
        Ok(parameters)
    }

    /// From the result to the output: `ResultSelector`, `ResultPath`, `OutputPath` or, in JSONata, `Output`; and
    /// `Assign`, which sees the result as it came.
    pub(crate) fn output(
        &self,
        result: Doc,
        selector: Option<&Template>,
        result_path: &ResultPath,
    ) -> Result<Exit, StateFailure> {
        let (output, assign) = (self.state.output.as_ref(), self.state.assign.as_ref());
        if self.is_jsonata() {
            let parsed = (output.is_some() || assign.is_some()).then(|| result.clone().into_value());
            let work = Work { result: parsed, error_output: None };
            return self.exit_by_queries(result, &work, output, assign);
        }
        let assigned = self.assign(assign, &result)?;
        let selected = self.fill(selector, result)?;
        self.show(Stage::ResultSelector, || selected.shown());
        let combined = self.place(selected, result_path)?;
        self.show(Stage::ResultPath, || combined.shown());
        let output = self.bounded(self.through_output_path(combined)?)?;
        Ok(Exit { output, assigned })
    }

    /// The state's own `Output` and `Assign`.
    pub(crate) fn own(&self) -> (Option<&'e Template>, Option<&'e Template>) {
        (self.state.output.as_ref(), self.state.assign.as_ref())
    }

    /// What a state without work of its own is left with: its input. `output` and `assign` are its own fields or those
    /// of the choice that applies.
    pub(crate) fn pass_on(
        &self,
        output: Option<&Template>,
        assign: Option<&Template>,
    ) -> Result<Exit, StateFailure> {
        let input = self.input()?;
        if self.is_jsonata() {
            return self.exit_by_queries(input, &Work::default(), output, assign);
        }
        let assigned = self.assign(assign, &input)?;
        let output = self.bounded(self.through_output_path(input)?)?;
        Ok(Exit { output, assigned })
    }

    /// What the state is left with by a catcher.
    pub(crate) fn caught(&self, error: Doc, catcher: &Catcher) -> Result<Exit, StateFailure> {
        let (output, assign) = (catcher.output.as_ref(), catcher.assign.as_ref());
        if self.is_jsonata() {
            let work = Work { result: None, error_output: Some(error.clone().into_value()) };
            return self.exit_by_queries(error, &work, output, assign);
        }
        let assigned = self.assign(assign, &error)?;
        let output = self.place(error, &catcher.result_path).and_then(|doc| self.bounded(doc))?;
        Ok(Exit { output, assigned })
    }

    /// `fallback` is the output where there is no `Output`.
    fn exit_by_queries(
        &self,
        fallback: Doc,
        work: &Work,
        output: Option<&Template>,
        assign: Option<&Template>,
    ) -> Result<Exit, StateFailure> {
        let assigned = match assign {
            Some(assign) => self.assigned(self.query(assign, work)?)?,
            None => Vec::new(),
        };
        let output = match output {
            Some(output) => Doc::Parsed(self.query(output, work)?),
            None => fallback,
        };
        Ok(Exit { output: self.bounded(output)?, assigned })
    }

    /// `Assign`, in JSONPath: `$` is `doc`.
    fn assign(&self, assign: Option<&Template>, doc: &Doc) -> Result<Vec<Assigned>, StateFailure> {
        match assign {
            Some(template) => self.assigned(self.fill(Some(template), doc.clone())?.into_value()),
            None => Ok(Vec::new()),
        }
    }

    /// Variables from what an `Assign` gave, if they are within the limits.
    fn assigned(&self, value: Value) -> Result<Vec<Assigned>, StateFailure> {
        let Value::Object(fields) = value else { return Ok(Vec::new()) };
        let assigned: Vec<Assigned> = fields
            .into_iter()
            .map(|(name, value)| Assigned { name: name.into(), value: Payload::from_value(&value) })
            .collect();
        let bytes: usize = assigned.iter().map(|a| a.value.len()).sum();
        let name = &self.state.name;
        let too_much = if bytes > limits::PAYLOAD_BYTES_MAX {
            format!(
                "The variables that the state '{name}' assigns exceed {} bytes.",
                limits::PAYLOAD_BYTES_MAX
            )
        } else if self.execution.live.variable_bytes() + bytes > VARIABLES_BYTES_MAX {
            format!("With those of the state '{name}', the variables exceed {VARIABLES_BYTES_MAX} bytes.")
        } else {
            return Ok(assigned);
        };
        Err(self.failure(&EvalError::new(error_names::DATA_LIMIT_EXCEEDED, too_much)))
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
            Number::Query(query) => {
                let value = self.query_for(query, field, "number")?;
                let whole = value.as_i64();
                return whole.ok_or_else(|| {
                    self.useless(field, &format!("The {field} field must be an integer but was: {value}"))
                });
            }
        };
        let value = self.select(path, input)?;
        // The service reads a number out of a text too.
        let number = value.as_i64().or_else(|| value.as_str()?.parse().ok());
        number.ok_or_else(|| self.not_a_number(field, "integer", &value, path))
    }

    pub(crate) fn not_a_number(&self, field: &str, what: &str, value: &Value, path: &Path) -> StateFailure {
        let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let source = path.source();
        self.runtime(&format!(
            "The {field}Path field refers to value \"{shown}\" which is not a valid {what}: {source}"
        ))
    }

    /// A Map state has no array to work on.
    pub(crate) fn no_array(&self, found: &Value) -> StateFailure {
        let cause = format!("Map state input must be an array but was: {found}");
        if self.is_jsonata() {
            return self.failure(&EvalError::new(error_names::QUERY_EVALUATION_ERROR, cause));
        }
        self.runtime(&cause)
    }

    /// A runtime error of this state, in the service's words.
    pub(crate) fn runtime(&self, cause: &str) -> StateFailure {
        self.failure(&EvalError::runtime(cause))
    }

    fn failure(&self, error: &EvalError) -> StateFailure {
        let (name, entered) = (&self.state.name, self.step.entered_id);
        let preface = format!(
            "An error occurred while executing the state '{name}' (entered at the event id #{entered}). "
        );
        // A state that is tried on its own was entered at no event.
        let preface = if self.observer.is_some() { "" } else { &preface };
        let failure = StateFailure::new(error.error, format!("{preface}{}", error.cause));
        if error.error == error_names::QUERY_EVALUATION_ERROR {
            let location = error.location.clone();
            return failure.of_evaluation(FailedEvaluation { location, late: false });
        }
        failure
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
