use stagepost::{Worker, activities};

struct Charge;

fn main() {
    let _ = Worker::connect("amqp://localhost").register(activities![Charge]);
}
