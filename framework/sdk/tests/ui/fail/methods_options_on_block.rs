use stagepost::{Failure, activity};

struct Orders;

#[activity(timeout = "30s")]
impl Orders {
    #[activity]
    async fn check(&self, items: u32) -> Result<bool, Failure> {
        Ok(items > 0)
    }
}

fn main() {}
