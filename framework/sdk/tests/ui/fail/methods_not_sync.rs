use std::cell::Cell;

use stagepost::{Failure, activity};

struct Orders(Cell<u32>);

#[activity]
impl Orders {
    #[activity]
    async fn count(&self) -> Result<u32, Failure> {
        Ok(self.0.get())
    }
}

fn main() {}
