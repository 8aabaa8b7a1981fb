//! What a connector is asked, and what it answers.

use async_trait::async_trait;
use stagepost::Failure;
use stagepost_protocol::{ExecutionArn, IntegrationPattern, Payload, TaskToken};

/// One attempt of a call.
#[derive(Debug, Clone)]
pub struct Call {
    /// For instance `sqs`, `aws-sdk:s3`.
    pub service: String,
    /// For instance `sendMessage`.
    pub action: String,
    /// What the state waits for.
    pub pattern: IntegrationPattern,
    /// The ARN of the function, where a Lambda function is the state's resource.
    pub function: Option<String>,
    /// The evaluated parameters.
    pub input: Payload,
    /// The ARN of the execution.
    pub execution: String,
    /// The name of the state.
    pub state: String,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// Names the attempt: the same when its task is delivered or published again after a crash.
    pub attempt_id: String,
    /// The same for all attempts of one visit of the state.
    pub idempotency_key: String,
    /// Completes the attempt.
    pub token: TaskToken,
}

impl Call {
    /// The region of the execution.
    pub fn region(&self) -> String {
        ExecutionArn::parse(&self.execution).map(|arn| arn.namespace.region).unwrap_or_default()
    }

    /// `SERVICE:ACTION`.
    pub fn resource(&self) -> String {
        format!("{}:{}", self.service, self.action)
    }
}

/// How a call ended well.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The service's answer. For `.waitForTaskToken` it says that the request was accepted.
    Done(Payload),
    /// The job of a `.sync` call has begun, and who began it is told of its end otherwise: the attempt stays open.
    Submitted(Payload),
}

/// Makes the calls of a service.
#[async_trait]
pub trait Connector: Send + Sync + 'static {
    /// Makes one call. It may take as long as the service does: the attempt's deadline ends it from outside.
    ///
    /// # Errors
    /// The name that Retry and Catch match, and the cause for people, in the words of Step Functions.
    async fn call(&self, call: Call) -> Result<Answer, Failure>;

    /// Whether it can be asked to wait so. Default: all but `.sync`, which needs a connector that hears of a job's end.
    fn offers(&self, pattern: IntegrationPattern) -> bool {
        matches!(pattern, IntegrationPattern::RequestResponse | IntegrationPattern::WaitForTaskToken)
    }
}
