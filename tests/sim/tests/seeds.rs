//! A few hundred seeds, of the millions that can be played by hand.

use stagepost_sim::run;

/// Plays seeds in order and says which fail.
fn all_hold(seeds: std::ops::Range<u64>) {
    let failed: Vec<String> = seeds
        .filter_map(|seed| run(seed, 0).violation.map(|violation| format!("seed {seed}: {violation}")))
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn the_first_hundred_seeds_hold() {
    all_hold(0..100);
}

#[test]
fn the_second_hundred_seeds_hold() {
    all_hold(100..200);
}

#[test]
fn a_seed_does_the_same_each_time() {
    let (mut lines, seeds) = (0, 200..212);
    for seed in seeds {
        let (first, second) = (run(seed, 50), run(seed, 50));
        assert_eq!(first, second, "seed {seed}");
        lines += first.told.lines;
    }
    assert!(lines > 5_000, "{lines} lines are hardly a trace");
    assert_ne!(run(200, 0).told.hash, run(201, 0).told.hash);
}
