//! One batch, decided in memory: from messages and wake-ups to rows, messages and replies. No IO.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use stagepost_broker::QueueSpec;
use stagepost_engine::{
    Applied, Command, End, Env, Execution, HistoryEvent, Ignored, Input, Origin, Outcome, SyncChild, history,
};
use stagepost_protocol::{
    DeadReason, ExecutionId, MapRun, MapRunArn, Message, Parent, ParentKind, Report, ReportOutcome, ShardId,
    ShardMessage, Timestamp, Told, Verdict,
    approval::{Answer, ApprovalId},
    limits,
    shard::{Redrive, Reply, Start, Stop},
};
use stagepost_store::{
    Appended, EndedExecution, ExecutionStatus, HistoryRow, Lease, NewExecution, RedrivenExecution, Snapshot,
};

use super::{Deciding, FACTS_MAX, Known, Taken, approvals::Asked, family, signals, snapshot_payload};
use crate::{cache::Entry, dispatch, metrics::add, pipeline::Decided};

/// A snapshot is not written before as many events as its size is worth.
const SNAPSHOT_BYTES_PER_EVENT: usize = 100;

/// What happened to one execution in this batch.
#[derive(Default)]
struct Touched {
    events: Vec<HistoryEvent>,
    started: Option<Box<Start>>,
    redriven: bool,
    /// Executions that it waited for are to be stopped.
    stopped_children: bool,
    /// Something of it came with a message that the broker may lose, or with none.
    volatile: bool,
}

pub(super) struct Round<'a> {
    pub(super) deciding: &'a mut Deciding,
    pub(super) known: Known,
    pub(super) decided: &'a mut Decided,
    pub(super) now: Timestamp,
    touched: HashMap<ExecutionId, Touched>,
    /// The executions that this batch concerns, in the order of their first mention.
    order: Vec<ExecutionId>,
    concerned: HashSet<ExecutionId>,
    pub(super) wakes: BTreeMap<ExecutionId, Option<Timestamp>>,
    /// What is decided now came with a message that the broker may lose, or with none: [`Touched::volatile`].
    volatile: bool,
    /// The shards whose messages were decided. Also where nothing is written: that a message changes nothing is for the
    /// shard's owner to say, or one that has lost it unknowingly would take what it cannot know of for settled.
    consulted: BTreeSet<ShardId>,
    /// Executions that were to be redriven and may not.
    pub(super) refused: Vec<ExecutionId>,
    /// The Map Runs that have changed, as they are now.
    map_runs: BTreeMap<MapRunArn, MapRun>,
    /// What happened to approvals.
    pub(super) approvals: BTreeMap<ApprovalId, Appended>,
    /// What workers are told, by worker.
    pub(super) verdicts: BTreeMap<String, Vec<Told>>,
}

pub(super) fn publish(declared: &mut HashSet<String>, decided: &mut Decided, message: Message) {
    if !declared.contains(&message.queue) {
        if declared.len() >= FACTS_MAX {
            declared.clear();
        }
        declared.insert(message.queue.clone());
        decided.declare.push(QueueSpec::ours(&message.queue));
    }
    decided.messages.push(message);
}

impl<'a> Round<'a> {
    pub(super) fn begin(deciding: &'a mut Deciding, known: Known, decided: &'a mut Decided) -> Round<'a> {
        let now = deciding.options.clock.now();
        Round {
            deciding,
            known,
            decided,
            now,
            touched: HashMap::new(),
            order: Vec::new(),
            concerned: HashSet::new(),
            wakes: BTreeMap::new(),
            volatile: false,
            consulted: BTreeSet::new(),
            refused: Vec::new(),
            map_runs: BTreeMap::new(),
            approvals: BTreeMap::new(),
            verdicts: BTreeMap::new(),
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.now
    }

    pub(super) fn message(&mut self, taken: Taken) {
        let Taken { shard, message, reply, redelivered } = taken;
        self.volatile = reply.is_some();
        let shards = self.deciding.options.shards;
        let id = match &message {
            ShardMessage::Reports(_) | ShardMessage::Answers(_) | ShardMessage::Alive(_) => None,
            ShardMessage::Start(start) => Some(start.execution.id()),
            ShardMessage::Stop(stop) => Some(stop.execution.id()),
            ShardMessage::Redrive(redrive) => Some(redrive.execution.id()),
            ShardMessage::RedriveChild(redrive) => Some(redrive.execution.id()),
            ShardMessage::UpdateMapRun(update) => Some(update.execution.id()),
            ShardMessage::Signal(signal) => Some(signal.execution.id()),
        };
        if let Some(home) = id.map(|id| shards.of(id)).filter(|home| *home != shard) {
            return self.send_on(home, &message, reply);
        }
        if !matches!(message, ShardMessage::Alive(_)) {
            self.consulted.insert(shard);
        }
        let answer = match message {
            ShardMessage::Reports(reports) => {
                let mut last = None;
                for report in reports {
                    last = self.report(shard, report, &reply, redelivered);
                }
                last
            }
            ShardMessage::Answers(answers) => {
                answers.into_iter().for_each(|answer| self.answer(shard, answer, redelivered));
                None
            }
            ShardMessage::Start(start) => {
                let refused = reply.is_none().then(|| start.clone());
                let answer = self.start(start, redelivered);
                // Nobody waits for the answer, so the refusal must be found elsewhere.
                if let (Reply::Refused(reason), Some(start)) = (&answer, refused) {
                    self.dead(shard, &ShardMessage::Start(start), DeadReason::Refused, reason);
                }
                Some(answer)
            }
            ShardMessage::Stop(stop) => Some(self.stop(stop, redelivered)),
            ShardMessage::Redrive(redrive) => Some(self.redrive(redrive, redelivered)),
            ShardMessage::RedriveChild(redrive) => {
                self.redrive_child(redrive, redelivered);
                None
            }
            ShardMessage::UpdateMapRun(update) => Some(self.update_map_run(update, redelivered)),
            ShardMessage::Signal(signal) => {
                let answer = self.signal(&signal, redelivered);
                if let (None, Some(reason)) = (&reply, signals::refusal(&answer)) {
                    self.dead(shard, &ShardMessage::Signal(signal), DeadReason::Refused, &reason);
                }
                Some(answer)
            }
            ShardMessage::Alive(alive) => {
                self.alive(&alive);
                None
            }
        };
        if let (Some(answer), Some((reply_to, correlation_id))) = (answer, reply) {
            self.decided.replies.push(answer.encode(&reply_to, &correlation_id));
        }
    }

    /// A message that came to another shard's queue than its own goes there: a sender may not have learned yet
    /// that the number of shards was changed. That queue's owner answers.
    pub(super) fn send_on(&mut self, home: ShardId, message: &ShardMessage, reply: Option<(String, String)>) {
        let queue = self.deciding.options.topology.shard(home);
        tracing::warn!(queue, "a message came to the wrong shard; are all processes set to the same number?");
        let message = message.encode(queue, reply);
        publish(&mut self.deciding.declared, self.decided, message);
    }

    fn report(
        &mut self,
        shard: ShardId,
        report: Report,
        reply: &Option<(String, String)>,
        redelivered: bool,
    ) -> Option<Reply> {
        let Some((id, event_id)) = self.deciding.token_key.verify(report.token.as_str()) else {
            let reason = "its task token is not of this installation";
            self.dead(shard, &ShardMessage::Reports(vec![report]), DeadReason::InvalidToken, reason);
            return Some(Reply::InvalidToken);
        };
        let home = self.deciding.options.shards.of(id);
        if home != shard {
            self.send_on(home, &ShardMessage::Reports(vec![report]), reply.clone());
            return None;
        }
        Some(self.report_here(shard, id, event_id, report, redelivered))
    }

    pub(super) fn report_here(
        &mut self,
        shard: ShardId,
        id: ExecutionId,
        event_id: u64,
        mut report: Report,
        redelivered: bool,
    ) -> Reply {
        if let Some(reason) = self.known.broken.get(&id).cloned() {
            self.dead(shard, &ShardMessage::Reports(vec![report]), DeadReason::Refused, &reason);
            return Reply::Refused(reason);
        }
        if let ReportOutcome::Claimed(claim) = report.outcome {
            return self.claim(id, event_id, report.token, report.worker, claim, self.volatile);
        }
        let holder = match &mut report.outcome {
            ReportOutcome::Held { lease, returns } => {
                self.hear(lease);
                // Who asked for a reply learns it from that.
                Some((lease.holder.clone(), report.token.clone(), *returns)).filter(|_| !self.volatile)
            }
            ReportOutcome::Heartbeat => {
                self.hear_heartbeat(id, event_id);
                None
            }
            _ => None,
        };
        let reply = self.report_open(id, event_id, report, redelivered);
        // It would be run to its end in vain.
        if let (Reply::TaskTimedOut | Reply::TaskDoesNotExist, Some((holder, token, returns))) =
            (&reply, holder)
        {
            self.tell(holder, Told { token, returns, delivered: None, verdict: Verdict::Drop });
        }
        reply
    }

    fn report_open(&mut self, id: ExecutionId, event_id: u64, report: Report, redelivered: bool) -> Reply {
        if !self.deciding.cache.contains(id) {
            add(&self.deciding.shared.metrics.inputs_ignored, 1);
            let ended = self.known.ended.contains_key(&id);
            if redelivered {
                self.republish_end(id);
            }
            if let Some((child, parent)) = family::late_start(&report) {
                self.stop_child(child, parent);
            }
            return if ended { Reply::TaskTimedOut } else { Reply::TaskDoesNotExist };
        }
        let late = family::late_start(&report);
        let Report { worker, started_at, outcome, child, answer, .. } = report;
        let input = Input::Report { event_id, worker, started_at, outcome, child };
        match self.decide_as(id, input, answer.as_ref()) {
            None => Reply::Accepted,
            Some(ignored) => {
                if redelivered {
                    self.republish(id);
                }
                if let (Ignored::AttemptClosed | Ignored::Ended, Some((child, parent))) = (ignored, late) {
                    self.stop_child(child, parent);
                }
                match ignored {
                    Ignored::AlreadyStarted
                    | Ignored::AlreadySubmitted
                    | Ignored::AlreadyHeld
                    | Ignored::HeldElsewhere
                    | Ignored::NothingDue => Reply::Accepted,
                    Ignored::AttemptClosed | Ignored::GivenAgain | Ignored::Ended => Reply::TaskTimedOut,
                    // Nothing that a report leads to.
                    Ignored::NotEnded
                    | Ignored::AlreadyRedriven
                    | Ignored::RedrivenTooOften
                    | Ignored::AlreadySignaled
                    | Ignored::TooManySignals => Reply::Accepted,
                    Ignored::UnknownAttempt => Reply::TaskDoesNotExist,
                }
            }
        }
    }

    /// What cannot be used goes to the dead letters; a report by itself, not with the others of its message.
    fn dead(&mut self, shard: ShardId, message: &ShardMessage, kind: DeadReason, reason: &str) {
        let topology = &self.deciding.options.topology;
        let message = message.encode(topology.shard(shard), None);
        self.decided.messages.push(dispatch::dead_message(topology, message, kind, reason));
    }

    fn start(&mut self, start: Box<Start>, redelivered: bool) -> Reply {
        let id = start.execution.id();
        if let Some(entry) = self.deciding.cache.get(id) {
            let origin = entry.execution.origin();
            let same =
                origin.input == start.input && (start.parent.is_none() || origin.parent == start.parent);
            let started_at = origin.started_at;
            let ours = start.parent.is_some() && origin.parent == start.parent;
            let over = entry.execution.end().is_some();
            if redelivered {
                self.republish(id);
            }
            // Its parent asks for it again, so it has not heard of the end: a broker that lost everything lost that too.
            if ours && over {
                self.tell_end(id, false);
            }
            return if same { Reply::Started { started_at } } else { Reply::AlreadyExists };
        }
        if let Some(summary) = self.known.ended.get(&id) {
            // A start that comes again after its execution has ended is still the same start.
            let ours = start.parent.is_some() && summary.parent == start.parent;
            let same = (redelivered || ours) && summary.input == start.input;
            let started_at = summary.started_at;
            if redelivered || ours {
                self.republish_end(id);
            }
            return if same { Reply::Started { started_at } } else { Reply::AlreadyExists };
        }
        if let Some(reason) = self.known.broken.get(&id) {
            return Reply::Refused(reason.clone());
        }
        let Some(definition) = self.deciding.definitions.cached(&start.definition_id) else {
            return Reply::Refused(format!("the definition '{}' is not in the store", start.definition_id));
        };
        let origin = Origin {
            arn: start.execution.clone(),
            state_machine: start.state_machine.clone(),
            role_arn: start.role_arn.clone(),
            input: start.input.clone(),
            started_at: self.now,
            parent: start.parent.clone(),
        };
        let activities = &self.deciding.activities;
        let env = Env {
            now: self.now,
            token_key: &self.deciding.token_key,
            random: &|| self.deciding.options.random.next(),
            activity_exists: &|arn| activities.get(arn).is_some_and(|(_, exists)| *exists),
        };
        let (execution, applied) = Execution::start(origin, definition, &env);
        self.deciding.cache.insert(id, Entry::started(execution, &start.definition_id));
        add(&self.deciding.shared.metrics.executions_started, 1);
        let begun = self.deciding.cache.get(id).and_then(|entry| family::begun(entry.execution.origin()));
        if let Some(begun) = begun {
            self.tell_parent(begun);
        }
        self.touch(id).started = Some(start);
        self.note_approvals(id, &Asked::default(), &applied.events, None);
        self.apply(id, applied);
        Reply::Started { started_at: self.now }
    }

    fn stop(&mut self, stop: Stop, redelivered: bool) -> Reply {
        let id = stop.execution.id();
        let found = self.deciding.cache.get(id).map(|entry| &entry.execution.origin().parent);
        let parent = found.or(self.known.ended.get(&id).map(|summary| &summary.parent));
        let waits = parent.and_then(|p| p.as_ref()).filter(|p| p.kind != ParentKind::Request);
        if stop.parent.is_some() && stop.parent.as_ref() != waits.map(|p| &p.token) {
            return Reply::NotFound;
        }
        let redrives = self.deciding.cache.get(id).map_or(0, |entry| entry.execution.redrives().0);
        if stop.redrives.is_some_and(|at_most| redrives > at_most) {
            return Reply::NotFound;
        }
        if let Some(summary) = self.known.ended.get(&id) {
            let stopped_at = summary.stopped_at.unwrap_or(self.now);
            if redelivered {
                self.republish_end(id);
            }
            return Reply::Stopped { stopped_at };
        }
        if let Some(reason) = self.known.broken.get(&id) {
            return Reply::Refused(reason.clone());
        }
        if !self.deciding.cache.contains(id) {
            return Reply::NotFound;
        }
        let ignored = self.decide(id, Input::Stop { error: stop.error, cause: stop.cause });
        if ignored.is_some() && redelivered {
            self.republish(id);
        }
        let end = self.deciding.cache.get(id).and_then(|e| e.execution.end());
        Reply::Stopped { stopped_at: end.map_or(self.now, |(_, at)| at) }
    }

    fn redrive(&mut self, redrive: Redrive, redelivered: bool) -> Reply {
        let id = redrive.execution.id();
        if let Some(reason) = self.known.broken.get(&id) {
            return Reply::Refused(reason.clone());
        }
        let Some(entry) = self.deciding.cache.get(id) else { return Reply::NotFound };
        let again = entry.execution.is_redriven_by(&redrive.client_token, self.now);
        let ended = self.known.ended.get(&id).filter(|_| !again);
        let refused = ended.and_then(|summary| summary.not_redrivable(self.now));
        let refused = refused.or_else(|| family::redriven_by_its_parent(entry.execution.origin()));
        if let Some(why) = refused {
            self.refused.push(id);
            return Reply::NotRedrivable(why);
        }
        let redriven = Input::Redrive { client_token: Some(redrive.client_token), count: None };
        let ignored = self.decide_redrive(id, redriven);
        let redriven_at = self.deciding.cache.get(id).and_then(|e| e.execution.redrives().1);
        let redriven_at = redriven_at.unwrap_or(self.now);
        match ignored {
            None => Reply::Redriven { redriven_at },
            Some(Ignored::AlreadyRedriven) => {
                let runs = self.deciding.cache.get(id).is_some_and(|e| e.execution.end().is_none());
                if redelivered && runs {
                    self.republish(id);
                }
                // If it has ended again, it was loaded for this alone.
                self.refused.push(id);
                Reply::Redriven { redriven_at }
            }
            Some(ignored) => {
                self.refused.push(id);
                let why = match ignored {
                    Ignored::Ended => "Execution is SUCCEEDED",
                    Ignored::RedrivenTooOften => "Execution history event limit exceeded",
                    _ => "Execution is RUNNING",
                };
                Reply::NotRedrivable(format!("{why} and cannot be redriven"))
            }
        }
    }

    /// Decides a redrive; `None` when the execution goes on.
    pub(super) fn decide_redrive(&mut self, id: ExecutionId, redrive: Input) -> Option<Ignored> {
        let ignored = self.decide(id, redrive);
        if ignored.is_none() {
            self.known.ended.remove(&id);
            self.touch(id).redriven = true;
        }
        ignored
    }

    /// Forgets executions that were loaded for a redrive that is refused.
    fn forget_refused(&mut self) {
        for id in std::mem::take(&mut self.refused) {
            let ended = |e: &Entry| e.execution.end().is_some() && e.in_flight == 0;
            if self.deciding.cache.get(id).is_some_and(ended) {
                self.deciding.cache.remove(id);
            }
        }
    }

    /// A wake-up fired: what is due happens, and what an earlier owner may not have published is published.
    pub(super) fn wake(&mut self, id: ExecutionId) {
        if !self.deciding.cache.contains(id) {
            return self.wake_ended(id);
        }
        self.volatile = true;
        // First, so that it does not repeat what is decided now.
        self.republish(id);
        let abandoned = self.deciding.cache.get_mut(id).map(|entry| std::mem::take(&mut entry.abandoned));
        abandoned.into_iter().flatten().for_each(|stop| self.send_stop(stop));
        self.end_leases(id);
        let ignored = self.decide(id, Input::Wake);
        let settled = self.deciding.cache.get(id).is_some_and(|e| e.in_flight == 0);
        if ignored.is_some() && settled && !self.concerned.contains(&id) {
            self.move_fired_wake(id);
        } else {
            // It moves on when what it caused is confirmed.
            self.in_flight(id);
        }
    }

    /// A wake-up fired and its consequences are confirmed: its row moves to the next deadline.
    fn move_fired_wake(&mut self, id: ExecutionId) {
        let shard = self.deciding.options.shards.of(id);
        let Deciding { cache, workers, .. } = &mut *self.deciding;
        let Some(entry) = cache.get_mut(id) else { return };
        if entry.execution.end().is_some() || entry.stored_wake.is_none_or(|at| at > self.now) {
            return;
        }
        // Nothing is due, so a deadline in the past would be the engine's mistake; it must not keep us busy.
        let pause = self.now.plus_millis(1_000);
        let next = workers.next_deadline(shard, &entry.execution);
        let (from, to) = (entry.stored_wake, next.map(|at| if at > self.now { at } else { pause }));
        entry.stored_wake = to;
        self.deciding.wakes.moved(id, from, to);
        self.wakes.insert(id, to);
        self.in_flight(id);
    }

    /// Decides; `None` when something changed.
    pub(super) fn decide(&mut self, id: ExecutionId, input: Input) -> Option<Ignored> {
        self.decide_as(id, input, None)
    }

    /// As [`Round::decide`]; with who completes the attempt that the input is about, if that is known.
    fn decide_as(&mut self, id: ExecutionId, input: Input, answer: Option<&Answer>) -> Option<Ignored> {
        let Deciding { cache, activities, token_key, options, .. } = &mut *self.deciding;
        let entry = cache.use_mut(id)?;
        let children =
            if entry.waits_for_executions { entry.execution.sync_children(token_key) } else { Vec::new() };
        let asked = Asked::of(entry);
        let about = match &input {
            Input::Report { event_id, .. } => Some(*event_id),
            _ => None,
        };
        let activities = &*activities;
        let env = Env {
            now: self.now,
            token_key,
            random: &|| options.random.next(),
            activity_exists: &|arn| activities.get(arn).is_some_and(|(_, exists)| *exists),
        };
        match entry.execution.decide(input, &env) {
            Outcome::Applied(applied) => {
                // From now on the newest row is ours, which says nothing about those before it.
                if entry.unconfirmed {
                    self.deciding.suspect(id);
                }
                self.note_approvals(id, &asked, &applied.events, about.zip(answer));
                self.apply(id, applied);
                self.stop_children(id, children, about);
                None
            }
            Outcome::Ignored(ignored) => {
                add(&self.deciding.shared.metrics.inputs_ignored, 1);
                Some(ignored)
            }
        }
    }

    /// Stops the executions that were waited for before a decision and are not any more. The one that the decision was
    /// about has ended by itself.
    fn stop_children(&mut self, id: ExecutionId, before: Vec<SyncChild>, about: Option<u64>) {
        for child in before.into_iter().filter(|child| about != Some(child.event_id)) {
            let open = |entry: &Entry| entry.execution.is_open(child.event_id);
            if !self.deciding.cache.get(id).is_some_and(open) {
                self.touch(id).stopped_children = true;
                self.stop_child(child.execution, child.parent);
            }
        }
    }

    fn apply(&mut self, id: ExecutionId, applied: Applied) {
        add(&self.deciding.shared.metrics.events, applied.events.len());
        add(&self.deciding.shared.metrics.tasks_dispatched, applied.commands.len());
        let stops = applied.commands.iter().any(|command| matches!(command, Command::StopChild(_)));
        self.touch(id).stopped_children |= stops;
        self.commands(id, applied.commands, false);
        self.map_runs.extend(applied.map_runs.into_iter().map(|run| (run.arn.clone(), run)));
        self.touch(id).events.extend(applied.events);
        self.deciding.cache.weigh(id);
    }

    /// Publishes again what is pending, if an earlier owner decided it and may not have got to that.
    pub(super) fn republish(&mut self, id: ExecutionId) {
        let Deciding { cache, token_key, options, .. } = &mut *self.deciding;
        let Some(entry) = cache.get_mut(id) else { return };
        if !std::mem::take(&mut entry.unconfirmed) {
            return;
        }
        let random = || options.random.next();
        let env = Env { now: self.now, token_key, random: &random, activity_exists: &|_| true };
        let pending = entry.execution.pending(&env);
        add(&self.deciding.shared.metrics.tasks_republished, pending.len());
        self.commands(id, pending, true);
        self.in_flight(id);
    }

    fn commands(&mut self, id: ExecutionId, commands: Vec<Command>, republished: bool) {
        let Some(entry) = self.deciding.cache.get(id) else { return };
        let options = &self.deciding.options;
        let reply_to = options.topology.shard(options.shards.of(id));
        let from = dispatch::Sender {
            id,
            arn: &entry.execution.origin().arn,
            definition_id: &entry.definition_id,
            reply_to: &reply_to,
        };
        for command in commands {
            let message = dispatch::message(&options.topology, options.shards, &from, command, republished);
            publish(&mut self.deciding.declared, self.decided, message);
        }
    }

    fn touch(&mut self, id: ExecutionId) -> &mut Touched {
        self.in_flight(id);
        let touched = self.touched.entry(id).or_default();
        touched.volatile |= self.volatile;
        touched
    }

    /// Notes that this batch concerns the execution, once.
    pub(super) fn in_flight(&mut self, id: ExecutionId) {
        if self.concerned.insert(id) {
            self.order.push(id);
        }
    }

    /// Writes down what the batch came to.
    pub(super) fn finish(mut self) {
        let mut touched = std::mem::take(&mut self.touched);
        for id in std::mem::take(&mut self.order) {
            self.decided.executions.push(id);
            // What has ended before this batch has no entry.
            let Some(entry) = self.deciding.cache.get_mut(id) else { continue };
            entry.in_flight += 1;
            if let Some(touched) = touched.remove(&id) {
                self.write(id, touched);
            }
        }
        self.forget_refused();
        self.send_verdicts();
        self.decided.batch.wakes.extend(std::mem::take(&mut self.wakes));
        self.decided.batch.map_runs.extend(std::mem::take(&mut self.map_runs).into_values());
        self.decided.batch.appended.extend(std::mem::take(&mut self.approvals).into_values());
        self.leases();
    }

    fn write(&mut self, id: ExecutionId, touched: Touched) {
        let shard = self.deciding.options.shards.of(id);
        let epoch = self.deciding.leases.get(&shard).copied().unwrap_or(0);
        let guard = i64::try_from(self.deciding.options.start_guard.as_millis()).unwrap_or(i64::MAX);
        let snapshot_events = self.deciding.options.snapshot_events;
        let Deciding { cache, workers, wakes, shared, .. } = &mut *self.deciding;
        let Some(entry) = cache.get_mut(id) else { return };
        let batch = &mut self.decided.batch;
        entry.sequence += 1;
        // Ids of visible events have no gaps; a note repeats the id before it.
        let first = entry.last_event_id + 1;
        let last = entry.execution.last_event_id();
        entry.last_event_id = last;
        if first <= limits::HISTORY_EVENTS_WARN && last > limits::HISTORY_EVENTS_WARN {
            add(&shared.metrics.histories_long, 1);
            let (warn, max) = (limits::HISTORY_EVENTS_WARN, limits::HISTORY_EVENTS_MAX);
            let arn = &entry.execution.origin().arn;
            tracing::warn!(execution = %arn, "a history has passed {warn} events; at {max} its execution fails");
        }
        batch.history.push(HistoryRow {
            execution: id,
            first_event_id: first,
            last_event_id: last,
            sequence: entry.sequence,
            epoch,
            payload: history::encode(&touched.events),
        });
        entry.events_since_snapshot += touched.events.len() as u64;
        if touched.stopped_children {
            entry.stopping = entry.in_flight;
        }

        let end = entry.execution.end().map(|(end, at)| ended(id, end, at));
        // No message would come again for what follows from this end.
        let waited_for = |parent: &Parent| parent.kind != ParentKind::Request;
        let follows = entry.execution.origin().parent.as_ref().is_some_and(waited_for);
        let fragile = touched.volatile && (follows || touched.stopped_children);
        let from = entry.stored_wake;
        let next = workers.next_deadline(shard, &entry.execution);
        let begins = touched.started.is_some() || touched.redriven;
        let to = match (&end, begins) {
            (Some(_), _) => fragile.then(|| self.now.plus_millis(guard)),
            // In case that what it leads to is never published.
            (None, true) => next.into_iter().chain([self.now.plus_millis(guard)]).min(),
            // Earlier at once, later when it fires. What may not come again is guarded as a start is.
            (None, false) => {
                let guard = touched.volatile.then(|| self.now.plus_millis(guard));
                [from, next, guard].into_iter().flatten().min()
            }
        };
        entry.stored_wake = to;
        // A wake-up that has fired moves on when this batch is settled; until then it must not fire again and again,
        // unless the engine wants to go on at once.
        let fired = to == from && to.is_some_and(|at| at <= self.now);
        if !fired || next.is_some_and(|at| at <= self.now) {
            wakes.moved(id, from, to);
        }
        if touched.redriven {
            let (redrive_count, redriven_at) = entry.execution.redrives();
            let redriven_at = redriven_at.unwrap_or(self.now);
            batch.redriven.push(RedrivenExecution { execution: id, redriven_at, redrive_count, wake_at: to });
        }
        if let Some(start) = touched.started {
            batch.started.push(NewExecution {
                id,
                arn: start.execution,
                state_machine: start.state_machine,
                definition_id: start.definition_id,
                role_arn: start.role_arn,
                input: start.input,
                started_at: self.now,
                wake_at: to,
                trace_header: start.trace_header,
                parent: start.parent,
                map_item: start.map_item,
            });
        } else if to != from && end.is_none() && !touched.redriven {
            self.wakes.insert(id, to);
        }
        match end {
            Some(end) => {
                add(&shared.metrics.executions_ended, 1);
                self.wakes.remove(&id);
                let redrives = entry.execution.redrives().0;
                let child = family::Child::of(entry.execution.origin(), &end, redrives);
                let report = child.and_then(|child| child.report());
                batch.ended.push(EndedExecution { wake_at: to, ..end });
                self.decided.ended.push(id);
                if let Some(report) = report {
                    self.tell_parent(report);
                }
            }
            None => {
                let worth = (entry.execution.approximate_bytes() / SNAPSHOT_BYTES_PER_EVENT) as u64;
                let due = entry.events_since_snapshot >= snapshot_events.max(worth);
                if due && entry.stopping == 0 {
                    entry.events_since_snapshot = 0;
                    let (sequence, payload) =
                        (entry.sequence, snapshot_payload(epoch, &entry.execution.snapshot()));
                    batch.snapshots.push(Snapshot { execution: id, sequence, payload });
                }
            }
        }
    }

    fn leases(&mut self) {
        let batch = &mut self.decided.batch;
        let shards = self.deciding.options.shards;
        let written = batch.history.iter().map(|r| r.execution).chain(batch.wakes.iter().map(|(id, _)| *id));
        let mut touched = std::mem::take(&mut self.consulted);
        touched.extend(written.map(|id| shards.of(id)));
        let epoch = |shard: &ShardId| self.deciding.leases.get(shard).copied().unwrap_or(0);
        batch.leases = touched.iter().map(|shard| Lease { shard: *shard, epoch: epoch(shard) }).collect();
    }
}

pub(super) fn ended(id: ExecutionId, end: &End, at: Timestamp) -> EndedExecution {
    let (status, output, error, cause) = match end {
        End::Succeeded(output) => (ExecutionStatus::Succeeded, Some(output.clone()), None, None),
        End::Failed { error, cause } => (ExecutionStatus::Failed, None, error.clone(), cause.clone()),
        End::TimedOut => (ExecutionStatus::TimedOut, None, None, None),
        End::Aborted { error, cause } => (ExecutionStatus::Aborted, None, error.clone(), cause.clone()),
    };
    EndedExecution { execution: id, status, stopped_at: at, output, error, cause, wake_at: None }
}
