//! Whatever reads what others wrote, for some seconds each: `cargo run -p arbiterq-tests --bin fuzz` does it for longer.

use arbiterq_tests::fuzz::{Fuzzer, MEMORY_BYTES_MAX, Target, memory_bytes};

/// As many runs as take a few seconds; the seed is always the same, so that the gate is.
fn holds(target: Target, runs: u64) {
    let fuzzer = Fuzzer::new(target);
    for input in fuzzer.seeds() {
        fuzzer.run(input).unwrap_or_else(|broken| panic!("{broken}: {}", String::from_utf8_lossy(input)));
    }
    let mut taken = 0;
    for run in 0..runs {
        let outcome = fuzzer.run(&fuzzer.input(0, run));
        let outcome =
            outcome.unwrap_or_else(|broken| panic!("fuzz {} --seed 0 --run {run}: {broken}", target.name()));
        taken += u64::from(["ok", "opens", "clean"].iter().any(|word| outcome.starts_with(word)));
    }
    println!("{}: {runs} runs, {taken} taken; at most {} bytes of memory", target.name(), memory_bytes());
    assert!(memory_bytes() < MEMORY_BYTES_MAX);
    assert!(taken > 0 && taken < runs, "inputs are of both kinds");
}

#[test]
fn requests_are_decoded_or_refused() {
    holds(Target::Request, 200_000);
}

#[test]
fn replies_are_decoded_or_refused() {
    holds(Target::Reply, 200_000);
}

#[test]
fn records_are_read_or_refused() {
    holds(Target::Record, 100_000);
}

#[test]
fn logs_are_verified_and_replayed_or_refused() {
    holds(Target::Log, 4_000);
}

#[test]
fn checkpoints_are_read_or_refused() {
    holds(Target::Checkpoint, 20_000);
}

#[test]
fn folders_are_opened_or_refused() {
    holds(Target::Folder, 600);
}

#[test]
fn settings_are_loaded_or_refused() {
    holds(Target::Settings, 3_000);
}
