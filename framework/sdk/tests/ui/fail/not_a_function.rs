use stagepost::activity;

#[activity]
struct Charge {
    amount_cents: u64,
}

fn main() {
    let _ = Charge { amount_cents: 1 };
}
