use stagepost::{Failure, activity};

#[activity(timout = "30s", retries = 3)]
async fn charge(amount_cents: u64) -> Result<u64, Failure> {
    Ok(amount_cents)
}

fn main() {}
