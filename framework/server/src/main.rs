//! The `stagepost` binary.
fn main() {}
