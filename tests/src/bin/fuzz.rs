//! `fuzz [TARGET…] [--runs N | --for SECONDS] [--seed N] [--run N] [--collect]`: the fuzzer for as long as it is told.
//!
//! `--run` is one run again, by its number. `--collect` puts the smallest input of each new kind of outcome into the
//! corpus. Says how many runs there were and how fast, in a last line as one JSON object; exits with 1 at the first one
//! that breaks what must hold. Time may be given in minutes and hours: `10m`, `2h`.

use arbiterq_tests::fuzz::{Fuzzer, MEMORY_BYTES_MAX, TARGETS, Target, corpus, kind_of, memory_bytes};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Kept of each target: enough to begin with, and small in the repository.
const CORPUS_MAX: usize = 24;
/// Kinds of outcome that are told apart; of further ones, only that there are more.
const KINDS_MAX: usize = 50_000;
/// A kept input is not longer.
const CORPUS_BYTES_MAX: usize = 1500;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut targets, mut runs, mut time, mut seed, mut only, mut collect) =
        (Vec::new(), None, None, 1, None, false);
    while let Some(argument) = arguments.next() {
        if matches!(argument.as_str(), "--runs" | "--for" | "--seed" | "--run") {
            let value = arguments.next().unwrap_or_default();
            let Some(number) = number(&value) else {
                eprintln!("{argument} {value}: not a number");
                return ExitCode::from(64);
            };
            match argument.as_str() {
                "--runs" => runs = Some(number),
                "--for" => time = Some(Duration::from_secs(number)),
                "--seed" => seed = number,
                _ => only = Some(number),
            }
            continue;
        }
        match argument.as_str() {
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
    let (mut sums, mut code) = (Vec::new(), ExitCode::SUCCESS);
    for target in targets {
        let fuzzer = Fuzzer::new(target);
        if let Some(run) = only {
            let input = fuzzer.input(seed, run);
            println!("{}\n{:?}", String::from_utf8_lossy(&input), fuzzer.run(&input));
            continue;
        }
        match soak(&fuzzer, target, seed, runs, time, collect) {
            Ok(sum) => sums.push(sum),
            Err(broken) => {
                sums.push(format!("\"broken\":\"{broken}\""));
                code = ExitCode::FAILURE;
                break;
            }
        }
    }
    if only.is_none() {
        println!("{{\"seed\":{seed},{}}}", sums.join(","));
    }
    code
}

/// A number; of seconds, also with a unit.
fn number(text: &str) -> Option<u64> {
    let units = [('s', 1), ('m', 60), ('h', 3600)];
    let unit = units.into_iter().find_map(|(unit, times)| text.strip_suffix(unit).map(|text| (text, times)));
    let (digits, times) = unit.unwrap_or((text, 1));
    digits.parse::<u64>().ok()?.checked_mul(times)
}

/// What this process has computed, in seconds.
fn computed() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The sum of a target's runs as a field of JSON; or the name of what broke.
#[expect(clippy::disallowed_methods, reason = "a rate is measured")]
fn soak(
    fuzzer: &Fuzzer,
    target: Target,
    seed: u64,
    runs: Option<u64>,
    time: Option<Duration>,
    collect: bool,
) -> Result<String, String> {
    let (begun, computed_before) = (Instant::now(), computed());
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
                let kind = kind_of(&outcome);
                let room = kinds.len() < KINDS_MAX;
                if collect && (room || kinds.contains_key(&kind)) {
                    let kept = kinds.entry(kind).or_insert_with(|| Some(input.clone()));
                    if kept.as_ref().is_some_and(|kept| kept.len() > input.len()) {
                        *kept = Some(input);
                    }
                } else if room {
                    kinds.entry(kind).or_default();
                }
            }
            Err(broken) => {
                eprintln!("fuzz {} --seed {seed} --run {run}: {broken}", target.name());
                return Err(format!("{} --seed {seed} --run {run}", target.name()));
            }
        }
        run += 1;
    }
    let rate = run as f64 / begun.elapsed().as_secs_f64();
    let rate_of_core = run as f64 / (computed() - computed_before).max(1e-9);
    println!(
        "{}: {run} runs with seed {seed}, {rate:.0} runs/s, {rate_of_core:.0} a second of one core, {good} taken, \
         {} kinds of outcome ({known} of the seeds), at most {} bytes of memory of {MEMORY_BYTES_MAX}",
        target.name(),
        kinds.len(),
        memory_bytes()
    );
    if memory_bytes() > MEMORY_BYTES_MAX {
        return Err(format!("{} takes {} bytes of memory", target.name(), memory_bytes()));
    }
    let kinds_count = kinds.len();
    if collect {
        let there = std::fs::read_dir(corpus(target)).map_or(0, Iterator::count);
        let new = kinds.into_values().flatten().filter(|input| input.len() <= CORPUS_BYTES_MAX);
        std::fs::create_dir_all(corpus(target)).expect("a folder");
        for input in new.take(CORPUS_MAX.saturating_sub(there)) {
            let name = arbiterq::log::chain::hash_of(&input).to_string();
            std::fs::write(corpus(target).join(&name[..16]), input).expect("written");
        }
    }
    let (name, kinds) = (target.name(), kinds_count);
    Ok(format!(
        "\"{name}\":{{\"runs\":{run},\"taken\":{good},\"kinds\":{kinds},\"runs_per_s\":{rate_of_core:.0}}}"
    ))
}
