//! What is checked at a RabbitMQ broker, as far as a client can see it.
//!
//! Nothing is declared that is not there already, nothing is consumed but streams, and nothing published that a queue
//! takes, except the question to an arbiter that consumes. What is asked for and is not there, or not allowed, the broker
//! notes in its log as an error of a channel.

use super::{Answered, Finding, LogSeen, Report, answer, clocks, newest};
use crate::cli::output::{Failure, exit, for_people};
use arbiterq::clock::Clock;
use arbiterq::log::chain::{ChainTip, Sealed};
use arbiterq::log::stream::{From, StreamReader, Void, entry_of};
use arbiterq::settings::Settings;
use arbiterq::transport::rabbitmq::{BrokerError, BrokerUrl, Compared, DeclareError, Topology};
use arbiterq_client::Url;
use arbiterq_client::broker::{CALL_LIMIT, Mailbox, Message, Publisher, Server, close};
use arbiterq_client::wire::rabbitmq::{DEAD_LETTERS, grants_stream, requests_queue};
use lapin::options::QueueDeclareOptions;
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, Queue};
use std::time::Duration;
use tokio::time::timeout;

/// The oldest version with all that is used: streams.
const VERSION_MIN: (u32, u32) = (3, 10);
/// At the end of a log nothing came for so long: that was the end.
const END_AFTER: Duration = Duration::from_millis(500);
/// The first message of a log that is not empty has come by then.
const FIRST_WITHIN: Duration = Duration::from_secs(2);
/// Messages read at the beginning of a log to find a record, and before its last one.
const MESSAGES_MAX: u64 = 256;
/// What waits is looked at again after this: it may be on its way.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

pub(super) async fn check(report: &mut Report, url: &BrokerUrl, settings: &Settings) -> Result<(), Failure> {
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
    let checked = checked(report, &connection, url, settings, clock).await;
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
) -> Result<(), Ended> {
    if topology(report, connection, settings).await? {
        permissions(report, connection, url).await?;
    } else {
        report.say(Finding::not_checked("permissions", "not all is there", "see topology"))?;
    }
    let consumed = requests(report, connection, settings.partitions).await?;
    let answered = match consumed {
        true => {
            let url = Url::RabbitMq(url.clone());
            // Somebody consumes: the broker was reached, and what should answer does not.
            answer(report, url, settings, clock, exit::NO).await?
        }
        false => {
            let why = "not every request queue is consumed: a question would stay in it";
            report.say(Finding::not_checked("answer", why, "start an arbiter: `arbiter serve`"))?;
            None
        }
    };
    let logs = logs(report, connection, settings, clock, answered.as_ref()).await?;
    let vhost = url.vhost();
    report.say(Finding::not_checked(
        "retention",
        "no argument cuts a log (see topology); policies are not visible to a client",
        format!("`rabbitmqctl -p {vhost} list_policies`: none with max-age or max-length-bytes may match arbiter.grants.*"),
    ))?;
    report.say(Finding::not_checked(
        "replication",
        "how many nodes have a copy is not visible to a client",
        format!("`rabbitmqctl cluster_status`, `rabbitmq-streams -p {vhost} stream_status arbiter.grants.0`: one copy is lost \
                 with its node"),
    ))?;
    report.say(clocks(newest(&logs), answered.map(|answered| answered.asked), clock.wall()))?;
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

/// Whether all that must be there is there, be it as it may.
async fn topology(report: &mut Report, connection: &Connection, settings: &Settings) -> Result<bool, Ended> {
    let partitions = settings.partitions;
    let compared = Topology::new(partitions, &settings.policy).compare(connection).await;
    let Compared { same, not_compared, problems } = compared.map_err(|error| Ended::Broker(error.into()))?;
    let is_ok = problems.is_empty() && not_compared.is_empty();
    let is_there = !problems.iter().any(|problem| matches!(problem, DeclareError::Missing { .. }));
    for problem in problems {
        report.say(Finding::failed("topology", problem.into()))?;
    }
    if !not_compared.is_empty() {
        let why = format!("types and arguments, as this user may not declare: {}", not_compared.join(", "));
        let help = "run this once as a user that may configure arbiter.*, or compare with `arbiter broker init --print`";
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
    Ok(is_there)
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

/// What an arbiter and a client do beside consuming requests and reading logs.
async fn permissions(report: &mut Report, connection: &Connection, url: &BrokerUrl) -> Result<(), Ended> {
    let user = url.user();
    let help = format!(
        "`rabbitmqctl list_user_permissions {user}`, `rabbitmqctl -p {} set_permissions {user} …`",
        url.vhost()
    );
    let mut refused = 0;
    // A reply queue, which goes with its connection; a request for a partition that nobody has comes back.
    let requests = async {
        let mut mailbox = Mailbox::open(url, "arbiter doctor").await.map_err(|error| error.to_string())?;
        mailbox.requests.publish(u32::MAX, Vec::new());
        let published = mailbox.requests.next().await.map_err(|error| error.to_string());
        close(&mailbox.connection).await;
        published.map(drop)
    };
    // Replies and records take the default exchange; to a queue that nobody has they come back.
    let replies = async {
        let channel = BrokerError::limited(connection.create_channel()).await?;
        let mut publisher = Publisher::on(channel).await?;
        let (key, properties) = ("arbiter.doctor.nobody", BasicProperties::default());
        publisher.publish(Message { exchange: "", key, mandatory: true, body: Vec::new(), properties });
        publisher.next().await.map(drop)
    };
    let tried = [
        ("a reply queue of its own, and requests", requests.await),
        ("replies and records", replies.await.map_err(|error: BrokerError| error.to_string())),
    ];
    for (what, done) in tried {
        if let Err(why) = done {
            refused += 1;
            let blocked = if connection.status().blocked() {
                "; it takes nothing now: an alarm of memory or disk, `rabbitmqctl status`"
            } else {
                ""
            };
            let found = format!("user {user} cannot have {what}: {why}{blocked}");
            report.say(Finding::wrong("permissions", found, help.clone()))?;
        }
    }
    if refused == 0 {
        let found = format!("user {user} may have a reply queue, and publish requests, replies and records");
        report.say(Finding::ok("permissions", found))?;
    }
    let why = "consuming arbiter.requests.*: whoever tries takes a place in the order of arbiters";
    Ok(report.say(Finding::not_checked("permissions", why, help))?)
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

/// Looks at the beginning and the end of every partition's log.
async fn logs(
    report: &mut Report,
    connection: &Connection,
    settings: &Settings,
    clock: Clock,
    answered: Option<&Answered>,
) -> Result<Vec<LogSeen>, Ended> {
    let mut logs = Vec::new();
    for number in 0..settings.partitions {
        let name = grants_stream(number);
        match log(connection, number).await {
            Ok((seen, adrift)) => {
                let status = answered.and_then(|answered| answered.statuses.get(number as usize));
                report.say(seen.judge(settings, clock.wall(), status))?;
                if let Some(finding) = adrift {
                    report.say(finding)?;
                }
                logs.push(seen);
            }
            Err(BrokerError::Failed(error)) if refusal(&error) == Some(AMQPSoftError::NOTFOUND) => {
                report.say(Finding::not_checked("log", format!("{name} is not there"), "see topology"))?;
            }
            Err(error) => {
                let help = "the user must be allowed to read arbiter.grants.*";
                report.say(Finding::wrong("log", format!("{name}: {error}"), help))?;
            }
        }
    }
    Ok(logs)
}

/// The first record of a log, and the newest; what of its end follows nothing that is there.
async fn log(connection: &Connection, number: u32) -> Result<(LogSeen, Option<Finding>), BrokerError> {
    let mut seen = LogSeen { name: grants_stream(number), number, first: None, newest: None };
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
    let mut last = StreamReader::attach(connection, number, From::Last).await?;
    let Ok(read) = timeout(CALL_LIMIT, last.next()).await else { return Err(BrokerError::NoAnswer) };
    let last = read?.0;
    let from = last.saturating_sub(MESSAGES_MAX);
    let mut reader = StreamReader::attach(connection, number, From::At(from)).await?;
    let (mut tip, mut void) = (None, Void::default());
    let mut at = None;
    // As much again may be written meanwhile; what comes after that is not the end that was there.
    for _ in 0..4 * MESSAGES_MAX {
        let limit = if at < Some(last) { CALL_LIMIT } else { END_AFTER };
        let Ok(read) = timeout(limit, reader.next()).await else { break };
        let (offset, bytes) = read?;
        at = Some(offset);
        let Ok(Some(records)) = entry_of(&bytes) else { continue };
        let Some(Sealed { record, .. }) = records.first() else { continue };
        let tip = tip.get_or_insert(ChainTip { next_index: record.index, hash: record.prev });
        void.take(tip, &records);
        let index = |sealed: &Sealed| sealed.record.index;
        let newer = records
            .into_iter()
            .next_back()
            .filter(|last| seen.newest.as_ref().map(index) < Some(index(last)));
        seen.newest = newer.or(seen.newest);
    }
    Ok((seen, adrift(number, &void, from == 0)))
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

    #[test]
    fn what_is_judged_by_numbers_alone() {
        let server = |product: &str, version: &str| Server {
            product: product.into(),
            version: version.into(),
            ..Server::default()
        };
        let url: BrokerUrl = "amqp://me:hunter2@host".parse().unwrap();
        let took = Duration::from_millis(3);
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
        ] {
            assert_eq!(finding.judged, judged, "{finding:?}");
            assert_eq!(finding.help.is_none(), judged == Judged::Ok, "{finding:?}");
            assert!(!finding.found.contains("hunter2"), "{finding:?}");
        }
    }
}
