use stagepost::{Failure, activity};

type Cx = stagepost::Context;

#[activity]
async fn charge(cx: Cx) -> Result<u32, Failure> {
    Ok(cx.attempt())
}

fn main() {}
