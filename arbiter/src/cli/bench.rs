//! `bench`: acquire and release in a closed loop over the client library, as any program would.
//!
//! Each task takes its resource, gives it back, and does it again. What it measures is what a program waits for;
//! what it checks is that no two tasks believed at the same moment, and, where the log is at hand, that no two
//! grants overlapped in it. Beside it stands what nothing can be faster than, measured in the same run: one round
//! trip over loopback, and one sync where the log is.

#[cfg(feature = "rabbitmq")]
mod echo;

use super::audit::verify;
use super::folders::log_folders;
use super::output::{Failure, Output, Table, duration, exit, for_people};
use super::{Global, Outcome, together};
use arbiterq::clock::Clock;
use arbiterq::log::file::{SyncTimes, measure_sync};
use arbiterq_client::{Client, Grant};
use hdrhistogram::Histogram;
use serde_json::json;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// `bench`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Bench {
    #[cfg(feature = "rabbitmq")]
    #[command(subcommand)]
    of: Option<Of>,
    /// Tasks that acquire and release
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    clients: u32,
    /// Resources that they share [default: one each]
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    resources: Option<u32>,
    /// Connections, each with a session, that they are spread over
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1000))]
    connections: u32,
    /// For how long
    #[arg(long = "for", value_name = "DUR", value_parser = duration, default_value = "10s")]
    time: Duration,
    /// The arbiter's data folder: measures a sync there, and verifies the log at the end
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// What else is measured.
#[cfg(feature = "rabbitmq")]
#[derive(Debug, clap::Subcommand)]
enum Of {
    /// The bare broker: a message there and its answer back, nothing decided and nothing logged
    Echo(echo::Echo),
}

/// After a failure: from this, doubled, to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// How long after the end a task may still wait for its last answer.
const LAST_ANSWER: Duration = Duration::from_secs(10);
/// Round trips over loopback that are measured...
const ROUND_TRIPS: u32 = 2000;
/// ...of as many bytes as a reply has, or a request.
const ROUND_TRIP_BYTES: usize = 200;
/// Syncs that are measured.
const SYNCS: u32 = 200;
/// Microseconds; longer ones count as this.
const LATENCY_MAX: u64 = 600_000_000;

impl Bench {
    pub(crate) fn run(self, global: &Global) -> Outcome {
        #[cfg(feature = "rabbitmq")]
        if let Some(Of::Echo(echo)) = self.of {
            return echo.run(global);
        }
        let output = global.output();
        let measured = together(self.measure(global))?;
        let limits = Limits {
            round_trip: round_trip(ROUND_TRIPS)
                .map_err(|error| Failure::new("io", exit::IO, error.to_string()))?,
            sync: self.data.as_deref().map(syncs).transpose()?,
        };
        let verified = self.data.as_deref().map(verify_all).transpose()?;
        self.report(output, &measured, limits, verified)?;
        if measured.overlaps > 0 {
            let what = format!("{} times two tasks held one resource", measured.overlaps);
            return Err(Failure::new("overlap", exit::NO, what));
        }
        if measured.release.is_empty() {
            let what = format!("not one cycle was finished in {}", for_people(measured.elapsed));
            return Err(Failure::new("no_cycle", exit::NO, what));
        }
        Ok(ExitCode::SUCCESS)
    }

    fn resources(&self) -> u32 {
        self.resources.unwrap_or(self.clients)
    }

    async fn measure(&self, global: &Global) -> Result<Measured, Failure> {
        let output = global.output();
        let mut clients = Vec::new();
        for number in 0..self.connections.min(self.clients) {
            let label = format!("bench:{}:{number}", std::process::id());
            clients.push(global.client().label(label).connect().await?);
        }
        let slots: Arc<[Slot]> = (0..self.resources()).map(|_| Slot::default()).collect();
        let shared =
            Arc::new(Shared { slots, overlaps: AtomicU64::new(0), failing: AtomicBool::new(false), output });
        let began = Instant::now();
        let until = began + self.time;
        let mut tasks = JoinSet::new();
        for number in 0..self.clients {
            let client = clients[number as usize % clients.len()].clone();
            let slot = (number % self.resources()) as usize;
            tasks.spawn(task(client, slot, Arc::clone(&shared), until));
        }
        let mut measured = Measured::new();
        while let Some(task) = tasks.join_next().await {
            let task = task.map_err(|error| Failure::new("defect", exit::SOFTWARE, error.to_string()))?;
            measured.add(&task);
        }
        // Tasks end with their last answer, shortly after the time is up.
        measured.elapsed = began.elapsed();
        measured.overlaps = shared.overlaps.load(Ordering::Relaxed);
        let mut unheard = 0;
        for client in clients {
            unheard += u32::from(!client.close().await);
        }
        if unheard > 0 {
            let text = "nobody has heard that it is over: what it holds is given back when its leases end";
            output.note(text, &json!({"unheard": unheard}));
        }
        Ok(measured)
    }

    fn report(
        &self,
        output: Output,
        measured: &Measured,
        limits: Limits,
        verified: Option<Verified>,
    ) -> Result<(), Failure> {
        let us = |histogram: &Histogram<u64>, quantile| histogram.value_at_quantile(quantile);
        let (acquire, release) = (&measured.acquire, &measured.release);
        let per_s = measured.acquire.len() as f64 / measured.elapsed.as_secs_f64();
        let mut object = json!({
            "clients": self.clients,
            "resources": self.resources(),
            "connections": self.connections.min(self.clients),
            "seconds": (measured.elapsed.as_secs_f64() * 1000.0).round() / 1000.0,
            "cycles": acquire.len(),
            "cycles_per_s": (per_s * 10.0).round() / 10.0,
            "acquire_p50_us": us(acquire, 0.5),
            "acquire_p99_us": us(acquire, 0.99),
            "acquire_max_us": acquire.max(),
            "release_p50_us": us(release, 0.5),
            "release_p99_us": us(release, 0.99),
            "release_max_us": release.max(),
            "overlaps": measured.overlaps,
            "lost": measured.lost,
            "errors": measured.errors,
            "round_trip_p50_us": us(&limits.round_trip, 0.5),
            "round_trip_p99_us": us(&limits.round_trip, 0.99),
        });
        if let Some(syncs) = limits.sync {
            object["fdatasync_p50_us"] = json!(syncs.p50.as_micros());
            object["fdatasync_p99_us"] = json!(syncs.p99.as_micros());
        }
        if let Some(verified) = &verified {
            object["verified_records"] = json!(verified.records);
            object["verified_grants"] = json!(verified.grants);
        }
        if output.json {
            return Ok(output.line(&object.to_string())?);
        }
        let mut table = Table::new(&["", ">P50", ">P99", ">MAX"]);
        for (name, histogram) in [("acquire", acquire), ("release", release)] {
            let shown = |us| for_people_us(us);
            let (p50, p99) = (us(histogram, 0.5), us(histogram, 0.99));
            table.row(vec![name.into(), shown(p50), shown(p99), shown(histogram.max())]);
        }
        let shown = |quantile| for_people_us(us(&limits.round_trip, quantile));
        let max = for_people_us(limits.round_trip.max());
        table.row(vec!["round trip, loopback".into(), shown(0.5), shown(0.99), max]);
        if let Some(syncs) = limits.sync {
            let shown = |time: Duration| for_people_us(time.as_micros().try_into().unwrap_or(u64::MAX));
            table.row(vec!["fdatasync, 4 KiB".into(), shown(syncs.p50), shown(syncs.p99), "-".into()]);
        }
        output.line(&format!(
            "{} cycles in {}: {per_s:.0} a second, {} tasks on {} resources over {} connections",
            acquire.len(),
            for_people(measured.elapsed),
            self.clients,
            self.resources(),
            self.connections.min(self.clients),
        ))?;
        output.line(&table.text(super::output::colour_out()))?;
        let (overlaps, lost, errors) = (measured.overlaps, measured.lost, measured.errors);
        output.line(&format!("overlaps {overlaps}, lost {lost}, errors {errors}"))?;
        if let Some(Verified { records, grants }) = verified {
            output.line(&format!(
                "verified from the log: no two of {grants} grants overlapped ({records} records)"
            ))?;
        }
        Ok(())
    }
}

/// What all tasks share.
struct Shared {
    slots: Arc<[Slot]>,
    overlaps: AtomicU64,
    /// The last thing that happened anywhere was a failure.
    failing: AtomicBool,
    output: Output,
}

/// The last grant on a resource.
#[derive(Default)]
struct Slot(Mutex<Option<Arc<Grant>>>);

impl Slot {
    /// Whether the holder before still believes, or the token does not rise: no two may hold, and tokens only rise.
    fn enter(&self, grant: &Arc<Grant>) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // What is lost by now was not held when it mattered.
        let before = last.replace(Arc::clone(grant));
        before.is_some_and(|before| before.token() >= grant.token() || before.check().is_ok())
            && !grant.is_lost()
    }
}

/// What one task, or all of them, measured.
struct Measured {
    acquire: Histogram<u64>,
    release: Histogram<u64>,
    errors: u64,
    lost: u64,
    overlaps: u64,
    elapsed: Duration,
}

impl Measured {
    fn new() -> Self {
        let (errors, lost, overlaps, elapsed) = (0, 0, 0, Duration::ZERO);
        Self { acquire: histogram(), release: histogram(), errors, lost, overlaps, elapsed }
    }

    fn add(&mut self, other: &Self) {
        // The same bounds everywhere: adding cannot fail.
        let _ = self.acquire.add(&other.acquire);
        let _ = self.release.add(&other.release);
        self.errors += other.errors;
        self.lost += other.lost;
    }
}

fn histogram() -> Histogram<u64> {
    let bounds = Histogram::new_with_bounds(1, LATENCY_MAX, 3);
    bounds.unwrap_or_else(|_| unreachable!("the bounds are constants"))
}

async fn task(client: Client, slot: usize, shared: Arc<Shared>, until: Instant) -> Measured {
    let mut measured = Measured::new();
    let resource = format!("bench/{slot}");
    let mut pause = PAUSE;
    while Instant::now() < until {
        let cycle = timeout(
            until - Instant::now() + LAST_ANSWER,
            cycle(&client, &resource, slot, &shared, &mut measured),
        );
        match cycle.await {
            Ok(Ok(())) => {
                pause = PAUSE;
                if shared.failing.swap(false, Ordering::Relaxed) {
                    shared.output.note("going on", &json!({"going_on": true}));
                }
            }
            failed => {
                measured.errors += 1;
                if let Ok(Err(error)) = failed
                    && !shared.failing.swap(true, Ordering::Relaxed)
                {
                    let text = format!("{error}; trying again");
                    shared.output.note(&text, &json!({"failing": error.to_string()}));
                }
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
    measured
}

async fn cycle(
    client: &Client,
    resource: &str,
    slot: usize,
    shared: &Shared,
    measured: &mut Measured,
) -> Result<(), arbiterq_client::Error> {
    let us = |since: Instant| u64::try_from(since.elapsed().as_micros()).unwrap_or(LATENCY_MAX);
    let asked = Instant::now();
    let grant = Arc::new(client.acquire(resource).await?);
    measured.acquire.saturating_record(us(asked));
    if shared.slots[slot].enter(&grant) {
        shared.overlaps.fetch_add(1, Ordering::Relaxed);
    }
    let given = Instant::now();
    match grant.release().await? {
        arbiterq_client::Outcome::Released => measured.release.saturating_record(us(given)),
        arbiterq_client::Outcome::AlreadyLost(_) => measured.lost += 1,
    }
    Ok(())
}

/// What no cycle can do without.
struct Limits {
    round_trip: Histogram<u64>,
    /// Where the log's folder is at hand.
    sync: Option<SyncTimes>,
}

/// What it costs to say something to another thread over loopback and to hear it back.
fn round_trip(samples: u32) -> io::Result<Histogram<u64>> {
    let clock = Clock::system();
    let mut times = histogram();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    client.set_nodelay(true)?;
    let (mut server, _) = listener.accept()?;
    server.set_nodelay(true)?;
    thread::scope(|scope| {
        let echo = scope.spawn(move || {
            let mut message = [0; ROUND_TRIP_BYTES];
            (0..samples).try_for_each(|_| {
                server.read_exact(&mut message)?;
                server.write_all(&message)
            })
        });
        let mut message = [b'x'; ROUND_TRIP_BYTES];
        for _ in 0..samples {
            let begun = clock.uptime();
            client.write_all(&message)?;
            client.read_exact(&mut message)?;
            let time = clock.uptime().saturating_sub(begun).as_micros();
            times.saturating_record(u64::try_from(time).unwrap_or(LATENCY_MAX));
        }
        echo.join().unwrap_or_else(|_| Err(io::Error::other("the echo panicked")))
    })?;
    Ok(times)
}

/// What a sync costs where the log is, in the same run.
fn syncs(data: &Path) -> Result<SyncTimes, Failure> {
    let clock = Clock::system();
    measure_sync(data, SYNCS, &|| clock.uptime()).map_err(|error| {
        Failure::new("io", exit::IO, error.to_string()).help("is --data the arbiter's folder?")
    })
}

struct Verified {
    records: u64,
    grants: u64,
}

fn verify_all(data: &Path) -> Result<Verified, Failure> {
    let mut sum = Verified { records: 0, grants: 0 };
    for folder in log_folders(data)? {
        let report = verify(&folder, &[])?;
        sum.records += report.records;
        sum.grants += report.grants;
    }
    Ok(sum)
}

fn for_people_us(us: u64) -> String {
    match us {
        0..1000 => format!("{us}µs"),
        1000..1_000_000 => format!("{:.2}ms", us as f64 / 1000.0),
        _ => for_people(Duration::from_micros(us)),
    }
}
