//! `fuzz [TARGET…] [--runs N | --for SECONDS] [--seed N] [--run N] [--collect]`: the fuzzer for as long as it is told.
//!
//! `--run` is one run again, by its number. `--collect` puts the smallest input of each new kind of outcome into the
//! corpus. Says how many runs there were and how fast; exits with 1 at the first one that breaks what must hold.

use arbiterq_tests::fuzz::{Fuzzer, MEMORY_BYTES_MAX, TARGETS, Target, corpus, kind_of, memory_bytes};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Kept of each target: enough to begin with, and small in the repository.
const CORPUS_MAX: usize = 24;
/// A kept input is not longer.
const CORPUS_BYTES_MAX: usize = 1500;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut targets, mut runs, mut time, mut seed, mut only, mut collect) =
        (Vec::new(), None, None, 1, None, false);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|text| text.trim_end_matches('s').parse::<u64>().ok());
        match argument.as_str() {
            "--runs" => runs = number(),
            "--for" => time = number().map(Duration::from_secs),
            "--seed" => seed = number().unwrap_or(seed),
            "--run" => only = number(),
            "--collect" => collect = true,
            name => match TARGETS.into_iter().find(|target| target.name() == name) {
                Some(target) => targets.push(target),
                None => {
                    eprintln!("no target {name}; there are {:?}", TARGETS.map(Target::name));
                    return ExitCode::from(64);
                }
            },
        }
    }
    if targets.is_empty() {
        targets = TARGETS.to_vec();
    }
    // What a run says by a panic is said once, with its name.
    std::panic::set_hook(Box::new(|_| {}));
    for target in targets {
        let fuzzer = Fuzzer::new(target);
        if let Some(run) = only {
            let input = fuzzer.input(seed, run);
            println!("{}\n{:?}", String::from_utf8_lossy(&input), fuzzer.run(&input));
            continue;
        }
        if let Err(code) = soak(&fuzzer, target, seed, runs, time, collect) {
            return code;
        }
    }
    ExitCode::SUCCESS
}

#[expect(clippy::disallowed_methods, reason = "a rate is measured")]
fn soak(
    fuzzer: &Fuzzer,
    target: Target,
    seed: u64,
    runs: Option<u64>,
    time: Option<Duration>,
    collect: bool,
) -> Result<(), ExitCode> {
    let begun = Instant::now();
    let time = time.or(runs.is_none().then_some(Duration::from_secs(10)));
    let mut kinds: BTreeMap<String, Option<Vec<u8>>> = BTreeMap::new();
    for input in fuzzer.seeds() {
        kinds.insert(kind_of(&fuzzer.run(input).unwrap_or_default()), None);
    }
    let known = kinds.len();
    let (mut run, mut good) = (0, 0_u64);
    while runs.is_none_or(|runs| run < runs) && time.is_none_or(|time| begun.elapsed() < time) {
        let input = fuzzer.input(seed, run);
        match fuzzer.run(&input) {
            Ok(outcome) => {
                good += u64::from(["ok", "opens", "clean"].iter().any(|word| outcome.starts_with(word)));
                let kept = kinds.entry(kind_of(&outcome)).or_insert_with(|| Some(input.clone()));
                if kept.as_ref().is_some_and(|kept| kept.len() > input.len()) {
                    *kept = Some(input);
                }
            }
            Err(broken) => {
                eprintln!("fuzz {} --seed {seed} --run {run}: {broken}", target.name());
                return Err(ExitCode::FAILURE);
            }
        }
        run += 1;
    }
    let rate = run as f64 / begun.elapsed().as_secs_f64();
    println!(
        "{}: {run} runs with seed {seed}, {rate:.0} runs/s, {good} taken, {} kinds of outcome ({known} of the seeds), \
         at most {} bytes of memory of {MEMORY_BYTES_MAX}",
        target.name(),
        kinds.len(),
        memory_bytes()
    );
    if memory_bytes() > MEMORY_BYTES_MAX {
        return Err(ExitCode::FAILURE);
    }
    if collect {
        let there = std::fs::read_dir(corpus(target)).map_or(0, Iterator::count);
        let new = kinds.into_values().flatten().filter(|input| input.len() <= CORPUS_BYTES_MAX);
        std::fs::create_dir_all(corpus(target)).expect("a folder");
        for input in new.take(CORPUS_MAX.saturating_sub(there)) {
            let name = arbiterq::log::chain::hash_of(&input).to_string();
            std::fs::write(corpus(target).join(&name[..16]), input).expect("written");
        }
    }
    Ok(())
}
