//! The store on SQLite, built in: what `stagepost dev` and the examples run on.
//!
//! One thread writes; commits that wait for it together share a transaction and its sync. Reads have
//! connections of their own (WAL), so they wait for no write. The files and functions are those of
//! [`crate::postgres`]; `statement` and `writer` come on top.

mod commit;
mod connect;
mod errors;
mod executions;
mod leases;
mod load;
mod map_runs;
mod migrations;
mod records;
mod registry;
mod statement;
mod store;
#[cfg(test)]
mod tests;
mod writer;

pub use connect::Options;
pub use store::SqliteStore;
