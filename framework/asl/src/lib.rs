//! The Amazon States Language (<https://states-language.net/spec.html>, and the Step Functions developer guide
//! where the service goes beyond it): parse, validate, paths, payload templates, intrinsic functions, JSONata, choice
//! rules and retry rules. Pure: no clock, no randomness, no IO.
//!
//! A definition is parsed once into a [`StateMachine`] in which every path, template and rule is compiled;
//! whatever is wrong with it is a [`Finding`] at its JSON pointer.

pub mod choice;
pub mod eval;
pub mod intrinsic;
pub mod jsonata;
pub mod model;
pub mod parse;
pub mod path;
pub mod retry;
pub mod template;

pub use eval::{Data, EvalError};
pub use model::*;
pub use parse::{Finding, LONE_STATE, Severity, Spot, parse, parse_state};
