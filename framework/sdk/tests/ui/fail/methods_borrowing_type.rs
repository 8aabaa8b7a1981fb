use stagepost::{Failure, activity};

struct Orders<'a>(&'a str);

#[activity]
impl<'a> Orders<'a> {
    #[activity]
    async fn name(&self) -> Result<String, Failure> {
        Ok(self.0.to_owned())
    }
}

fn main() {}
