use stagepost::{Failure, State, activity};

struct Gateway;

#[activity]
async fn charge(_gateway: &State<Gateway>, note: &str) -> Result<usize, Failure> {
    Ok(note.len())
}

fn main() {}
