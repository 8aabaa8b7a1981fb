//! Tests of the test runner, over its public interface.

mod cases;
mod explored;
mod runs;
