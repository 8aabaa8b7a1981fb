//! Limits, with AWS's numbers as defaults where AWS has one (Step Functions developer guide, "Quotas").

/// Largest input or output of a state, task or execution.
pub const PAYLOAD_BYTES_MAX: usize = 256 * 1024;
/// Largest definition.
pub const DEFINITION_BYTES_MAX: usize = 1024 * 1024;
/// A history of this many events is warned about.
pub const HISTORY_EVENTS_WARN: u64 = 10_000;
/// A history of this many events ends its execution. AWS ends it at 25,000.
pub const HISTORY_EVENTS_MAX: u64 = 1_000_000;
/// An execution can be redriven so often.
pub const REDRIVES_MAX: u32 = 1_000;
/// How long after its end an execution can be redriven, in milliseconds: 14 days.
pub const REDRIVABLE_MILLIS: i64 = 14 * 24 * 3_600 * 1_000;
/// How long a redrive that is asked for again with the same client token is the same one, in milliseconds: 15 minutes.
pub const REDRIVE_TOKEN_MILLIS: i64 = 15 * 60 * 1_000;
/// Longest name of a state machine, activity or execution, in characters.
pub const NAME_CHARS_MAX: usize = 80;
/// Longest name of an error, in characters.
pub const ERROR_CHARS_MAX: usize = 256;
/// Longest cause of an error, in characters.
pub const CAUSE_CHARS_MAX: usize = 32_768;
/// Deepest nesting of a JSON document that is accepted.
pub const JSON_DEPTH_MAX: usize = 128;
/// Largest HTTP request body.
pub const REQUEST_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Largest body of a shard message (a batch of results).
pub const SHARD_MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Longest name of a signal, in characters.
pub const SIGNAL_NAME_CHARS_MAX: usize = 256;
/// Longest id of a signal, in characters.
pub const SIGNAL_ID_CHARS_MAX: usize = 128;
/// An execution keeps so many signals that no state has taken yet.
pub const SIGNALS_KEPT_MAX: usize = 1_000;
/// The signals that an execution keeps have so many bytes of input together.
pub const SIGNALS_KEPT_BYTES_MAX: usize = 1024 * 1024;
/// An execution remembers the ids of so many signals, the newest, to know a repetition.
pub const SIGNAL_IDS_MAX: usize = 256;
