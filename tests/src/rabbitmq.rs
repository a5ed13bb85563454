//! A RabbitMQ broker of a test's own: Debian's `rabbitmq-server` with a node name, ports and a data folder of its own.
//!
//! It listens on loopback only, unless it is told another address of this machine, and ends with the value.

use crate::PATIENCE;
use crate::at_end::AtEnd;
use rustix::process::{Pid, Signal, kill_process_group};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::time::{sleep, timeout};

/// Debian's scripts, without the wrapper that changes to another user.
const BIN: &str = "/usr/lib/rabbitmq/bin";

/// A node: a broker by itself, or one of a [`Cluster`].
pub struct Broker {
    home: Arc<Home>,
    listens_at: SocketAddrV4,
    /// The port for TLS; 0 if there is none.
    tls: u16,
    distribution: u16,
    process: Child,
    at_end: AtEnd,
}

/// Three nodes that are one broker.
pub struct Cluster {
    /// They.
    pub nodes: Vec<Broker>,
}

/// What nodes and their tools share: files, and the name server that they find each other by, which is started here, or
/// the first node would leave one behind.
struct Home {
    folder: TempDir,
    epmd_port: u16,
    epmd: Child,
    at_end: AtEnd,
}

/// Virtual hosts of the broker that tests share; each test takes one.
const VHOSTS: usize = 80;

impl Broker {
    /// Starts one and waits until it listens.
    ///
    /// # Panics
    /// If it does not.
    pub async fn start() -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST).await
    }

    /// As [`start`](Self::start), where another address of this machine is listened at.
    pub async fn start_at(address: Ipv4Addr) -> Self {
        let ([amqp, distribution], home) = (free_ports(), Arc::new(Home::new("", "")));
        let mut broker = Self::begin(home, SocketAddrV4::new(address, amqp), distribution);
        broker.listens().await;
        broker
    }

    /// Starts one that also listens for TLS: by `ca.pem`, `broker.pem` and `broker.key` in a folder, and with these further
    /// lines in its configuration. It takes users from certificates, by their common names.
    ///
    /// # Panics
    /// If it does not.
    pub async fn start_with_tls(files: &Path, further: &str) -> Self {
        let files = files.display();
        let [amqp, tls, distribution] = free_ports();
        let config = format!(
            "listeners.ssl.1 = 127.0.0.1:{tls}\nssl_options.cacertfile = {files}/ca.pem\n\
             ssl_options.certfile = {files}/broker.pem\nssl_options.keyfile = {files}/broker.key\n\
             ssl_options.verify = verify_peer\nssl_cert_login_from = common_name\n\
             auth_mechanisms.1 = PLAIN\nauth_mechanisms.2 = EXTERNAL\n{further}\n"
        );
        let home = Arc::new(Home::new("rabbitmq_auth_mechanism_ssl", &config));
        let mut broker = Self::begin(home, SocketAddrV4::new(Ipv4Addr::LOCALHOST, amqp), distribution);
        broker.tls = tls;
        broker.listens().await;
        broker
    }

    fn begin(home: Arc<Home>, listens_at: SocketAddrV4, distribution: u16) -> Self {
        let (process, at_end) = home.node(listens_at, distribution);
        Self { home, listens_at, tls: 0, distribution, process, at_end }
    }

    /// Kills it.
    ///
    /// What it keeps in tables of its own is written first: RabbitMQ 3.10 writes the register of its stream coordinator every
    /// three minutes only, and a node that is killed before that knows of no stream any more.
    pub fn kill_9(&mut self) {
        self.ctl(&["eval", "[dets:sync(Table) || Table <- dets:all()]."]);
        let group = Pid::from_child(&self.process);
        kill_process_group(group, Signal::KILL).expect("it runs");
        self.process.wait().expect("its status");
    }

    /// Stops it in order.
    pub async fn stop(&mut self) {
        self.ctl(&["stop"]);
        let ended = async {
            while self.process.try_wait().expect("it is ours").is_none() {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE * 3, ended).await.expect("it stops");
    }

    /// Starts it again after it was killed or stopped.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start_again(&mut self) {
        let (process, at_end) = self.home.node(self.listens_at, self.distribution);
        self.process = process;
        // Whom the one before would kill is gone, and another may have its number.
        std::mem::replace(&mut self.at_end, at_end).never();
        self.listens().await;
    }

    async fn listens(&mut self) {
        let listens = async {
            while TcpStream::connect(self.listens_at).await.is_err() {
                let ended = self.process.try_wait().expect("it is ours");
                assert!(ended.is_none(), "rabbitmq-server ended: {}", self.said());
                sleep(Duration::from_millis(50)).await;
            }
        };
        let listens = timeout(PATIENCE * 3, listens).await;
        assert!(listens.is_ok(), "rabbitmq-server does not listen: {}", self.said());
    }

    /// A virtual host of a broker that all tests of this process share. It ends with the process.
    ///
    /// # Panics
    /// If the broker does not start.
    pub async fn shared() -> String {
        static SHARED: OnceCell<Broker> = OnceCell::const_new();
        // Virtual hosts that were given out.
        static GIVEN: AtomicUsize = AtomicUsize::new(0);
        let start = async {
            let broker = Self::start().await;
            broker.ctl(&["eval", &format!(
                "[begin V = list_to_binary(integer_to_list(N)), rabbit_vhost:add(V, <<\"test\">>), \
                 rabbit_auth_backend_internal:set_permissions(<<\"guest\">>, V, <<\".*\">>, <<\".*\">>, <<\".*\">>, <<\"test\">>) \
                 end || N <- lists:seq(0, {VHOSTS})]."
            )]);
            broker
        };
        let broker = SHARED.get_or_init(|| start).await;
        let vhost = GIVEN.fetch_add(1, Ordering::Relaxed);
        assert!(vhost < VHOSTS, "more tests than virtual hosts");
        format!("amqp://guest:guest@{}/{vhost}", broker.listens_at)
    }

    /// Where clients connect, as the administrator.
    pub fn url(&self) -> String {
        self.url_of("guest", "guest")
    }

    /// Where a user connects.
    pub fn url_of(&self, user: &str, password: &str) -> String {
        format!("amqp://{user}:{password}@{}/%2f", self.listens_at)
    }

    /// Where a user connects by TLS: `who` is what stands before the `@` and the `@` itself, or nothing.
    pub fn tls_url(&self, who: &str, host: &str) -> String {
        format!("amqps://{who}{host}:{}/%2f", self.tls)
    }

    /// Runs `rabbitmqctl`; what it printed.
    ///
    /// # Panics
    /// If it fails.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let mut ctl = Command::new(format!("{BIN}/rabbitmqctl"));
        self.home.environment(&mut ctl, &self.name());
        let ended = ctl.arg("-q").args(arguments).stdin(Stdio::null()).output().expect("rabbitmqctl");
        assert!(ended.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ended.stderr));
        String::from_utf8_lossy(&ended.stdout).into_owned()
    }

    /// What it has written down of itself.
    pub fn said(&self) -> String {
        let log = self.home.folder.path().join("log").join(format!("{}.log", self.name()));
        std::fs::read_to_string(log).unwrap_or_default()
    }

    /// What it is called among nodes.
    pub fn name(&self) -> String {
        name_of(self.listens_at.port())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.at_end.now();
        let _ = self.process.wait();
    }
}

impl Cluster {
    /// Starts three nodes and waits until they are one broker.
    ///
    /// # Panics
    /// If they do not become one.
    pub async fn start() -> Self {
        let ports: [u16; 6] = free_ports();
        // The first begins, and the others find it.
        let mut config = "cluster_formation.peer_discovery_backend = classic_config\n".to_owned();
        for (at, ports) in ports.chunks(2).enumerate() {
            config += &format!("cluster_formation.classic_config.nodes.{at} = {}\n", name_of(ports[0]));
        }
        let (home, mut nodes) = (Arc::new(Home::new("", &config)), Vec::new());
        for ports in ports.chunks(2) {
            let listens_at = SocketAddrV4::new(Ipv4Addr::LOCALHOST, ports[0]);
            nodes.push(Broker::begin(home.clone(), listens_at, ports[1]));
            if nodes.len() != 2 {
                // Both others at once.
                for node in &mut nodes {
                    node.listens().await;
                }
            }
        }
        let running = nodes[0].ctl(&["eval", "length(rabbit_nodes:all_running())."]);
        assert_eq!(running.trim(), "3", "they are one");
        Self { nodes }
    }
}

impl Home {
    fn new(plugin: &str, config: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let [epmd_port] = free_ports();
        std::fs::write(folder.path().join("enabled_plugins"), format!("[{plugin}].\n")).expect("written");
        // Who comes from another address of this machine is no stranger.
        let config = format!("loopback_users = none\n{config}");
        std::fs::write(folder.path().join("rabbitmq.conf"), config).expect("written");
        let mut names = Command::new("epmd");
        names.args(["-address", "127.0.0.1", "-port", &epmd_port.to_string()]);
        let (epmd, at_end) = start(&mut names);
        Self { folder, epmd_port, epmd, at_end }
    }

    /// What a node and its tools must agree on.
    fn environment(&self, command: &mut Command, name: &str) {
        command
            .env("HOME", self.folder.path())
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_NODENAME", name)
            .env("ERL_EPMD_PORT", self.epmd_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("ERL_CRASH_DUMP_SECONDS", "0");
    }

    fn node(&self, listens_at: SocketAddrV4, distribution: u16) -> (Child, AtEnd) {
        let mut node = Command::new(format!("{BIN}/rabbitmq-server"));
        self.environment(&mut node, &name_of(listens_at.port()));
        let folder: &Path = self.folder.path();
        node.env("RABBITMQ_NODE_IP_ADDRESS", listens_at.ip().to_string())
            .env("RABBITMQ_NODE_PORT", listens_at.port().to_string())
            .env("RABBITMQ_DIST_PORT", distribution.to_string())
            .env("RABBITMQ_MNESIA_BASE", folder.join("data"))
            .env("RABBITMQ_LOG_BASE", folder.join("log"))
            .env("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq.conf"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("enabled_plugins"))
            // Loopback for its own protocol, too; and its schedulers sleep when there is nothing to do.
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none",
            );
        start(&mut node)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.at_end.now();
        let _ = self.epmd.wait();
    }
}

fn name_of(amqp: u16) -> String {
    format!("arbiter-{amqp}@localhost")
}

/// Starts it in a process group of its own, which is killed with what is returned beside it.
fn start(command: &mut Command) -> (Child, AtEnd) {
    let command = command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let started = command.spawn();
    let process =
        started.unwrap_or_else(|error| panic!("{command:?}: {error}; it is in Debian's rabbitmq-server"));
    let at_end = AtEnd::run(&format!("kill -9 -{}", process.id()));
    (process, at_end)
}

/// Ports that nobody listens at: below those that the system gives to connections, any of which may be open by the time a
/// node starts.
fn free_ports<const N: usize>() -> [u16; N] {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 12_000;
    const COUNT: u32 = 20_000;
    // Tests of other processes begin elsewhere.
    let begin = std::process::id().wrapping_mul(101);
    let mut candidates = std::iter::repeat_with(|| {
        let next = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        u16::try_from(FIRST + next % COUNT).expect("a port")
    });
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    std::array::from_fn(|_| candidates.by_ref().find(is_free).expect("there is always another"))
}
