use stagepost::activity;

#[activity]
async fn double(input: u64) -> u64 {
    2 * input
}

#[activity]
async fn nothing(_input: u64) {}

fn main() {}
