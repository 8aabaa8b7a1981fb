//! What the operations of all services share: what they work with, what they answer, and their tables.

use axum::http::HeaderMap;
use serde_json::Value;
use stagepost_protocol::Namespace;

use crate::{api::Api, wire::ApiError};

/// What an operation works with.
pub(crate) struct Context<'a> {
    pub(crate) api: &'a Api,
    /// Where the caller is: listings and new things are in it. Things that are named by an ARN are where it says.
    pub(crate) namespace: Namespace,
    /// The headers of the request.
    pub(crate) headers: &'a HeaderMap,
}

pub(crate) type Answer = Result<Value, ApiError>;

/// What an operation answers.
pub(crate) struct Answered {
    /// The members.
    pub(crate) body: Value,
    /// Headers that only our own clients look at, with values that are visible ASCII.
    pub(crate) headers: Vec<(&'static str, String)>,
}

impl From<Value> for Answered {
    fn from(body: Value) -> Answered {
        Answered { body, headers: Vec::new() }
    }
}

/// The table of a service's operations: `OPERATIONS`, `operation` and `run`.
macro_rules! operations {
    ($(#[$doc:meta])* $($name:literal => $function:path,)*) => {
        $(#[$doc])*
        pub const OPERATIONS: &[&str] = &[$($name,)*];

        /// The operation of that name, if it is one.
        pub(crate) fn operation(name: &str) -> Option<&'static str> {
            OPERATIONS.iter().copied().find(|operation| *operation == name)
        }

        /// Runs an operation that [`operation`] returned.
        pub(crate) async fn run(
            cx: &crate::operations::Context<'_>,
            operation: &str,
            members: &serde_json::Map<String, serde_json::Value>,
        ) -> Result<crate::operations::Answered, crate::wire::ApiError> {
            let members = crate::wire::Members::new(members);
            match operation {
                $($name => Ok($function(cx, members).await?.into()),)*
                other => Err(crate::wire::ApiError::internal(format!("'{other}' is in no table of operations"))),
            }
        }
    };
}
pub(crate) use operations;
