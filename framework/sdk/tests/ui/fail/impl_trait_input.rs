use stagepost::{Failure, activity};

#[activity]
async fn show(input: impl std::fmt::Display) -> Result<String, Failure> {
    Ok(input.to_string())
}

fn main() {}
