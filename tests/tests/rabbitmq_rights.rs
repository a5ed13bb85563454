//! What the users of `deploy/rabbitmq/definitions.json` can do at a real broker, and what they cannot.

use arbiterq::log::stream::{From, StreamReader};
use arbiterq_client::broker::{BrokerError, BrokerUrl, Message, Publisher};
use arbiterq_client::{Client, Outcome};
use arbiterq_tests::PATIENCE;
use arbiterq_tests::binary::{Ended, Running, Served, arbiter_says, command, run};
use arbiterq_tests::rabbitmq::Broker;
use arbiterq_tests::shipped::{FOLDER, PASSWORD, at, init, prepared};
use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, ExchangeBindOptions, ExchangeDeclareOptions, ExchangeDeleteOptions,
    QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ExchangeKind};
use serde_json::Value;
use tokio::time::timeout;

/// It did what it was asked.
fn clean(ended: Ended) -> Ended {
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    ended
}

/// A user's connection, on which everything is tried.
struct Tries {
    user: &'static str,
    connection: Connection,
}

/// Something that a user may not.
type Tried<'a> = (&'a str, Result<(), BrokerError>);

impl Tries {
    async fn connect(broker: &Broker, user: &'static str) -> Self {
        let url: BrokerUrl = at(broker, user, PASSWORD).parse().unwrap();
        Self { user, connection: url.connect("tries").await.unwrap() }
    }

    async fn channel(&self) -> Channel {
        self.connection.create_channel().await.unwrap()
    }

    /// It is the broker that says no, and it says it of rights.
    fn refused(&self, (what, tried): Tried<'_>) {
        let Err(BrokerError::Failed(error)) = tried else { panic!("{} {what}: {tried:?}", self.user) };
        let lapin::ErrorKind::ProtocolError(said) = error.kind() else { panic!("{what}: {error}") };
        assert_eq!(said.kind(), &AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED), "{what}: {error}");
    }

    /// Neither consumed nor got.
    async fn cannot_read(&self, queue: &str) {
        let channel = self.channel().await;
        let consumed = channel.basic_consume(
            queue.into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        self.refused((queue, BrokerError::limited(consumed).await.map(drop)));
        let channel = self.channel().await;
        let got = channel.basic_get(queue.into(), BasicGetOptions::default());
        self.refused((queue, BrokerError::limited(got).await.map(drop)));
        let purged = self.channel().await;
        let purged = purged.queue_purge(queue.into(), QueuePurgeOptions::default());
        self.refused((queue, BrokerError::limited(purged).await.map(drop)));
    }

    /// Neither declared nor deleted.
    async fn cannot_configure(&self, queue: &str) {
        let channel = self.channel().await;
        let declared =
            channel.queue_declare(queue.into(), QueueDeclareOptions::durable(), FieldTable::default());
        self.refused((queue, BrokerError::limited(declared).await.map(drop)));
        let channel = self.channel().await;
        let deleted = channel.queue_delete(queue.into(), QueueDeleteOptions::default());
        self.refused((queue, BrokerError::limited(deleted).await.map(drop)));
    }

    async fn publishes(&self, exchange: &str, key: &str) -> Result<(), BrokerError> {
        let mut publisher = Publisher::on(self.channel().await).await.unwrap();
        let (body, properties) = (b"{}".to_vec(), BasicProperties::default());
        publisher.publish(Message { exchange, key, mandatory: true, body, properties });
        publisher.next().await.map(|published| assert!(published.taken))
    }

    async fn cannot_publish(&self, exchange: &str, key: &str) {
        self.refused((key, self.publishes(exchange, key).await));
    }
}

/// Reply queues of a user, as the broker lists them.
fn reply_queues(broker: &Broker, user: &str) -> Vec<String> {
    let listed = broker.ctl(&["list_queues", "-p", "arbiter", "--no-table-headers", "name"]);
    let of_user = listed.lines().map(str::trim).filter(|name| name.starts_with(&format!("client.{user}.")));
    of_user.map(str::to_owned).collect()
}

#[test]
fn the_definitions_hold_users_and_their_rights_and_no_password() {
    let text = std::fs::read_to_string(format!("{FOLDER}definitions.json")).unwrap();
    let definitions: Value = serde_json::from_str(&text).unwrap();
    let keys: Vec<_> = definitions.as_object().unwrap().keys().collect();
    // Of exchanges and queues `broker init` alone says what they are.
    assert_eq!(keys, ["permissions", "users", "vhosts"]);
    for user in definitions["users"].as_array().unwrap() {
        assert_eq!(
            (&user["password_hash"], &user["tags"]),
            (&Value::from(""), &Value::from(Vec::<Value>::new()))
        );
        assert!(user.get("password").is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shipped_users_can_do_their_work() {
    let broker = prepared().await;
    // What an administrator declares is what was imported: else it would be refused.
    broker.ctl(&["set_permissions", "-p", "arbiter", "guest", ".*", ".*", ".*"]);
    clean(Running::start(&mut init(&broker)).ended().await);
    let folder = tempfile::tempdir().unwrap();
    let mut serve = command();
    serve.env("ARBITER__PARTITIONS", "2");
    let served = Served::start_with(serve, folder.path(), &at(&broker, "arbiter", PASSWORD)).await;

    let ran = run(&at(&broker, "app", PASSWORD), &["db/migrate"], "echo ran").ended().await;
    assert_eq!(clean(ran).out.trim(), "ran");
    let alice = Client::connect(&at(&broker, "alice", PASSWORD)).await.unwrap();
    // As many names as are in both partitions.
    for name in ["a", "b", "c", "d"] {
        let grant = alice.acquire(name).await.unwrap();
        assert_eq!(grant.release().await.unwrap(), Outcome::Released);
    }
    alice.close().await;
    // What nobody can read is buried.
    let app = Tries::connect(&broker, "app").await;
    app.publishes("arbiter.requests", "0").await.unwrap();
    let buried = async {
        let listed =
            || broker.ctl(&["list_queues", "-p", "arbiter", "--no-table-headers", "name", "messages"]);
        while !listed().lines().any(|line| line.split_whitespace().eq(["arbiter.dead", "1"])) {
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        }
    };
    timeout(PATIENCE, buried).await.expect("it is buried");

    let auditor = at(&broker, "auditor", PASSWORD);
    let verified = clean(arbiter_says(&auditor, &["audit", "verify", &auditor]).await);
    assert_eq!(verified.out.matches("no two grants overlap").count(), 2, "{}", verified.out);
    for principal in ["app", "alice"] {
        let copy = folder.path().join("copy");
        clean(arbiter_says(&auditor, &["audit", "export", &auditor, "--to", copy.to_str().unwrap()]).await);
        let logs = ["0", "1"].map(|part| arbiterq_tests::log_lines(&copy.join(part)).concat());
        let is_there = |log: &Vec<u8>| String::from_utf8_lossy(log).contains(&format!("\"{principal}\""));
        assert!(logs.iter().any(is_there), "{principal}");
    }
    // A client is no auditor.
    let app = at(&broker, "app", PASSWORD);
    let refused = arbiter_says(&app, &["audit", "verify", &app]).await;
    assert_eq!(refused.code, Some(69), "{}", refused.said);
    assert!(
        refused.said.contains("arbiter.grants.0") && !refused.said.contains(PASSWORD),
        "{}",
        refused.said
    );
    served.stop().await;

    // Checkpoints, as the arbiter writes and reads them.
    let arbiter = Tries::connect(&broker, "arbiter").await;
    arbiter.publishes("", "arbiter.checkpoints.0").await.unwrap();
    let channel = arbiter.channel().await;
    channel.basic_qos(1, Default::default()).await.unwrap();
    let mut arguments = FieldTable::default();
    arguments.insert("x-stream-offset".into(), AMQPValue::LongString("first".into()));
    let consumed =
        channel.basic_consume("arbiter.checkpoints.0".into(), "".into(), Default::default(), arguments);
    BrokerError::limited(consumed).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_reaches_the_request_exchange_and_its_own_queues_and_nothing_else() {
    let broker = prepared().await;
    let folder = tempfile::tempdir().unwrap();
    let mut serve = command();
    serve.env("ARBITER__PARTITIONS", "2");
    let served = Served::start_with(serve, folder.path(), &at(&broker, "arbiter", PASSWORD)).await;
    let alice = Client::connect(&at(&broker, "alice", PASSWORD)).await.unwrap();
    let held = alice.acquire("held").await.unwrap();
    let of_alice = reply_queues(&broker, "alice");
    assert_eq!(of_alice.len(), 1, "{of_alice:?}");

    let app = Tries::connect(&broker, "app").await;
    let arbiters = ["arbiter.requests.0", "arbiter.grants.0", "arbiter.checkpoints.0", "arbiter.dead"];
    for queue in arbiters.into_iter().chain([of_alice[0].as_str()]) {
        app.cannot_read(queue).await;
        app.cannot_configure(queue).await;
        // Through the default exchange every queue is within reach, of whom it lets.
        app.cannot_publish("", queue).await;
    }
    app.cannot_publish("arbiter.dead", "").await;
    app.cannot_publish("amq.direct", "0").await;
    // Names that are almost its own.
    for queue in ["client.alice.17", "client.app", "client.app.b.17", "client.app.", "client.apple.17", "app"]
    {
        app.cannot_configure(queue).await;
    }
    let channel = app.channel().await;
    let deleted = channel.exchange_delete("arbiter.requests".into(), ExchangeDeleteOptions::default());
    app.refused(("delete the exchange", BrokerError::limited(deleted).await));
    let channel = app.channel().await;
    let unbound = channel.queue_unbind(
        "arbiter.requests.0".into(),
        "arbiter.requests".into(),
        "0".into(),
        FieldTable::default(),
    );
    app.refused(("unbind the requests", BrokerError::limited(unbound).await));

    // Its own queues are no way around: neither do they get others' messages, nor do theirs go elsewhere.
    let own = || "client.app.17".into();
    let exclusive = QueueDeclareOptions { exclusive: true, ..Default::default() };
    let declared = app.channel().await;
    declared.queue_declare(own(), exclusive, FieldTable::default()).await.unwrap();
    for exchange in ["arbiter.requests", "arbiter.dead", "amq.direct"] {
        let channel = app.channel().await;
        let options = QueueBindOptions::default();
        let bound = channel.queue_bind(own(), exchange.into(), "0".into(), options, FieldTable::default());
        app.refused((exchange, BrokerError::limited(bound).await));
    }
    for exchange in ["", "arbiter.dead"] {
        let mut arguments = FieldTable::default();
        arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString(exchange.into()));
        arguments
            .insert("x-dead-letter-routing-key".into(), AMQPValue::LongString("arbiter.grants.0".into()));
        let channel = app.channel().await;
        let declared = channel.queue_declare("client.app.18".into(), exclusive, arguments);
        app.refused(("dead letters to elsewhere", BrokerError::limited(declared).await.map(drop)));
    }
    let mut arguments = FieldTable::default();
    arguments.insert("alternate-exchange".into(), AMQPValue::LongString("arbiter.dead".into()));
    let channel = app.channel().await;
    let options = ExchangeDeclareOptions::default();
    let declared = channel.exchange_declare("client.app.19".into(), ExchangeKind::Direct, options, arguments);
    app.refused(("an exchange to elsewhere", BrokerError::limited(declared).await));
    let channel = app.channel().await;
    channel
        .exchange_declare("client.app.20".into(), ExchangeKind::Fanout, options, FieldTable::default())
        .await
        .unwrap();
    for (to, from) in [("arbiter.dead", "client.app.20"), ("client.app.20", "arbiter.requests")] {
        let channel = app.channel().await;
        let options = ExchangeBindOptions::default();
        let bound = channel.exchange_bind(to.into(), from.into(), "0".into(), options, FieldTable::default());
        app.refused((to, BrokerError::limited(bound).await));
    }

    held.check().expect("nobody was disturbed");
    assert_eq!(held.release().await.unwrap(), Outcome::Released);
    alice.close().await;
    served.stop().await;
    let auditor = at(&broker, "auditor", PASSWORD);
    clean(arbiter_says(&auditor, &["audit", "verify", &auditor]).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_auditor_only_reads_and_not_even_the_arbiter_can_make_the_log_go_away() {
    let broker = prepared().await;
    let folder = tempfile::tempdir().unwrap();
    let mut serve = command();
    serve.env("ARBITER__PARTITIONS", "2");
    let served = Served::start_with(serve, folder.path(), &at(&broker, "arbiter", PASSWORD)).await;
    served.process.says("an epoch begins").await;
    served.stop().await;
    let records = async || {
        let url: BrokerUrl = at(&broker, "auditor", PASSWORD).parse().unwrap();
        let connection = url.connect("counts").await.unwrap();
        let mut reader = StreamReader::attach(&connection, 0, From::First).await.unwrap();
        let mut read = Vec::new();
        while let Ok(next) = timeout(std::time::Duration::from_secs(1), reader.next()).await {
            read.push(next.unwrap());
        }
        read
    };
    let before = records().await;
    assert!(!before.is_empty());

    let auditor = Tries::connect(&broker, "auditor").await;
    for queue in ["arbiter.requests.0", "arbiter.dead", "client.app.17"] {
        auditor.cannot_read(queue).await;
    }
    let all = [
        "arbiter.requests.0",
        "arbiter.grants.0",
        "arbiter.checkpoints.0",
        "arbiter.dead",
        "client.auditor.17",
    ];
    for queue in all {
        auditor.cannot_configure(queue).await;
        auditor.cannot_publish("", queue).await;
    }
    for exchange in ["arbiter.requests", "arbiter.dead", "amq.fanout"] {
        auditor.cannot_publish(exchange, "0").await;
    }

    let arbiter = Tries::connect(&broker, "arbiter").await;
    for queue in ["arbiter.dead", "client.app.17"] {
        arbiter.cannot_read(queue).await;
    }
    for queue in all.into_iter().chain(["arbiter.grants.7", "client.arbiter.17"]) {
        arbiter.cannot_configure(queue).await;
    }
    arbiter.cannot_publish("arbiter.requests", "0").await;
    for exchange in ["arbiter.requests", "arbiter.dead"] {
        let channel = arbiter.channel().await;
        let deleted = channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default());
        arbiter.refused((exchange, BrokerError::limited(deleted).await));
    }

    // Who may read a queue may purge it: of a stream the broker does not do it, for anybody.
    for user in ["auditor", "arbiter"] {
        let tries = Tries::connect(&broker, user).await;
        let purged = tries.channel().await;
        let purged = purged.queue_purge("arbiter.grants.0".into(), QueuePurgeOptions::default());
        assert!(BrokerError::limited(purged).await.is_err(), "{user}");
    }
    assert_eq!(records().await, before);
}
