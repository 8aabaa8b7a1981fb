use stagepost::{Context, Failure, activity};

#[activity]
async fn charge(_cx: Context, customer: String, amount_cents: u64) -> Result<(), Failure> {
    Err(Failure::new("Declined", format!("{customer} {amount_cents}")))
}

fn main() {}
