use stagepost::{Context, Failure, State, activity};

struct Gateway;

#[activity]
async fn charge(amount_cents: u64, cx: Context, _gateway: State<Gateway>) -> Result<u64, Failure> {
    cx.heartbeat(&amount_cents);
    Ok(amount_cents)
}

fn main() {}
