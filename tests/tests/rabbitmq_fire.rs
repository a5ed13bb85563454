//! A real RabbitMQ broker that is stopped while a command runs, is flooded by who lies to the arbiter, and has a crowd
//! waiting for one resource. `ARBITER_LONG=1` stops it as long as operators do, under the default lease; the other
//! long forms are beside their tests.

use arbiterq_client::broker::{BrokerUrl, Message, Publisher, close};
use arbiterq_client::{Client, Outcome, Ticket};
use arbiterq_tests::binary::{FAMILY, Running, Served, arbiter_says, family, is_alive, run};
use arbiterq_tests::fuzz::mutate::{Random, mutate};
use arbiterq_tests::hostile::{MEMORY_BYTES_MAX, hostile_lines, memory};
use arbiterq_tests::rabbitmq::Broker;
use arbiterq_tests::scene::{Load, all_is_clean, init, serve};
use arbiterq_tests::{PATIENCE, number};
use lapin::BasicProperties;
use lapin::options::{BasicGetOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Five commands that wait for one that holds.
struct Line {
    broker: Broker,
    url: String,
    folder: tempfile::TempDir,
    served: Served,
    /// What each command is started with.
    arguments: Vec<String>,
    wait: Vec<Running>,
}

/// How many wait, and how each hears it.
const WAIT: [&str; 5] = ["1st of 1", "2nd of 2", "3rd of 3", "4th of 4", "5th of 5"];

/// Whether times are those of operators, and not scaled down.
fn is_long() -> bool {
    std::env::var_os("ARBITER_LONG").is_some()
}

impl Line {
    /// The one that will hold, under this lease, if any is said.
    async fn start(lease: Option<Duration>, script: &str) -> (Self, Running) {
        let broker = Broker::start().await;
        let (url, folder) = (broker.url(), tempfile::tempdir().unwrap());
        init(&url).await;
        let served = serve(&folder, &url).await;
        let mut arguments = vec!["db/migrate".to_owned()];
        if let Some(lease) = lease {
            arguments.extend(["--lease".to_owned(), format!("{}ms", lease.as_millis())]);
        }
        let line = Self { broker, url, folder, served, arguments, wait: Vec::new() };
        let holds = line.run(script);
        (line, holds)
    }

    fn run(&self, script: &str) -> Running {
        let arguments: Vec<_> = self.arguments.iter().map(String::as_str).collect();
        run(&self.url, &arguments, script)
    }

    /// All that wait do so.
    async fn wait(&mut self) {
        for (number, place) in WAIT.into_iter().enumerate() {
            let waits = self.run(&format!("echo {number} >>{}", self.came().display()));
            waits.says(&format!("you are {place}")).await;
            self.wait.push(waits);
        }
    }

    fn came(&self) -> PathBuf {
        self.folder.path().join("came")
    }

    /// All that wait follow in their order, and the log says so, too.
    async fn ends(self) -> u64 {
        let came = self.came();
        for waits in self.wait {
            let ended = waits.ended().await;
            assert_eq!(ended.code, Some(0), "{}", ended.said);
        }
        assert_eq!(std::fs::read_to_string(came).unwrap(), "0\n1\n2\n3\n4\n", "their old order");
        self.served.stop().await;
        let report = all_is_clean(&self.url, self.folder.path()).await;
        assert_eq!(report.grants, 1 + WAIT.len() as u64, "each was granted once");
        report.epochs
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_goes_on_while_the_broker_is_stopped_for_less_than_a_lease() {
    // A command longer than its lease, so that it is renewed after the broker has come back.
    let (lease, runs_s, away) = match is_long() {
        true => (None, 90, Duration::from_secs(15)),
        false => (Some(Duration::from_secs(26)), 27, Duration::ZERO),
    };
    let script = format!("echo held; sleep {runs_s}; echo undisturbed");
    let (mut line, mut holds) = Line::start(lease, &script).await;
    assert_eq!(holds.line().await, "held");
    let held = Instant::now();
    line.wait().await;
    line.broker.stop().await;
    let stopped = Instant::now();
    sleep(away).await;
    line.broker.start_again().await;
    let away = stopped.elapsed();
    sleep_until(held + Duration::from_secs(runs_s)).await;
    assert_eq!(holds.line().await, "undisturbed");
    let ended = holds.ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    let epochs = line.ends().await;
    println!(
        "counts: the broker away for {away:.1?} of a command's {runs_s} s: it went on and exited with 0, five followed in \
         their order, {epochs} epochs"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_is_stopped_while_the_broker_is_away_for_three_leases_and_those_who_wait_keep_their_order()
{
    let lease = Duration::from_secs(if is_long() { 60 } else { 3 });
    let (mut line, mut holds) = Line::start((!is_long()).then_some(lease), FAMILY).await;
    let pids = family(&mut holds).await;
    line.wait().await;
    line.broker.kill_9();
    let killed = Instant::now();
    for pid in pids {
        gone_within(pid, lease).await;
    }
    let stopped = killed.elapsed();
    let ended = holds.ended().await;
    assert_eq!(ended.code, Some(123), "{}", ended.said);
    sleep_until(killed + lease * 3).await;
    assert!(line.wait.iter().all(|waits| is_alive(waits.pid())), "they wait on");
    line.broker.start_again().await;
    let away = killed.elapsed();
    // Whoever could not say that it has stopped is waited for, for a lease of the new epoch.
    let follows = async {
        while !line.came().exists() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(lease + PATIENCE, follows).await.expect("the first follows");
    let epochs = line.ends().await;
    println!(
        "counts: the broker away for {away:.1?}, a lease of {lease:?}: the command was stopped after {stopped:.1?}, five \
         followed in their order, {epochs} epochs"
    );
}

/// Waits until a process is gone, for so long.
async fn gone_within(pid: u32, time: Duration) {
    let gone = async {
        while is_alive(pid) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(time, gone).await.expect("its own clock told it");
}

/// What a hostile client says, and as whom.
struct Lie {
    body: Vec<u8>,
    properties: BasicProperties,
}

/// A user with the rights of a client, and no more.
const STRANGER: &str = "mallory";
const PASSWORD: &str = "of-a-test";

/// Who lies: the messages of others, and messages that nobody who behaves says.
struct Liar {
    url: BrokerUrl,
    /// As the broker took them from honest clients, with all that it said of them.
    heard: Arc<Vec<(Vec<u8>, BasicProperties)>>,
    lines: Vec<Vec<u8>>,
    random: Random,
}

impl Liar {
    fn lie(&mut self) -> Lie {
        let user = self.url.user();
        let (mut body, heard) = self.random.one_of(&self.heard).clone();
        let own = BasicProperties::default().with_user_id(user.into());
        let answered = own.clone().with_reply_to(format!("client.{user}.1").into());
        let nonce = format!("{:032x}", u128::from(self.random.next()));
        let properties = match self.random.below(8) {
            // Nobody vouches for it.
            0 => BasicProperties::default(),
            // Others are to be answered.
            1 => own.with_reply_to(heard.reply_to().clone().unwrap_or_default()),
            2 => own.with_reply_to("arbiter.requests.0".into()),
            3 => {
                let mut garbage = self.random.one_of(&self.lines).clone();
                mutate(&mut garbage, &body, &mut self.random);
                body = garbage;
                answered
            }
            4 => {
                body.resize(70_000, b' ');
                answered
            }
            // Once more, to the byte: by who said it, or by another.
            5 if heard.user_id().as_ref().is_some_and(|of| of.as_str() == user) => heard,
            5 => answered,
            6 => {
                body = format!(
                    r#"{{"v":1,"partition":0,"tick":{{"nonce":"{nonce}","at":"2099-01-01T00:00:00.000000Z"}}}}"#
                )
                .into();
                own
            }
            _ => {
                let session = self.random.below(40);
                body = format!(
                    r#"{{"v":1,"partition":0,"gone":{{"nonce":"{nonce}","session":{session},"n":1,"cause":"closed"}}}}"#
                )
                .into();
                own
            }
        };
        Lie { body, properties }
    }

    /// Lies as fast as the broker takes it, until it is told to stop. How often.
    async fn run(mut self, stop: Arc<AtomicBool>) -> u64 {
        let (mut said, mut under_way) = (0, 0);
        let connection = self.url.connect("liar").await.unwrap();
        let mut publisher = Publisher::on(connection.create_channel().await.unwrap()).await.unwrap();
        while !stop.load(Ordering::Relaxed) || under_way > 0 {
            if under_way < LIES_UNDER_WAY && !stop.load(Ordering::Relaxed) {
                let Lie { body, properties } = self.lie();
                let exchange = "arbiter.requests";
                publisher.publish(Message { exchange, key: "0", mandatory: true, body, properties });
                under_way += 1;
                continue;
            }
            said += u64::from(publisher.next().await.unwrap().taken);
            under_way -= 1;
        }
        said
    }
}

/// Lies of a connection that the broker has not confirmed.
const LIES_UNDER_WAY: usize = 64;

/// Says who it is not, again and again: the broker takes none of it. How often.
async fn says_another_name(url: BrokerUrl, stop: Arc<AtomicBool>) -> u64 {
    let mut said = 0;
    while !stop.load(Ordering::Relaxed) {
        // Another each time: the broker ends the channel, and one that is opened in its place may be told so instead.
        let connection = url.connect("liar").await.unwrap();
        let mut publisher = Publisher::on(connection.create_channel().await.unwrap()).await.unwrap();
        let (exchange, body) = ("arbiter.requests", b"{}".to_vec());
        let properties = BasicProperties::default().with_user_id("alice".into());
        publisher.publish(Message { exchange, key: "0", mandatory: true, body, properties });
        assert!(publisher.next().await.is_err(), "the broker does not take it");
        close(&connection).await;
        said += 1;
    }
    said
}

/// What goes to the request queue meanwhile, as it is.
async fn overheard(url: &BrokerUrl, time: Duration) -> Vec<(Vec<u8>, BasicProperties)> {
    let connection = url.connect("tap").await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
    let none = FieldTable::default;
    channel.queue_declare("tap".into(), options, none()).await.unwrap();
    let binding = QueueBindOptions::default();
    channel.queue_bind("tap".into(), "arbiter.requests".into(), "0".into(), binding, none()).await.unwrap();
    sleep(time).await;
    let mut heard = Vec::new();
    let options = BasicGetOptions { no_ack: true };
    while let Some(message) = channel.basic_get("tap".into(), options).await.unwrap() {
        heard.push((message.delivery.data, message.delivery.properties));
    }
    close(&connection).await;
    heard
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_lies_at_full_rate_is_refused_and_costs_nobody_a_grant() {
    const LIARS: u64 = 4;
    let time = Duration::from_secs(number("ARBITER_SECONDS", 4));
    let broker = Broker::start().await;
    broker.ctl(&["add_user", STRANGER, PASSWORD]);
    let own = format!("^client\\.{STRANGER}\\..*$");
    let writes = format!("^(arbiter\\.requests|client\\.{STRANGER}\\..*)$");
    broker.ctl(&["set_permissions", STRANGER, &own, &writes, &own]);
    let [honest, stranger]: [BrokerUrl; 2] =
        [broker.url(), broker.url_of(STRANGER, PASSWORD)].map(|url| url.parse().unwrap());
    let (url, folder) = (broker.url(), tempfile::tempdir().unwrap());
    init(&url).await;
    let served = serve(&folder, &url).await;
    let pid = served.process.pid();

    // Who behaves, and one of the liars, too, so that there is something of its own to say again.
    let client = Client::connect(&url).await.unwrap();
    let also_honest = Client::connect(&broker.url_of(STRANGER, PASSWORD)).await.unwrap();
    let tap = tokio::spawn(async move { (overheard(&honest, Duration::from_secs(3)).await, honest) });
    sleep(Duration::from_millis(500)).await;
    let load = Load::start(&url).await;
    let held = client.acquire("held").await.unwrap();
    let mut waits = also_honest.acquire("held").enqueue().await.unwrap();
    waits.next_position().await.unwrap();
    also_honest.acquire("own").await.unwrap().release().await.unwrap();
    let (heard, honest) = tap.await.unwrap();
    let by = |user: &str| {
        heard.iter().filter(|(_, said)| said.user_id().as_ref().is_some_and(|of| of.as_str() == user)).count()
    };
    assert!(by("guest") > 100 && by(STRANGER) > 2, "{} and {}", by("guest"), by(STRANGER));

    let before = load.cycles();
    sleep(time).await;
    let before = load.cycles() - before;
    let stop = Arc::new(AtomicBool::new(false));
    let memory = memory(pid, &stop);
    let (heard, during) = (Arc::new(heard), load.cycles());
    let liars: Vec<_> = (0..LIARS)
        .map(|seed| {
            let url = if seed % 2 == 0 { honest.clone() } else { stranger.clone() };
            let (heard, random) = (heard.clone(), Random::new(seed, 0));
            let liar = Liar { url, heard, lines: hostile_lines(), random };
            tokio::spawn(liar.run(stop.clone()))
        })
        .collect();
    let nameless = tokio::spawn(says_another_name(stranger.clone(), stop.clone()));
    sleep(time).await;
    let during = load.cycles() - during;
    stop.store(true, Ordering::Relaxed);
    let mut lies = 0;
    for liar in liars {
        lies += timeout(PATIENCE * 3, liar).await.expect("it stops").unwrap();
    }
    let nameless = timeout(PATIENCE, nameless).await.expect("it stops").unwrap();
    let behind = Instant::now();
    load.goes_on().await;
    let behind = behind.elapsed();
    let peak = memory.await.unwrap().into_iter().max().unwrap();

    held.check().expect("it is held");
    assert_eq!(held.release().await.unwrap(), Outcome::Released);
    let next = timeout(PATIENCE, waits.granted()).await.expect("it has its turn").unwrap();
    assert_eq!(next.release().await.unwrap(), Outcome::Released);
    client.close().await;
    also_honest.close().await;
    let (_, lost) = load.end().await;
    assert!(is_alive(pid) && !served.process.said().contains("panicked"), "{}", served.process.said());
    served.stop().await;
    let listed = broker.ctl(&["list_queues", "--no-table-headers", "name", "messages"]);
    let buried = listed.lines().find_map(|line| line.strip_prefix("arbiter.dead")).unwrap();
    let buried: u64 = buried.trim().parse().unwrap();
    let report = all_is_clean(&url, folder.path()).await;
    assert_eq!((report.epochs, lost), (1, 0), "no restart, and nothing lost");
    assert!(before > 0 && during > 0 && lies > 1000 && nameless > 0, "{before} {during} {lies} {nameless}");
    assert!((1..=10_000).contains(&buried), "{buried} messages that nobody could read");
    assert!(peak < MEMORY_BYTES_MAX, "{peak} bytes");
    println!(
        "counts: {time:?} of lies from {LIARS} connections: {lies} taken by the broker, {nameless} not, {buried} buried; \
         {before} honest cycles in as long before, {during} during, 20 more {behind:.1?} after; none lost; memory at \
         most {} MiB",
        peak >> 20
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_crowd_on_one_resource_all_are_served_in_their_order() {
    // As many requests of a session as the default settings let it have.
    const IN_FLIGHT_MAX: usize = 64;
    let waiters = usize::try_from(number("ARBITER_WAITERS", 5000)).unwrap();
    let broker = Broker::start().await;
    let (url, folder) = (broker.url(), tempfile::tempdir().unwrap());
    init(&url).await;
    let served = serve(&folder, &url).await;
    let gate = Client::connect(&url).await.unwrap();
    let held = gate.acquire("crowded").await.unwrap();

    let began = Instant::now();
    let came = Arc::new(Mutex::new(Vec::new()));
    let (mut clients, mut crowd) = (Vec::new(), Vec::new());
    for first in (0..waiters).step_by(IN_FLIGHT_MAX) {
        let client = Client::connect(&url).await.unwrap();
        let mut tickets = Vec::new();
        for number in first..waiters.min(first + IN_FLIGHT_MAX) {
            tickets.push((number, client.acquire("crowded").enqueue().await.unwrap()));
        }
        // The next session's come after these.
        tickets.last_mut().unwrap().1.next_position().await.unwrap();
        clients.push(client);
        crowd.extend(tickets);
    }
    let queueing = began.elapsed();
    let served_in_turn = |(number, ticket): (usize, Ticket)| {
        let came = came.clone();
        tokio::spawn(async move {
            let grant = ticket.granted().await.unwrap();
            came.lock().unwrap().push(number);
            assert_eq!(grant.release().await.unwrap(), Outcome::Released);
        })
    };
    let crowd: Vec<_> = crowd.into_iter().map(served_in_turn).collect();
    let began = Instant::now();
    assert_eq!(held.release().await.unwrap(), Outcome::Released);
    for waits in crowd {
        timeout(PATIENCE * 6, waits).await.expect("all are served").unwrap();
    }
    let draining = began.elapsed();
    assert!(came.lock().unwrap().iter().copied().eq(0..waiters), "nobody was overtaken");
    for client in clients.into_iter().chain([gate]) {
        client.close().await;
    }
    let echo = arbiter_says(&url, &["bench", "echo", "--for", "2s", "--json"]).await;
    assert_eq!(echo.code, Some(0), "{}", echo.said);
    let echo: Value = serde_json::from_str(echo.out.trim()).unwrap();
    let echo = Duration::from_micros(echo["p50_us"].as_u64().unwrap());
    served.stop().await;
    let report = all_is_clean(&url, folder.path()).await;
    assert_eq!(report.grants, 1 + waiters as u64);
    println!(
        "counts: {waiters} waiters on one resource over a broker, queued in {queueing:.2?}, all served in {draining:.2?}: \
         {:.2?} each, where a bare echo takes {echo:.2?}",
        draining / u32::try_from(waiters).unwrap()
    );
}
