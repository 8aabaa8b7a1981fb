use stagepost::activity;

struct Orders;

#[activity]
impl Drop for Orders {
    fn drop(&mut self) {}
}

fn main() {}
