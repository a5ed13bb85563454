//! `doctor`: looks at everything that an arbiter needs, says what is wrong and what to do about it, and changes nothing.
//!
//! Each check is a line, said as soon as it is known: `ok`, `warning`, `wrong`, or `not checked` and why.
//!
//! | check | at a broker | directly |
//! |---|---|---|
//! | `settings` | they load, and the URL can be used | the same |
//! | `broker` | it lets us in; who we are there, TLS, heartbeat | |
//! | `version` | the product, its version, Erlang's | |
//! | `topology` | every exchange, queue and stream is there, with its type and arguments; nothing of other partitions | |
//! | `permissions` | for which roles the user's rights are enough: arbiter, client, auditor | |
//! | `requests` | somebody consumes each request queue, and nothing stays in it | |
//! | `data` | | the folder, whether it can be written, the room there |
//! | `answer` | an arbiter answers within three seconds, of this log, in as many partitions | the same |
//! | `log` | each begins with record 0 of this partition of so many; how it ends | the same, its mark, who has it |
//! | `checkpoints` | the newest, how far it is behind the log's end | |
//! | `retention`, `replication` | not visible to a client: what to ask the broker | |
//! | `sync` | | what a sync costs, if no arbiter has the log |
//! | `clock` | the newest record's time against this machine's | the same |
//! | `dead-letters` | nothing is buried | |
//!
//! A user is judged by what it is for: what only another role needs, and it may not, is no failure.
//!
//! Exits with 0 if nothing is wrong, 1 if something is, 69 if the broker (directly: the arbiter) cannot be reached, 78 if
//! the settings cannot be used.

#[cfg(feature = "rabbitmq")]
mod broker;
mod direct;

use super::config::Given;
use super::output::{Failure, Output, colour_out, exit, for_people};
use super::{Global, Outcome};
use arbiterq::clock::Clock;
use arbiterq::log::chain::Sealed;
use arbiterq::log::record::{Event, Genesis};
use arbiterq::settings::{Loaded, Settings};
use arbiterq_client::wire::{Status, StatusWhat, Timestamp};
use arbiterq_client::{Client, Url};
use serde_json::json;
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::timeout;

/// An arbiter that is there has answered by then.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// Clocks that differ by less are well.
const CLOCKS_DIFFER_MAX: Duration = Duration::from_secs(1);

/// `doctor`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exits with 0 if nothing is wrong, 1 if something is, 69 if the broker or the arbiter cannot be \
                        reached, 78 if the settings cannot be used."
)]
pub(crate) struct Doctor {
    #[command(flatten)]
    given: Given,
    /// At a broker: wrong if the user's rights are not enough for this [default: for any]
    #[cfg(feature = "rabbitmq")]
    #[arg(long = "as", value_name = "ROLE")]
    role: Option<broker::Role>,
}

impl Doctor {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let mut report = Report { output: global.output(), exit: 0 };
        let Loaded { settings, effective } = match self.given.load(global) {
            Ok(loaded) => loaded,
            Err(failure) => {
                report.say(Finding::failed("settings", failure).exit(exit::CONFIGURATION))?;
                return Ok(report.exit_code());
            }
        };
        let keys: &[&str] = match settings.listen {
            #[cfg(feature = "rabbitmq")]
            arbiterq::settings::Listen::RabbitMq(_) => &["url", "partitions"],
            _ => &["url", "partitions", "data"],
        };
        let said = effective.iter().filter(|effective| keys.contains(&effective.key));
        let said = said.map(|e| match e.value.as_str() {
            Some(text) => format!("{} {text} ({})", e.key, e.source),
            None => format!("{} {} ({})", e.key, e.value, e.source),
        });
        report.say(Finding::ok("settings", said.collect::<Vec<_>>().join(", ")))?;
        match &settings.listen {
            #[cfg(feature = "rabbitmq")]
            arbiterq::settings::Listen::RabbitMq(url) => {
                broker::check(&mut report, url, &settings, self.role).await?;
            }
            #[cfg(feature = "rabbitmq")]
            listen if self.role.is_some() => {
                return Err(Failure::new(
                    "usage",
                    exit::USAGE,
                    format!("--as is for a broker, not for {listen}"),
                ));
            }
            listen => direct::check(&mut report, &listen.to_string(), &settings).await?,
        }
        Ok(report.exit_code())
    }
}

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judged {
    Ok,
    Warning,
    Wrong,
    NotChecked,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    check: &'static str,
    judged: Judged,
    found: String,
    help: Option<String>,
    /// What the process exits with, if nothing worse is found.
    exit: u8,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, judged: Judged::Ok, found: found.into(), help: None, exit: 0 }
    }

    fn warning(check: &'static str, found: impl Into<String>, help: impl Into<String>) -> Self {
        Self { judged: Judged::Warning, help: Some(help.into()), ..Self::ok(check, found) }
    }

    fn not_checked(check: &'static str, why: impl Into<String>, help: impl Into<String>) -> Self {
        Self { judged: Judged::NotChecked, help: Some(help.into()), ..Self::ok(check, why) }
    }

    fn wrong(check: &'static str, found: impl Into<String>, help: impl Into<String>) -> Self {
        Self { judged: Judged::Wrong, help: Some(help.into()), exit: exit::NO, ..Self::ok(check, found) }
    }

    /// Wrong, as another command would say it.
    fn failed(check: &'static str, failure: Failure) -> Self {
        let (found, help) = failure.and_help();
        Self { help, exit: exit::NO, judged: Judged::Wrong, ..Self::ok(check, found) }
    }

    fn exit(self, exit: u8) -> Self {
        Self { exit, ..self }
    }
}

/// Says what is found, and knows the worst of it.
struct Report {
    output: Output,
    exit: u8,
}

impl Report {
    fn say(&mut self, finding: Finding) -> Result<(), Failure> {
        // The codes are in the order of how much could not even be looked at.
        self.exit = self.exit.max(finding.exit);
        let Finding { check, judged, found, help, .. } = finding;
        let (word, colour) = match judged {
            Judged::Ok => ("ok", "32"),
            Judged::Warning => ("warning", "33"),
            Judged::Wrong => ("wrong", "31"),
            Judged::NotChecked => ("not checked", "2"),
        };
        let mut object = json!({"check": check, "judged": word.replace(' ', "_"), "found": found});
        let word = format!("{word:<11}");
        let word = if colour_out() { format!("\x1b[{colour}m{word}\x1b[0m") } else { word };
        let mut text = format!("{word}  {check:<12}  {found}");
        if let Some(help) = help {
            text.push_str(&format!("\n{:13}help:         {help}", ""));
            object["help"] = help.into();
        }
        Ok(self.output.result(&text, &object)?)
    }

    fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit)
    }
}

/// What an arbiter has answered.
struct Answered {
    /// When it was asked.
    asked: Timestamp,
    statuses: Vec<Status>,
}

/// Asks the arbiter of every partition how it is. None if one does not answer.
async fn answer(
    report: &mut Report,
    url: Url,
    settings: &Settings,
    clock: Clock,
    silent: u8,
) -> Result<Option<Answered>, Failure> {
    let asked = clock.wall();
    let client = Client::at(url).label(super::run::label()).session(false).connect().await;
    let client = match client {
        Ok(client) => client,
        Err(error) => {
            report.say(unanswered(error, silent))?;
            return Ok(None);
        }
    };
    let mut statuses = Vec::new();
    for number in 0..settings.partitions {
        let begun = clock.uptime();
        let finding = match timeout(ANSWER_LIMIT, client.status(number, StatusWhat::Summary)).await {
            Ok(Ok(status)) => {
                let finding = answered(number, &status, settings.partitions, clock.uptime() - begun);
                statuses.push(status);
                finding
            }
            Ok(Err(error)) => unanswered(error, silent),
            Err(_) => {
                let found = format!(
                    "partition {number}: no arbiter has answered within {}",
                    for_people(ANSWER_LIMIT)
                );
                Finding::wrong(
                    "answer",
                    found,
                    "start one: `arbiter serve`; if it runs, look at what it logs",
                )
                .exit(silent)
            }
        };
        report.say(finding)?;
        // Of an arbiter with another number of partitions nothing more is to be known.
        if statuses.last().is_some_and(|status| status.partitions != settings.partitions) {
            break;
        }
    }
    client.close().await;
    let all = statuses.len() == settings.partitions as usize;
    Ok(all.then_some(Answered { asked, statuses }))
}

/// What is to be said of an error; `silent` is the code if nobody answers.
fn unanswered(error: arbiterq_client::Error, silent: u8) -> Finding {
    let failure = Failure::from(error);
    let code = if failure.exit == exit::UNAVAILABLE { silent } else { exit::NO };
    let finding = Finding::failed("answer", failure).exit(code);
    let help = || "start an arbiter: `arbiter serve`, or point elsewhere: --url, ARBITER_URL".to_owned();
    Finding { help: Some(finding.help.clone().unwrap_or_else(help)), ..finding }
}

fn answered(number: u32, status: &Status, partitions: u32, took: Duration) -> Finding {
    let Status { genesis, sessions, held, waiting, .. } = status;
    let found = format!(
        "partition {number}: answered in {}, {sessions} sessions, {held} held, {waiting} waiting",
        for_people(took)
    );
    if status.partitions != partitions {
        let found =
            format!("{found}; but `partitions` of log {genesis} is {}, here {partitions}", status.partitions);
        return Finding::wrong(
            "answer",
            found,
            "set `partitions` to what the log has, here as for `arbiter serve`",
        );
    }
    match &status.paused {
        Some(why) => {
            let help = "`arbiter resume --reason …` when that is over";
            Finding::warning("answer", format!("{found}; granting is paused: {why}"), help)
        }
        None => Finding::ok("answer", found),
    }
}

/// What a log is and how it ends.
#[derive(Debug)]
struct LogSeen {
    /// As it is called where it is.
    name: String,
    number: u32,
    first: Option<Sealed>,
    newest: Option<Sealed>,
}

impl LogSeen {
    /// Whether it is this partition of so many, from its beginning; what is said of it besides. `status` is the arbiter's
    /// answer, if there was one.
    fn judge(&self, settings: &Settings, now: Timestamp, status: Option<&Status>) -> Finding {
        let Self { name, number, .. } = self;
        let partitions = settings.partitions;
        let Some(first) = &self.first else {
            let help = "the first `arbiter serve` begins it; if there was one before, it is lost: find out how, and restore it";
            return Finding::warning("log", format!("{name}: there is no record"), help);
        };
        let Some(genesis) = genesis_of(first) else {
            let index = first.record.index;
            let found = format!("{name}: begins with record {index}: what was before it is gone");
            let help = "find what removes it: a policy with max-age or max-length-bytes? An arbiter goes on from a checkpoint, \
                        if there is one, until what follows that is gone, too. A log without its beginning cannot be verified \
                        at the broker: keep copies by `audit export --follow`";
            return Finding::wrong("log", found, help);
        };
        let mut found = format!(
            "{name}: log {}, partition {} of {}",
            genesis.log_id, genesis.partition, genesis.partitions
        );
        if let Some(Sealed { record, .. }) = &self.newest {
            let age = for_people(now.since(record.at));
            found.push_str(&format!(
                ", epoch {}, record {} is the last, {age} old",
                record.epoch, record.index
            ));
        }
        if (genesis.partition, genesis.partitions) != (*number, partitions) {
            let help = "a log keeps its number of partitions: set `partitions` to it, or name another log";
            return Finding::wrong(
                "log",
                format!("{found}; wanted partition {number} of {partitions}"),
                help,
            );
        }
        match status {
            Some(status) if status.genesis != genesis.log_id => {
                let found = format!("{found}; but the arbiter that answers is of log {}", status.genesis);
                Finding::wrong(
                    "log",
                    found,
                    "is it another one, with other settings? stop it, or look where it is",
                )
            }
            _ => Finding::ok("log", found),
        }
    }
}

fn genesis_of(sealed: &Sealed) -> Option<&Genesis> {
    match sealed.record.events.first() {
        Some(Event::Genesis(genesis)) => Some(genesis),
        _ => None,
    }
}

/// Judges clocks by the newest record: it was made after an arbiter was asked, if one has answered, and before now.
fn clocks(newest: Option<Timestamp>, asked: Option<Timestamp>, now: Timestamp) -> Finding {
    let help = "set both by NTP (`timedatectl`); leases count by the rate of clocks, so grants are safe, and only the times \
                in the log are odd";
    let Some(newest) = newest else {
        return Finding::not_checked("clock", "there is no record to compare with", "start an arbiter");
    };
    let (ahead, behind) = (newest.since(now), asked.map(|asked| asked.since(newest)));
    if ahead > CLOCKS_DIFFER_MAX {
        let found = format!("the newest record is {} in this machine's future", for_people(ahead));
        return Finding::warning("clock", found, help);
    }
    match behind {
        Some(behind) if behind > CLOCKS_DIFFER_MAX => {
            let found = format!("the arbiter's clock is {} behind this machine's", for_people(behind));
            Finding::warning("clock", found, help)
        }
        Some(_) => Finding::ok("clock", "the arbiter's and this machine's agree"),
        None => Finding::ok("clock", "the newest record is not in this machine's future"),
    }
}

/// The newest of the newest records.
fn newest(logs: &[LogSeen]) -> Option<Timestamp> {
    logs.iter().filter_map(|log| log.newest.as_ref()).map(|sealed| sealed.record.at).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arbiterq::serve::genesis;
    use arbiterq_client::wire::LogId;

    #[test]
    fn clocks_are_judged_by_what_bounds_them() {
        let at = |seconds: u64| Timestamp::from_micros(seconds * 1_000_000);
        for (newest, asked, judged, words) in [
            (None, None, Judged::NotChecked, "no record"),
            // An old record says nothing of its clock, unless it was made on demand.
            (Some(at(10)), None, Judged::Ok, "not in this machine's future"),
            (Some(at(101)), None, Judged::Ok, "not in this machine's future"),
            (Some(at(110)), None, Judged::Warning, "10s in this machine's future"),
            (Some(at(100)), Some(at(99)), Judged::Ok, "agree"),
            (Some(at(90)), Some(at(99)), Judged::Warning, "9s behind this machine's"),
            (Some(at(160)), Some(at(99)), Judged::Warning, "1m in this machine's future"),
        ] {
            let finding = clocks(newest, asked, at(100));
            assert_eq!(finding.judged, judged, "{finding:?}");
            assert!(finding.found.contains(words), "{finding:?}");
        }
    }

    #[test]
    fn a_log_is_judged_by_its_first_record() {
        let at = Timestamp::from_micros(0);
        let first = genesis(LogId([7; 16]), 1, 2, at);
        let mut later = first.clone();
        (later.record.index, later.record.events) = (5, Vec::new());
        for (first, number, partitions, judged) in [
            (None, 1, 2, Judged::Warning),
            (Some(first.clone()), 1, 2, Judged::Ok),
            (Some(first.clone()), 0, 2, Judged::Wrong),
            (Some(first), 1, 3, Judged::Wrong),
            (Some(later), 1, 2, Judged::Wrong),
        ] {
            let newest = first.clone();
            let settings = Settings { partitions, ..Settings::default() };
            let seen = LogSeen { name: "log".into(), number, first, newest };
            let finding = seen.judge(&settings, at, None);
            assert_eq!(finding.judged, judged, "{finding:?}");
            assert_eq!(finding.exit == 0, judged != Judged::Wrong, "{finding:?}");
        }
    }
}
