use std::cell::RefCell;

use stagepost::{Failure, State, activity};

struct Counter(RefCell<u64>);

#[activity]
async fn count(counter: State<Counter>) -> Result<u64, Failure> {
    *counter.0.0.borrow_mut() += 1;
    Ok(*counter.0.0.borrow())
}

fn main() {}
