//! What the macros' expansions name. Not for use by hand; changes without notice.

pub use core::option::Option::{None, Some};
pub use core::primitive::str;
pub use core::time::Duration;
pub use std::borrow::Cow;
pub use std::boxed::Box;
pub use std::sync::Arc;
pub use std::vec::Vec;

pub use crate::activity::{
    Activities, Activity, ActivityResult, Extract, Options, Registration, Requirement, Run, Task, blocking,
    dummy, encode, input, registration,
};
pub use crate::failure::ActivityError;
