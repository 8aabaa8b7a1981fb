//! What every [`crate::Broker`] must do, as tests that both implementations run.
