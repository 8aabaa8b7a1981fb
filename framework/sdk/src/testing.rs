//! For the tests of activities: contexts without a worker.

use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use stagepost_protocol::TaskToken;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::context::{Attempt, Clock, Context, Progress, Sink};
use crate::failure::Cancelled;

/// Builds a [`Context`] for the test of an activity; begin with [`Context::for_test`].
#[derive(Debug, Clone)]
pub struct ContextBuilder {
    attempt: u32,
    deadline_in: Option<Duration>,
    idempotency_key: String,
    execution: String,
    state: String,
    task_token: String,
    cancelled: Option<Cancelled>,
}

impl Default for ContextBuilder {
    fn default() -> ContextBuilder {
        ContextBuilder {
            attempt: 1,
            deadline_in: None,
            idempotency_key: "test-step".into(),
            execution: "arn:aws:states:us-east-1:000000000000:execution:test:test".into(),
            state: "Test".into(),
            task_token: "test-token".into(),
            cancelled: None,
        }
    }
}

impl ContextBuilder {
    /// The number of the attempt. Default: 1.
    pub fn attempt(mut self, number: u32) -> ContextBuilder {
        self.attempt = number;
        self
    }

    /// The attempt times out so long from now. Default: never.
    pub fn deadline_in(mut self, duration: Duration) -> ContextBuilder {
        self.deadline_in = Some(duration);
        self
    }

    /// Default: `test-step`.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> ContextBuilder {
        self.idempotency_key = key.into();
        self
    }

    /// The ARN of the execution. Default: one of a state machine `test`.
    pub fn execution(mut self, arn: impl Into<String>) -> ContextBuilder {
        self.execution = arn.into();
        self
    }

    /// The name of the state. Default: `Test`.
    pub fn state(mut self, name: impl Into<String>) -> ContextBuilder {
        self.state = name.into();
        self
    }

    /// Default: `test-token`.
    pub fn task_token(mut self, token: impl Into<String>) -> ContextBuilder {
        self.task_token = token.into();
        self
    }

    /// The activity is asked to stop from the first moment. To ask later, use a [`Probe`].
    pub fn cancelled(mut self, why: Cancelled) -> ContextBuilder {
        self.cancelled = Some(why);
        self
    }

    /// The context.
    pub fn build(self) -> Context {
        self.build_with_probe().0
    }

    /// The context, and the worker's side of it.
    pub fn build_with_probe(self) -> (Context, Probe) {
        let clock = Clock::default();
        let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        let attempt = Arc::new(Attempt {
            activity: "test",
            id: "test-attempt".into(),
            token: TaskToken::from_untrusted(&self.task_token),
            number: self.attempt,
            returns: AtomicU32::new(0),
            execution: self.execution,
            state: self.state,
            idempotency_key: self.idempotency_key,
            deadline: self.deadline_in.map(|duration| clock.now().plus_millis(millis(duration))),
            call: None,
            heartbeat_every: None,
            reply_to: String::new(),
            lease: None,
            started_at: clock.now(),
            clock,
            started: Instant::now(),
            sink: Sink::Test(Mutex::default()),
            cancel: Notify::new(),
            abort: Notify::new(),
            progress: Mutex::new(Progress { cancelled: self.cancelled, ..Progress::default() }),
        });
        (Context::new(Arc::clone(&attempt)), Probe { attempt })
    }
}

/// The worker's side of a context under test: sees the heartbeats and asks the activity to stop.
///
/// ```
/// use stagepost::{Cancelled, Context};
///
/// let (cx, probe) = Context::for_test().build_with_probe();
/// cx.heartbeat("half way");
/// assert_eq!(probe.heartbeats(), ["half way"]);
/// probe.cancel(Cancelled::Shutdown);
/// assert_eq!(cx.check_cancelled(), Err(Cancelled::Shutdown));
/// ```
#[derive(Debug, Clone)]
pub struct Probe {
    attempt: Arc<Attempt>,
}

impl Probe {
    /// The details of all heartbeats so far (in a test none is held back).
    pub fn heartbeats(&self) -> Vec<Value> {
        match &self.attempt.sink {
            Sink::Test(seen) => seen.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            Sink::Worker(_) => Vec::new(),
        }
    }

    /// Asks the activity to stop.
    pub fn cancel(&self, why: Cancelled) {
        self.attempt.cancel(why);
    }
}
