use stagepost::{Failure, activity};

#[activity(timeout = "30s", idempotent, timeout = "10s")]
async fn charge(amount_cents: u64) -> Result<u64, Failure> {
    Ok(amount_cents)
}

fn main() {}
