//! What goes into a decision and what comes out of it.

use std::sync::Arc;

use stagepost_asl::StateIndex;
use stagepost_protocol::{
    Claim, ExecutionArn, MapChild, MapRun, MapRunArn, Parent, Payload, ReportOutcome, ServiceCall,
    StateMachineArn, TaskToken, Timestamp, TokenKey, shard::RedriveChild,
};

use crate::history::{HistoryEvent, ScopeId};

/// What a decision may know besides the execution: facts that the shell loaded first, time and chance.
pub struct Env<'a> {
    /// The time of the decision.
    pub now: Timestamp,
    /// Signs task tokens.
    pub token_key: &'a TokenKey,
    /// The next random number.
    pub random: &'a dyn Fn() -> u64,
    /// Whether the activity of this ARN is registered. Asked only for the definition's
    /// `StateMachine::registered_activities`.
    pub activity_exists: &'a dyn Fn(&str) -> bool,
}

/// What happened to an execution.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Something is to be said about the attempt that the event `event_id` scheduled.
    Report {
        /// Names the attempt (a verified task token carries it).
        event_id: u64,
        /// Who says so.
        worker: Option<String>,
        /// When the attempt was begun, if it was not announced before.
        started_at: Option<Timestamp>,
        /// What became of it.
        outcome: ReportOutcome,
        /// The child of a Map Run that it is about.
        child: Option<MapChild>,
    },
    /// A worker was delivered an attempt that another one may have begun, and asks for it. Whose it is then says
    /// [`Execution::held`](crate::Execution::held).
    Claim {
        /// Names the attempt.
        event_id: u64,
        /// Who asks.
        worker: Option<String>,
        /// What it says.
        claim: Claim,
        /// So long, in milliseconds, somebody may have it without being heard of: the longest lease that is known.
        doubt_millis: u64,
    },
    /// The lease that an attempt is held by is certainly over ([`Execution::leases`](crate::Execution::leases)).
    LeaseOver {
        /// Names the attempt; it stands for all that its holder has.
        event_id: u64,
    },
    /// A deadline may have passed: whatever is due at `env.now` happens.
    Wake,
    /// The shell lets no execution run longer, as with Express executions after five minutes: it ends as by the
    /// `TimeoutSeconds` of its definition.
    Expire,
    /// RedriveExecution: an execution that ended without success goes on where it stopped.
    Redrive {
        /// A request with the same token as the newest redrive is that one.
        client_token: Option<String>,
        /// How often it has been redriven then; `None`: once more than before.
        count: Option<u32>,
    },
    /// Somebody signals the execution: a state that waits for it gets it, now or later.
    Signal {
        /// Names the signal among those of the execution.
        id: String,
        /// Its name, which states ask for.
        name: String,
        /// What the state gets.
        input: Payload,
    },
    /// UpdateMapRun. What is `None` stays as it is.
    UpdateMapRun {
        /// Which one.
        arn: MapRunArn,
        /// How many child executions may run at a time; 0: no limit but the engine's own.
        max_concurrency: Option<u64>,
        /// How many items may fail.
        tolerated_failure_count: Option<u64>,
        /// How many percent of the items may fail.
        tolerated_failure_percentage: Option<f64>,
    },
    /// StopExecution.
    Stop {
        /// The error that it ends with.
        error: Option<String>,
        /// For people.
        cause: Option<String>,
    },
}

/// What a decision came to.
#[derive(Debug)]
pub enum Outcome {
    /// These events happened; the execution has evolved by them. Not before they are committed may the commands
    /// be carried out.
    Applied(Applied),
    /// Nothing changes.
    Ignored(Ignored),
}

/// The events of a decision and what follows from them.
#[derive(Debug, Default)]
pub struct Applied {
    /// In order; never empty.
    pub events: Vec<HistoryEvent>,
    /// In order.
    pub commands: Vec<Command>,
    /// The Map Runs that have changed, as they are now, to be stored for those who ask for them.
    pub map_runs: Vec<MapRun>,
    /// The ways that were taken where a state offers several, in order. Nothing depends on them: they tell tests and
    /// people what the events do not.
    pub ways: Vec<Taken>,
}

/// A state went one of its ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Taken {
    /// The scope that it ran in.
    pub scope: ScopeId,
    /// The state.
    pub state: StateIndex,
    /// Which.
    pub way: Way,
}

/// One of the ways on from a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// The rule of a Choice state at this place held.
    Rule(u32),
    /// No rule held: `Default`.
    Default,
    /// No rule held, and there is no `Default`.
    NoDefault,
    /// The state failed and will be tried again, by the retrier at this place.
    Retrier(u32),
    /// The state failed, and the catcher at this place caught it.
    Catcher(u32),
    /// The state failed, and nothing caught it.
    Uncaught,
}

/// Why an input changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    /// The execution has ended.
    Ended,
    /// The attempt has had its result, or its state was left.
    AttemptClosed,
    /// There never was such an attempt.
    UnknownAttempt,
    /// The attempt is known to have started.
    AlreadyStarted,
    /// The attempt is known to have been accepted, or is none of the kind that is.
    AlreadySubmitted,
    /// The attempt is this worker's already.
    AlreadyHeld,
    /// The attempt is another worker's, or may be.
    HeldElsewhere,
    /// The attempt was given back, and given out again, since.
    GivenAgain,
    /// No deadline has passed.
    NothingDue,
    /// There is nothing to redrive: the execution runs.
    NotEnded,
    /// The execution runs by this very redrive.
    AlreadyRedriven,
    /// The execution was redriven too often, or its history is too long to go on.
    RedrivenTooOften,
    /// A signal of this id has come before.
    AlreadySignaled,
    /// The execution keeps as many signals as it may, and no state waits for this one.
    TooManySignals,
}

/// Who has an open attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held<'a> {
    /// Nobody, as far as is known.
    ByNobody,
    /// This worker, by a lease.
    ByWorker(&'a str),
    /// Somebody who keeps no lease.
    Taken,
    /// It is not known who, if anybody.
    InDoubt,
}

/// A lease that attempts are held by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leased<'a> {
    /// One of the attempts: the event that scheduled it.
    pub event_id: u64,
    /// Who has them; `None`: it is not known.
    pub holder: Option<&'a str>,
    /// When that was noted.
    pub since: Timestamp,
    /// For how long the holder may be silent, in milliseconds.
    pub millis: u64,
}

/// An effect, as data.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Give an attempt to a worker.
    Dispatch(Dispatch),
    /// Call a service.
    Call(Call),
    /// Start a child execution of a Map Run.
    StartChild(StartChild),
    /// Have a child execution of a Map Run go on.
    RedriveChild(RedriveChild),
    /// Stop a child execution of a Map Run.
    StopChild(StopChild),
}

/// A child execution of a Map Run.
#[derive(Debug, Clone, PartialEq)]
pub struct StartChild {
    /// What it is called: the same whenever it is asked for.
    pub execution: ExecutionArn,
    /// What it is an execution of.
    pub state_machine: StateMachineArn,
    /// The label of the Map state: with the parent's definition, it names the child's.
    pub label: Arc<str>,
    /// Its role.
    pub role_arn: String,
    /// Its input.
    pub input: Payload,
    /// Who is told of its end.
    pub parent: Parent,
    /// The Map Run.
    pub map_run: MapRunArn,
    /// How many items it processes.
    pub items: u32,
    /// It was asked for before; a redrive of it follows.
    pub again: bool,
}

/// A child execution that is to be stopped.
#[derive(Debug, Clone, PartialEq)]
pub struct StopChild {
    /// Which.
    pub execution: ExecutionArn,
    /// The token that it was started with.
    pub parent: TaskToken,
    /// How often it was redriven.
    pub redrives: u32,
}

/// One attempt of an activity.
#[derive(Debug, Clone, PartialEq)]
pub struct Dispatch {
    /// The event that scheduled it: names the attempt within its execution.
    pub event_id: u64,
    /// The name of the activity.
    pub activity: String,
    /// The name of the state.
    pub state: String,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// Completes the attempt.
    pub token: TaskToken,
    /// The event that entered the state: the same for all attempts of one visit (idempotency key).
    pub entered_event_id: u64,
    /// The input.
    pub input: Payload,
    /// When it times out.
    pub deadline: Option<Timestamp>,
    /// How often heartbeats must come, in milliseconds.
    pub heartbeat_millis: Option<i64>,
    /// How often it was given back before.
    pub returns: u32,
}

/// One attempt of a service integration.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The event that scheduled it: names the attempt within its execution.
    pub event_id: u64,
    /// What is called, and what the state waits for.
    pub target: ServiceCall,
    /// The name of the state.
    pub state: String,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// Completes the attempt.
    pub token: TaskToken,
    /// The event that entered the state: the same for all attempts of one visit (idempotency key).
    pub entered_event_id: u64,
    /// The parameters.
    pub input: Payload,
    /// When it times out.
    pub deadline: Option<Timestamp>,
    /// How often heartbeats must come, in milliseconds.
    pub heartbeat_millis: Option<i64>,
    /// How often it was given back before.
    pub returns: u32,
}
