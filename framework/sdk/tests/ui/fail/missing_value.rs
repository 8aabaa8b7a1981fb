use stagepost::{Failure, activity};

#[activity(timeout, queue = payments)]
async fn charge(amount_cents: u64) -> Result<u64, Failure> {
    Ok(amount_cents)
}

fn main() {}
