use std::rc::Rc;

use stagepost::{Failure, activity};

async fn pause() {}

#[activity]
async fn count(input: u64) -> Result<u64, Failure> {
    let shared = Rc::new(input);
    pause().await;
    Ok(*shared)
}

fn main() {}
