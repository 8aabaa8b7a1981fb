use stagepost::{Failure, activity};

#[activity(blocking)]
async fn check_stock(items: u32) -> Result<bool, Failure> {
    Ok(items > 0)
}

fn main() {}
