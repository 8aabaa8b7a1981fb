//! The pure heart of Stagepost: decide and evolve.
