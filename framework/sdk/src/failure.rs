//! Why an attempt failed: the name that Retry and Catch match, and the cause for people.

use std::borrow::Cow;
use std::convert::Infallible;
use std::error::Error;
use std::fmt;

use stagepost_protocol::error_names;

/// An error of an activity: its name is what a definition's `Retry` and `Catch` match in `ErrorEquals`, its
/// `Display` text is the cause that people read in the history.
///
/// Derive it (the names may be left out: then they are `TypeName.Variant`):
///
/// ```
/// use stagepost::ActivityError;
///
/// #[derive(Debug, thiserror::Error, ActivityError)]
/// enum ChargeError {
///     #[error("card declined: {reason}")]
///     #[activity_error("Payments.CardDeclined")]
///     Declined { reason: String },
///     #[error("the payment provider cannot be reached")]
///     Unreachable,
///     #[error(transparent)]
///     #[activity_error(transparent)]
///     Cancelled(#[from] stagepost::Cancelled),
/// }
///
/// assert_eq!(ChargeError::Declined { reason: "limit".into() }.name(), "Payments.CardDeclined");
/// assert_eq!(ChargeError::Unreachable.name(), "ChargeError.Unreachable");
/// ```
///
/// On the enum itself `#[activity_error("Name")]` names all variants without a name of their own, and
/// `#[activity_error(transparent)]` on a variant with one field takes the name from that field's error. Names that
/// begin with `States.` are reserved.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an error that an activity can return",
    label = "does not implement `stagepost::ActivityError`",
    note = "add `#[derive(Debug, thiserror::Error, stagepost::ActivityError)]` to your error type",
    note = "or return `Result<_, stagepost::Failure>`: `?` makes a `Failure` of any `std::error::Error`"
)]
pub trait ActivityError: fmt::Display {
    /// The name that Retry and Catch match; at most 256 characters are kept.
    fn name(&self) -> Cow<'_, str>;
}

impl ActivityError for Infallible {
    fn name(&self) -> Cow<'_, str> {
        match *self {}
    }
}

/// The error for activities without an error type of their own: `?` makes one of any [`std::error::Error`], under
/// the name `Stagepost.ActivityFailed`, with the texts of the error and its sources as the cause.
///
/// It does not implement [`std::error::Error`] itself; that is what makes the conversion possible.
///
/// ```
/// use stagepost::{Failure, activity};
///
/// #[activity]
/// async fn parse_quantity(input: String) -> Result<u32, Failure> {
///     let quantity = input.trim().parse()?;
///     if quantity == 0 {
///         return Err(Failure::new("Orders.EmptyOrder", "the quantity is 0"));
///     }
///     Ok(quantity)
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    name: Cow<'static, str>,
    cause: String,
}

impl Failure {
    /// A failure with a name for Retry and Catch and a cause for people.
    pub fn new(name: impl Into<Cow<'static, str>>, cause: impl fmt::Display) -> Failure {
        Failure { name: name.into(), cause: cause.to_string() }
    }

    /// Takes name and cause of a typed error. (`?` cannot: it knows nothing of the type but that it is an error.)
    pub fn of(error: &(impl ActivityError + ?Sized)) -> Failure {
        Failure { name: Cow::Owned(error.name().into_owned()), cause: error.to_string() }
    }

    /// The cause.
    pub fn cause(&self) -> &str {
        &self.cause
    }

    pub(crate) fn into_parts(self) -> (Cow<'static, str>, String) {
        (self.name, self.cause)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)
    }
}

impl ActivityError for Failure {
    fn name(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.name)
    }
}

impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Failure {
        if let Some(cancelled) = (&error as &dyn std::any::Any).downcast_ref::<Cancelled>() {
            return Failure::of(cancelled);
        }
        let mut cause = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            let text = error.to_string();
            // Many errors repeat their source's text in their own; once is enough.
            if !cause.contains(&text) {
                cause.push_str(": ");
                cause.push_str(&text);
            }
            source = error.source();
        }
        Failure { name: Cow::Borrowed(error_names::ACTIVITY_FAILED), cause }
    }
}

/// Why an activity is asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Cancelled {
    /// The worker is shutting down and its grace period is over.
    #[error("the worker is shutting down")]
    Shutdown,
    /// The attempt's deadline passed, or a limit that the activity sets itself (`timeout`, `heartbeat`).
    #[error("the attempt ran out of time")]
    Deadline,
    /// The attempt has ended elsewhere: by a timeout, a stop of the execution, or another result.
    #[error("the attempt has ended already")]
    Ended,
    /// The worker could not be heard of for its lease: another worker may begin the next attempt. Only for activities
    /// that are not `idempotent`.
    #[error("the worker lost its lease")]
    LeaseLost,
}

impl ActivityError for Cancelled {
    fn name(&self) -> Cow<'_, str> {
        Cow::Borrowed(error_names::CANCELLED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("no stock file")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn any_error_becomes_a_failure_with_its_sources() {
        let failure = Failure::from(Outer(std::io::Error::other("disk full")));
        assert_eq!(failure.name(), error_names::ACTIVITY_FAILED);
        assert_eq!(failure.cause(), "no stock file: disk full");
    }

    #[test]
    fn cancellation_keeps_its_name_through_the_question_mark() {
        fn check() -> Result<(), Failure> {
            Err(Cancelled::Shutdown)?;
            Ok(())
        }
        assert_eq!(check().unwrap_err().name(), error_names::CANCELLED);
    }
}
