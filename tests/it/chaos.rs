//! A minute of chaos on real parts: kill -9, hangs, cut and stalled networks, servers that die, orders that all end.

use std::time::Duration;

use stagepost_tests::{
    Random, Servers,
    chaos::{self, Plan},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_survive_a_minute_of_everything() {
    let Some(servers) = Servers::own().await else { return };
    let seed = Random::seeded().number(0..u64::from(u32::MAX));
    let plan = Plan {
        seed,
        during: Duration::from_secs(45),
        every: Duration::from_millis(125),
        end_within: Duration::from_secs(60),
    };
    let report = chaos::run(&servers, plan).await;
    println!("{report}");
    assert!(report.faults_found().is_empty(), "{report}");
}
