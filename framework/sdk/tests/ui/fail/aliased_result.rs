use stagepost::{Failure, activity};

struct Receipt;

type Answer = Result<Receipt, Failure>;

#[activity]
async fn charge(_input: u64) -> Answer {
    Ok(Receipt)
}

fn main() {}
