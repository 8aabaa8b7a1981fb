//! Tests of data sets and results.

mod decoders;
mod results;
mod store;
mod windows;

/// Runs a future whose sources answer at once.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}
