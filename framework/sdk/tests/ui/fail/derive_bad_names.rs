use stagepost::{ActivityError, Failure};

#[derive(Debug, thiserror::Error, ActivityError)]
enum ChargeError {
    #[error("declined")]
    #[activity_error("States.Timeout")]
    Reserved,
    #[error("declined")]
    #[activity_error("")]
    Empty,
    #[error("declined")]
    #[activity_error(name = "Declined")]
    Assigned,
    #[error("declined")]
    #[activity_error("A")]
    #[activity_error("B")]
    Twice,
    #[error("declined")]
    #[activity_error(transparent)]
    TwoFields(u8, Failure),
}

fn main() {}
