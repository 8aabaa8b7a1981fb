//! What a service integration calls.

/// What a service integration waits for (developer guide, "Service integration patterns").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IntegrationPattern {
    /// The answer of the call.
    RequestResponse,
    /// The job that the call began (`.sync`).
    Sync,
    /// As `Sync`, with the output parsed (`.sync:2`).
    Sync2,
    /// Somebody's answer with the task token (`.waitForTaskToken`).
    WaitForTaskToken,
}

impl IntegrationPattern {
    /// All that have a suffix; of two that end alike, the longer one first.
    const SUFFIXED: [IntegrationPattern; 3] =
        [IntegrationPattern::Sync2, IntegrationPattern::Sync, IntegrationPattern::WaitForTaskToken];

    /// What the resource ends with, for instance `.sync:2`; empty for a request and its response.
    pub const fn suffix(self) -> &'static str {
        match self {
            IntegrationPattern::RequestResponse => "",
            IntegrationPattern::Sync => ".sync",
            IntegrationPattern::Sync2 => ".sync:2",
            IntegrationPattern::WaitForTaskToken => ".waitForTaskToken",
        }
    }

    /// The pattern of a resource and the resource without its suffix.
    pub fn split(resource: &str) -> (&str, IntegrationPattern) {
        IntegrationPattern::SUFFIXED
            .into_iter()
            .find_map(|pattern| resource.strip_suffix(pattern.suffix()).map(|rest| (rest, pattern)))
            .unwrap_or((resource, IntegrationPattern::RequestResponse))
    }
}

/// What a task on the connectors' queue calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceCall {
    /// For instance `sqs`, `aws-sdk:s3`. The services of the engine's own are called `stagepost`.
    pub service: String,
    /// For instance `sendMessage`. A Lambda function that is a state's resource by its own ARN is the action
    /// [`ServiceCall::FUNCTION`] of `lambda`.
    pub action: String,
    /// What the state waits for.
    pub pattern: IntegrationPattern,
    /// The ARN of the function, where the action is [`ServiceCall::FUNCTION`].
    pub function: Option<String>,
}

impl ServiceCall {
    /// The action of a function that is called by its own ARN.
    pub const FUNCTION: &'static str = "function";

    /// `SERVICE:ACTION` and the pattern's suffix, as it ends the ARN of a state's resource.
    pub fn resource(&self) -> String {
        format!("{}:{}{}", self.service, self.action, self.pattern.suffix())
    }

    /// Reads what [`ServiceCall::resource`] wrote; `None` for anything else.
    pub fn parse(resource: &str) -> Option<ServiceCall> {
        let (call, pattern) = IntegrationPattern::split(resource);
        let (service, action) = call.rsplit_once(':')?;
        let full = !service.is_empty() && !action.is_empty();
        full.then(|| ServiceCall {
            service: service.to_owned(),
            action: action.to_owned(),
            pattern,
            function: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_written_and_read() {
        for (resource, service, action, pattern) in [
            ("lambda:invoke", "lambda", "invoke", IntegrationPattern::RequestResponse),
            ("sqs:sendMessage.waitForTaskToken", "sqs", "sendMessage", IntegrationPattern::WaitForTaskToken),
            ("aws-sdk:s3:getObject", "aws-sdk:s3", "getObject", IntegrationPattern::RequestResponse),
            ("states:startExecution.sync", "states", "startExecution", IntegrationPattern::Sync),
            ("states:startExecution.sync:2", "states", "startExecution", IntegrationPattern::Sync2),
        ] {
            let call = ServiceCall::parse(resource).unwrap();
            assert_eq!(
                (call.service.as_str(), call.action.as_str(), call.pattern),
                (service, action, pattern)
            );
            assert_eq!(call.resource(), resource);
        }
        for bad in ["", "lambda", ":invoke", "lambda:", "lambda:.sync"] {
            assert_eq!(ServiceCall::parse(bad), None, "{bad}");
        }
    }
}
