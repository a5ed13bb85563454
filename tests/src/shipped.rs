//! A broker with the users that `deploy/rabbitmq/` ships.

use crate::binary::{Running, command};
use crate::rabbitmq::Broker;
use arbiterq_client::broker::BrokerUrl;

/// The folder whose files are imported as they are.
pub const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/rabbitmq/");
/// Every user's.
pub const PASSWORD: &str = "hunter2";

/// A broker as `deploy/rabbitmq/README.md` says, with two partitions.
///
/// # Panics
/// If that does not work as it says.
pub async fn prepared() -> Broker {
    let broker = Broker::start().await;
    let definitions = format!("{FOLDER}definitions.json");
    broker.ctl(&["import_definitions", &definitions]);
    let printed = Running::start(init(&broker).arg("--print")).ended().await;
    let topology = tempfile::NamedTempFile::new().unwrap();
    assert_eq!(printed.code, Some(0), "{}", printed.said);
    std::fs::write(topology.path(), printed.out).unwrap();
    broker.ctl(&["import_definitions", topology.path().to_str().unwrap()]);
    // Nobody gets in before an operator has set a password.
    for user in ["arbiter", "app", "auditor"] {
        for password in ["", user, "guest"] {
            let url: BrokerUrl = at(&broker, user, password).parse().unwrap();
            assert!(url.connect("nobody").await.is_err(), "{user}");
        }
        broker.ctl(&["change_password", user, PASSWORD]);
    }
    // Another client, by the README's own line.
    let readme = std::fs::read_to_string(format!("{FOLDER}README.md")).unwrap();
    let line = readme.lines().find_map(|line| line.strip_prefix("rabbitmqctl set_permissions "));
    let line = line.expect("it tells how").replace('\'', "");
    broker.ctl(&["add_user", "alice", PASSWORD]);
    broker.ctl(&["set_permissions"].into_iter().chain(line.split(' ')).collect::<Vec<_>>());
    broker
}

/// Where a user connects.
pub fn at(broker: &Broker, user: &str, password: &str) -> String {
    broker.url_of(user, password).replace("/%2f", "/arbiter")
}

/// `arbiter broker init` as the broker's administrator.
pub fn init(broker: &Broker) -> tokio::process::Command {
    let mut init = command();
    init.env("ARBITER__PARTITIONS", "2").args(["--url", &at(broker, "guest", "guest"), "broker", "init"]);
    init
}
