use stagepost::{Failure, activity};

struct Orders;

#[activity]
impl Orders {
    async fn check(&self, items: u32) -> Result<bool, Failure> {
        Ok(items > 0)
    }
}

fn main() {}
