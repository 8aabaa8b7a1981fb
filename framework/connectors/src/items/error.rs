//! Why a data set could not be read.

use std::fmt;

use stagepost_protocol::error_names;

/// Why a data set could not be read: the cause of a `States.ItemReaderFailed`. It quotes no item.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{cause}")]
pub struct ReadError {
    cause: String,
}

impl ReadError {
    /// The name of the error that the Map state fails with.
    pub const NAME: &'static str = error_names::ITEM_READER_FAILED;

    /// With this cause.
    pub fn new(cause: impl Into<String>) -> ReadError {
        ReadError { cause: cause.into() }
    }

    /// The cause.
    pub fn cause(&self) -> &str {
        &self.cause
    }

    /// The same, with where it happened before it.
    #[must_use]
    pub fn at(self, place: impl fmt::Display) -> ReadError {
        ReadError { cause: format!("{place}: {}", self.cause) }
    }
}

/// The beginning of a text that the data set or the definition chose, fit for a sentence.
pub(super) fn excerpt(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    let mut short: String =
        text.chars().take(CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
