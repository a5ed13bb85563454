//! The command `simulate`.

use super::mix::{self, MIXES};
use super::plant::{Plant, ROWS, Row};
use super::{Run, Setup, run, run_with_trail};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

const USAGE: &str =
    "simulate [--seed N] [--runs N] [--hours H] [--mix NAME] [--planted all|ROW|FIRST-LAST] [--budget RUNS] [--quiet] [--json]

  --seed N      the first seed (1); alone, exactly that run, with its trail if a promise breaks
  --runs N      so many seeds from there on
  --hours H     seeds from there on, until so many simulated hours are clean
  --mix NAME    every run of that mix; else each seed's own
  --planted P   plant every wrong rule, or that of one row, and look for a run that notices
  --budget N    so many runs at most for each planted rule (400)
  --quiet       no line for each run, and no trail
  --json        a last line with the sums, as one JSON object";

#[derive(Debug)]
struct Arguments {
    seed: u64,
    runs: Option<u64>,
    hours: Option<f64>,
    mix: Option<String>,
    planted: Option<String>,
    budget: u64,
    quiet: bool,
    json: bool,
}

/// Runs the command of this process's arguments.
pub fn main() -> ExitCode {
    let arguments = match arguments(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if let Some(name) = &arguments.mix
        && mix::named(name).is_none()
    {
        let names: Vec<_> = MIXES.iter().map(|mix| mix.name).collect();
        eprintln!("no mix {name}; there are {}", names.join(", "));
        return ExitCode::from(2);
    }
    if arguments.planted.is_some() { plant(&arguments) } else { soak(&arguments) }
}

fn arguments(mut given: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments {
        seed: 1,
        runs: None,
        hours: None,
        mix: None,
        planted: None,
        budget: 400,
        quiet: false,
        json: false,
    };
    while let Some(name) = given.next() {
        if name == "--quiet" {
            arguments.quiet = true;
            continue;
        }
        if name == "--json" {
            arguments.json = true;
            continue;
        }
        let value = given.next().ok_or_else(|| format!("{name} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|error| format!("{name} {value}: {error}"));
        match name.as_str() {
            "--seed" => arguments.seed = number()?,
            "--runs" => arguments.runs = Some(number()?),
            "--hours" => {
                arguments.hours = Some(value.parse().map_err(|error| format!("{name} {value}: {error}"))?);
            }
            "--mix" => arguments.mix = Some(value),
            "--planted" => arguments.planted = Some(value),
            "--budget" => arguments.budget = number()?,
            _ => return Err(format!("no argument {name}")),
        }
    }
    Ok(arguments)
}

impl Arguments {
    fn setup(&self, seed: u64) -> Setup {
        let setup = Setup::of_seed(seed);
        let named = self.mix.as_deref().and_then(mix::named);
        Setup { mix: named.unwrap_or(setup.mix), ..setup }
    }
}

/// Real time, for the rate; nothing that is simulated sees it.
#[expect(clippy::disallowed_methods, reason = "how fast it runs is the one thing that is not simulated")]
fn real_now() -> Instant {
    Instant::now()
}

/// What this process has computed, in seconds: other processes of the machine do not slow it down.
fn computed() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The sums of a soak.
#[derive(Debug, Default)]
struct Sums {
    runs: u64,
    micros: u64,
    grants: u64,
    decided: u64,
    records: u64,
    violations: u64,
    vacuous: u64,
    computed: f64,
    /// By mix and fault: how often it was to be expected, in thousandths, and how often it came.
    faults: BTreeMap<(&'static str, mix::Fault), (u64, u64)>,
    /// The same of what came by itself, in millionths.
    noise: BTreeMap<(&'static str, mix::Came), (u64, u64)>,
}

impl Sums {
    fn add(&mut self, ended: &Run) {
        self.runs += 1;
        self.micros += ended.micros;
        self.grants += ended.stats.grants;
        self.decided += ended.stats.decided;
        self.records += ended.stats.records;
        self.violations += u64::from(ended.violation.is_some());
        self.vacuous += u64::from(ended.vacuous.is_some());
        let mix = ended.setup.mix;
        let weights: u64 = mix.faults.iter().map(|(_, weight)| weight).sum();
        for (fault, weight) in mix.faults {
            let counted = self.faults.entry((mix.name, *fault)).or_default();
            counted.0 += 1000 * (mix.length / mix.every) * weight / weights;
            counted.1 += ended.stats.faults.get(fault).copied().unwrap_or_default();
        }
        for (came, (expected, often)) in &ended.stats.noise {
            let counted = self.noise.entry((mix.name, *came)).or_default();
            (counted.0, counted.1) = (counted.0 + expected, counted.1 + often);
        }
    }

    /// A fault that was to be expected often, over all runs, and never came.
    fn missing(&self) -> Option<String> {
        let missing = self.faults.iter().find(|(_, (expected, came))| *expected > 30_000 && *came == 0);
        let missing = missing
            .map(|((mix, fault), (expected, _))| format!("{mix}: no {fault:?}, of {}", expected / 1000));
        let silent = self.noise.iter().find(|(_, (expected, came))| *expected > 30_000_000 && *came == 0);
        missing.or_else(|| {
            silent.map(|((mix, came), (expected, _))| {
                format!("{mix}: no {came:?}, of {}", expected / 1_000_000)
            })
        })
    }

    fn hours(&self) -> f64 {
        self.micros as f64 / 3.6e9
    }

    fn per_second(&self) -> f64 {
        self.decided as f64 / self.computed.max(1e-9)
    }

    fn json(&self) -> String {
        let (hours, rate) = (self.hours(), self.per_second());
        let Self { runs, decided, grants, violations, vacuous, .. } = self;
        format!(
            "{{\"hours\":{hours:.2},\"runs\":{runs},\"commands\":{decided},\"grants\":{grants},\"violations\":{violations},\"vacuous\":{vacuous},\"commands_per_s\":{rate:.0}}}"
        )
    }
}

fn soak(arguments: &Arguments) -> ExitCode {
    let (began, computed_before) = (real_now(), computed());
    let runs_max = arguments.runs.unwrap_or(if arguments.hours.is_some() { u64::MAX } else { 1 });
    let mut sums = Sums::default();
    let mut seed = arguments.seed;
    while sums.runs < runs_max && arguments.hours.is_none_or(|hours| sums.hours() < hours) {
        let setup = arguments.setup(seed);
        let ended = run(setup);
        sums.add(&ended);
        sums.computed = computed() - computed_before;
        if ended.violation.is_some() || ended.vacuous.is_some() {
            print_end(&run_with_trail(setup));
            if arguments.json {
                println!("{}", sums.json());
            }
            return ExitCode::FAILURE;
        }
        if !arguments.quiet {
            let (mix, seconds, stats) = (setup.mix.name, ended.micros / 1_000_000, &ended.stats);
            println!(
                "seed {seed} {mix}: {seconds} s, {} decided, {} records ({} void), {} grants ({} believed), {} epochs, {} sessions ended, {} suspended, writes {:?}",
                stats.decided,
                stats.records,
                stats.void,
                stats.grants,
                stats.believed,
                stats.epochs,
                stats.expired,
                stats.suspended,
                stats.writes
            );
            if runs_max == 1 {
                println!("faults {:?}\nnoise {:?}", stats.faults, stats.noise);
            }
        }
        seed += 1;
    }
    if let Some(missing) = sums.missing() {
        println!("vacuous: {missing}");
        sums.vacuous += 1;
    }
    let seconds = began.elapsed().as_secs_f64();
    let Sums { runs, grants, records, decided, computed, .. } = sums;
    let word = if sums.vacuous == 0 { "clean" } else { "vacuous" };
    println!(
        "{word}: {:.2} simulated hours, {runs} runs (seeds {} to {}), {grants} grants, {records} records, {decided} commands decided, {:.0} a second of one core; {computed:.1} s of it, in {seconds:.1} s",
        sums.hours(),
        arguments.seed,
        seed - 1,
        sums.per_second(),
    );
    if arguments.json {
        println!("{}", sums.json());
    }
    if sums.vacuous > 0 {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn print_end(ended: &Run) {
    for line in &ended.trail {
        println!("{line}");
    }
    let (seed, mix) = (ended.setup.seed, ended.setup.mix.name);
    let seconds = ended.micros as f64 / 1e6;
    if let Some(violation) = &ended.violation {
        println!(
            "\nseed {seed} {mix}: after {seconds:.6} s {} is broken: {}",
            violation.invariant, violation.what
        );
    }
    if let Some(vacuous) = &ended.vacuous {
        println!("\nseed {seed} {mix}: vacuous: {vacuous}; {:?}", ended.stats);
    }
    println!("again: simulate --seed {seed} --mix {mix}");
}

/// What became of a planted rule.
#[derive(Clone, Debug)]
pub struct Caught {
    /// In which run.
    pub setup: Setup,
    /// At which simulated time.
    pub micros: u64,
    /// By which invariant.
    pub invariant: &'static str,
    /// What it said.
    pub what: String,
}

/// Plants a row's rule in one run after the other, in the mixes that are likely to show it.
pub fn look_for(row: &Row, first_seed: u64, runs_max: u64) -> Option<Caught> {
    (0..runs_max).find_map(|i| {
        let name = row.mixes[(i % row.mixes.len() as u64) as usize];
        let mix = mix::named(name).unwrap_or_else(|| panic!("no mix {name}"));
        let setup = Setup { seed: first_seed + i, mix, plant: Some(row.plant) };
        let ended = run(setup);
        let micros = ended.micros;
        ended.violation.map(|broken| Caught { setup, micros, invariant: broken.invariant, what: broken.what })
    })
}

/// `all`, a row's number, or the first and last of several.
fn is_wanted(row: &Row, wanted: &str) -> bool {
    match wanted.split_once('-') {
        Some((first, last)) => {
            first.parse().is_ok_and(|first: u32| first <= row.number)
                && last.parse().is_ok_and(|last: u32| row.number <= last)
        }
        None => wanted == "all" || row.number.to_string() == wanted,
    }
}

fn plant(arguments: &Arguments) -> ExitCode {
    let wanted = arguments.planted.as_deref().unwrap_or("all");
    let rows: Vec<&Row> = ROWS.iter().filter(|row| is_wanted(row, wanted)).collect();
    println!("| row | the tempting rule | where | mix | seed | simulated s | caught by | what |");
    println!("|---|---|---|---|---|---|---|---|");
    let (mut missed, began) = (0, real_now());
    for row in &rows {
        let place = match row.plant {
            Plant::Arbiter(_) => "arbiter",
            Plant::Client(_) => "client core",
            Plant::Around(_) => "around",
        };
        let (number, rule) = (row.number, row.rule);
        let mut named = **row;
        let only = arguments.mix.as_deref().and_then(mix::named).map(|mix| [mix.name]);
        if let Some(only) = only {
            named.mixes = Vec::leak(only.to_vec());
        }
        match look_for(&named, arguments.seed, arguments.budget) {
            Some(caught) => {
                let (mix, seed) = (caught.setup.mix.name, caught.setup.seed);
                let (seconds, by, what) = (caught.micros as f64 / 1e6, caught.invariant, caught.what);
                println!("| {number} | {rule} | {place} | {mix} | {seed} | {seconds:.3} | {by} | {what} |");
                if rows.len() == 1 && !arguments.quiet {
                    print_end(&run_with_trail(caught.setup));
                }
            }
            None => {
                missed += 1;
                println!("| {number} | {rule} | {place} | | | | NOT CAUGHT in {} runs | |", arguments.budget);
            }
        }
    }
    let (planted, caught, seconds) = (rows.len(), rows.len() - missed, began.elapsed().as_secs_f64());
    println!("\n{planted} planted, {caught} caught, in {seconds:.1} s");
    if arguments.json {
        println!("{{\"rows\":{planted},\"caught\":{caught}}}");
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
