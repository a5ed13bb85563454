//! What is checked at a RabbitMQ broker, as far as a client can see it.
//!
//! Nothing is declared that is not there already, nothing is consumed but streams, and nothing published that a queue
//! takes, except the question to an arbiter that consumes. What is asked for and is not there, or not allowed, the broker
//! notes in its log as an error of a channel.

mod rights;

pub(super) use self::rights::Role;

use self::rights::Rights;
use super::{Answered, Finding, LogSeen, Report, answer, clocks, newest};
use crate::cli::output::{Failure, exit, for_people};
use arbiterq::clock::Clock;
use arbiterq::log::chain::{ChainTip, Sealed};
use arbiterq::log::stream::checkpoint::Manifest;
use arbiterq::log::stream::{From, StreamReader, Void, entry_of};
use arbiterq::settings::Settings;
use arbiterq::transport::rabbitmq::{BrokerError, BrokerUrl, Compared, DeclareError, Topology};
use arbiterq_client::Url;
use arbiterq_client::broker::{CALL_LIMIT, Server, close};
use arbiterq_client::wire::Hash;
use arbiterq_client::wire::rabbitmq::{DEAD_LETTERS, checkpoints_stream, grants_stream, requests_queue};
use lapin::options::QueueDeclareOptions;
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::FieldTable;
use lapin::{Connection, Queue};
use serde::Deserialize;
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::timeout;

/// The oldest version with all that is used: streams.
const VERSION_MIN: (u32, u32) = (3, 10);
/// At the end of a log nothing came for so long: that was the end.
const END_AFTER: Duration = Duration::from_millis(500);
/// The first message of a stream that is not empty has come by then.
const FIRST_WITHIN: Duration = Duration::from_secs(2);
/// Messages read at the beginning of a stream to find a record, and before its last one.
const MESSAGES_MAX: u64 = 256;
/// What waits is looked at again after this: it may be on its way.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

pub(super) async fn check(
    report: &mut Report,
    url: &BrokerUrl,
    settings: &Settings,
    wanted: Option<Role>,
) -> Result<(), Failure> {
    let clock = Clock::system();
    let begun = clock.uptime();
    let connection = match url.connect("arbiter doctor").await {
        Ok(connection) => connection,
        Err(error) => return report.say(Finding::failed("broker", error.into()).exit(exit::UNAVAILABLE)),
    };
    report.say(reached(url, connection.configuration().heartbeat(), clock.uptime() - begun))?;
    report.say(match url.server().await {
        Ok(server) => version(&server),
        Err(error) => Finding::not_checked(
            "version",
            format!("the broker does not say: {error}"),
            "`rabbitmqctl version`",
        ),
    })?;
    let checked = checked(report, &connection, url, settings, clock, wanted).await;
    close(&connection).await;
    match checked {
        Ok(()) => Ok(()),
        Err(Ended::Broker(error)) => report.say(Finding::failed("broker", error).exit(exit::UNAVAILABLE)),
        Err(Ended::Output(failure)) => Err(failure),
    }
}

/// Why the checks end early.
enum Ended {
    /// The broker is gone, or does not answer.
    Broker(Failure),
    /// Nobody reads.
    Output(Failure),
}

impl std::convert::From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self::Output(failure)
    }
}

impl std::convert::From<BrokerError> for Ended {
    fn from(error: BrokerError) -> Self {
        Self::Broker(error.into())
    }
}

async fn checked(
    report: &mut Report,
    connection: &Connection,
    url: &BrokerUrl,
    settings: &Settings,
    clock: Clock,
    wanted: Option<Role>,
) -> Result<(), Ended> {
    let user = url.user();
    let rights = match topology(report, connection, user, settings).await? {
        Some(may_declare) => permissions(report, url, settings.partitions, may_declare, wanted).await?,
        None => {
            report.say(Finding::not_checked("permissions", "not all is there", "see topology"))?;
            None
        }
    };
    // What is not known is tried.
    let is_client = rights.is_none_or(|rights| rights.suffice_for(Role::Client));
    let consumed = requests(report, connection, settings.partitions).await?;
    let answered = match (consumed, is_client) {
        (true, true) => {
            let url = Url::RabbitMq(url.clone());
            // Somebody consumes: the broker was reached, and what should answer does not.
            answer(report, url, settings, clock, exit::NO).await?
        }
        (true, false) => {
            let why = format!("user {user} is no client, so it cannot ask");
            report.say(Finding::not_checked("answer", why, "run this again as a client"))?;
            None
        }
        (false, _) => {
            let why = "not every request queue is consumed: a question would stay in it";
            report.say(Finding::not_checked("answer", why, "start an arbiter: `arbiter serve`"))?;
            None
        }
    };
    let logs = logs(report, connection, settings, clock, answered.as_ref()).await?;
    let vhost = url.vhost();
    report.say(Finding::not_checked(
        "retention",
        "a log's arguments: see topology; policies, which can cut it, are not visible to a client",
        format!("`rabbitmqctl -p {vhost} list_policies`: none with max-age or max-length-bytes may match arbiter.grants.*"),
    ))?;
    report.say(Finding::not_checked(
        "replication",
        "how many nodes have a copy is not visible to a client",
        format!("`rabbitmqctl cluster_status`, `rabbitmq-streams -p {vhost} stream_status arbiter.grants.0`: one copy is lost \
                 with its node"),
    ))?;
    report.say(match logs.as_slice() {
        [] => Finding::not_checked("clock", "no log was read", "see log"),
        logs => clocks(newest(logs), answered.map(|answered| answered.asked), clock.wall()),
    })?;
    dead_letters(report, connection).await
}

fn reached(url: &BrokerUrl, heartbeat_s: u16, took: Duration) -> Finding {
    let tls = if url.to_string().starts_with("amqps:") { "TLS" } else { "no TLS" };
    let (user, vhost) = (url.user(), url.vhost());
    let found = format!(
        "{url}: user {user}, virtual host {vhost}, {tls}, heartbeat {heartbeat_s}s, connected in {}",
        for_people(took)
    );
    match heartbeat_s {
        0 => {
            let help = "an arbiter or a broker that hangs is not noticed without: ?heartbeat=5 in the URL";
            Finding::warning("broker", found, help)
        }
        _ => Finding::ok("broker", found),
    }
}

fn version(server: &Server) -> Finding {
    let Server { product, version, platform, cluster } = server;
    let found = format!("{product} {version} on {platform}, cluster {cluster}");
    if product != "RabbitMQ" {
        return Finding::warning(
            "version",
            found,
            "Arbiter is tested with RabbitMQ, and needs its quorum queues and streams",
        );
    }
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) if (major, minor) >= VERSION_MIN => Finding::ok("version", found),
        (Some(_), Some(_)) => {
            let (major, minor) = VERSION_MIN;
            let help = format!("wanted {major}.{minor} or later: upgrade the broker");
            Finding::wrong("version", format!("{found}: too old"), help)
        }
        _ => Finding::not_checked(
            "version",
            format!("{found}: this version cannot be read"),
            "`rabbitmqctl version`",
        ),
    }
}

/// Whether all that must be there is there, be it as it may. None if it is not; else whether the user may declare it.
async fn topology(
    report: &mut Report,
    connection: &Connection,
    user: &str,
    settings: &Settings,
) -> Result<Option<bool>, Ended> {
    let partitions = settings.partitions;
    let compared = Topology::new(partitions, &settings.policy).compare(connection).await;
    let Compared { same, not_compared, problems } = compared.map_err(|error| Ended::Broker(error.into()))?;
    let may_declare = not_compared.is_empty();
    let is_there = !problems.iter().any(|problem| matches!(problem, DeclareError::Missing { .. }));
    let is_ok = problems.is_empty() && may_declare;
    for problem in problems {
        report.say(Finding::failed("topology", problem.into()))?;
    }
    if let Some(first) = not_compared.first() {
        let why = format!(
            "{} are there: {first} and so on; types and arguments are not compared, which takes the right to declare: user \
             {user} may not, nor may the users of deploy/rabbitmq/, on purpose: who may declare may delete",
            not_compared.len()
        );
        let help =
            "`arbiter broker init` with an administrator's URL compares, and changes nothing that is there";
        report.say(Finding::not_checked("topology", why, help))?;
    }
    if is_ok {
        let found = format!("all {same} exchanges, queues and streams are there, with their arguments");
        report.say(Finding::ok("topology", found))?;
    }
    let next = grants_stream(partitions);
    if look(connection, &next).await?.is_some() {
        let found = format!("{next} is there, and `partitions` is {partitions}");
        let help = "set `partitions` to what the logs have; what is left of others can be deleted when nobody needs it";
        report.say(Finding::warning("topology", found, help))?;
    }
    Ok(is_there.then_some(may_declare))
}

/// A queue or stream, if it is there.
async fn look(connection: &Connection, name: &str) -> Result<Option<Queue>, BrokerError> {
    let channel = BrokerError::limited(connection.create_channel()).await?;
    let options = QueueDeclareOptions { passive: true, ..Default::default() };
    let declared = channel.queue_declare(name.into(), options, FieldTable::default());
    match BrokerError::limited(declared).await {
        Ok(queue) => Ok(Some(queue)),
        Err(BrokerError::Failed(error)) if refusal(&error) == Some(AMQPSoftError::NOTFOUND) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Why the broker has ended the channel, if it goes on itself.
fn refusal(error: &lapin::Error) -> Option<AMQPSoftError> {
    match error.kind() {
        lapin::ErrorKind::ProtocolError(said) => match said.kind() {
            AMQPErrorKind::Soft(soft) => Some(soft.clone()),
            AMQPErrorKind::Hard(_) => None,
        },
        _ => None,
    }
}

/// What the user is enough for. None if that could not be found out.
async fn permissions(
    report: &mut Report,
    url: &BrokerUrl,
    partitions: u32,
    may_declare: bool,
    wanted: Option<Role>,
) -> Result<Option<Rights>, Ended> {
    match Rights::find_out(url, partitions, may_declare).await {
        Ok(rights) => {
            report.say(rights.judge(wanted, url.vhost()))?;
            Ok(Some(rights))
        }
        Err(why) => {
            let found = format!("what user {} may is not known: {why}", url.user());
            report.say(Finding::wrong("permissions", found, "is the broker well? `rabbitmqctl status`"))?;
            Ok(None)
        }
    }
}

/// Whether every request queue is consumed.
async fn requests(report: &mut Report, connection: &Connection, partitions: u32) -> Result<bool, Ended> {
    let mut consumed = true;
    for name in (0..partitions).map(requests_queue) {
        let finding = match look(connection, &name).await? {
            Some(mut queue) => {
                consumed &= queue.consumer_count() > 0;
                let mut waiting = queue.message_count();
                if queue.consumer_count() > 0 && waiting > 0 {
                    tokio::time::sleep(LOOK_AGAIN).await;
                    if let Some(again) = look(connection, &name).await? {
                        queue = again;
                    }
                    waiting = waiting.min(queue.message_count());
                }
                consumers(&name, queue.consumer_count(), waiting)
            }
            None => {
                consumed = false;
                Finding::not_checked("requests", format!("{name} is not there"), "see topology")
            }
        };
        report.say(finding)?;
    }
    Ok(consumed)
}

fn consumers(name: &str, consumers: u32, waiting: u32) -> Finding {
    let waits =
        if waiting == 0 { "nothing waits".to_owned() } else { format!("waiting messages: {waiting}") };
    if consumers == 0 {
        let found = format!("{name}: nobody consumes, {waits}");
        return Finding::wrong("requests", found, "start an arbiter: `arbiter serve` with this URL");
    }
    // Of several, some versions count only the one whose turn it is.
    let found = format!("{name}: consumed, {waits}");
    match waiting {
        0 => Finding::ok("requests", found),
        _ => {
            let help = "it does not keep up, or hangs: see `answer`, and what it logs";
            Finding::warning("requests", found, help)
        }
    }
}

/// Looks at the beginning and the end of every partition's log, and at its newest checkpoint.
async fn logs(
    report: &mut Report,
    connection: &Connection,
    settings: &Settings,
    clock: Clock,
    answered: Option<&Answered>,
) -> Result<Vec<LogSeen>, Ended> {
    let mut logs = Vec::new();
    for number in 0..settings.partitions {
        // Before the log: the record of a checkpoint that is there is in the log.
        let checkpoint = newest_checkpoint(connection, number).await;
        let mut last = None;
        match log(connection, number).await {
            Ok((seen, adrift)) => {
                let status = answered.and_then(|answered| answered.statuses.get(number as usize));
                report.say(seen.judge(settings, clock.wall(), status))?;
                if let Some(finding) = adrift {
                    report.say(finding)?;
                }
                last = seen.newest.as_ref().map(|sealed| sealed.record.index);
                logs.push(seen);
            }
            Err(error) => {
                let help = "an arbiter and an auditor need it: run this again as one of them";
                report.say(unread("log", &grants_stream(number), error, help))?;
            }
        }
        report.say(match checkpoint {
            Ok(newest) => checkpoints(number, newest.as_ref(), last, settings.grant_log.checkpoint_records),
            Err(error) => {
                let help = "an arbiter needs it: run this again as one, or as an auditor";
                unread("checkpoints", &checkpoints_stream(number), error, help)
            }
        })?;
    }
    Ok(logs)
}

/// What is to be said of a stream that could not be read; `help` if this user may not.
fn unread(check: &'static str, name: &str, error: BrokerError, help: &str) -> Finding {
    let refused = match &error {
        BrokerError::Failed(error) => refusal(error),
        _ => None,
    };
    match refused {
        Some(AMQPSoftError::NOTFOUND) => {
            Finding::not_checked(check, format!("{name} is not there"), "see topology")
        }
        Some(AMQPSoftError::ACCESSREFUSED) => {
            Finding::not_checked(check, format!("{name}: this user may not read it"), help)
        }
        _ => {
            Finding::wrong(check, format!("{name}: {error}"), "is it well? `rabbitmq-streams stream_status`")
        }
    }
}

/// The first record of a log, and the newest; what of its end follows nothing that is there.
async fn log(connection: &Connection, number: u32) -> Result<(LogSeen, Option<Finding>), BrokerError> {
    let name = grants_stream(number);
    let mut seen = LogSeen { name: name.clone(), number, first: None, newest: None };
    let mut reader = StreamReader::attach(connection, number, From::First).await?;
    // Markers, and what nobody can read, may stand before it.
    for _ in 0..MESSAGES_MAX {
        let Ok(read) = timeout(FIRST_WITHIN, reader.next()).await else { break };
        if let Ok(Some(mut records)) = entry_of(&read?.1) {
            seen.first = Some(records.swap_remove(0));
            break;
        }
    }
    if seen.first.is_none() {
        return Ok((seen, None));
    }
    let last = near_end(connection, &name).await?.ok_or(BrokerError::NoAnswer)?;
    let from = last.saturating_sub(MESSAGES_MAX);
    let mut chains = Chains::default();
    read_to_end(connection, &name, from, last, |offset, bytes| {
        if let Ok(Some(records)) = entry_of(bytes) {
            chains.take(offset, &records);
        }
    })
    .await?;
    let Some(Chain { begins_at, before: mut tip, .. }) = chains.counting() else { return Ok((seen, None)) };
    let mut void = Void::default();
    read_to_end(connection, &name, begins_at, last, |_, bytes| {
        if let Ok(Some(mut records)) = entry_of(bytes)
            && void.take(&mut tip, &records)
        {
            seen.newest = records.pop();
        }
    })
    .await?;
    Ok((seen, adrift(number, &void, from == 0)))
}

/// The offset of what is near the end of a stream; none if there is nothing.
async fn near_end(connection: &Connection, name: &str) -> Result<Option<u64>, BrokerError> {
    let mut reader = StreamReader::of(connection, name.to_owned(), From::Last).await?;
    match timeout(FIRST_WITHIN, reader.next()).await {
        Ok(read) => Ok(Some(read?.0)),
        Err(_) => Ok(None),
    }
}

/// Reads a stream from an offset on to the end that was there when what is near it was at `last`.
async fn read_to_end(
    connection: &Connection,
    name: &str,
    from: u64,
    last: u64,
    mut take: impl FnMut(u64, &[u8]),
) -> Result<(), BrokerError> {
    let mut reader = StreamReader::of(connection, name.to_owned(), From::At(from)).await?;
    let mut at = None;
    // As much again may be written meanwhile; what comes after that is not the end that was there.
    for _ in 0..4 * MESSAGES_MAX {
        let limit = if at < Some(last) { CALL_LIMIT } else { END_AFTER };
        let Ok(read) = timeout(limit, reader.next()).await else { break };
        let (offset, bytes) = read?;
        at = Some(offset);
        take(offset, &bytes);
    }
    Ok(())
}

/// Entries that follow one another, of a log that was read from its middle on.
struct Chain {
    /// The offset of the first of them.
    begins_at: u64,
    /// What that one follows.
    before: ChainTip,
    tip: ChainTip,
    entries: u64,
}

/// The chains of a log that was read from its middle on. What was read first may be void: an arbiter that was replaced
/// wrote it, and what it follows was not read.
#[derive(Default)]
struct Chains {
    all: Vec<Chain>,
    /// What has been followed, or may be.
    known: HashSet<Hash>,
}

impl Chains {
    fn take(&mut self, offset: u64, records: &[Sealed]) {
        let Some(Sealed { record, .. }) = records.first() else { return };
        if let Some(chain) = self.all.iter_mut().find_map(|chain| chain.tip.extend(records).then_some(chain))
        {
            chain.entries += 1;
        } else if self.known.insert(record.prev) {
            // Whatever else follows a record that was followed already is void.
            let before = ChainTip { next_index: record.index, hash: record.prev };
            let mut tip = before;
            if tip.extend(records) {
                self.all.push(Chain { begins_at: offset, before, tip, entries: 1 });
            }
        }
        self.known.extend(records.iter().map(|sealed| sealed.hash));
    }

    /// The one that counts: a log's beginning, else the longest, as an arbiter that was replaced does not write for long.
    fn counting(self) -> Option<Chain> {
        let is_beginning = |chain: &Chain| chain.before == ChainTip::before(0);
        self.all.into_iter().max_by_key(|chain| (is_beginning(chain), chain.entries))
    }
}

/// What stands behind the parts of a checkpoint; other messages are none.
#[derive(Deserialize)]
struct Line {
    manifest: Manifest,
}

/// The newest checkpoint near the end of its stream.
async fn newest_checkpoint(connection: &Connection, number: u32) -> Result<Option<Manifest>, BrokerError> {
    let name = checkpoints_stream(number);
    let Some(last) = near_end(connection, &name).await? else { return Ok(None) };
    let mut newest = None;
    read_to_end(connection, &name, last.saturating_sub(MESSAGES_MAX), last, |_, bytes| {
        if let Ok(Line { manifest }) = serde_json::from_slice(bytes) {
            newest = Some(manifest);
        }
    })
    .await?;
    Ok(newest)
}

/// Judges the newest checkpoint by the index of the log's last record, if that was read.
fn checkpoints(number: u32, newest: Option<&Manifest>, last: Option<u64>, every: u64) -> Finding {
    let name = checkpoints_stream(number);
    let help = format!(
        "an arbiter writes one every `grant_log.checkpoint_records` ({every}): see what it logs; a start reads all that is behind \
         the newest"
    );
    match (newest, last) {
        (None, Some(last)) if last >= every => {
            let found =
                format!("{name}: none among the last {MESSAGES_MAX} messages, and the log has record {last}");
            Finding::warning("checkpoints", found, help)
        }
        (None, Some(_)) => {
            Finding::ok("checkpoints", format!("{name}: none yet, the log has fewer than {every} records"))
        }
        (None, None) => Finding::ok("checkpoints", format!("{name}: none yet")),
        (Some(Manifest { of, .. }), None) => {
            Finding::ok("checkpoints", format!("{name}: the newest is of record {of}"))
        }
        (Some(Manifest { of, index, .. }), Some(last)) if *index > last => {
            let found =
                format!("{name}: the newest is of record {of}, and its record {index} is not in the log");
            let help = "the log has lost its end, or is another one: no arbiter starts with it; put it back from a copy, \
                        as `audit export` makes it";
            Finding::wrong("checkpoints", found, help)
        }
        (Some(Manifest { of, .. }), Some(last)) => {
            let behind = last - of.min(&last);
            let found =
                format!("{name}: the newest is of record {of}, {behind} records behind the log's last");
            if behind > every.saturating_mul(2) {
                return Finding::warning("checkpoints", found, help);
            }
            Finding::ok("checkpoints", found)
        }
    }
}

/// What is wrong with the end of a log. Read from its middle on, what was read first may be void itself.
fn adrift(number: u32, void: &Void, is_whole: bool) -> Option<Finding> {
    let (name, entries) = (grants_stream(number), void.adrift());
    let found = format!("{name}: the last {entries} entries follow a record that is not there");
    let help = "`arbiter audit verify` with this URL reads all of it, and says where it breaks off";
    match (entries, is_whole) {
        (0, _) => None,
        (_, true) => Some(Finding::wrong("log", found, help)),
        (_, false) => Some(Finding::warning("log", found, help)),
    }
}

async fn dead_letters(report: &mut Report, connection: &Connection) -> Result<(), Ended> {
    let finding = match look(connection, DEAD_LETTERS).await? {
        None => Finding::not_checked("dead-letters", format!("{DEAD_LETTERS} is not there"), "see topology"),
        Some(queue) if queue.message_count() > 0 => {
            let found =
                format!("messages in {DEAD_LETTERS}, which no arbiter could read: {}", queue.message_count());
            let help = "a stranger, or a client of another version? the headers x-arbiter-user and x-arbiter-reason say; \
                        then `rabbitmqctl purge_queue arbiter.dead`";
            Finding::warning("dead-letters", found, help)
        }
        Some(_) => Finding::ok("dead-letters", format!("none in {DEAD_LETTERS}")),
    };
    Ok(report.say(finding)?)
}

#[cfg(test)]
mod tests {
    use super::super::Judged;
    use super::*;
    use arbiterq_client::wire::{LogId, Timestamp};

    #[test]
    fn what_is_judged_by_numbers_alone() {
        let server = |product: &str, version: &str| Server {
            product: product.into(),
            version: version.into(),
            ..Server::default()
        };
        let url: BrokerUrl = "amqp://me:hunter2@host".parse().unwrap();
        let took = Duration::from_millis(3);
        let none = Hash::default();
        let manifest =
            Manifest { of: 500, of_hash: none, of_at: 0, index: 501, hash: none, body_hash: none, parts: 1 };
        for (finding, judged) in [
            (version(&server("RabbitMQ", "3.10.8")), Judged::Ok),
            (version(&server("RabbitMQ", "4.1.0-rc.1")), Judged::Ok),
            (version(&server("RabbitMQ", "3.9.29")), Judged::Wrong),
            (version(&server("RabbitMQ", "")), Judged::NotChecked),
            (version(&server("LavinMQ", "2.0")), Judged::Warning),
            (reached(&url, 5, took), Judged::Ok),
            (reached(&url, 0, took), Judged::Warning),
            (consumers("q", 0, 0), Judged::Wrong),
            (consumers("q", 0, 7), Judged::Wrong),
            (consumers("q", 1, 0), Judged::Ok),
            (consumers("q", 2, 7), Judged::Warning),
            (checkpoints(0, None, None, 100), Judged::Ok),
            (checkpoints(0, None, Some(99), 100), Judged::Ok),
            (checkpoints(0, None, Some(100), 100), Judged::Warning),
            (checkpoints(0, Some(&manifest), None, 100), Judged::Ok),
            (checkpoints(0, Some(&manifest), Some(500), 100), Judged::Wrong),
            (checkpoints(0, Some(&manifest), Some(501), 100), Judged::Ok),
            (checkpoints(0, Some(&manifest), Some(700), 100), Judged::Ok),
            (checkpoints(0, Some(&manifest), Some(701), 100), Judged::Warning),
        ] {
            assert_eq!(finding.judged, judged, "{finding:?}");
            assert_eq!(finding.help.is_none(), judged == Judged::Ok, "{finding:?}");
            assert!(!finding.found.contains("hunter2"), "{finding:?}");
        }
    }

    /// An entry of one record, which says nothing.
    fn entry(tip: &mut ChainTip, at: u64) -> Vec<Sealed> {
        let mut record = arbiterq::serve::genesis(LogId([0; 16]), 0, 1, Timestamp::from_micros(at)).record;
        (record.index, record.prev, record.events) = (tip.next_index, tip.hash, Vec::new());
        let entry = vec![Sealed::new(record)];
        assert!(tip.extend(&entry));
        entry
    }

    #[test]
    fn a_chain_is_found_among_what_is_void() {
        let old = ChainTip { next_index: 90, hash: Hash([9; 32]) };
        let new = ChainTip { next_index: 50, hash: Hash([5; 32]) };
        let (mut replaced, mut counts) = (old, new);
        let mut log = vec![entry(&mut replaced, 0), entry(&mut counts, 1)];
        // Of two that follow the same the first counts, however many follow the other.
        let mut rival = counts;
        log.push(entry(&mut counts, 2));
        log.extend((3..9).map(|at| entry(&mut rival, at)));
        log.push(entry(&mut counts, 9));
        log.push(entry(&mut replaced, 10));
        let chain = |log: &[Vec<Sealed>]| {
            let mut chains = Chains::default();
            (0..).zip(log).for_each(|(offset, records)| chains.take(offset, records));
            chains.counting().map(|chain| (chain.begins_at, chain.before, chain.tip))
        };
        assert_eq!(chain(&log), Some((1, new, counts)));
        assert_eq!(chain(&[]), None);
        // A log's beginning counts, however much is behind a gap.
        let mut first = ChainTip::before(0);
        log.insert(1, entry(&mut first, 11));
        assert_eq!(chain(&log), Some((1, ChainTip::before(0), first)));
    }
}
