//! Tasks of the connectors' queue, for the crate that calls services. Not for activities: it changes without notice.

use std::fmt;
use std::pin::Pin;

use stagepost_protocol::{Payload, ServiceCall};

use crate::activity::Registration;
use crate::context::Context;
use crate::failure::Failure;

/// What a call comes to.
pub type CallRun = Pin<Box<dyn Future<Output = Result<Called, Failure>> + Send>>;

/// How a call ended well.
#[derive(Debug, Clone, PartialEq)]
pub enum Called {
    /// This is the state's result.
    Done(Payload),
    /// The service has accepted the request; the attempt stays open until somebody else ends it.
    Submitted(Payload),
}

/// One attempt of a call.
#[derive(Debug)]
pub struct CallTask {
    /// The attempt.
    pub context: Context,
    /// What to call.
    pub call: ServiceCall,
    /// The evaluated parameters.
    pub input: Payload,
    /// Names the attempt: the same when its task is delivered or published again.
    pub attempt_id: String,
}

impl fmt::Display for CallTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.call.resource())
    }
}

/// The tasks of the connectors' queue, for [`Worker::register`](crate::Worker::register): `run` is asked for each.
pub fn registration(run: impl Fn(CallTask) -> CallRun + Send + Sync + 'static) -> Vec<Registration> {
    vec![Registration::of_calls(run)]
}
