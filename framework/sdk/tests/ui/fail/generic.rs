use stagepost::{Failure, activity};

#[activity]
async fn echo<T: serde::de::DeserializeOwned + serde::Serialize>(input: T) -> Result<T, Failure> {
    Ok(input)
}

fn main() {}
