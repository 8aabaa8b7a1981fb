//! The search: paths are run on the engine, cheapest first, until every situation was seen or a bound is hit.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, hash_map::DefaultHasher},
    hash::{Hash, Hasher as _},
    rc::Rc,
    sync::Arc,
};

use serde_json::{Map, Value};
use stagepost_asl::{
    IntegrationPattern, Resource, StateIndex, StateKind, StateMachine, retry::error_matches,
};
use stagepost_engine::{
    EventKind,
    command::{Taken, Way},
    history::ScopeId,
};
use stagepost_protocol::{Payload, error_names};

use super::{
    Bounds, Known,
    graph::{CUT, Edge, FAILED, GOOD, Graph, NodeId, START},
    plan::{Fault, Found, Names, Place, Plan, Seg, Source, Visit, without_counts},
    refs::{self, Base, Ref},
    solve,
};
use crate::{
    coverage::{Coverage, Item, handlers},
    run::{Run, STARTS_AT, Simulation},
    world::{Answer, Answers, Asked, Beginning, Entry, Said, Stop, World},
};

/// The name of an error that no definition knows.
pub(super) const UNKNOWN_ERROR: &str = "Unknown.Error";
/// So often a path is run again because an expression needs to know more of the data.
const REFINEMENTS_MAX: usize = 40;
/// So many types are tried for the data of an expression that fails.
const TYPES_TRIED_MAX: usize = 80;
/// More attempts than this are not made to see what comes after the last one.
const ATTEMPTS_MAX: u64 = 100;
/// A loop without tasks is left in so many rounds, in every way.
const ROUNDS_MAX: usize = 3;
/// So much other data is tried in the place of what was assumed, for one way out of a choice.
const BEHIND_MAX: usize = 40;
/// A path of so many events that no task was asked in may be endless.
const EVENTS_MAX: u64 = 5_000;

/// What was seen on a path that is worth telling.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) what: What,
    pub(super) plan: Plan,
    pub(super) run: Run,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    /// A task failed with an error that nothing caught.
    Uncaught { state: StateIndex, error: String },
    /// No rule of a choice held, and it has no default.
    NoDefault { state: StateIndex },
    /// An expression failed on data that is known.
    Fails { state: StateIndex },
    /// The execution goes round without waiting for any task.
    Spins { state: StateIndex },
    /// Nobody need ever answer.
    WaitsForever { state: StateIndex },
}

/// Where in a plan a run is.
#[derive(Debug, Clone, Default)]
struct Cursor {
    next: usize,
    /// The visits under way.
    visits: BTreeMap<(ScopeId, u64), usize>,
}

struct Planned<'p> {
    plan: &'p Plan,
    cursor: &'p mut Cursor,
}

impl Answers for Planned<'_> {
    fn answer(&mut self, asked: &Asked) -> Result<Answer, Stop> {
        let key = (asked.scope, asked.entered_id);
        let n = match self.cursor.visits.get(&key) {
            Some(n) => *n,
            None => {
                let next = self.cursor.next;
                if self.plan.visits.get(next).is_none_or(|visit| visit.state != asked.state) {
                    return Err(Stop::Paused);
                }
                self.cursor.visits.insert(key, next);
                self.cursor.next += 1;
                next
            }
        };
        let visit = &self.plan.visits[n];
        let said = match &visit.fault {
            Some(fault) if fault.always || asked.attempt == 1 => fault.said.clone(),
            _ => Said::Result(visit.result.clone()),
        };
        Ok(said.into())
    }
}

/// A run, as far as its plan leads.
#[derive(Clone)]
struct At {
    plan: Plan,
    world: World,
    stop: Stop,
    cursor: Cursor,
}

/// Something to do.
struct Job {
    /// Where the run was before the last decision of the plan.
    before: Rc<At>,
    plan: Plan,
    /// The run itself, where it is known.
    run: Option<Box<At>>,
    /// States entered before were looked at.
    from: usize,
    /// Choices before were decided.
    settled: usize,
    parent: NodeId,
    millis: i64,
    events: u64,
}

pub(super) struct Walk<'m> {
    machine: &'m Arc<StateMachine>,
    definition: &'m Value,
    names: Names,
    beginning: Beginning,
    bounds: Bounds,
    out_of_time: &'m dyn Fn() -> bool,
    /// Plans that were made for other ways out of choices.
    tried: HashSet<u64>,
    queue: BTreeMap<(usize, usize, u64), Job>,
    jobs: u64,
    situations: HashMap<u64, NodeId>,
    types: BTreeMap<(Option<StateIndex>, Vec<Seg>), Value>,
    faults: HashMap<StateIndex, Vec<Fault>>,
    pub(super) graph: Graph,
    pub(super) coverage: Coverage,
    pub(super) seen: BTreeMap<What, Seen>,
    pub(super) undecided: BTreeMap<Item, String>,
    pub(super) runs: usize,
    /// A loop was cut off.
    pub(super) cut: BTreeSet<StateIndex>,
    /// Why it ended before everything was seen, and the number of faults up to which it is complete.
    pub(super) stopped: Option<(&'static str, usize)>,
    pub(super) unlimited: BTreeSet<StateIndex>,
    /// Choices that looked at data which may have been made of unknown data.
    pub(super) dependent: BTreeSet<StateIndex>,
    input_is_known: bool,
}

impl<'m> Walk<'m> {
    pub(super) fn new(
        machine: &'m Arc<StateMachine>,
        definition: &'m Value,
        bounds: Bounds,
        out_of_time: &'m dyn Fn() -> bool,
    ) -> Walk<'m> {
        let beginning = Simulation::new(machine).events_max(EVENTS_MAX).beginning().clone();
        Walk {
            machine,
            definition,
            names: Names::new(machine),
            beginning,
            bounds,
            out_of_time,
            tried: HashSet::new(),
            queue: BTreeMap::new(),
            jobs: 0,
            situations: HashMap::new(),
            types: BTreeMap::new(),
            faults: HashMap::new(),
            graph: Graph::new(),
            coverage: Coverage::new(machine),
            seen: BTreeMap::new(),
            undecided: BTreeMap::new(),
            runs: 0,
            cut: BTreeSet::new(),
            stopped: None,
            unlimited: BTreeSet::new(),
            dependent: BTreeSet::new(),
            input_is_known: false,
        }
    }

    pub(super) fn names(&self) -> &Names {
        &self.names
    }

    /// Walks from an input: what is known of it, or nothing.
    pub(super) fn walk(&mut self, input: &Known) {
        self.input_is_known = *input != Known::Nothing;
        let input = match input {
            Known::Value(value) => value.clone(),
            Known::Nothing => self.names.object(&Place { source: Source::Input, path: Vec::new() }),
        };
        let plan = Plan { input, visits: Vec::new(), absent: Vec::new(), assumed: Vec::new() };
        let at = self.run(plan.clone());
        let job = Job {
            before: Rc::new(at.clone()),
            plan,
            run: Some(Box::new(at)),
            from: 0,
            settled: 0,
            parent: START,
            millis: 0,
            events: 0,
        };
        self.push(job);
        while let Some((key, job)) = self.queue.pop_first() {
            if let Some(bound) = self.bound() {
                self.stopped = Some((bound, key.0));
                self.queue.clear();
                return;
            }
            self.step(job);
        }
    }

    /// The bound that is hit.
    fn bound(&self) -> Option<&'static str> {
        match self.runs >= self.bounds.paths {
            true => Some("--max-paths"),
            false if (self.out_of_time)() => Some("--timeout"),
            false => None,
        }
    }

    fn push(&mut self, job: Job) {
        self.jobs += 1;
        self.queue.insert((job.plan.faults(), job.plan.visits.len(), self.jobs), job);
    }

    /// Runs a plan from the start.
    fn run(&mut self, plan: Plan) -> At {
        let mut beginning = self.beginning.clone();
        beginning.origin.input = Payload::from_value(&plan.input);
        let world = World::start(self.machine, &beginning);
        self.go_on(plan, world, Cursor::default())
    }

    fn go_on(&mut self, mut plan: Plan, mut world: World, mut cursor: Cursor) -> At {
        self.runs += 1;
        let stop = world.run(&mut Planned { plan: &plan, cursor: &mut cursor });
        // Where data that was refined has led elsewhere, the rest of the plan is for another path.
        plan.visits.truncate(cursor.next);
        At { plan, world, stop, cursor }
    }

    fn step(&mut self, job: Job) {
        let Job { before, plan, run, from, settled, parent, millis, events } = job;
        let at = match run {
            Some(at) => *at,
            None => self.go_on(plan, before.world.clone(), before.cursor.clone()),
        };
        let at = self.refined(at, from);
        let look = Look { from, settled, parent, millis, events };
        self.alternatives(&before, &at, &look);
        let run = Run::of(at.world.clone(), at.stop.clone());
        self.coverage.add(&run);
        let cost = |to| Edge {
            to,
            millis: (slow_millis(&at.world) - millis).max(0),
            events: at.world.execution.last_event_id().saturating_sub(events),
            plan: at.plan.clone(),
        };
        match &at.stop {
            Stop::Ended => {
                let to = self.ended(&at, run);
                self.graph.edge(parent, cost(to));
            }
            Stop::Paused if at.world.asks().is_some() => {
                let (node, new) = self.arrive(&at);
                self.graph.edge(parent, cost(node));
                if new {
                    self.decide(at, node);
                }
            }
            Stop::Endless => {
                self.graph.edge(parent, cost(CUT));
                self.endless(&at, run);
            }
            _ => {
                // It waits for something that has no mock.
                let last = at.world.entries.last().map(|entry| Item::State(entry.state));
                let cause = "it waits for something that nobody answers here".to_owned();
                self.undecided.extend(last.map(|state| (state, cause)));
                self.graph.edge(parent, cost(CUT));
            }
        }
    }

    /// The node of the situation that a run is in, and whether it is new.
    fn arrive(&mut self, at: &At) -> (NodeId, bool) {
        let situation = without_counts(&at.world.execution.situation(at.world.now));
        let state = at.world.asks().map(|asked| asked.state);
        let key = hash(&(situation, state));
        match self.situations.get(&key) {
            Some(node) => (*node, false),
            None => {
                let node = self.graph.node(state);
                self.situations.insert(key, node);
                (node, true)
            }
        }
    }

    /// Tries everything that the task may say which a run waits for.
    fn decide(&mut self, at: At, node: NodeId) {
        let Some(asked) = at.world.asks().cloned() else { return };
        self.may_wait_forever(&at, &asked);
        if at.plan.visits_of(asked.state) >= self.bounds.visits {
            self.cut.insert(asked.state);
            let edge = Edge { to: CUT, millis: 0, events: 0, plan: at.plan.clone() };
            self.graph.edge(node, edge);
            return;
        }
        // In a Map state, the first item that gets to a state stands for the others.
        let stands = asked.item.is_none_or(|item| {
            let same = |(other, _): &(Asked, Answer)| other.state == asked.state && other.item < Some(item);
            item == 0 || !at.world.given.iter().any(same)
        });
        let faults = if stands { self.faults_of(asked.state, asked.ends_by_itself()) } else { Vec::new() };
        let (result, assumed) = self.unknown_result(&at, &asked);
        let (from, millis, events) =
            (at.world.entries.len(), slow_millis(&at.world), at.world.execution.last_event_id());
        let before = Rc::new(at);
        for fault in std::iter::once(None).chain(faults.into_iter().map(Some)) {
            let mut plan = before.plan.clone();
            plan.visits.push(Visit { state: asked.state, fault, result: result.clone() });
            plan.assumed.clone_from(&assumed);
            self.push(Job {
                before: Rc::clone(&before),
                plan,
                run: None,
                from,
                settled: 0,
                parent: node,
                millis,
                events,
            });
        }
    }

    /// What a task may give, as far as its own state says what it needs of it.
    fn unknown_result(&self, at: &At, asked: &Asked) -> (Value, Vec<Place>) {
        let n = at.plan.visits_of(asked.state) + 1;
        let source = Source::Visit(asked.state, n);
        let mut plan = at.plan.clone();
        let result = self.names.object(&Place { source, path: Vec::new() });
        plan.visits.push(Visit { state: asked.state, fault: None, result });
        for (found, value) in &self.types {
            if found.0 == Some(asked.state) {
                self.assume(&mut plan, &Place { source, path: found.1.clone() }, value.clone());
            }
        }
        for Ref { path, kind, .. } in self.refs(asked.state).into_iter().filter(|r| r.base == Base::Result) {
            let root = plan.visits.last().map(|visit| &visit.result);
            if let Some(Found::Unknown { place, there: false }) =
                root.map(|root| self.names.find(root, &path))
            {
                let value = kind.example(&self.names, &place).unwrap_or_else(|| self.names.leaf(&place));
                self.assume(&mut plan, &place, value);
            }
        }
        let result = plan.visits.pop().map(|visit| visit.result).unwrap_or_default();
        (result, plan.assumed)
    }

    /// Makes up what an expression needs; another choice may need it to be something else.
    fn assume(&self, plan: &mut Plan, place: &Place, value: Value) -> bool {
        if self.names.read(&value).is_none() && !plan.assumed.contains(place) {
            plan.assumed.push(place.clone());
        }
        plan.put(&self.names, place, Some(value))
    }

    /// The faults of a task that its own handlers and those around it tell apart, and one of each other kind.
    fn faults_of(&mut self, state: StateIndex, times_out: bool) -> Vec<Fault> {
        if let Some(known) = self.faults.get(&state) {
            return known.clone();
        }
        let around: Vec<_> = self
            .machine
            .states
            .iter()
            .filter(|other| {
                let inner = &self.machine.state(state).pointer;
                inner
                    .strip_prefix(other.pointer.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
            .filter_map(|state| handlers(&state.kind))
            .collect();
        let own = handlers(&self.machine.state(state).kind);
        let named = around.iter().flat_map(|errors| {
            let retry = errors.retry.iter().flat_map(|r| &r.error_equals);
            retry.chain(errors.catch.iter().flat_map(|c| &c.error_equals))
        });
        let wild = [
            error_names::ALL,
            error_names::TASK_FAILED,
            error_names::TIMEOUT,
            error_names::HEARTBEAT_TIMEOUT,
        ];
        let mut names: Vec<&str> = vec![UNKNOWN_ERROR];
        names.extend(named.map(String::as_str).filter(|name| !wild.contains(name)));
        if !times_out && around.iter().any(|errors| names_timeout(errors)) {
            names.push(error_names::TIMEOUT);
        }
        let class = |error: &str| {
            let of = |errors: &&stagepost_asl::ErrorHandling| {
                let retrier = errors.retry.iter().position(|r| error_matches(&r.error_equals, error));
                let catcher = errors.catch.iter().position(|c| error_matches(&c.error_equals, error));
                (retrier, catcher)
            };
            around.iter().map(of).collect::<Vec<_>>()
        };
        let mut classes = BTreeSet::new();
        let mut faults = Vec::new();
        let mut add = |error: &str, said: Said| {
            let retrier =
                own.and_then(|own| own.retry.iter().find(|r| error_matches(&r.error_equals, error)));
            let attempts = retrier.map_or(0, |retrier| retrier.max_attempts);
            if attempts > 0 {
                faults.push(Fault { said: said.clone(), always: false });
            }
            if attempts <= ATTEMPTS_MAX {
                faults.push(Fault { said, always: true });
            }
        };
        for name in names {
            if classes.insert(class(name)) {
                add(name, Said::Error { error: Some(name.to_owned()), cause: None });
            }
        }
        if times_out {
            add(error_names::TIMEOUT, Said::Timeout);
        }
        self.faults.insert(state, faults.clone());
        faults
    }

    /// A task that somebody has to answer, who may never do so.
    fn may_wait_forever(&mut self, at: &At, asked: &Asked) {
        let StateKind::Task(task) = &self.machine.state(asked.state).kind else { return };
        if asked.ends_by_itself() {
            return;
        }
        self.unlimited.insert(asked.state);
        let somebody = match &task.resource {
            Resource::Activity { .. } => true,
            resource if resource.waits_for_signal() => true,
            Resource::Service { pattern, .. } => *pattern == IntegrationPattern::WaitForTaskToken,
            Resource::Lambda { .. } => false,
        };
        if somebody && self.machine.timeout_seconds.is_none() {
            let run = Run::of(at.world.clone(), Stop::WaitsForever);
            self.found(What::WaitsForever { state: asked.state }, at, run);
        }
    }

    fn found(&mut self, what: What, at: &At, run: Run) {
        let shorter = |seen: &Seen| seen.run.visits().count() > run.visits().count();
        if self.seen.get(&what).is_none_or(shorter) {
            self.seen.insert(what.clone(), Seen { what, plan: at.plan.clone(), run });
        }
    }

    /// The execution ended: well, or by something worth telling.
    fn ended(&mut self, at: &At, run: Run) -> NodeId {
        let Some(Taken { state, .. }) = origin_of_failure(&at.world) else { return GOOD };
        let kind = &self.machine.state(state).kind;
        let what = match kind {
            StateKind::Fail(_) => return GOOD,
            StateKind::Choice(_)
                if at.world.ways.iter().any(|t| t.state == state && t.way == Way::NoDefault) =>
            {
                What::NoDefault { state }
            }
            StateKind::Task(_) => match at.world.given.iter().rev().find(|(asked, _)| asked.state == state) {
                Some((_, Answer { said: Said::Error { error, .. }, .. })) => {
                    What::Uncaught { state, error: error.clone().unwrap_or_default() }
                }
                Some((_, Answer { said: Said::Timeout, .. })) => {
                    What::Uncaught { state, error: error_names::TIMEOUT.to_owned() }
                }
                _ => What::Fails { state },
            },
            _ => What::Fails { state },
        };
        // What is made of unknown data is not known either.
        if matches!(what, What::Fails { .. }) && !(self.input_is_known && at.world.given.is_empty()) {
            let cause = run.cause().unwrap_or_default().to_owned();
            self.undecided.entry(Item::State(state)).or_insert(cause);
            return CUT;
        }
        self.found(what, at, run);
        FAILED
    }

    /// A path that goes on and on without a task.
    fn endless(&mut self, at: &At, run: Run) {
        let entries = &at.world.entries;
        let Some(last) = entries.last() else { return };
        let same = |entry: &&Entry| {
            entry.state == last.state && entry.input == last.input && entry.variables == last.variables
        };
        if entries.iter().rev().skip(1).find(same).is_some() {
            let first = entries.iter().rev().take_while(|entry| entry.state != last.state || same(entry));
            let state = first.map(|entry| entry.state).min().unwrap_or(last.state);
            self.found(What::Spins { state }, at, run);
        } else {
            self.cut.insert(last.state);
        }
    }

    /// Runs a plan again until its expressions know what they need to know of the data.
    fn refined(&mut self, mut at: At, from: usize) -> At {
        for _ in 0..REFINEMENTS_MAX {
            let mut plan = at.plan.clone();
            let mut changed = false;
            // Tasks, Parallel and Map states that were entered before may have come to their results now.
            let looked_at = |entry: &Entry| handlers(&self.machine.state(entry.state).kind).is_some();
            let entries = at.world.entries.iter().enumerate();
            for (n, entry) in entries.filter(|(n, entry)| *n >= from || looked_at(entry)) {
                for found in self.demands(entry.state) {
                    let Found::Unknown { place, there } = self.lookup(&at, n, entry, &found) else {
                        continue;
                    };
                    if at.plan.absent.contains(&place) {
                        continue;
                    }
                    let value = match (there, found.kind.example(&self.names, &place)) {
                        (true, None) => continue,
                        (_, Some(value)) => value,
                        (false, None) => self.typed(&place).unwrap_or_else(|| self.names.leaf(&place)),
                    };
                    changed |= self.assume(&mut plan, &place, value);
                }
            }
            if changed && plan != at.plan {
                at = self.run(plan);
                continue;
            }
            match self.retyped(&at, from) {
                Some(better) => at = better,
                None => break,
            }
        }
        at
    }

    fn typed(&self, place: &Place) -> Option<Value> {
        let state = match place.source {
            Source::Input => None,
            Source::Visit(state, _) => Some(state),
        };
        self.types.get(&(state, place.path.clone())).cloned()
    }

    /// An expression failed on unknown data: the same path with data of another type, with which it does not.
    fn retyped(&mut self, at: &At, from: usize) -> Option<At> {
        let failed = data_error(at, from)?;
        let entry = at.world.entries.get(failed)?;
        let mut places: Vec<Place> = Vec::new();
        for found in self.all_refs(entry.state) {
            if let Found::Unknown { place, .. } = self.lookup(at, failed, entry, &found)
                && !places.contains(&place)
            {
                places.push(place);
            }
        }
        let mut groups: Vec<Vec<Place>> = places.iter().map(|place| vec![place.clone()]).collect();
        if places.len() > 1 {
            groups.insert(0, places);
        }
        let mut tried = 0;
        for group in &groups {
            for kind in 0..TYPES {
                let mut plan = at.plan.clone();
                for place in group {
                    let example = self.example(kind, place);
                    self.assume(&mut plan, place, example);
                }
                let next = self.run(plan);
                tried += 1;
                if data_error(&next, from).is_none_or(|n| n > failed) {
                    for place in group {
                        let state = match place.source {
                            Source::Input => None,
                            Source::Visit(state, _) => Some(state),
                        };
                        self.types.insert((state, place.path.clone()), self.example(kind, place));
                    }
                    return Some(next);
                }
                if tried >= TYPES_TRIED_MAX {
                    return None;
                }
            }
        }
        None
    }

    fn example(&self, kind: usize, place: &Place) -> Value {
        match kind {
            0 => 1.into(),
            1 => self.names.object(place),
            2 => self.names.json(place),
            3 => Value::Array(vec![self.names.leaf(&place.item(0))]),
            4 => STARTS_AT.into(),
            5 => true.into(),
            6 => Value::Array(vec![1.into()]),
            7 => "aGVsbG8=".into(),
            n => SPLIT[n - 8].into(),
        }
    }

    /// Other ways out of the choices that a run has come through, where the data that they look at is unknown.
    fn alternatives(&mut self, before: &Rc<At>, at: &At, look: &Look) {
        let first = look.from.max(look.settled);
        for (n, entry) in at.world.entries.iter().enumerate().skip(first) {
            let StateKind::Choice(choice) = &self.machine.state(entry.state).kind else { continue };
            let same = |other: &&Entry| other.state == entry.state && other.ways == entry.ways;
            if at.world.entries[first..n].iter().rev().filter(same).count() >= ROUNDS_MAX {
                continue;
            }
            if !self.input_is_known || !at.world.given.is_empty() {
                self.dependent.insert(entry.state);
            }
            let choices = self.choices(entry.state);
            let lookup = |found: &Ref| self.assumed(at, self.lookup(at, n, entry, found));
            let unknown = !at.plan.assumed.is_empty()
                || refs::of_choices(choices, true).iter().any(|r| matches!(lookup(r), Found::Unknown { .. }));
            let Some(taken) = way_of(&at.world, n).filter(|_| unknown) else { continue };
            let last = if choice.default.is_some() { Way::Default } else { Way::NoDefault };
            let rules = (0..).take(choice.choices.len()).map(Way::Rule);
            for way in rules.chain([last]).filter(|way| *way != taken) {
                let rule = match way {
                    Way::Rule(rule) => Some(rule as usize),
                    _ => None,
                };
                let mut candidates = solve::candidates(choices, rule, &|found| {
                    self.assumed(at, self.lookup(at, n, entry, found))
                });
                if !self.coverage.has(Item::Way(entry.state, way)) {
                    candidates.extend(self.behind(at, choices));
                }
                if !self.try_way(before, at, look, (n, way), &candidates) {
                    self.undecided.entry(Item::Way(entry.state, way)).or_default();
                }
            }
        }
    }

    /// Goes another way out of the choice at an entry, if one of these assignments leads there.
    fn try_way(
        &mut self,
        before: &Rc<At>,
        at: &At,
        look: &Look,
        (n, way): (usize, Way),
        candidates: &[solve::Assignment],
    ) -> bool {
        let state = at.world.entries[n].state;
        for assignment in candidates {
            if self.bound().is_some() {
                return false;
            }
            let mut plan = at.plan.clone();
            for (place, value) in assignment {
                let value = match value {
                    Some(value) if solve::is_present(value) => Some(self.names.leaf(place)),
                    value => value.clone(),
                };
                plan.put(&self.names, place, value);
            }
            let next = self.run(plan);
            let there = next.world.entries.get(n).is_some_and(|entry| entry.state == state);
            if !there || way_of(&next.world, n) != Some(way) {
                continue;
            }
            if !self.tried.insert(hash(&(format!("{:?}", next.plan), n))) {
                return true;
            }
            self.push(Job {
                before: Rc::clone(before),
                plan: next.plan.clone(),
                run: Some(Box::new(next)),
                from: look.from,
                settled: n + 1,
                parent: look.parent,
                millis: look.millis,
                events: look.events,
            });
            return true;
        }
        false
    }

    /// What was made up as an array because a later state needs one is as unknown to a choice as anything else.
    fn assumed(&self, at: &At, found: Found) -> Found {
        let Found::Known(Value::Array(items)) = &found else { return found };
        let Some(mut place) = items.first().and_then(|item| self.names.read(item)) else { return found };
        match (place.path.pop(), at.plan.assumed.contains(&place)) {
            (Some(Seg::Index(0)), true) => Found::Unknown { place, there: true },
            _ => found,
        }
    }

    /// Other data in the place of what was assumed: a choice may look at what was computed from it.
    fn behind(&self, at: &At, choices: &[Value]) -> Vec<solve::Assignment> {
        let mut numbers: Vec<Value> = Vec::new();
        solve::numbers(choices, &mut numbers);
        let mut all = Vec::new();
        for place in &at.plan.assumed {
            let items = |len: usize| (0..len).map(|n| self.names.leaf(&place.item(n))).collect::<Value>();
            let values = match at.plan.get(place) {
                Some(Value::Array(_)) => [0, 2, 3, 5].map(items).to_vec(),
                Some(Value::Number(_)) => numbers.clone(),
                _ => continue,
            };
            all.extend(values.into_iter().map(|value| vec![(place.clone(), Some(value))]));
        }
        all.truncate(BEHIND_MAX);
        all
    }

    fn raw(&self, state: StateIndex) -> Option<&'m Map<String, Value>> {
        self.definition.pointer(&self.machine.state(state).pointer)?.as_object()
    }

    fn choices(&self, state: StateIndex) -> &'m [Value] {
        let choices = self.raw(state).and_then(|raw| raw.get("Choices")?.as_array());
        choices.map_or(&[], Vec::as_slice)
    }

    fn refs(&self, state: StateIndex) -> Vec<Ref> {
        self.raw(state).map(refs::of_state).unwrap_or_default()
    }

    /// What must be there for a state to do its work.
    fn demands(&self, state: StateIndex) -> Vec<Ref> {
        let mut refs = self.refs(state);
        refs.extend(refs::of_choices(self.choices(state), false));
        refs
    }

    fn all_refs(&self, state: StateIndex) -> Vec<Ref> {
        let mut refs = self.refs(state);
        refs.extend(refs::of_choices(self.choices(state), true));
        refs
    }

    /// What an expression of a state finds, at the n-th entry.
    fn lookup(&self, at: &At, n: usize, entry: &Entry, found: &Ref) -> Found {
        let raw = self.raw(entry.state);
        let mut path = Vec::new();
        let mut through = |field: &str| {
            let text = raw.and_then(|raw| raw.get(field)?.as_str()).and_then(|text| text.strip_prefix('$'));
            path.extend(text.map(|text| refs::path(text).0).into_iter().flatten());
        };
        let root = match &found.base {
            Base::Raw => entry.input.to_value(),
            Base::Input => {
                through("InputPath");
                entry.input.to_value()
            }
            Base::Item => {
                through("InputPath");
                through("ItemsPath");
                path.push(Seg::Index(0));
                entry.input.to_value()
            }
            Base::Execution => at.plan.input.clone(),
            Base::Variable(name) => match entry.variables.get(name) {
                Some(value) => value.clone(),
                None => return Found::Missing,
            },
            Base::Result => match self.result(at, n, entry) {
                Some(result) => result,
                None => return Found::Missing,
            },
        };
        path.extend_from_slice(&found.path);
        self.names.find(&root, &path)
    }

    /// What the work of a state gave.
    fn result(&self, at: &At, n: usize, entry: &Entry) -> Option<Value> {
        if let StateKind::Task(_) = &self.machine.state(entry.state).kind {
            let before = at.world.entries[..n].iter().filter(|other| other.state == entry.state).count();
            let visit = at.plan.visits.iter().filter(|visit| visit.state == entry.state).nth(before)?;
            return Some(visit.result.clone());
        }
        let mut outputs: BTreeMap<ScopeId, Value> = BTreeMap::new();
        for event in &at.world.events[entry.event..] {
            let EventKind::StateExited { output, last: true, .. } = &event.kind else { continue };
            if at.world.places.get(&event.scope).is_some_and(|place| place.parent == Some(entry.scope)) {
                outputs.insert(event.scope, output.to_value());
            }
        }
        Some(outputs.into_values().collect())
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Texts that can be split.
const SPLIT: [&str; 6] =
    ["1", "a/b/c/d/e/f/g/h", "a:b:c:d:e:f:g:h", "a,b,c,d,e,f,g,h", "a-b-c-d-e-f-g-h", "a.b.c.d.e.f"];

/// Kinds of data that are tried where an expression fails on a text.
const TYPES: usize = 8 + SPLIT.len();

/// Which of a run's states to look at, and where it came from.
struct Look {
    from: usize,
    settled: usize,
    parent: NodeId,
    millis: i64,
    events: u64,
}

fn names_timeout(errors: &stagepost_asl::ErrorHandling) -> bool {
    let names = |list: &[String]| {
        list.iter().any(|name| name == error_names::TIMEOUT || name == error_names::HEARTBEAT_TIMEOUT)
    };
    errors.retry.iter().any(|r| names(&r.error_equals)) || errors.catch.iter().any(|c| names(&c.error_equals))
}

/// The way that the choice at the n-th entry went.
fn way_of(world: &World, n: usize) -> Option<Way> {
    let entry = world.entries.get(n)?;
    // The same choice may have been come through more than once in one decision.
    let same =
        |other: &&Entry| other.state == entry.state && other.scope == entry.scope && other.ways == entry.ways;
    let before =
        world.entries[..n].iter().rev().take_while(|other| other.ways == entry.ways).filter(same).count();
    let mut taken = world.ways[entry.ways..].iter().filter(|taken| {
        taken.state == entry.state
            && taken.scope == entry.scope
            && matches!(taken.way, Way::Rule(_) | Way::Default | Way::NoDefault)
    });
    taken.nth(before).map(|taken| taken.way)
}

/// The state whose failure ended an execution.
fn origin_of_failure(world: &World) -> Option<Taken> {
    matches!(world.execution.end(), Some((stagepost_engine::End::Failed { .. }, _))).then_some(())?;
    world.ways.iter().rev().take_while(|taken| taken.way == Way::Uncaught).last().copied()
}

/// The entry whose state failed because of its expressions, and not because a task did.
fn data_error(at: &At, from: usize) -> Option<usize> {
    let entries = &at.world.entries;
    let entry_of = |state: StateIndex| entries.iter().rposition(|entry| entry.state == state);
    let since = entries.get(from).map_or(at.world.events.len(), |entry| entry.event);
    let evaluation =
        at.world.events[since.min(at.world.events.len())..].iter().find_map(|event| match &event.kind {
            EventKind::EvaluationFailed { state, .. } => at.world.machine().by_name.get(state).copied(),
            _ => None,
        });
    if let Some(state) = evaluation {
        return entry_of(state);
    }
    let Taken { state, .. } = origin_of_failure(&at.world)?;
    let said =
        at.world.given.iter().rev().find(|(asked, _)| asked.state == state).map(|(_, answer)| &answer.said);
    let by_itself = match &at.world.machine().state(state).kind {
        StateKind::Fail(_) => false,
        StateKind::Task(_) => !matches!(said, Some(Said::Error { .. } | Said::Timeout)),
        StateKind::Choice(_) => !at.world.ways.iter().any(|t| t.state == state && t.way == Way::NoDefault),
        _ => true,
    };
    if by_itself { entry_of(state) } else { None }
}

/// How long a run may have taken, in milliseconds: as it did, and every attempt as long as its timeout allows.
pub(super) fn slow_millis(world: &World) -> i64 {
    let begun = world.execution.origin().started_at;
    let slow = world.given.iter().filter(|(_, answer)| answer.said != Said::Timeout);
    let slow: u64 = slow.filter_map(|(asked, _)| asked.timeout_seconds).fold(0, u64::saturating_add);
    let passed = world.execution.end().map_or(world.now, |(_, at)| at).millis_since(begun);
    passed.saturating_add(i64::try_from(slow.saturating_mul(1000)).unwrap_or(i64::MAX))
}
