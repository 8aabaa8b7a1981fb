//! The `stagepost` binary.
#![allow(missing_docs)]
mod bench;
use clap::Parser;
#[derive(Parser)]
struct C {
    #[command(flatten)]
    b: bench::BenchArgs,
}
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .init();
    bench::run(C::parse().b).await
}
