//! The file of cases: what a person writes, read with a word about everything that is wrong with it.

use std::{collections::BTreeMap, fmt};

use serde_json::{Map, Value, json};
use stagepost_asl::StateMachine;
use stagepost_protocol::Timestamp;

use crate::{
    run::{EVENTS_MAX, Mock, Repeated, Simulation, Status},
    world::{Answer, Said},
};

/// The cases of a file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Cases {
    /// In order.
    pub cases: Vec<Case>,
}

/// One case: what a run begins with, what its tasks answer, and what is to come of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// What it shows, in a sentence.
    pub name: String,
    /// The input of the execution.
    pub input: Value,
    /// When it starts.
    pub now: Option<Timestamp>,
    /// Names in the context object.
    pub context: Context,
    /// The seed of random numbers.
    pub seed: u64,
    /// The run stops after so many events.
    pub max_events: u64,
    /// By the name of the state; those of the whole file included.
    pub mocks: BTreeMap<String, Mock>,
    /// What is to come of it.
    pub expect: Expect,
}

/// What the context object says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Context {
    /// `Execution.Name`.
    pub execution: Option<String>,
    /// `StateMachine.Name`.
    pub state_machine: Option<String>,
}

/// What is expected of a run; what is absent may be anything.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Expect {
    /// How it stands at the end.
    pub status: Option<Status>,
    /// The whole output.
    pub output: Option<Value>,
    /// Fields that the output holds, among others.
    pub output_includes: Option<Value>,
    /// The name of the error.
    pub error: Option<String>,
    /// The cause.
    pub cause: Option<String>,
    /// A part of the cause.
    pub cause_includes: Option<String>,
    /// All states, in the order in which they are entered.
    pub path: Option<Vec<String>>,
    /// States that are entered.
    pub visited: Vec<String>,
    /// States that are not.
    pub not_visited: Vec<String>,
    /// How often states are entered.
    pub visits: BTreeMap<String, u64>,
    /// How long it takes, in seconds.
    pub duration: Option<Range>,
    /// How many events its history has.
    pub events: Option<Range>,
}

/// From where to where, both included.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    /// At least.
    pub least: f64,
    /// At most.
    pub most: f64,
}

/// Something that is wrong with a file of cases.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct CaseError {
    /// Where, as a JSON pointer.
    pub pointer: String,
    /// What.
    pub message: String,
}

impl fmt::Display for CaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pointer.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.pointer, self.message)
        }
    }
}

impl Cases {
    /// Reads a file of cases for a definition; the error is everything that is wrong with it.
    pub fn parse(text: &str, machine: &StateMachine) -> Result<Cases, Vec<CaseError>> {
        let mut reader = Reader { machine, errors: Vec::new() };
        let value: Value = match serde_json::from_str(text) {
            Ok(value) => value,
            Err(error) => {
                reader.wrong("", format!("it is not JSON: {error}"));
                return Err(reader.errors);
            }
        };
        let cases = reader.file(&value);
        if reader.errors.is_empty() { Ok(Cases { cases }) } else { Err(reader.errors) }
    }

    /// The file, as [`Cases::parse`] reads it.
    pub fn to_json(&self) -> Value {
        json!({ "cases": self.cases.iter().map(Case::to_json).collect::<Vec<_>>() })
    }
}

impl Case {
    /// The run that it describes.
    pub(crate) fn simulation(&self, machine: &std::sync::Arc<StateMachine>) -> Simulation {
        let mut simulation = Simulation::new(machine)
            .input(&self.input)
            .seed(self.seed)
            .events_max(self.max_events)
            .named(self.context.state_machine.as_deref(), self.context.execution.as_deref());
        if let Some(now) = self.now {
            simulation = simulation.starts_at(now);
        }
        self.mocks.iter().fold(simulation, |simulation, (state, mock)| simulation.mock(state, mock.clone()))
    }

    /// As it stands in a file.
    pub fn to_json(&self) -> Value {
        let mut case = Map::new();
        case.insert("name".into(), self.name.as_str().into());
        case.insert("input".into(), self.input.clone());
        if let Some(now) = self.now {
            case.insert("now".into(), now.to_string().into());
        }
        let mut context = Map::new();
        if let Some(name) = &self.context.execution {
            context.insert("Execution".into(), json!({ "Name": name }));
        }
        if let Some(name) = &self.context.state_machine {
            context.insert("StateMachine".into(), json!({ "Name": name }));
        }
        if !context.is_empty() {
            case.insert("context".into(), context.into());
        }
        if self.seed != 0 {
            case.insert("seed".into(), self.seed.into());
        }
        if self.max_events != EVENTS_MAX {
            case.insert("maxEvents".into(), self.max_events.into());
        }
        let mocks: Map<String, Value> =
            self.mocks.iter().map(|(state, mock)| (state.clone(), mock_json(mock))).collect();
        case.insert("mocks".into(), mocks.into());
        case.insert("expect".into(), self.expect.to_json());
        case.into()
    }
}

fn mock_json(mock: &Mock) -> Value {
    let list = |answers: &[Repeated]| answers.iter().map(answer_json).collect::<Vec<_>>();
    if mock.items.is_empty() {
        return list(&mock.answers).into();
    }
    let items: Map<String, Value> =
        mock.items.iter().map(|(item, answers)| (item.to_string(), list(answers).into())).collect();
    json!({ "items": items, "default": list(&mock.answers) })
}

fn answer_json(Repeated { answer, times }: &Repeated) -> Value {
    let mut shown = Map::new();
    match &answer.said {
        Said::Result(value) => {
            shown.insert("result".into(), value.clone());
        }
        Said::Error { error, cause } => {
            shown.insert("error".into(), error.as_deref().into());
            if let Some(cause) = cause {
                shown.insert("cause".into(), cause.as_str().into());
            }
        }
        Said::Timeout => {
            shown.insert("timeout".into(), true.into());
        }
        Said::Never => {
            shown.insert("never".into(), true.into());
        }
    }
    if answer.after_millis > 0 {
        shown.insert("after".into(), (answer.after_millis as f64 / 1000.0).into());
    }
    match times {
        None => {
            shown.insert("repeat".into(), "always".into());
        }
        Some(1) => {}
        Some(times) => {
            shown.insert("repeat".into(), (*times).into());
        }
    }
    shown.into()
}

impl Expect {
    fn to_json(&self) -> Value {
        let mut shown = Map::new();
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                shown.insert(name.to_owned(), value);
            }
        };
        let names = |names: &[String]| (!names.is_empty()).then(|| names.into());
        put("status", self.status.map(|status| status.as_str().into()));
        put("output", self.output.clone());
        put("outputIncludes", self.output_includes.clone());
        put("error", self.error.as_deref().map(Value::from));
        put("cause", self.cause.as_deref().map(Value::from));
        put("causeIncludes", self.cause_includes.as_deref().map(Value::from));
        put("path", self.path.as_deref().map(Value::from));
        put("visited", names(&self.visited));
        put("notVisited", names(&self.not_visited));
        put("visits", (!self.visits.is_empty()).then(|| json!(self.visits)));
        put("duration", self.duration.map(Range::to_json));
        put("events", self.events.map(Range::to_json));
        shown.into()
    }
}

impl Range {
    /// This and nothing else.
    pub const fn exactly(number: f64) -> Range {
        Range { least: number, most: number }
    }

    fn to_json(self) -> Value {
        let number = |n: f64| if n.fract() == 0.0 && n.abs() < 1e15 { json!(n as i64) } else { json!(n) };
        match self {
            Range { least, most } if least == most => number(least),
            Range { least, most } if most == f64::INFINITY => json!({ "atLeast": number(least) }),
            Range { least: 0.0, most } => json!({ "atMost": number(most) }),
            Range { least, most } => json!({ "atLeast": number(least), "atMost": number(most) }),
        }
    }

    pub(crate) fn holds(self, number: f64) -> bool {
        (self.least..=self.most).contains(&number)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Range { least, most } if least == most => write!(f, "{least}"),
            Range { least, most } if most == f64::INFINITY => write!(f, "at least {least}"),
            Range { least: 0.0, most } => write!(f, "at most {most}"),
            Range { least, most } => write!(f, "{least} to {most}"),
        }
    }
}

/// Walks the file and notes what is wrong.
struct Reader<'m> {
    machine: &'m StateMachine,
    errors: Vec<CaseError>,
}

/// Fields of an object that were not looked at yet.
struct Fields {
    pointer: String,
    left: Map<String, Value>,
    known: Vec<&'static str>,
}

impl Fields {
    fn take(&mut self, name: &'static str) -> Option<(Value, String)> {
        self.known.push(name);
        let value = self.left.shift_remove(name)?;
        Some((value, at(&self.pointer, name)))
    }
}

fn at(pointer: &str, name: &str) -> String {
    format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"))
}

impl Reader<'_> {
    fn wrong(&mut self, pointer: &str, message: impl Into<String>) {
        self.errors.push(CaseError { pointer: pointer.to_owned(), message: message.into() });
    }

    fn fields(&mut self, value: &Value, pointer: &str) -> Option<Fields> {
        let Value::Object(fields) = value else {
            self.wrong(pointer, "it must be an object");
            return None;
        };
        Some(Fields { pointer: pointer.to_owned(), left: fields.clone(), known: vec!["comment"] })
    }

    /// Says of every field that nobody asked for that there is no such field.
    fn done(&mut self, fields: &Fields) {
        for name in fields.left.keys().filter(|name| *name != "comment") {
            let known = fields.known.join(", ");
            self.wrong(&at(&fields.pointer, name), format!("there is no such field; there are {known}"));
        }
    }

    fn file(&mut self, value: &Value) -> Vec<Case> {
        let Some(mut fields) = self.fields(value, "") else { return Vec::new() };
        let shared =
            fields.take("mocks").map(|(value, pointer)| self.mocks(&value, &pointer)).unwrap_or_default();
        let mut cases: Vec<Case> = Vec::new();
        match fields.take("cases") {
            Some((Value::Array(items), pointer)) => {
                for (n, item) in items.iter().enumerate() {
                    let pointer = format!("{pointer}/{n}");
                    let Some(case) = self.case(item, &pointer, &shared) else { continue };
                    if cases.iter().any(|other| other.name == case.name) {
                        self.wrong(&at(&pointer, "name"), "another case has this name");
                    }
                    cases.push(case);
                }
                if items.is_empty() {
                    self.wrong(&pointer, "there must be at least one case");
                }
            }
            Some((_, pointer)) => self.wrong(&pointer, "it must be an array of cases"),
            None => self.wrong("", "the field 'cases' is missing"),
        }
        self.done(&fields);
        cases
    }

    fn case(&mut self, value: &Value, pointer: &str, shared: &BTreeMap<String, Mock>) -> Option<Case> {
        let mut fields = self.fields(value, pointer)?;
        let name = match fields.take("name") {
            Some((value, pointer)) => self.text(&value, &pointer).unwrap_or_default(),
            None => {
                self.wrong(pointer, "the field 'name' is missing");
                String::new()
            }
        };
        let input = fields.take("input").map_or_else(|| json!({}), |(value, _)| value);
        let now = fields.take("now").and_then(|(value, pointer)| self.time(&value, &pointer));
        let context = fields.take("context").map(|(value, pointer)| self.context(&value, &pointer));
        let seed = fields.take("seed").and_then(|(value, pointer)| self.whole(&value, &pointer));
        let max_events = fields.take("maxEvents").and_then(|(value, pointer)| self.whole(&value, &pointer));
        let mut mocks = shared.clone();
        if let Some((value, pointer)) = fields.take("mocks") {
            mocks.extend(self.mocks(&value, &pointer));
        }
        let expect = fields.take("expect").map(|(value, pointer)| self.expect(&value, &pointer));
        self.done(&fields);
        Some(Case {
            name,
            input,
            now,
            context: context.unwrap_or_default(),
            seed: seed.unwrap_or(0),
            max_events: max_events.unwrap_or(EVENTS_MAX),
            mocks,
            expect: expect.unwrap_or_default(),
        })
    }

    fn context(&mut self, value: &Value, pointer: &str) -> Context {
        let Some(mut fields) = self.fields(value, pointer) else { return Context::default() };
        let mut name = |reader: &mut Self, of: &'static str| {
            let (value, pointer) = fields.take(of)?;
            let mut inner = reader.fields(&value, &pointer)?;
            let name = inner.take("Name").and_then(|(value, pointer)| reader.text(&value, &pointer));
            reader.done(&inner);
            name
        };
        let context =
            Context { execution: name(self, "Execution"), state_machine: name(self, "StateMachine") };
        self.done(&fields);
        context
    }

    fn mocks(&mut self, value: &Value, pointer: &str) -> BTreeMap<String, Mock> {
        let Value::Object(states) = value else {
            self.wrong(pointer, "it must be an object of states");
            return BTreeMap::new();
        };
        let mut mocks = BTreeMap::new();
        for (state, value) in states {
            let pointer = at(pointer, state);
            if self.known_state(state, &pointer) {
                mocks.insert(state.clone(), self.mock(value, &pointer));
            }
        }
        mocks
    }

    fn known_state(&mut self, name: &str, pointer: &str) -> bool {
        if self.machine.state_named(name).is_some() {
            return true;
        }
        let near = self.machine.states.iter().map(|s| &*s.name).find(|n| n.eq_ignore_ascii_case(name));
        let hint = near.map(|near| format!("; do you mean '{near}'?")).unwrap_or_default();
        self.wrong(pointer, format!("the definition has no state '{name}'{hint}"));
        false
    }

    fn mock(&mut self, value: &Value, pointer: &str) -> Mock {
        let by_item = value.get("items").is_some() || value.get("default").is_some();
        if !by_item {
            return Mock { answers: self.answers(value, pointer), items: BTreeMap::new() };
        }
        let Some(mut fields) = self.fields(value, pointer) else { return Mock::default() };
        let mut mock = Mock::default();
        match fields.take("items") {
            Some((Value::Object(items), pointer)) => {
                for (item, value) in &items {
                    let pointer = at(&pointer, item);
                    match item.parse() {
                        Ok(place) => {
                            mock.items.insert(place, self.answers(value, &pointer));
                        }
                        Err(_) => self.wrong(&pointer, "items go by their place, from \"0\""),
                    }
                }
            }
            Some((_, pointer)) => {
                self.wrong(&pointer, "it must be an object: the place of the item to its answers")
            }
            None => {}
        }
        if let Some((value, pointer)) = fields.take("default") {
            mock.answers = self.answers(&value, &pointer);
        }
        self.done(&fields);
        mock
    }

    /// A list of answers; one answer alone answers always.
    fn answers(&mut self, value: &Value, pointer: &str) -> Vec<Repeated> {
        if let Value::Array(items) = value {
            let answers = items.iter().enumerate();
            return answers.filter_map(|(n, v)| self.answer(v, &format!("{pointer}/{n}"), Some(1))).collect();
        }
        self.answer(value, pointer, None).into_iter().collect()
    }

    fn answer(&mut self, value: &Value, pointer: &str, times: Option<u32>) -> Option<Repeated> {
        let mut fields = self.fields(value, pointer)?;
        let result = fields.take("result").map(|(value, _)| Said::Result(value));
        let cause = fields.take("cause").and_then(|(value, pointer)| self.text(&value, &pointer));
        let error = fields.take("error").map(|(value, pointer)| {
            let error = if value.is_null() { None } else { self.text(&value, &pointer) };
            Said::Error { error, cause: cause.clone() }
        });
        let timeout = fields.take("timeout").map(|(value, pointer)| {
            self.truth(&value, &pointer);
            Said::Timeout
        });
        let never = fields.take("never").map(|(value, pointer)| {
            self.truth(&value, &pointer);
            Said::Never
        });
        let after = fields.take("after").and_then(|(value, pointer)| self.seconds(&value, &pointer));
        let times = match fields.take("repeat") {
            None => times,
            Some((Value::String(always), _)) if always == "always" => None,
            Some((value, pointer)) => match value.as_u64().and_then(|n| u32::try_from(n).ok()) {
                Some(n) if n > 0 => Some(n),
                _ => {
                    self.wrong(&pointer, "it must be a positive whole number or \"always\"");
                    None
                }
            },
        };
        if cause.is_some() && error.is_none() {
            self.wrong(pointer, "a 'cause' needs an 'error'");
        }
        self.done(&fields);
        let mut said = [result, error, timeout, never].into_iter().flatten();
        match (said.next(), said.next()) {
            (Some(said), None) => {
                let after_millis = (after.unwrap_or(0.0) * 1000.0) as i64;
                Some(Repeated { answer: Answer { said, after_millis }, times })
            }
            _ => {
                self.wrong(pointer, "an answer needs exactly one of result, error, timeout, never");
                None
            }
        }
    }

    fn expect(&mut self, value: &Value, pointer: &str) -> Expect {
        let Some(mut fields) = self.fields(value, pointer) else { return Expect::default() };
        let mut expect = Expect {
            output: fields.take("output").map(|(value, _)| value),
            output_includes: fields.take("outputIncludes").map(|(value, _)| value),
            ..Expect::default()
        };
        if let Some((value, pointer)) = fields.take("status") {
            let known = Status::ALL.into_iter().find(|status| value.as_str() == Some(status.as_str()));
            if known.is_none() {
                let all = Status::ALL.map(Status::as_str).join(", ");
                self.wrong(&pointer, format!("it must be one of {all}"));
            }
            expect.status = known;
        }
        for (name, place) in [
            ("error", &mut expect.error),
            ("cause", &mut expect.cause),
            ("causeIncludes", &mut expect.cause_includes),
        ] {
            *place = fields.take(name).and_then(|(value, pointer)| self.text(&value, &pointer));
        }
        expect.path = fields.take("path").map(|(value, pointer)| self.states(&value, &pointer));
        for (name, place) in [("visited", &mut expect.visited), ("notVisited", &mut expect.not_visited)] {
            *place =
                fields.take(name).map(|(value, pointer)| self.states(&value, &pointer)).unwrap_or_default();
        }
        if let Some((value, pointer)) = fields.take("visits") {
            if let Value::Object(states) = &value {
                for (state, count) in states {
                    let pointer = at(&pointer, state);
                    if let (true, Some(count)) =
                        (self.known_state(state, &pointer), self.whole(count, &pointer))
                    {
                        expect.visits.insert(state.clone(), count);
                    }
                }
            } else {
                self.wrong(&pointer, "it must be an object: states to how often they are entered");
            }
        }
        for (name, place) in [("duration", &mut expect.duration), ("events", &mut expect.events)] {
            *place = fields.take(name).and_then(|(value, pointer)| self.range(&value, &pointer));
        }
        self.done(&fields);
        expect
    }

    fn range(&mut self, value: &Value, pointer: &str) -> Option<Range> {
        if !value.is_object() {
            return self.seconds(value, pointer).map(Range::exactly);
        }
        let mut fields = self.fields(value, pointer)?;
        let mut bound = |reader: &mut Self, name| {
            fields.take(name).and_then(|(value, pointer)| reader.seconds(&value, &pointer))
        };
        let (least, most) = (bound(self, "atLeast"), bound(self, "atMost"));
        self.done(&fields);
        Some(Range { least: least.unwrap_or(0.0), most: most.unwrap_or(f64::INFINITY) })
    }

    fn states(&mut self, value: &Value, pointer: &str) -> Vec<String> {
        let Value::Array(items) = value else {
            self.wrong(pointer, "it must be an array of states");
            return Vec::new();
        };
        let mut names = Vec::with_capacity(items.len());
        for (n, item) in items.iter().enumerate() {
            let pointer = format!("{pointer}/{n}");
            if let Some(name) = self.text(item, &pointer).filter(|name| self.known_state(name, &pointer)) {
                names.push(name);
            }
        }
        names
    }

    fn text(&mut self, value: &Value, pointer: &str) -> Option<String> {
        let text = value.as_str().map(str::to_owned);
        if text.is_none() {
            self.wrong(pointer, "it must be a string");
        }
        text
    }

    fn truth(&mut self, value: &Value, pointer: &str) {
        if *value != Value::Bool(true) {
            self.wrong(pointer, "it can only be true");
        }
    }

    fn whole(&mut self, value: &Value, pointer: &str) -> Option<u64> {
        let number = value.as_u64();
        if number.is_none() {
            self.wrong(pointer, "it must be a whole number");
        }
        number
    }

    fn seconds(&mut self, value: &Value, pointer: &str) -> Option<f64> {
        let number = value.as_f64().filter(|n| (0.0..=1e11).contains(n));
        if number.is_none() {
            self.wrong(pointer, "it must be a number from 0 to 1e11");
        }
        number
    }

    fn time(&mut self, value: &Value, pointer: &str) -> Option<Timestamp> {
        let time = value.as_str().and_then(Timestamp::parse_rfc3339);
        if time.is_none() {
            self.wrong(pointer, "it must be a time such as \"2026-01-01T00:00:00Z\"");
        }
        time
    }
}
