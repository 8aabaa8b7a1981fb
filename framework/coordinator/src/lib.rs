//! The coordinator: owns shards, decides, commits, publishes and acknowledges.
