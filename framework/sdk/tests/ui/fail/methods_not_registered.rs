use stagepost::{Failure, Worker};

struct Orders;

impl Orders {
    async fn check(&self, items: u32) -> Result<bool, Failure> {
        Ok(items > 0)
    }
}

fn main() {
    let _ = Worker::connect("http://localhost").register(Orders);
}
