//! Random state machines, with all that an execution of one may come to.
//!
//! What flows through a machine is one JSON value; each step makes another of it that can be computed beforehand
//! ([`step`]). Where chance decides, because an attempt may time out and is caught, there are two.

mod map_runs;

use serde_json::{Map, Value, json};
use stagepost_protocol::{Namespace, Payload, StateMachineArn};
use stagepost_store::{DefinitionRow, StateMachineRow};

use crate::{
    rng::Rng,
    world::{World, digest},
};

/// Where steps are nested no further.
const DEPTH_MAX: usize = 2;
/// States that may come to several values are not added where there are so many already.
const VALUES_MAX: usize = 12;
/// What activities fail with when they are told to.
pub(crate) const FLAKY: &str = "Flaky";
/// How an attempt ends whose worker, or whose time, is gone or will be soon.
const LOST: [&str; 3] = ["States.Timeout", "States.HeartbeatTimeout", "Stagepost.Cancelled"];

/// A state machine and what it is good for.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) name: String,
    pub(crate) definition: Value,
    pub(crate) input: Value,
    pub(crate) plan: Plan,
    /// Signals that its execution waits for, or not: name and input.
    pub(crate) signals: Vec<(String, Value)>,
    /// How it may end.
    pub(crate) endings: Endings,
    /// How its Map Run must end, if that is what it is about.
    pub(crate) map_run: Option<map_runs::Expected>,
}

/// What is done with an execution besides starting it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Nothing.
    Run,
    /// It is stopped, some time.
    Stop,
    /// It fails, and is redriven then, once.
    Redrive,
    /// Only parents start it.
    Child,
}

/// How an execution may end.
#[derive(Debug, Default)]
pub(crate) struct Endings {
    pub(crate) outputs: Vec<Value>,
    pub(crate) failed: Option<&'static str>,
    pub(crate) timed_out: bool,
    pub(crate) aborted: bool,
}

/// A machine of one task, which succeeds with whatever it is started.
#[derive(Debug)]
pub(crate) struct Simple {
    pub(crate) name: String,
    definition: Value,
    salt: u64,
    /// Its executions are kept nowhere.
    express: bool,
}

impl Simple {
    /// What it makes of its input.
    pub(crate) fn output(&self, input: &Value) -> Value {
        step(input, self.salt)
    }

    /// Creates it, as the API does.
    pub(crate) fn create(&self, world: &World) {
        let now = world.now();
        let row = StateMachineRow {
            arn: arn(&self.name),
            definition_id: self.name.clone(),
            role_arn: "r".to_owned(),
            kind: if self.express { "EXPRESS" } else { "STANDARD" }.to_owned(),
            status: "ACTIVE".to_owned(),
            created_at: now,
            updated_at: now,
            settings: Payload::empty_object(),
        };
        let definition = DefinitionRow { id: self.name.clone(), text: self.definition.to_string() };
        let mut tables = world.tables();
        tables.definitions.insert(definition.id.clone(), definition);
        tables.state_machines.insert(row.arn.to_string(), row);
    }
}

/// What a step makes of a value.
pub(crate) fn step(value: &Value, salt: u64) -> Value {
    json!(digest(&(value.to_string(), salt)) >> 32)
}

/// The ARN of a machine.
pub(crate) fn arn(name: &str) -> StateMachineArn {
    StateMachineArn { namespace: Namespace::default(), name: name.to_owned() }
}

/// Makes so many machines, and their children.
pub(crate) fn machines(rng: &Rng, count: u64) -> Vec<Machine> {
    let mut generator = Generator { rng, states: 0, signals: Vec::new(), children: Vec::new() };
    let mut machines: Vec<Machine> = (0..count).map(|n| generator.machine(n)).collect();
    machines.append(&mut generator.children);
    machines
}

/// Makes a machine of one task.
pub(crate) fn simple(rng: &Rng, name: String) -> Simple {
    let mut generator = Generator { rng, states: 0, signals: Vec::new(), children: Vec::new() };
    let (definition, salt) = generator.single();
    Simple { name, definition, salt, express: false }
}

/// The same of type EXPRESS. An attempt that is lost with the process that runs it ends by its timeout, which is long
/// enough for one worker with one slot: attempts that time out while they wait would only make its queue longer.
pub(crate) fn express(rng: &Rng, name: String) -> Simple {
    let mut machine = simple(rng, name);
    for state in machine.definition["States"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        state["TimeoutSeconds"] = json!(20 + rng.below(20));
    }
    Simple { express: true, ..machine }
}

struct Generator<'r> {
    rng: &'r Rng,
    states: u64,
    signals: Vec<(String, Value)>,
    children: Vec<Machine>,
}

/// A part of a definition and the values that it may come to.
type Part = (Value, Vec<Value>);

impl Generator<'_> {
    fn machine(&mut self, n: u64) -> Machine {
        if self.rng.one_in(8) {
            return self.map_run(format!("m{n}"));
        }
        let input = json!(self.rng.below(1_000));
        let (mut definition, mut outputs) = self.sequence(0, vec![input.clone()]);
        let mut endings = Endings::default();
        let plan = match self.rng.below(10) {
            0 => {
                // It waits for somebody who never comes.
                (definition, _) = self.endless();
                definition["TimeoutSeconds"] = json!(1 + self.rng.below(8));
                (outputs, endings.timed_out) = (Vec::new(), true);
                Plan::Run
            }
            1 => {
                (definition, _) = self.endless();
                (outputs, endings.aborted) = (Vec::new(), true);
                Plan::Stop
            }
            2 => {
                endings.aborted = true;
                Plan::Stop
            }
            3 | 4 => {
                (definition, outputs) = self.redriven(&input);
                Plan::Redrive
            }
            5 => {
                (definition, outputs) = self.failing(&input);
                endings.failed = Some("Wrong");
                if self.rng.one_in(2) { Plan::Redrive } else { Plan::Run }
            }
            _ => Plan::Run,
        };
        endings.outputs = outputs;
        let signals = std::mem::take(&mut self.signals);
        Machine { name: format!("m{n}"), definition, input, plan, signals, endings, map_run: None }
    }

    fn name(&mut self) -> String {
        self.states += 1;
        format!("S{}", self.states)
    }

    fn salt(&self) -> u64 {
        self.rng.below(1_000)
    }

    /// One state after the other.
    fn sequence(&mut self, depth: usize, mut values: Vec<Value>) -> Part {
        let length = 1 + self.rng.index(if depth == 0 { 4 } else { 2 });
        let names: Vec<String> = (0..length).map(|_| self.name()).collect();
        let mut states = Map::new();
        for i in 0..length {
            values = self.state(&mut states, &names[i], names.get(i + 1), depth, values);
        }
        (json!({ "StartAt": names[0], "States": states }), values)
    }

    /// Adds a state, or some that belong together.
    fn state(
        &mut self,
        states: &mut Map<String, Value>,
        name: &str,
        next: Option<&String>,
        depth: usize,
        values: Vec<Value>,
    ) -> Vec<Value> {
        let kinds = if depth < DEPTH_MAX && values.len() <= 2 { 14 } else { 9 };
        let (state, values) = match self.rng.below(kinds) {
            0..=2 => self.task(&values),
            3 => return self.caught(states, name, next, &values),
            4 => (json!({ "Type": "Wait", "Seconds": self.rng.below(4) }), values),
            5 => return self.choice(states, name, next, &values),
            6 => self.callback(&values),
            7 => {
                let result = self.salt();
                (json!({ "Type": "Pass", "Result": result }), vec![json!(result)])
            }
            8 => self.signal(),
            9 => self.parallel(depth, &values),
            10 | 11 => return self.map(states, name, next, depth, &values),
            _ => self.child(&values),
        };
        states.insert(name.to_owned(), going(state, next));
        values
    }

    /// The attempt's work: what an activity is told.
    fn work(&self, millis: u64, beats: bool) -> (Value, u64) {
        let salt = self.salt();
        (
            json!({ "v.$": "$", "salt": salt, "millis": millis, "fails": 0, "beats": beats, "redriven": false }),
            salt,
        )
    }

    fn activity(&self) -> Value {
        let name = self.rng.one_of(&["step", "step", "sure"]);
        // With the region and the account an activity must be registered.
        let place = self.rng.one_of(&[":", "us-east-1:000000000000"]);
        json!({ "Type": "Task", "Resource": format!("arn:aws:states:{place}:activity:{name}") })
    }

    /// A task that succeeds in the end, however many attempts that takes.
    fn task(&mut self, values: &[Value]) -> Part {
        let millis = self.rng.one_of(&[0, 0, 0, 30, 300, 1_500, 4_000]);
        let beats = self.rng.one_in(2);
        let (mut work, salt) = self.work(millis, beats);
        let mut task = self.activity();
        let fails = self.rng.one_of(&[0, 0, 0, 1, 2]);
        work["fails"] = json!(fails);
        task["Parameters"] = work;
        if self.rng.one_in(2) {
            task["TimeoutSeconds"] = json!(10 + self.rng.below(50));
        }
        if beats && self.rng.one_in(2) {
            task["HeartbeatSeconds"] = json!(4 + self.rng.below(3));
        }
        task["Retry"] = self.retry(fails);
        (task, values.iter().map(|value| step(value, salt)).collect())
    }

    fn retry(&self, fails: u64) -> Value {
        let jitter = self.rng.one_of(&["NONE", "FULL"]);
        json!([
            { "ErrorEquals": [FLAKY], "IntervalSeconds": 1, "MaxAttempts": fails, "BackoffRate": 1.5,
              "JitterStrategy": jitter },
            { "ErrorEquals": LOST, "IntervalSeconds": 1, "MaxAttempts": 1_000, "BackoffRate": 1.0 },
        ])
    }

    /// A task that may be lost or be too late, which is caught.
    fn caught(
        &mut self,
        states: &mut Map<String, Value>,
        name: &str,
        next: Option<&String>,
        values: &[Value],
    ) -> Vec<Value> {
        let instead = self.salt();
        let nobody = self.rng.one_in(3) || values.len() > VALUES_MAX;
        let (mut task, came) = if nobody {
            (json!({ "Type": "Task", "Resource": "arn:aws:states:::activity:nobody" }), Vec::new())
        } else {
            let (work, salt) = self.work(self.rng.one_of(&[0, 300, 2_500]), false);
            let mut task = self.activity();
            task["Parameters"] = work;
            (task, values.iter().map(|value| step(value, salt)).collect())
        };
        task["TimeoutSeconds"] = json!(2 + self.rng.below(3));
        if self.rng.one_in(2) {
            task["HeartbeatSeconds"] = json!(1);
        }
        let late = self.name();
        task["Catch"] = json!([{ "ErrorEquals": LOST, "Next": late }]);
        states.insert(name.to_owned(), going(task, next));
        states.insert(late, going(json!({ "Type": "Pass", "Result": instead }), next));
        let mut values: Vec<Value> = came;
        values.push(json!(instead));
        values
    }

    fn choice(
        &mut self,
        states: &mut Map<String, Value>,
        name: &str,
        next: Option<&String>,
        values: &[Value],
    ) -> Vec<Value> {
        let (small, large) = (self.name(), self.name());
        let limit = 1_u64 << 31;
        let rule = json!({ "And": [
            { "Variable": "$", "IsNumeric": true }, { "Variable": "$", "NumericLessThan": limit },
        ], "Next": small });
        let choice = json!({ "Type": "Choice", "Choices": [rule], "Default": large });
        states.insert(name.to_owned(), choice);
        let result = self.salt();
        states.insert(small, going(json!({ "Type": "Pass", "Result": result }), next));
        states.insert(large, going(json!({ "Type": "Pass" }), next));
        let way = |value: &Value| match value.as_u64() {
            Some(number) if number < limit => json!(result),
            _ => value.clone(),
        };
        values.iter().map(way).collect()
    }

    /// Waits for somebody's answer.
    fn callback(&mut self, values: &[Value]) -> Part {
        let (salt, fails) = (self.salt(), self.rng.one_of(&[0, 0, 1]));
        let body = json!({ "token.$": "$$.Task.Token", "v.$": "$", "salt": salt, "fails": fails });
        let mut state = json!({
            "Type": "Task",
            "Resource": "arn:aws:states:::sqs:sendMessage.waitForTaskToken",
            "Parameters": { "QueueUrl": "somebody", "MessageBody": body },
            "TimeoutSeconds": 60,
        });
        state["Retry"] = self.retry(fails);
        (state, values.iter().map(|value| step(value, salt)).collect())
    }

    /// Waits for a signal, which comes once.
    fn signal(&mut self) -> Part {
        let (name, input) = (self.name(), json!(self.salt()));
        self.signals.push((name.clone(), input.clone()));
        let state = json!({
            "Type": "Task",
            "Resource": "arn:aws:states:::stagepost:waitForSignal",
            "Parameters": { "Name": name },
        });
        (state, vec![input])
    }

    fn parallel(&mut self, depth: usize, values: &[Value]) -> Part {
        let branches: Vec<(Value, Vec<Vec<Value>>)> = (0..1 + self.rng.below(3))
            .map(|_| {
                // A branch's own outcomes for each value that may come in.
                let (mut branch, first) = self.sequence(depth + 1, vec![values[0].clone()]);
                let mut all = vec![first];
                if values.len() > 1 {
                    // What it comes to must be known for each value: a branch that is simple enough for that.
                    let (simple, salt) = self.single();
                    branch = simple;
                    all = values.iter().map(|value| vec![step(value, salt)]).collect();
                }
                (branch, all)
            })
            .collect();
        let scopes: Vec<&Value> = branches.iter().map(|(scope, _)| scope).collect();
        let state = json!({ "Type": "Parallel", "Branches": scopes });
        let mut results = Vec::new();
        for i in 0..values.len() {
            let each: Vec<&Vec<Value>> = branches.iter().map(|(_, all)| &all[i]).collect();
            results.extend(combinations(&each));
        }
        (state, results)
    }

    /// A sequence of one task.
    fn single(&mut self) -> (Value, u64) {
        let (work, salt) = self.work(self.rng.one_of(&[0, 100, 1_200]), false);
        let mut task = self.activity();
        task["Parameters"] = work;
        task["Retry"] = self.retry(0);
        let name = self.name();
        (json!({ "StartAt": name, "States": { name: going(task, None) } }), salt)
    }

    fn map(
        &mut self,
        states: &mut Map<String, Value>,
        name: &str,
        next: Option<&String>,
        depth: usize,
        values: &[Value],
    ) -> Vec<Value> {
        let extra = 1 + self.rng.below(if self.rng.one_in(6) { 30 } else { 4 });
        let (mut processor, salt) = self.single();
        let mut map = json!({ "Type": "Map", "ItemsPath": "$.items", "MaxConcurrency": self.rng.below(4) });
        if depth == 0 && self.rng.one_in(3) {
            processor["ProcessorConfig"] = json!({ "Mode": "DISTRIBUTED", "ExecutionType": "STANDARD" });
            map["Label"] = json!(self.name());
        }
        map["ItemProcessor"] = processor;
        let over = self.name();
        // The value itself and some numbers are the items.
        let numbers: Vec<Value> = (0..extra).map(|n| json!(n)).collect();
        let list: Vec<String> = numbers.iter().map(Value::to_string).collect();
        let items = json!({ "items.$": format!("States.Array($, {})", list.join(", ")) });
        states.insert(name.to_owned(), json!({ "Type": "Pass", "Parameters": items, "Next": over }));
        states.insert(over, going(map, next));
        let result = |value: &Value| {
            let items = std::iter::once(value).chain(&numbers);
            items.map(|item| step(item, salt)).collect::<Value>()
        };
        values.iter().map(result).collect()
    }

    /// An execution of another machine, whose end is waited for.
    fn child(&mut self, values: &[Value]) -> Part {
        let (definition, salt) = self.single();
        let name = format!("child{}", self.children.len());
        let endings = Endings::default();
        let state = json!({
            "Type": "Task",
            "Resource": "arn:aws:states:::states:startExecution.sync:2",
            "Parameters": { "StateMachineArn": arn(&name).to_string(), "Input.$": "$" },
            "ResultSelector": { "of.$": "$.Output" },
            "Retry": self.retry(0),
        });
        let (input, plan, signals) = (Value::Null, Plan::Child, Vec::new());
        self.children.push(Machine { name, definition, input, plan, signals, endings, map_run: None });
        (state, values.iter().map(|value| json!({ "of": step(value, salt) })).collect())
    }

    /// A machine that does not end by itself.
    fn endless(&mut self) -> Part {
        let name = self.name();
        let state = match self.rng.below(3) {
            0 => json!({ "Type": "Wait", "Seconds": 1_000_000 }),
            1 => json!({ "Type": "Task", "Resource": "arn:aws:states:::activity:nobody" }),
            _ => {
                let wait = json!({ "Type": "Wait", "Seconds": 1_000_000, "End": true });
                let (single, _) = self.single();
                json!({ "Type": "Parallel", "Branches": [{ "StartAt": "W", "States": { "W": wait } }, single] })
            }
        };
        (json!({ "StartAt": name, "States": { name: going(state, None) } }), Vec::new())
    }

    /// A machine with a task that fails until its execution is redriven.
    fn redriven(&mut self, input: &Value) -> Part {
        let (first, second) = (self.name(), self.name());
        let (before, salt_before) = self.work(0, false);
        let (mut work, salt) = self.work(self.rng.one_of(&[0, 300]), false);
        work["redriven"] = json!(true);
        let task = |parameters: Value| {
            json!({ "Type": "Task", "Resource": "arn:aws:states:::activity:step", "Parameters": parameters,
                "Retry": [{ "ErrorEquals": LOST, "IntervalSeconds": 1, "MaxAttempts": 1_000, "BackoffRate": 1.0 }] })
        };
        let value = step(input, salt_before);
        let (last, value) = match self.rng.below(3) {
            0 => (task(work), step(&value, salt)),
            1 => {
                let name = self.name();
                let (single, other) = self.single();
                let scope = json!({ "StartAt": name, "States": { name: going(task(work), None) } });
                let state = json!({ "Type": "Parallel", "Branches": [scope, single] });
                (state, json!([step(&value, salt), step(&value, other)]))
            }
            _ => {
                let name = self.name();
                let processor = json!({ "StartAt": name, "States": { name: going(task(work), None) } });
                let state = json!({ "Type": "Map", "ItemsPath": "$.items",
                    "ItemSelector": { "n.$": "$$.Map.Item.Value" }, "ItemProcessor": processor });
                let list = self.name();
                let states = json!({
                    first.clone(): going(task(before), Some(&list)),
                    list: { "Type": "Pass", "Parameters": { "items.$": "States.Array($, 5)" }, "Next": second },
                    second: going(state, None),
                });
                let results = [json!({ "n": value }), json!({ "n": 5 })].map(|item| step(&item, salt));
                return (json!({ "StartAt": first, "States": states }), vec![json!(results)]);
            }
        };
        let states = json!({ first.clone(): going(task(before), Some(&second)), second: going(last, None) });
        (json!({ "StartAt": first, "States": states }), vec![value])
    }

    /// A machine that fails, or has ended before it could.
    fn failing(&mut self, input: &Value) -> Part {
        let (scope, _) = self.sequence(1, vec![input.clone()]);
        let (first, second) = (self.name(), self.name());
        let mut states = Map::new();
        let parallel = json!({ "Type": "Parallel", "Branches": [scope] });
        states.insert(first.clone(), going(parallel, Some(&second)));
        states.insert(second, json!({ "Type": "Fail", "Error": "Wrong", "Cause": "as it was meant" }));
        (json!({ "StartAt": first, "States": states }), Vec::new())
    }
}

/// A state that goes on with the next one, or ends.
fn going(mut state: Value, next: Option<&String>) -> Value {
    match next {
        Some(next) => state["Next"] = json!(next),
        None => state["End"] = json!(true),
    }
    state
}

/// All arrays with one of each.
fn combinations(each: &[&Vec<Value>]) -> Vec<Value> {
    let mut all: Vec<Vec<Value>> = vec![Vec::new()];
    for choices in each {
        let longer = all.iter().flat_map(|some| {
            choices.iter().map(|choice| some.iter().cloned().chain([choice.clone()]).collect())
        });
        all = longer.collect();
    }
    all.into_iter().map(Value::Array).collect()
}
