use stagepost::activity;

#[derive(Debug, thiserror::Error)]
#[error("declined")]
struct Declined;

#[activity]
async fn charge(amount_cents: u64) -> Result<u64, Declined> {
    if amount_cents > 100 { Err(Declined) } else { Ok(amount_cents) }
}

#[activity]
async fn refund(amount_cents: u64) -> Result<u64, String> {
    Ok(amount_cents)
}

fn main() {}
