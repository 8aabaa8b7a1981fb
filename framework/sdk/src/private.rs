//! What the macros' expansions name. Not for use by hand; changes without notice.

pub use core::option::Option::{None, Some};
pub use core::primitive::str;
pub use core::time::Duration;
pub use std::borrow::Cow;
pub use std::boxed::Box;
pub use std::vec::Vec;

pub use crate::activity::{
    Activity, ActivityResult, Extract, Input, Options, Output, Registration, Requirement, Run, Task,
    blocking, dummy, encode, input,
};
pub use crate::failure::ActivityError;

/// Holds for every output; its failure is the message that the user reads.
pub const fn assert_output<T: Output>() {}

/// Holds for every error; its failure is the message that the user reads.
pub const fn assert_error<E: ActivityError>() {}
