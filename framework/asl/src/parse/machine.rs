//! The document as a whole and its scopes.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    sync::Arc,
};

use serde_json::{Map, Value, json};
use stagepost_protocol::limits;

use super::{
    finding::{Finding, NOT_AN_OBJECT, Severity, codes},
    graph::Scope,
    json, lint,
    node::{COUNT_MAX, Findings, Node},
    states,
    variables::{self, ScopeShape},
};
use crate::{
    model::{DataPath, QueryLanguage, State, StateIndex, StateMachine},
    template::Reserved,
};

/// Parses and validates a definition. `Ok` holds warnings only; `Err` holds at least one error and everything
/// else that was found.
pub fn parse(text: &str) -> Result<(StateMachine, Vec<Finding>), Vec<Finding>> {
    let mut parser = Parser::default();
    let machine = parser.document(text);
    let (errors, findings) = parser.findings.finish();
    match machine {
        Some(machine) if !errors => Ok((machine, findings)),
        _ => Err(findings),
    }
}

/// The name of a state that stands alone, in locations and in its context object, as the service's TestState names it.
pub const LONE_STATE: &str = "StateName";

/// Parses and validates the definition of one state that stands alone, without a machine around it (TestState). The
/// machine holds it as [`LONE_STATE`], and a Succeed state for each state that it leads to.
pub fn parse_state(text: &str) -> Result<(StateMachine, Vec<Finding>), Vec<Finding>> {
    let mut parser = Parser { lone: true, ..Parser::default() };
    let machine = parser.document(text);
    let (errors, findings) = parser.findings.finish();
    match machine {
        Some(machine) if !errors => Ok((machine, findings)),
        _ => Err(findings),
    }
}

/// A machine around a state that stands alone.
fn around(state: Map<String, Value>) -> Map<String, Value> {
    let mut targets: Vec<&Value> = ["Next", "Default"].iter().filter_map(|field| state.get(*field)).collect();
    for field in ["Choices", "Catch"] {
        let rules = state.get(field).and_then(Value::as_array);
        targets.extend(rules.into_iter().flatten().filter_map(|rule| rule.get("Next")));
    }
    let targets: Vec<String> = targets.into_iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let mut states = Map::new();
    states.insert(LONE_STATE.to_owned(), state.into());
    for target in targets {
        states.entry(target).or_insert_with(|| json!({ "Type": "Succeed" }));
    }
    let mut machine = Map::new();
    machine.insert("StartAt".to_owned(), LONE_STATE.into());
    machine.insert("States".to_owned(), states.into());
    machine
}

/// What is gathered while a document is read.
#[derive(Default)]
pub(super) struct Parser {
    pub(super) findings: Findings,
    /// The arena; a state that could not be read stays `None`.
    states: Vec<Option<State>>,
    by_name: HashMap<Arc<str>, StateIndex>,
    /// Of the machine: the language of states that name none.
    pub(super) query_language: QueryLanguage,
    /// The document is one state, without a machine around it.
    lone: bool,
    /// The variables that are assigned in the scope that is read and in those around it, outermost first.
    assigned: Vec<Assigned>,
    /// The states whose parts are read, outermost first.
    containers: Vec<u32>,
    scopes: Vec<ScopeShape>,
    /// The labels of the distributed Map states so far.
    pub(super) labels: HashSet<Arc<str>>,
}

/// The variables that the states of a scope assign.
#[derive(Default)]
struct Assigned {
    /// Which state assigns each, or `None` where several do.
    by: HashMap<String, Option<Arc<str>>>,
    /// The state that is read.
    reading: Option<Arc<str>>,
}

impl Assigned {
    fn add(&mut self, name: &str, state: &str) {
        match self.by.get_mut(name) {
            None => {
                self.by.insert(name.to_owned(), Some(state.into()));
            }
            Some(by) if by.as_deref() != Some(state) => *by = None,
            Some(_) => {}
        }
    }

    /// Whether a state may have assigned it before the scope within the one that is read. That one does so itself only
    /// when all that is within it is over.
    fn before(&self, name: &str) -> bool {
        self.by.get(name).is_some_and(|by| by.is_none() || *by != self.reading)
    }
}

impl Parser {
    fn document(&mut self, text: &str) -> Option<StateMachine> {
        if text.trim().is_empty() {
            self.findings.schema("", NOT_AN_OBJECT);
            return None;
        }
        let (value, duplicates) = match json::read(text) {
            Ok(read) => read,
            Err(finding) => {
                self.findings.push(*finding);
                return None;
            }
        };
        for pointer in duplicates {
            let message = "This field stands here more than once; the last one counts";
            self.findings.add(Severity::Warning, codes::DUPLICATE_FIELD, pointer, message);
        }
        let Value::Object(mut fields) = value else {
            self.findings.schema("", NOT_AN_OBJECT);
            return None;
        };
        if self.lone {
            fields = around(fields);
        }
        self.machine(&Node { fields: &fields, pointer: String::new() })
    }

    fn machine(&mut self, node: &Node<'_>) -> Option<StateMachine> {
        let found = &mut self.findings;
        found.only(node, &[&["Comment", "QueryLanguage", "StartAt", "States", "TimeoutSeconds", "Version"]]);
        let comment = found.comment(node);
        found.one_of(node, "Version", &["1.0"]);
        let timeout_seconds = found.integer(node, "TimeoutSeconds", 1..=COUNT_MAX);
        self.query_language = self.language(node).unwrap_or_default();
        let start_at = self.scope(node);
        let states: Option<Vec<State>> = std::mem::take(&mut self.states).into_iter().collect();
        if let Some(states) = states.as_ref().filter(|_| !self.lone) {
            variables::check(&mut self.findings, states, &self.scopes);
            if !self.findings.errors() {
                lint::check(&mut self.findings, states);
            }
        }
        Some(StateMachine {
            comment,
            query_language: self.query_language,
            timeout_seconds,
            start_at: start_at?,
            states: states?.into(),
            by_name: Arc::new(std::mem::take(&mut self.by_name)),
        })
    }

    /// `QueryLanguage`, where it is given and valid.
    pub(super) fn language(&mut self, node: &Node<'_>) -> Option<QueryLanguage> {
        match self.findings.one_of(node, "QueryLanguage", &["JSONPath", "JSONata"])? {
            "JSONata" => Some(QueryLanguage::Jsonata),
            _ => Some(QueryLanguage::JsonPath),
        }
    }

    /// Reads `StartAt` and `States` of the machine, a branch or an item processor. Gives where it starts.
    pub(super) fn scope(&mut self, node: &Node<'_>) -> Option<StateIndex> {
        self.findings.required(node, &["StartAt", "States"]);
        let list = self.findings.object_field(node, "States")?;
        if list.fields.is_empty() {
            self.findings.schema(list.pointer, "Value cannot be empty");
            return None;
        }
        let first = u32::try_from(self.states.len()).expect("a definition has far fewer bytes than that");
        let mut scope = Scope::new(first, list.fields.keys().map(String::as_str));
        self.states.resize_with(self.states.len() + list.fields.len(), || None);
        // What surrounds a state that stands alone is not known: whether it can be left for good is not its affair.
        scope.incomplete = self.lone && node.pointer.is_empty();
        let start = scope.start(&mut self.findings, node);
        let config = node.get("ProcessorConfig").and_then(|config| config.get("Mode"));
        let closed = config.and_then(Value::as_str) == Some("DISTRIBUTED");
        // Nothing of what is around a distributed Map can be seen in it, nor be in its way.
        let around = closed.then(|| std::mem::take(&mut self.assigned));
        self.assigned(&list);
        for (place, (name, value)) in (0..).zip(list.fields) {
            let state = self.state(&mut scope, place, name, value, list.at(name));
            self.states[(first + place) as usize] = state;
        }
        self.assigned.pop();
        if let Some(around) = around {
            self.assigned = around;
        }
        scope.check(&mut self.findings, node, start);
        let container = self.containers.last().copied();
        self.scopes.push(ScopeShape { first, edges: scope.into_edges(), container, closed });
        start
    }

    /// Notes the variables that the states of a scope assign. Those of the scopes around it can be read but not
    /// assigned, nor hidden by others of their name.
    fn assigned(&mut self, list: &Node<'_>) {
        let mut here = Assigned::default();
        for (state, value) in list.fields {
            let places = ["Catch", "Choices"].into_iter().flat_map(|field| {
                let rules = value.get(field).and_then(Value::as_array).into_iter().flatten().enumerate();
                rules.map(move |(index, rule)| (format!("/{field}/{index}"), rule))
            });
            for (place, holder) in std::iter::once((String::new(), value)).chain(places) {
                let keys = holder.get("Assign").and_then(Value::as_object);
                for key in keys.into_iter().flat_map(|fields| fields.keys()) {
                    let name = key.strip_suffix(".$").unwrap_or(key);
                    if self.assigned.iter().any(|outer| outer.before(name)) {
                        let pointer = format!("{}{place}/Assign", list.at(state));
                        let message = format!(
                            "The variable '{name}' is assigned in an outer scope and cannot be assigned here"
                        );
                        self.findings.schema(pointer, message).help =
                            Some("give the inner variable a name of its own".to_owned());
                    }
                    here.add(name, state);
                }
            }
        }
        self.assigned.push(here);
    }

    fn state<'a>(
        &mut self,
        scope: &mut Scope<'a>,
        place: u32,
        name: &'a str,
        value: &'a Value,
        pointer: String,
    ) -> Option<State> {
        let Some(name) = self.name(name, &pointer, StateIndex(scope.first + place)) else {
            // Everything below would be reported under that name again and again.
            scope.incomplete = true;
            return None;
        };
        let Some(node) = self.findings.object(value, pointer) else {
            scope.incomplete = true;
            return None;
        };
        let query_language = self.state_language(&node);
        let found = &mut self.findings;
        let around = std::mem::replace(&mut found.language, query_language);
        let comment = found.comment(&node);
        let (mut input_path, mut output_path) = (DataPath::Whole, DataPath::Whole);
        if query_language == QueryLanguage::JsonPath {
            input_path = found.data_path(&node, "InputPath");
            output_path = found.data_path(&node, "OutputPath");
        }
        // A Choice has no result; what a Pass or a Wait has of one is not said, and left to the run.
        let result = node.get("Type").and_then(Value::as_str) != Some("Choice");
        found.reserved = Reserved { result, error_output: false };
        let output = found.output(&node, "Output");
        let assign = found.assign(&node, "Assign");
        found.reserved = Reserved::default();
        if let Some(here) = self.assigned.last_mut() {
            here.reading = Some(Arc::clone(&name));
        }
        self.containers.push(scope.first + place);
        let kind = states::read(self, &mut scope.at(place), &node);
        self.containers.pop();
        self.findings.language = around;
        Some(State {
            name,
            pointer: node.pointer,
            comment,
            query_language,
            kind: kind?,
            input_path,
            output_path,
            output,
            assign,
        })
    }

    fn name(&mut self, name: &str, pointer: &str, index: StateIndex) -> Option<Arc<str>> {
        let chars = name.chars().count();
        if chars == 0 || chars > limits::NAME_CHARS_MAX {
            let message = format!(
                "A state's name has 1 to {} characters; this one has {chars}",
                limits::NAME_CHARS_MAX
            );
            self.findings.add(Severity::Error, codes::STATE_NAME, pointer, message);
            return None;
        }
        let name: Arc<str> = name.into();
        match self.by_name.entry(Arc::clone(&name)) {
            Entry::Vacant(entry) => {
                entry.insert(index);
            }
            Entry::Occupied(_) => {
                let message = format!("The state name '{name}' appears more than once");
                self.findings.add(Severity::Error, codes::DUPLICATE_STATE, pointer, message).help = Some(
                    "names are unique in the whole machine, branches and item processors included".to_owned(),
                );
            }
        }
        Some(name)
    }

    /// The language of a state, with what there is to say about it.
    fn state_language(&mut self, node: &Node<'_>) -> QueryLanguage {
        let own = self.language(node);
        if self.query_language == QueryLanguage::Jsonata && own == Some(QueryLanguage::JsonPath) {
            let message = "'QueryLanguage' can not be 'JSONPath' if set to 'JSONata' for whole state machine";
            self.findings.schema(node.pointer.as_str(), message);
        }
        own.unwrap_or(self.query_language)
    }
}
