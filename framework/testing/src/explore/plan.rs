//! What a path is made of: the input, and a decision for every visit of a task.
//!
//! What a task gives is unknown. It is represented by concrete data that says of itself that it is unknown, so that the
//! real engine can carry it around, and wherever it turns up it tells where it came from:
//!
//! * a text `<Task.field>`: something unknown at `field` of what the state `Task` gave;
//! * an object with a field `mock` that holds such a text: an object of which the other fields are known, and everything
//!   else is not.
//!
//! When an expression needs more of it, the plan is refined, and run again from the start.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use stagepost_asl::{StateIndex, StateMachine};

use crate::world::Said;

/// The field by which an unknown object is known.
pub(super) const MARK: &str = "mock";

/// A step into data.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Seg {
    Field(String),
    Index(usize),
}

/// What unknown data came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Source {
    Input,
    /// The result of the n-th visit (from 1) of a state.
    Visit(StateIndex, u32),
}

/// A place in unknown data.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    pub(super) source: Source,
    pub(super) path: Vec<Seg>,
}

/// What a visit of a task comes to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Visit {
    pub(super) state: StateIndex,
    /// How its attempts fail, until they succeed.
    pub(super) fault: Option<Fault>,
    /// What the attempt gives that succeeds.
    pub(super) result: Value,
}

/// How attempts fail.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fault {
    pub(super) said: Said,
    /// All of them, or the first one.
    pub(super) always: bool,
}

/// A path, as far as it is decided.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    pub(super) input: Value,
    pub(super) visits: Vec<Visit>,
    /// Places where nothing is, so that a choice goes a certain way.
    pub(super) absent: Vec<Place>,
    /// Places whose data was made up, with a type that an expression needed.
    pub(super) assumed: Vec<Place>,
}

/// What a path through data leads to.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Found {
    /// A value that is known.
    Known(Value),
    /// It is not there, and that is known.
    Missing,
    /// It is unknown. `there`: there is something at the place.
    Unknown { place: Place, there: bool },
}

impl Plan {
    pub(super) fn faults(&self) -> usize {
        self.visits.iter().filter(|visit| visit.fault.is_some()).count()
    }

    /// How often a state is visited.
    pub(super) fn visits_of(&self, state: StateIndex) -> u32 {
        u32::try_from(self.visits.iter().filter(|visit| visit.state == state).count()).unwrap_or(u32::MAX)
    }

    /// What is at a place now.
    pub(super) fn get(&self, place: &Place) -> Option<&Value> {
        let root = match place.source {
            Source::Input => &self.input,
            Source::Visit(state, n) => {
                let mut visits = self.visits.iter().filter(|visit| visit.state == state);
                &visits.nth(n as usize - 1)?.result
            }
        };
        place.path.iter().try_fold(root, |at, seg| match seg {
            Seg::Field(name) => at.get(name),
            Seg::Index(index) => at.get(index),
        })
    }

    fn root(&mut self, source: Source) -> Option<&mut Value> {
        match source {
            Source::Input => Some(&mut self.input),
            Source::Visit(state, n) => {
                let mut visits = self.visits.iter_mut().filter(|visit| visit.state == state);
                visits.nth(n as usize - 1).map(|visit| &mut visit.result)
            }
        }
    }

    /// Puts a value at a place, or nothing; what lies on the way is made. `false` where known data is in the way.
    pub(super) fn put(&mut self, names: &Names, place: &Place, value: Option<Value>) -> bool {
        if value.is_none() {
            self.absent.push(place.clone());
        }
        let Some(at) = self.root(place.source) else { return false };
        put(at, names, place, 0, value)
    }
}

/// Puts a value below `at`, which is where the first `n` steps of a place lead.
fn put(at: &mut Value, names: &Names, place: &Place, n: usize, value: Option<Value>) -> bool {
    let source = place.source;
    let Some(seg) = place.path.get(n) else {
        if let Some(value) = value {
            *at = value;
        }
        return true;
    };
    // JSON in a text.
    if let Some(mut inside) = names.inside(at) {
        let done = put(&mut inside, names, place, n, value);
        *at = inside.to_string().into();
        return done;
    }
    let here = Place { source, path: place.path[..n].to_vec() };
    if names.read(at).is_some() && (!at.is_object() || matches!(seg, Seg::Index(_))) {
        *at = match seg {
            Seg::Field(_) => names.object(&here),
            Seg::Index(_) => Value::Array(Vec::new()),
        };
    }
    match (seg, at) {
        (Seg::Field(name), Value::Object(fields)) => {
            if n + 1 == place.path.len() && value.is_none() {
                fields.shift_remove(name);
                return true;
            }
            let path = place.path[..=n].to_vec();
            let at = fields.entry(name).or_insert_with(|| names.leaf(&Place { source, path }));
            put(at, names, place, n + 1, value)
        }
        (Seg::Index(index), Value::Array(items)) => {
            while items.len() <= *index {
                items.push(names.leaf(&here.item(items.len())));
            }
            put(&mut items[*index], names, place, n + 1, value)
        }
        _ => false,
    }
}

impl Place {
    /// An item of the array at this place.
    pub(super) fn item(&self, index: usize) -> Place {
        let mut item = self.clone();
        item.path.push(Seg::Index(index));
        item
    }
}

/// The texts that stand for unknown data.
#[derive(Debug, Clone)]
pub(super) struct Names {
    sources: Vec<String>,
    states: BTreeMap<String, StateIndex>,
}

impl Names {
    pub(super) fn new(machine: &StateMachine) -> Names {
        // Signs that have a meaning in the texts cannot be in the names.
        let plain = |name: &str| name.replace(['<', '>', '.', '[', ']', '#'], "_");
        let mut states = BTreeMap::new();
        let mut sources = Vec::new();
        for (n, state) in (0..).zip(machine.states.iter()) {
            let mut name = plain(&state.name);
            while name == "input" || states.contains_key(&name) {
                name.push('_');
            }
            states.insert(name.clone(), StateIndex(n));
            sources.push(name);
        }
        Names { sources, states }
    }

    fn text(&self, place: &Place) -> String {
        let mut text = String::from("<");
        match place.source {
            Source::Input => text.push_str("input"),
            Source::Visit(state, n) => {
                text.push_str(&self.sources[state.0 as usize]);
                if n > 1 {
                    text.push_str(&format!("#{n}"));
                }
            }
        }
        for seg in &place.path {
            match seg {
                Seg::Field(name) => {
                    text.push('.');
                    text.push_str(name);
                }
                Seg::Index(index) => text.push_str(&format!("[{index}]")),
            }
        }
        text.push('>');
        text
    }

    /// Unknown data of no type yet.
    pub(super) fn leaf(&self, place: &Place) -> Value {
        self.text(place).into()
    }

    /// An unknown object.
    pub(super) fn object(&self, place: &Place) -> Value {
        json!({ MARK: self.text(place) })
    }

    /// JSON in a text, that says of an unknown object.
    pub(super) fn json(&self, place: &Place) -> Value {
        self.object(place).to_string().into()
    }

    /// What such a text says.
    fn inside(&self, value: &Value) -> Option<Value> {
        let text = value.as_str().filter(|text| text.starts_with('{'))?;
        serde_json::from_str(text).ok().filter(|inside| self.read(inside).is_some())
    }

    /// The place that unknown data came from.
    pub(super) fn read(&self, value: &Value) -> Option<Place> {
        match value {
            Value::String(text) => self.read_text(text),
            Value::Object(fields) => self.read_text(fields.get(MARK)?.as_str()?),
            _ => None,
        }
    }

    fn read_text(&self, text: &str) -> Option<Place> {
        let inner = text.strip_prefix('<')?.strip_suffix('>')?;
        let end = inner.find(['.', '[']).unwrap_or(inner.len());
        let (name, mut rest) = inner.split_at(end);
        let source = match name.split_once('#') {
            _ if name == "input" => Source::Input,
            Some((name, n)) => Source::Visit(*self.states.get(name)?, n.parse().ok()?),
            None => Source::Visit(*self.states.get(name)?, 1),
        };
        let mut path = Vec::new();
        while !rest.is_empty() {
            if let Some(index) = rest.strip_prefix('[') {
                let (index, after) = index.split_once(']')?;
                path.push(Seg::Index(index.parse().ok()?));
                rest = after;
            } else {
                let field = rest.strip_prefix('.')?;
                let end = field.find(['.', '[']).unwrap_or(field.len());
                path.push(Seg::Field(field[..end].to_owned()));
                rest = &field[end..];
            }
        }
        Some(Place { source, path })
    }

    /// Follows a path into data.
    pub(super) fn find(&self, root: &Value, path: &[Seg]) -> Found {
        let mut at = root;
        for (n, seg) in path.iter().enumerate() {
            let next = match (seg, at) {
                (Seg::Field(name), Value::Object(fields)) => fields.get(name),
                (Seg::Index(index), Value::Array(items)) => items.get(*index),
                // JSONata looks through arrays.
                (Seg::Field(_), Value::Array(items)) if !items.is_empty() => {
                    return self.find(&items[0], &path[n..]);
                }
                _ => None,
            };
            at = match (next, self.read(at)) {
                (Some(next), _) => next,
                (None, Some(mut place)) => {
                    place.path.extend_from_slice(&path[n..]);
                    return Found::Unknown { place, there: false };
                }
                (None, None) => return Found::Missing,
            };
        }
        match self.read(at) {
            Some(place) => Found::Unknown { place, there: true },
            None => Found::Known(at.clone()),
        }
    }
}

/// A situation in which the n-th visit of a state counts as any other one.
pub(super) fn without_counts(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('#') {
        let after = &rest[at + 1..];
        let digits = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let ends = after[digits..].starts_with(['.', '[', '>']);
        out.push_str(&rest[..at]);
        if digits == 0 || !ends {
            out.push('#');
            rest = after;
        } else {
            rest = &after[digits..];
        }
    }
    out.push_str(rest);
    out
}

/// Data without the marks of unknown objects, for people.
pub(super) fn unmarked(value: &Value, names: &Names) -> Value {
    match value {
        Value::Object(fields) => {
            let marked = names.read(value).is_some();
            let kept = fields.iter().filter(|(name, _)| !(marked && *name == MARK));
            Value::Object(
                kept.map(|(name, value)| (name.clone(), unmarked(value, names))).collect::<Map<_, _>>(),
            )
        }
        Value::Array(items) => items.iter().map(|item| unmarked(item, names)).collect(),
        other => other.clone(),
    }
}
