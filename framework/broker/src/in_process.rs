//! The broker of the embedded default: queues in this process's memory.
