use stagepost::{Failure, activity};

struct Orders(u32);

#[activity]
impl Orders {
    #[activity]
    async fn add(&mut self, items: u32) -> Result<u32, Failure> {
        self.0 += items;
        Ok(self.0)
    }
}

fn main() {}
