//! The errors of the API, as clients read them: a code in `__type` after the `#`, and a message.

use axum::http::StatusCode;
use serde_json::{Value, json};
use stagepost_coordinator::{client::ClientError, express::RunError};
use stagepost_store as store;

macro_rules! codes {
    ($($name:ident $service:literal $status:ident $prefix:literal,)*) => {
        /// What went wrong, in the service's words. The prefix begins the message of those that name a thing.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Code { $($name,)* }

        impl Code {
            pub(crate) const fn as_str(self) -> &'static str {
                match self { $(Code::$name => stringify!($name),)* }
            }

            const fn service(self) -> &'static str {
                match self { $(Code::$name => $service,)* }
            }

            pub(crate) const fn status(self) -> StatusCode {
                match self { $(Code::$name => StatusCode::$status,)* }
            }

            const fn prefix(self) -> &'static str {
                match self { $(Code::$name => $prefix,)* }
            }
        }
    };
}

codes! {
    ActivityAlreadyExists "com.amazonaws.states" BAD_REQUEST "Activity Already Exists",
    ActivityDoesNotExist "com.amazonaws.states" BAD_REQUEST "Activity Does Not Exist",
    ApprovalClosed "stagepost" BAD_REQUEST "Approval Closed",
    ApprovalDoesNotExist "stagepost" BAD_REQUEST "Approval Does Not Exist",
    ExecutionAlreadyExists "com.amazonaws.states" BAD_REQUEST "Execution Already Exists",
    ExecutionDoesNotExist "com.amazonaws.states" BAD_REQUEST "Execution Does Not Exist",
    ExecutionNotRedrivable "com.amazonaws.states" BAD_REQUEST "Execution Not Redrivable",
    InvalidArn "com.amazonaws.states" BAD_REQUEST "Invalid Arn",
    InvalidDefinition "com.amazonaws.states" BAD_REQUEST "Invalid State Machine Definition",
    InvalidExecutionInput "com.amazonaws.states" BAD_REQUEST "Invalid State Machine Execution Input",
    InvalidLoggingConfiguration "com.amazonaws.states" BAD_REQUEST "Invalid Logging Configuration",
    InvalidName "com.amazonaws.states" BAD_REQUEST "Invalid Name",
    InvalidOutput "com.amazonaws.states" BAD_REQUEST "Invalid Output",
    InvalidToken "com.amazonaws.states" BAD_REQUEST "Invalid Token",
    MissingRequiredParameter "com.amazonaws.states" BAD_REQUEST "Missing Required Parameter",
    ResourceNotFound "com.amazonaws.states" BAD_REQUEST "Resource not found",
    StateMachineAlreadyExists "com.amazonaws.states" BAD_REQUEST "State Machine Already Exists",
    StateMachineDoesNotExist "com.amazonaws.states" BAD_REQUEST "State Machine Does Not Exist",
    StateMachineTypeNotSupported "com.amazonaws.states" BAD_REQUEST "State Machine Type Not Supported",
    TaskDoesNotExist "com.amazonaws.states" BAD_REQUEST "Task Does Not Exist",
    TaskTimedOut "com.amazonaws.states" BAD_REQUEST "Task Timed Out",
    TooManyTags "com.amazonaws.states" BAD_REQUEST "Too Many Tags",
    ExecutionNotRunning "stagepost" BAD_REQUEST "Execution Not Running",
    InvalidSchedule "stagepost" BAD_REQUEST "Invalid Schedule",
    ScheduleAlreadyExists "stagepost" BAD_REQUEST "Schedule Already Exists",
    ScheduleDoesNotExist "stagepost" BAD_REQUEST "Schedule Does Not Exist",
    SignalLimitExceeded "stagepost" BAD_REQUEST "Signal Limit Exceeded",
    InvalidTrigger "stagepost" BAD_REQUEST "Invalid Trigger",
    TriggerAlreadyExists "stagepost" BAD_REQUEST "Trigger Already Exists",
    TriggerDoesNotExist "stagepost" BAD_REQUEST "Trigger Does Not Exist",
    ValidationException "com.amazon.coral.validate" BAD_REQUEST "Validation",
    SerializationException "com.amazon.coral.service" BAD_REQUEST "Serialization",
    UnknownOperationException "com.amazon.coral.service" BAD_REQUEST "Unknown operation",
    RequestEntityTooLargeException "com.amazon.coral.service" PAYLOAD_TOO_LARGE "Request too large",
    ThrottlingException "com.amazon.coral.availability" BAD_REQUEST "Rate exceeded",
    ServiceUnavailable "com.amazon.coral.service" SERVICE_UNAVAILABLE "Service unavailable",
    InternalFailure "com.amazon.coral.service" INTERNAL_SERVER_ERROR "Internal failure",
}

/// An error as a client gets it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", code.as_str())]
pub(crate) struct ApiError {
    pub(crate) code: Code,
    pub(crate) message: String,
}

impl ApiError {
    /// An error whose message stands as it is.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> ApiError {
        ApiError { code, message: message.into() }
    }

    /// An error that names the thing that it is about: `State Machine Does Not Exist: 'arn…'`.
    pub(crate) fn about(code: Code, thing: impl std::fmt::Display) -> ApiError {
        ApiError { code, message: format!("{}: '{thing}'", code.prefix()) }
    }

    pub(crate) fn validation(message: impl Into<String>) -> ApiError {
        ApiError::new(Code::ValidationException, message)
    }

    /// A bug or a broken invariant of ours. The client learns no more than that; the log says what.
    pub(crate) fn internal(what: impl std::fmt::Display) -> ApiError {
        tracing::error!(error = %what, "a request failed by a fault of the server");
        ApiError::new(
            Code::InternalFailure,
            "The request failed by a fault of the server; its log says more.",
        )
    }

    pub(crate) fn body(&self) -> Value {
        json!({ "__type": format!("{}#{}", self.code.service(), self.code.as_str()), "message": self.message })
    }
}

impl From<store::Error> for ApiError {
    fn from(error: store::Error) -> ApiError {
        match error {
            store::Error::Unavailable(_) => {
                tracing::warn!(%error, "a request failed because the store cannot be reached");
                ApiError::new(Code::ServiceUnavailable, "The database cannot be reached; try again.")
            }
            other => ApiError::internal(other),
        }
    }
}

impl From<ClientError> for ApiError {
    fn from(error: ClientError) -> ApiError {
        tracing::warn!(%error, "a request to a coordinator has no answer");
        let message = format!("The request got no answer and may be repeated: {error}.");
        ApiError::new(Code::ServiceUnavailable, message)
    }
}

impl From<RunError> for ApiError {
    fn from(error: RunError) -> ApiError {
        match error {
            RunError::Store(error) => error.into(),
            // SDKs wait and try this again by themselves.
            RunError::TooMany(_) => {
                ApiError::new(Code::ThrottlingException, format!("Rate exceeded: {error}."))
            }
            other => ApiError::internal(other),
        }
    }
}
