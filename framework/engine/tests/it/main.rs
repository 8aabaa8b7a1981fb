//! The decider, driven as a shell drives it.
#![expect(clippy::unwrap_used, reason = "these are tests")]
#![expect(clippy::needless_pass_by_value, reason = "literals read better without a reference")]

mod claims;
mod distributed;
mod histories;
mod hostile;
mod random;
mod redrive;
mod signals;
mod support;
mod variables;
