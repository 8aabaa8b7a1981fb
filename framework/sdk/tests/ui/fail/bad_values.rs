use stagepost::{Failure, activity};

#[activity(name = "charge card", timeout = "30 seconds", heartbeat = 10, concurrency = 0, idempotent = true)]
async fn charge(amount_cents: u64) -> Result<u64, Failure> {
    Ok(amount_cents)
}

fn main() {}
