//! The #[activity] attribute and derive(ActivityError).
