use stagepost::{Context, Failure, activity};

struct Orders;

#[activity]
impl Orders {
    #[activity(retries = 3)]
    fn check(&self, items: u32, cx: Context) -> Result<bool, Failure> {
        Ok(cx.attempt() > items)
    }

    #[activity]
    async fn close(&self) {}
}

fn main() {}
