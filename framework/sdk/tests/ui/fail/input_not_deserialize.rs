use stagepost::{Failure, activity};

struct Charge {
    amount_cents: u64,
}

#[activity]
async fn charge(input: Charge) -> Result<u64, Failure> {
    Ok(input.amount_cents)
}

fn main() {}
