//! An arbiter for a test of the contract, on any transport.

use crate::rabbitmq::Broker;
use crate::verifiers::both_are_clean;
use crate::{Service, log_lines, serve_config, write_folder};
use arbiterq::audit::export::Export;
use arbiterq::log::record::{Policy, Rule};
use arbiterq::partition::PartitionConfig;
use arbiterq::serve::{Listen, ServeConfig};
use arbiterq::testing::{InProcess, in_process_with};
use arbiterq::transport::rabbitmq::{BrokerUrl, Topology};
use arbiterq_client::wire::{ResourceName, Status, StatusWhat};
use arbiterq_client::{Builder, Client};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// How clients reach the arbiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Channels, and a log in memory.
    InProcess,
    /// The direct transport over TCP, and a log in a folder.
    Tcp,
    /// The direct transport over a Unix socket, and a log in a folder.
    Unix,
    /// A RabbitMQ broker, and a log in a stream there.
    RabbitMq,
}

/// What an arbiter is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many partitions.
    pub partitions: u32,
    /// The rules by resource pattern.
    pub rules: Vec<Rule>,
}

impl Default for Options {
    fn default() -> Self {
        Self { partitions: 1, rules: Vec::new() }
    }
}

/// An arbiter, until it is [`verified`](Self::verified).
pub struct Arbiter {
    options: Options,
    /// The data folder and the socket are in it.
    _folder: TempDir,
    /// As it is started, again and again.
    config: ServeConfig,
    running: Running,
    /// The broker, if it is over one.
    broker: Option<(BrokerUrl, String)>,
    verified: bool,
}

enum Running {
    InProcess(InProcess),
    Service(Service),
    /// It is down.
    Not,
}

/// How often a condition is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

impl Arbiter {
    /// With one partition and the default policy.
    pub async fn start(transport: Transport) -> Self {
        Self::start_with(transport, Options::default()).await
    }

    /// With options.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start_with(transport: Transport, options: Options) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let partition = PartitionConfig {
            policy: Policy { rules: options.rules.clone(), ..Policy::default() },
            ..PartitionConfig::default()
        };
        let mut config = serve_config(&folder.path().join("data"));
        config.partitions = options.partitions;
        config.partition = partition.clone();
        config.listen = Listen::Tcp((own_loopback(), 0).into());
        if transport == Transport::Unix {
            config.listen = Listen::Unix(folder.path().join("socket"));
        }
        let mut broker = None;
        if transport == Transport::RabbitMq {
            let (url, text) = declared(&config).await;
            config.listen = Listen::RabbitMq(url.clone());
            broker = Some((url, text));
        }
        let running = match transport {
            Transport::InProcess => Running::InProcess(in_process_with(options.partitions, partition).await),
            Transport::Tcp | Transport::Unix | Transport::RabbitMq => {
                let service = Service::start(config.clone()).await.expect("it starts");
                // Where it is started again it has to be found again.
                if let Some(address) = service.url.strip_prefix("tcp://") {
                    config.listen = Listen::Tcp(address.parse().expect("its own address"));
                }
                Running::Service(service)
            }
        };
        Self { options, _folder: folder, config, running, broker, verified: false }
    }

    /// A client to be put together.
    pub fn builder(&self) -> Builder {
        match &self.running {
            Running::InProcess(arbiter) => Client::over(arbiter.connector()),
            Running::Service(service) => {
                // What the service says of a broker is without its password.
                Client::builder(self.broker.as_ref().map_or(&service.url, |(_, url)| url))
            }
            Running::Not => panic!("the arbiter is down"),
        }
    }

    /// A client.
    ///
    /// # Panics
    /// If it cannot connect.
    pub async fn client(&self) -> Client {
        self.builder().connect().await.expect("it connects")
    }

    /// A client with a name.
    ///
    /// # Panics
    /// If it cannot connect.
    pub async fn client_named(&self, label: &str) -> Client {
        self.builder().label(label).connect().await.expect("it connects")
    }

    /// A client whose session lives so long without word from it.
    ///
    /// # Panics
    /// If it cannot connect.
    pub async fn client_with_lease(&self, lease_ms: u64) -> Client {
        self.builder().lease(Duration::from_millis(lease_ms)).connect().await.expect("it connects")
    }

    /// A client that only looks and operates.
    ///
    /// # Panics
    /// If it cannot connect.
    pub async fn operator(&self) -> Client {
        self.builder().label("operator").session(false).connect().await.expect("it connects")
    }

    /// What the arbiter says of itself.
    ///
    /// # Panics
    /// If it does not answer.
    pub async fn summary(&self) -> Status {
        let status = self.operator().await.status(0, StatusWhat::Summary).await;
        status.expect("the arbiter answers")
    }

    /// Waits until what the arbiter says of itself is so.
    pub async fn until(&self, so: impl Fn(&Status) -> bool) -> Status {
        self.until_status(StatusWhat::Summary, so).await
    }

    /// Waits until nobody holds or waits for anything.
    pub async fn until_free(&self) {
        self.until(|status| status.held == 0 && status.waiting == 0).await;
    }

    /// Waits until what the arbiter says of its holders is so.
    pub async fn until_holders(&self, so: impl Fn(&Status) -> bool) -> Status {
        self.until_status(StatusWhat::Holders, so).await
    }

    async fn until_status(&self, what: StatusWhat, so: impl Fn(&Status) -> bool) -> Status {
        let operator = self.operator().await;
        loop {
            let status = operator.status(0, what.clone()).await.expect("the arbiter answers");
            if so(&status) {
                return status;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Cuts every connection. Clients connect again by themselves.
    pub async fn cut(&mut self) {
        match &self.running {
            Running::InProcess(arbiter) => arbiter.cut(),
            Running::Service(_) => {
                self.down().await;
                self.up().await;
            }
            Running::Not => panic!("the arbiter is down"),
        }
    }

    /// From here on nobody reaches it.
    ///
    /// # Panics
    /// If it cannot finish.
    pub async fn down(&mut self) {
        match std::mem::replace(&mut self.running, Running::Not) {
            Running::Service(service) => service.stop().await.expect("it finishes"),
            Running::InProcess(arbiter) => {
                arbiter.set_reachable(false);
                arbiter.cut();
                self.running = Running::InProcess(arbiter);
            }
            Running::Not => {}
        }
    }

    /// It can be reached again.
    ///
    /// # Panics
    /// If it does not start again.
    pub async fn up(&mut self) {
        match &self.running {
            Running::InProcess(arbiter) => arbiter.set_reachable(true),
            _ => {
                let service = Service::start(self.config.clone()).await.expect("it starts again");
                self.running = Running::Service(service);
            }
        }
    }

    /// Stops it, and has both verifiers read its logs. The lines of each partition's log.
    ///
    /// # Panics
    /// If a verifier finds anything.
    pub async fn verified(mut self) -> Vec<Vec<Vec<u8>>> {
        self.verified = true;
        match std::mem::replace(&mut self.running, Running::Not) {
            Running::Service(service) => {
                service.stop().await.expect("it finishes");
                if let Some((broker, _)) = &self.broker {
                    copy(broker, &self.config).await;
                }
            }
            Running::InProcess(arbiter) => {
                for number in 0..self.options.partitions {
                    write_folder(&self.config.data.join(number.to_string()), &arbiter.log(number));
                }
                arbiter.stop().await.expect("it finishes");
            }
            Running::Not => {}
        }
        let data = self.config.data.clone();
        let partitions = self.options.partitions;
        let verify = move || {
            both_are_clean(&data);
            (0..partitions).map(|number| log_lines(&data.join(number.to_string()))).collect()
        };
        tokio::task::spawn_blocking(verify).await.expect("the log is clean")
    }
}

/// A broker where everything is declared that the service needs, and its URL as clients are given it.
async fn declared(config: &ServeConfig) -> (BrokerUrl, String) {
    let text = Broker::shared().await;
    let url: BrokerUrl = text.parse().expect("a URL");
    let connection = url.connect("tests").await.expect("it is there");
    let topology = Topology::new(config.partitions, &config.partition.policy);
    topology.declare(&connection).await.expect("it is declared");
    (url, text)
}

/// The logs at a broker, copied to where those of other transports are.
async fn copy(broker: &BrokerUrl, config: &ServeConfig) {
    for number in 0..config.partitions {
        let folder = config.data.join(number.to_string());
        let mut export = Export::start(broker, number, &folder).await.expect("it can be read");
        export.to_the_end().await.expect("it can be copied");
        export.finish().await.expect("it can be written");
    }
}

impl Drop for Arbiter {
    fn drop(&mut self) {
        assert!(self.verified || std::thread::panicking(), "a test ends with verified()");
    }
}

/// An address of loopback that no other test listens on: where an arbiter is started again, its port must not
/// have been taken by somebody meanwhile. Systems other than Linux have only one.
fn own_loopback() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    if !cfg!(target_os = "linux") {
        return Ipv4Addr::LOCALHOST;
    }
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, high | 1, low, NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A resource's name.
///
/// # Panics
/// If it is none.
pub(super) fn resource(name: &str) -> ResourceName {
    ResourceName::new(name).expect("a name")
}
