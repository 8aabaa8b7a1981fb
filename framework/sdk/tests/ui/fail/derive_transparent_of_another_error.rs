use stagepost::ActivityError;

#[derive(Debug, thiserror::Error, ActivityError)]
enum ChargeError {
    #[error(transparent)]
    #[activity_error(transparent)]
    Io(#[from] std::io::Error),
}

fn main() {}
