use stagepost::ActivityError;

#[derive(Debug, ActivityError)]
enum ChargeError {
    Declined,
}

fn main() {
    let _ = ChargeError::Declined;
}
