//! Write Stagepost activities as async functions and run them in a worker.
