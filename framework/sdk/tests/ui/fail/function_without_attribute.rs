use stagepost::{Failure, Worker, activities};

async fn refund(amount_cents: u64) -> Result<u64, Failure> {
    Ok(amount_cents)
}

fn main() {
    let _ = Worker::connect("amqp://localhost").register(activities![refund]);
}
