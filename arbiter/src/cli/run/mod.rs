//! `run`: holds resources while a command runs, and no longer.
//!
//! ```text
//!   run ──── the client library: session, keep-alives, grant
//!    │  socket pair: session and key, the command, each new deadline, signals
//!    ▼
//!   guard ── starts the command in a process group of its own, kills the group at the deadline or at the end of
//!    │       the pipe, then closes the session
//!    ▼
//!   command
//! ```
//!
//! The session is opened without presence: the end of `run`'s connection must not free the resource before the
//! guard has killed the command.

mod child;
mod close;
mod control;
mod guard;
mod plan;
mod terminal;
mod wait;

pub(crate) use guard::main as guard_main;
pub(crate) use wait::{Waited, Wanted, label, partition_for};

use super::output::{Failure, Output, duration, exit, for_people};
use super::{Global, Outcome, alone};
use arbiterq_client::clock::Micros;
use arbiterq_client::wire::{Claim, LogId, OwnerRef, Reason, ResourceName, StatusWhat};
use arbiterq_client::{Belief, Client, Grant, LEASE_DEFAULT, Outcome as Given};
use child::{Child, Spawned};
use control::{Exit, FromGuard, ToGuard};
use serde_json::json;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use terminal::Terminal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// The word by which this program knows that it is the guard.
pub(crate) const GUARD: &str = "__guard";

/// Between TERM and KILL, unless asked otherwise; never more than a third of the lease.
const KILL_AFTER: Duration = Duration::from_secs(5);
/// How long giving back may take before it is left to the guard.
const GIVE_BACK: Duration = Duration::from_secs(3);

/// `run`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: the command's own, or 123 lost while it ran, 124 not granted; before it started 2 usage, \
                        69 no arbiter, 77 refused, 78 configuration, 126 not executable, 127 not found, 125 any other \
                        failure; 128+n signal n. Its process group is stopped with it, and what it leaves there in \
                        the background, a second after its end.\n\
                        The command gets ARBITER_RESOURCE, ARBITER_TOKEN, ARBITER_FLOOR (several: a line each), \
                        ARBITER_REQUEST and ARBITER_OWNER."
)]
pub(crate) struct Run {
    /// What to hold; several are granted all at once or not at all
    #[arg(required = true, value_name = "RESOURCE")]
    resources: Vec<String>,
    /// Beside other shared holders
    #[arg(long, conflicts_with = "permits")]
    shared: bool,
    /// So many permits of each resource's capacity
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    permits: Option<u32>,
    /// Wait at most so long, for example 90s or "1h 30m" [default: for ever]
    #[arg(long, value_name = "DUR", value_parser = duration, conflicts_with = "try_now")]
    wait: Option<Duration>,
    /// Do not wait
    #[arg(long = "try")]
    try_now: bool,
    /// Exit code if it is not granted
    #[arg(short = 'E', value_name = "CODE", default_value_t = exit::NOT_GRANTED)]
    not_granted: u8,
    /// Why, for people and for the record
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// How long the arbiter waits for word from us; the command is stopped before that
    #[arg(long, value_name = "DUR", value_parser = duration, default_value = "60s")]
    lease: Duration,
    /// Over RabbitMQ: be given up so soon after nobody is found at our end, and not only when the lease is over. The command
    /// is then stopped also when the broker is away for so long
    #[arg(long, value_name = "DUR", value_parser = duration)]
    fail_fast: Option<Duration>,
    /// From TERM to KILL when the command has to stop [default: 5s, at most a third of the lease]
    #[arg(long, value_name = "DUR", value_parser = duration)]
    kill_after: Option<Duration>,
    /// Add the grant's receipt to this file, a line of JSON, before the command starts: `audit verify --receipt` takes it
    #[arg(long, value_name = "FILE")]
    receipt: Option<PathBuf>,
    /// What to run
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

impl Run {
    pub(crate) fn run(self, global: &Global) -> Outcome {
        self.check()?;
        let resources = resource_names(&self.resources)?;
        // Before any thread is there: all have it then. Without it, taking the terminal back would stop us.
        terminal::block_background_stop();
        let held = alone(self.hold(global, &resources));
        // Under `run` our own failures have codes that no command has, as far as there are any.
        held.map_err(|failure| match failure.exit {
            exit::NOT_GRANTED => failure.exit(self.not_granted),
            exit::IO | exit::SOFTWARE => failure.exit(exit::RUN),
            _ => failure,
        })
    }

    fn check(&self) -> Result<(), Failure> {
        debug_assert_eq!(LEASE_DEFAULT, Duration::from_secs(60), "the default that --help shows");
        let third = self.fail_fast.map_or(self.lease, |fail_fast| self.lease.min(fail_fast)) / 3;
        match self.kill_after {
            Some(kill_after) if kill_after > third => {
                let (given, most) = (for_people(kill_after), for_people(third));
                Err(Failure::new("usage", exit::USAGE, format!("--kill-after {given} is longer than {most}"))
                    .part(
                        "why",
                        "the command has to be gone before its lease ends; a third of it is the limit",
                    )
                    .help("give a longer --lease or a shorter --kill-after"))
            }
            _ => Ok(()),
        }
    }

    async fn hold(&self, global: &Global, resources: &[ResourceName]) -> Outcome {
        let output = global.output();
        let mut signals = Signals::new()?;
        let url: arbiterq_client::Url = global.url().parse()?;
        let mut child = Child::guard()?;
        // Presence off: the guard, not the end of a connection, says when nothing acts under the grant any more.
        let mut builder = global.client().label(label()).lease(self.lease).presence(false);
        if let Some(fail_fast) = self.fail_fast {
            builder = builder.fail_fast(fail_fast);
        }
        let client = tokio::select! {
            client = builder.connect() => client?,
            number = signals.ending() => return Ok(by_signal(number)),
        };
        let partition = partition_for(&client, resources).await?;
        let (session, key, lease) = client.session(partition).await?;
        let lease = self.fail_fast.map_or(lease, |fail_fast| lease.min(fail_fast));
        // As it was given: with whatever the guard needs to be let in.
        let given = global.url().to_owned();
        #[cfg(feature = "rabbitmq")]
        let access = global.files.access();
        #[cfg(not(feature = "rabbitmq"))]
        let access = arbiterq_client::Access::default();
        let to_close = ToGuard::Session { url: given, access, partition, session, key, lease: micros(lease) };
        child.tell(&to_close).await?;

        let ticket = self.request(&client, partition, resources).await?.enqueue().await?;
        let wait = if self.try_now { Some(Duration::ZERO) } else { self.wait };
        let wanted = Wanted { resources, wait, output };
        let waited = wanted.wait(&client, partition, ticket, signals.ending()).await;
        let grant = match waited {
            Ok(Waited::Granted(grant)) => grant,
            Ok(Waited::Signalled(number)) => {
                leave(&client, child).await;
                return Ok(by_signal(number));
            }
            Err(failure) => {
                leave(&client, child).await;
                return Err(failure);
            }
        };
        let held = Held { run: self, resources, output, url: url.to_string(), grant: &grant, lease };
        let ended = held.command(&mut child, &mut signals).await;
        // What is not confirmed in time, the guard does: it closes the session at the end of the pipe.
        let given_back = timeout(GIVE_BACK, grant.release()).await;
        let given_back = given_back.ok().and_then(Result::ok);
        if given_back.is_some() {
            leave(&client, child).await;
        }
        held.outcome(ended?, given_back)
    }

    async fn request(
        &self,
        client: &Client,
        partition: u32,
        resources: &[ResourceName],
    ) -> Result<arbiterq_client::Acquire, Failure> {
        let claim = |resource: &ResourceName| match (self.shared, self.permits) {
            (true, _) => Claim::shared(resource.clone()),
            (_, Some(permits)) => Claim::permits(resource.clone(), permits),
            _ => Claim::exclusive(resource.clone()),
        };
        let mut claims = resources.iter().map(claim);
        let Some(first) = claims.next() else {
            return Err(Failure::new("usage", exit::USAGE, "no resource is named"));
        };
        let mut acquire = client.acquire(first).all_of(claims);
        if let Some(reason) = &self.reason {
            acquire = acquire.reason(reason);
        }
        if let Some(wait) = if self.try_now { Some(Duration::ZERO) } else { self.wait } {
            acquire = acquire.wait(wait);
        }
        if let Some(owner) = owner_around(client, partition).await? {
            acquire = acquire.owner(owner);
        }
        Ok(acquire)
    }
}

/// The owner of the `run` that this runs under, if that one's request is of the same log and partition: waiting for
/// what it holds would be waiting for oneself.
pub(crate) async fn owner_around(client: &Client, partition: u32) -> Result<Option<OwnerRef>, Failure> {
    let around = std::env::var(OWNER).ok().and_then(|text| read_owner(&text));
    let Some((log_id, _, owner)) = around.filter(|(_, of, _)| *of == partition) else { return Ok(None) };
    // A request of another log with the same numbers is nobody we know.
    let same = client.status(partition, StatusWhat::Summary).await?.genesis == log_id;
    Ok(same.then_some(owner))
}

const OWNER: &str = "ARBITER_OWNER";

/// `LOG:PARTITION:SESSION:SEQ`, all that tells one owner from any other.
fn read_owner(text: &str) -> Option<(LogId, u32, OwnerRef)> {
    let mut parts = text.split(':');
    let log_id = parts.next()?.parse().ok()?;
    let partition = parts.next()?.parse().ok()?;
    let owner = OwnerRef(parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    parts.next().is_none().then_some((log_id, partition, owner))
}

/// Checks names before anything is asked.
pub(crate) fn resource_names(names: &[String]) -> Result<Vec<ResourceName>, Failure> {
    let name = |name: &String| {
        ResourceName::new(name).map_err(|error| Failure::new("usage", exit::USAGE, error.to_string()))
    };
    names.iter().map(name).collect()
}

fn micros(duration: Duration) -> Micros {
    Micros::try_from(duration.as_micros()).unwrap_or(Micros::MAX)
}

fn by_signal(number: i32) -> ExitCode {
    ExitCode::from(u8::try_from(128 + number).unwrap_or(u8::MAX))
}

/// Closes the session and lets the guard go; if nobody hears that, it stays and goes on trying.
async fn leave(client: &Client, child: Child) {
    if client.close().await {
        child.dismiss().await;
    }
}

/// A grant, and the command that runs under it.
struct Held<'a> {
    run: &'a Run,
    resources: &'a [ResourceName],
    output: Output,
    url: String,
    grant: &'a Grant,
    /// What the arbiter gave, which may be less than was asked for.
    lease: Duration,
}

/// How the command ended.
struct Ended {
    exit: Exit,
    /// It was stopped because the grant was lost, for this reason.
    lost: Option<Reason>,
}

impl Held<'_> {
    /// Runs the command to its end.
    async fn command(&self, child: &mut Child, signals: &mut Signals) -> Result<Ended, Failure> {
        self.keep_receipt()?;
        let mut belief = self.grant.deadline();
        let now = *belief.borrow_and_update();
        self.grant.check().map_err(|lost| self.lost_before_start(lost.reason))?;
        let kill_after = self.kill_after();
        let start = ToGuard::Start {
            command: self.run.command.iter().map(|word| word.as_bytes().to_vec()).collect(),
            variables: self.variables(),
            deadline: now.until,
            lease: micros(self.lease),
            kill_after: micros(kill_after),
        };
        let group = match child.start(&start).await? {
            Spawned::Running(group) => group,
            Spawned::Late => return Err(self.lost_before_start(Reason::LeaseExpired)),
            Spawned::Failed { errno, message } => return Err(self.not_started(errno, &message)),
        };
        let mut terminal = Terminal::hand_over(group);
        let (mut lost, mut believed) = (None, true);
        // No way out before the loop's end: nothing may be given back before the group is dead.
        let ended = loop {
            tokio::select! {
                biased;
                report = child.report() => match report {
                    Some(FromGuard::Ended { exit, stopped }) => {
                        let reason = lost.unwrap_or(Reason::LeaseExpired);
                        break Ended { exit, lost: stopped.then_some(reason) };
                    }
                    Some(FromGuard::Lapse) => lost = lost.or(Some(Reason::LeaseExpired)),
                    Some(FromGuard::Suspended(_)) => {
                        if terminal.suspend() {
                            child.tell(&ToGuard::Signal(plan::SIGCONT)).await.ok();
                        }
                    }
                    Some(FromGuard::Started(_) | FromGuard::Failed { .. }) => {}
                    None => {
                        // The guard is gone, and with it all that would stop the command in time.
                        child::kill_group(group).await;
                        break Ended { exit: Exit::Signal(plan::SIGKILL), lost: Some(Reason::Unknown) };
                    }
                },
                changed = belief.changed(), if believed => {
                    believed = changed.is_ok();
                    let Belief { until, lost: now_lost } = *belief.borrow_and_update();
                    let message = match now_lost {
                        Some(reason) if lost.is_none() => stop_for(*lost.insert(reason)),
                        Some(_) => continue,
                        None => ToGuard::Deadline(until),
                    };
                    child.tell(&message).await.ok();
                }
                number = signals.next() => {
                    if number == plan::SIGCONT {
                        // Back in the foreground, perhaps.
                        terminal.give();
                    }
                    child.tell(&ToGuard::Signal(number)).await.ok();
                }
            }
        };
        terminal.take_back();
        Ok(ended)
    }

    fn keep_receipt(&self) -> Result<(), Failure> {
        let Some(path) = &self.run.receipt else { return Ok(()) };
        let line = format!("{}\n", self.grant.receipt());
        let file = OpenOptions::new().append(true).create(true).open(path);
        file.and_then(|mut file| file.write_all(line.as_bytes()).and_then(|()| file.sync_all())).map_err(
            |error| {
                let what = format!("cannot write the receipt to {}: {error}", path.display());
                Failure::new("receipt", exit::IO, what)
                    .part("done", "the grant is given back; the command was not started")
            },
        )
    }

    /// From TERM to KILL: a third of the lease at most, of the one that was given.
    fn kill_after(&self) -> Duration {
        let third = self.lease / 3;
        match self.run.kill_after {
            Some(asked) if asked > third => {
                let (lease, third) = (for_people(self.lease), for_people(third));
                let text = format!("the arbiter gave a lease of {lease}: KILL follows TERM after {third}");
                self.output.note(&text, &json!({"lease_ms": self.lease.as_millis(), "kill_after": third}));
                self.lease / 3
            }
            asked => asked.unwrap_or(KILL_AFTER).min(third),
        }
    }

    fn variables(&self) -> Vec<(String, String)> {
        let lines = |items: Vec<String>| items.join("\n");
        let grant = self.grant;
        // The request itself; by it the arbiter finds whom it was made for, as long as it is live.
        let OwnerRef(session, seq) = grant.owner();
        let receipt = grant.receipt();
        let owner = format!("{}:{}:{session}:{seq}", receipt.log_id, receipt.partition);
        let floors = grant.floors().iter().map(ToString::to_string).collect();
        let variables = [
            ("ARBITER_RESOURCE", lines(self.resources.iter().map(ToString::to_string).collect())),
            ("ARBITER_TOKEN", grant.token().to_string()),
            ("ARBITER_FLOOR", lines(floors)),
            ("ARBITER_REQUEST", format!("{session}:{seq}")),
            (OWNER, owner),
            // So that a nested `run` finds the same arbiter. A checked URL is shown without credentials.
            ("ARBITER_URL", self.url.clone()),
        ];
        variables.map(|(name, value)| (name.to_owned(), value)).into()
    }

    fn not_started(&self, errno: i32, message: &str) -> Failure {
        let program = self.run.command.first().map(|program| program.to_string_lossy().into_owned());
        let program = program.unwrap_or_default();
        let (code, exit) = match rustix::io::Errno::from_raw_os_error(errno) {
            rustix::io::Errno::NOENT => ("not-found", exit::NOT_FOUND),
            _ => ("not-executable", exit::NOT_EXECUTABLE),
        };
        Failure::new(code, exit, format!("cannot run {program}: {message}"))
            .part("done", "the grant has been given back")
    }

    fn lost_before_start(&self, reason: Reason) -> Failure {
        let names = self.names();
        Failure::new(
            "lost",
            exit::UNAVAILABLE,
            format!("{names} was lost before the command started: {reason}"),
        )
        .part("done", "the command was not started")
    }

    fn names(&self) -> String {
        self.resources.iter().map(ResourceName::as_str).collect::<Vec<_>>().join(", ")
    }

    /// What to exit with, and what to say.
    fn outcome(&self, ended: Ended, given_back: Option<Given>) -> Outcome {
        let names = self.names();
        if let Some(reason) = ended.lost {
            let why = match reason {
                Reason::LeaseExpired => "no word from the arbiter within the lease".to_owned(),
                Reason::Unknown => "the guard process was killed".to_owned(),
                reason => reason.to_string(),
            };
            return Err(Failure::new("lost", exit::LOST, format!("{names} was lost while the command ran"))
                .part("reason", why)
                .part("done", "the command and its process group were stopped")
                .help(format!("who has it now: `arbiter queue {names}`")));
        }
        if let Some(Given::AlreadyLost(reason)) = given_back {
            let text = format!("{names} was lost ({reason}) after the command had ended");
            self.output.note(&text, &json!({"lost_after_end": reason}));
        }
        Ok(match ended.exit {
            Exit::Code(code) => ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)),
            Exit::Signal(number) => by_signal(number),
        })
    }
}

/// Whether the command gets time to stop: not if another may hold by now.
fn stop_for(reason: Reason) -> ToGuard {
    let told_first = matches!(reason, Reason::Forced | Reason::HoldLimit | Reason::Policy);
    ToGuard::Stop { at_once: !told_first }
}

/// Whether we were started to outlive the terminal, as by `nohup`. What is ignored stays ignored in what we start, as
/// long as nobody registers for it.
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    // Signal 1 is the lowest bit.
    ignored & 1 != 0
}

/// Signals that are meant for the command.
struct Signals {
    received: mpsc::Receiver<i32>,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        let kinds = [
            SignalKind::hangup(),
            SignalKind::interrupt(),
            SignalKind::quit(),
            SignalKind::terminate(),
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
            SignalKind::window_change(),
            SignalKind::from_raw(plan::SIGCONT),
        ];
        let (sender, received) = mpsc::channel(16);
        for kind in kinds {
            if kind == SignalKind::hangup() && hangup_is_ignored() {
                continue;
            }
            let (mut stream, sender) = (signal(kind)?, sender.clone());
            tokio::spawn(async move {
                while stream.recv().await.is_some() && sender.send(kind.as_raw_value()).await.is_ok() {}
            });
        }
        Ok(Self { received })
    }

    /// The next one that asks us to end. Cancel safe.
    async fn ending(&mut self) -> i32 {
        let ending =
            [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::quit(), SignalKind::terminate()];
        loop {
            let number = self.next().await;
            if ending.iter().any(|kind| kind.as_raw_value() == number) {
                return number;
            }
        }
    }

    /// The next one. Never ends. Cancel safe.
    async fn next(&mut self) -> i32 {
        match self.received.recv().await {
            Some(number) => number,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_of_one_log_and_partition() {
        let log_id = "00112233445566778899aabbccddeeff";
        let read = read_owner(&format!("{log_id}:2:4790:3"));
        assert_eq!(read, Some((log_id.parse().unwrap(), 2, OwnerRef(4790, 3))));
        for text in ["", "4790:3", &format!("{log_id}:2:4790"), &format!("{log_id}:2:4790:3:1"), "x:2:4790:3"]
        {
            assert_eq!(read_owner(text), None, "{text}");
        }
    }
}
