//! The simulator, as far as there is time for it in every run of the tests: each mix is clean, a seed is a history,
//! and every invariant is shown to fail by a wrong rule that is planted. `simulate` does the same for hours.

use arbiterq_tests::sim::command::look_for;
use arbiterq_tests::sim::mix::{MIXES, named};
use arbiterq_tests::sim::plant::ROWS;
use arbiterq_tests::sim::{Setup, run, run_replayed};

/// Runs of each mix.
const RUNS: u64 = 4;
/// Runs in which a planted rule is to be noticed: several times what the rarest, row 19, takes on average (forty).
const BUDGET: u64 = 300;
/// Rows whose rule is one of deciding, and that nothing but the verifiers sees in the record itself.
const REPLAYED: [u32; 2] = [18, 48];

#[test]
fn every_mix_is_clean_and_says_something() {
    for (i, mix) in MIXES.iter().enumerate() {
        for seed in 0..RUNS {
            let ended = run(Setup { seed: 1000 * i as u64 + seed, mix: *mix, plant: None });
            let again = format!("simulate --seed {} --mix {}", ended.setup.seed, mix.name);
            assert_eq!(ended.violation, None, "{again}");
            assert_eq!(ended.vacuous, None, "{again}");
        }
    }
}

#[test]
fn a_seed_is_a_history() {
    for seed in 1..4 {
        let (first, second) = (run(Setup::of_seed(seed)), run(Setup::of_seed(seed)));
        assert_eq!(format!("{first:?}"), format!("{second:?}"));
    }
}

/// An arbiter's turn comes as soon as it starts, while it knows nothing of the log, or only a checkpoint.
#[test]
fn an_arbiter_reads_the_log_before_its_turn() {
    for (name, seed) in [("crowd", 100_415), ("alone", 100_537)] {
        let mix = named(name).expect("a mix");
        let ended = run(Setup { seed, mix, plant: None });
        assert_eq!(ended.violation, None, "{name}");
    }
}

/// A standby's nudges to an active arbiter that has nothing to do wait for no record, which may never come.
#[test]
fn nudges_are_not_left_in_the_queue() {
    let mix = named("roaming").expect("a mix");
    let ended = run(Setup { seed: 1_014_408, mix, plant: None });
    assert_eq!(ended.violation, None);
}

/// Each invariant fails where a rule is wrong that it is there for.
#[test]
fn every_invariant_can_fail() {
    let shown = [
        ("exclusion", 32),
        ("on_the_record_first", 55),
        ("fencing", 26),
        ("fencing", 40),
        ("on_the_record_first", 8),
        ("once", 13),
        ("once", 46),
        ("order", 35),
        ("no_early_expiry", 15),
        ("no_early_expiry", 33),
        ("no_loss", 3),
        ("evidence", 5),
        ("belief", 10),
        ("belief", 19),
        ("epochs", 6),
        ("liveness", 28),
    ];
    for (invariant, number) in shown {
        let row = ROWS.iter().find(|row| row.number == number).expect("a row");
        let caught = look_for(row, 1, BUDGET);
        let by = caught.map(|caught| caught.invariant);
        assert_eq!(by, Some(invariant), "row {number}: {}", row.rule);
    }
}

/// What is decided by a wrong rule is not what the right rules make of the log, in the first record that shows it.
#[test]
fn the_replay_finds_what_is_decided_otherwise() {
    for number in REPLAYED {
        let row = ROWS.iter().find(|row| row.number == number).expect("a row");
        let mix = named(row.mixes[0]).expect("a mix");
        let broken =
            (1..100).find_map(|seed| run_replayed(Setup { seed, mix, plant: Some(row.plant) }).violation);
        let broken = broken.expect("a violation");
        assert!(
            broken.invariant == "evidence" && broken.what.starts_with("the replay: record "),
            "row {number}: {broken:?}"
        );
    }
}
