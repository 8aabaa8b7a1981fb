use stagepost::{Failure, activity};

struct Receipt {
    _id: String,
}

#[activity]
async fn charge(id: String) -> Result<Receipt, Failure> {
    Ok(Receipt { _id: id })
}

fn main() {}
