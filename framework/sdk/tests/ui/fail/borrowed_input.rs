use stagepost::{Failure, activity};

#[derive(serde::Deserialize)]
struct Note<'a> {
    text: &'a str,
}

#[activity]
async fn note(input: Note<'_>) -> Result<usize, Failure> {
    Ok(input.text.len())
}

fn main() {}
