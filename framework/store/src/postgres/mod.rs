//! The store on PostgreSQL 13 and newer, for production.
//!
//! A commit is one pipelined transaction of prepared statements over arrays, so a batch costs one round trip
//! whatever its size. The coordinator's connections and the API's are two pools: a slow query of a person does
//! not hold up a commit. The files and functions are those of [`crate::sqlite`].

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
mod store;
#[cfg(test)]
mod tests;

pub use connect::Options;
pub use store::PostgresStore;
