//! A RabbitMQ broker of a test's own: Debian's `rabbitmq-server` with a node name, ports and a data folder of its own.
//!
//! It listens on loopback only, and ends with the value.

use crate::PATIENCE;
use rustix::process::{Pid, Signal, kill_process_group};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::time::{sleep, timeout};

/// Debian's scripts, without the wrapper that changes to another user.
const BIN: &str = "/usr/lib/rabbitmq/bin";

/// A broker of one node.
pub struct Broker {
    folder: TempDir,
    ports: Ports,
    /// Kills the node and the name server when this process has ended, however it did.
    guard: Child,
    /// The name server that its node and its tools find each other by. Started here, or the node would leave one behind.
    epmd: Child,
    node: Child,
    /// Virtual hosts of [`Broker::shared`] that were given out.
    given: AtomicUsize,
}

/// Virtual hosts of the broker that tests share; each test takes one.
const VHOSTS: usize = 80;

#[derive(Clone, Copy)]
struct Ports {
    amqp: u16,
    distribution: u16,
    epmd: u16,
}

impl Broker {
    /// Starts one and waits until it listens.
    ///
    /// # Panics
    /// If it does not.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let [amqp, distribution, epmd] = free_ports();
        let ports = Ports { amqp, distribution, epmd };
        std::fs::write(folder.path().join("enabled_plugins"), "[].\n").expect("written");
        std::fs::write(folder.path().join("rabbitmq.conf"), "").expect("written");
        let mut names = Command::new("epmd");
        names.args(["-address", "127.0.0.1", "-port", &epmd.to_string()]);
        let epmd = start(&mut names);
        let node = start(&mut node(folder.path(), ports));
        let guard = guard(&node, &epmd);
        let mut broker = Self { folder, ports, guard, epmd, node, given: AtomicUsize::new(0) };
        broker.listens().await;
        broker
    }

    /// Kills the node.
    ///
    /// What it keeps in tables of its own is written first: RabbitMQ 3.10 writes the register of its stream coordinator every
    /// three minutes only, and a node that is killed before that knows of no stream any more.
    pub fn kill_9(&mut self) {
        self.ctl(&["eval", "[dets:sync(Table) || Table <- dets:all()]."]);
        let group = Pid::from_child(&self.node);
        kill_process_group(group, Signal::KILL).expect("it runs");
        self.node.wait().expect("its status");
    }

    /// Starts the node again that was killed.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start_again(&mut self) {
        self.node = start(&mut node(self.folder.path(), self.ports));
        // The one before has nothing to kill any more but the name server, which is to stay.
        let mut old = std::mem::replace(&mut self.guard, guard(&self.node, &self.epmd));
        let _ = kill_process_group(Pid::from_child(&old), Signal::KILL);
        let _ = old.wait();
        self.listens().await;
    }

    async fn listens(&mut self) {
        let amqp = self.ports.amqp;
        let listens = async {
            while TcpStream::connect((Ipv4Addr::LOCALHOST, amqp)).await.is_err() {
                let ended = self.node.try_wait().expect("it is ours");
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
        let vhost = broker.given.fetch_add(1, Ordering::Relaxed);
        assert!(vhost < VHOSTS, "more tests than virtual hosts");
        format!("amqp://guest:guest@127.0.0.1:{}/{vhost}", broker.ports.amqp)
    }

    /// Where clients connect, as the administrator.
    pub fn url(&self) -> String {
        self.url_of("guest", "guest")
    }

    /// Where a user connects.
    pub fn url_of(&self, user: &str, password: &str) -> String {
        format!("amqp://{user}:{password}@127.0.0.1:{}/%2f", self.ports.amqp)
    }

    /// Runs `rabbitmqctl`; what it printed.
    ///
    /// # Panics
    /// If it fails.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let mut ctl = Command::new(format!("{BIN}/rabbitmqctl"));
        self.ports.environment(&mut ctl, self.folder.path());
        let ended = ctl.arg("-q").args(arguments).stdin(Stdio::null()).output().expect("rabbitmqctl");
        assert!(ended.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ended.stderr));
        String::from_utf8_lossy(&ended.stdout).into_owned()
    }

    /// What the node has written down of itself.
    pub fn said(&self) -> String {
        let log = self.folder.path().join("log").join(format!("{}.log", self.ports.node_name()));
        std::fs::read_to_string(log).unwrap_or_default()
    }
}

/// Waits for the end of this process, and kills the node and the name server then.
fn guard(node: &Child, epmd: &Child) -> Child {
    let mut guard = Command::new("sh");
    guard.args(["-c", &format!("read end; kill -9 -{} -{}", node.id(), epmd.id())]).stdin(Stdio::piped());
    guard.process_group(0).spawn().expect("a shell")
}

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        for process in [&mut self.guard, &mut self.node, &mut self.epmd] {
            let _ = process.wait();
        }
    }
}

impl Ports {
    fn node_name(self) -> String {
        format!("arbiter-{}@localhost", self.amqp)
    }

    /// What the node and its tools must agree on.
    fn environment(self, command: &mut Command, folder: &Path) {
        command
            .env("HOME", folder)
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_NODENAME", self.node_name())
            .env("ERL_EPMD_PORT", self.epmd.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1");
    }
}

fn node(folder: &Path, ports: Ports) -> Command {
    let mut node = Command::new(format!("{BIN}/rabbitmq-server"));
    ports.environment(&mut node, folder);
    node.env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_NODE_PORT", ports.amqp.to_string())
        .env("RABBITMQ_DIST_PORT", ports.distribution.to_string())
        .env("RABBITMQ_MNESIA_BASE", folder.join("data"))
        .env("RABBITMQ_LOG_BASE", folder.join("log"))
        .env("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq.conf"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("enabled_plugins"))
        // Loopback for its own protocol, too; and its schedulers sleep when there is nothing to do.
        .env(
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none",
        );
    node
}

fn start(command: &mut Command) -> Child {
    let command = command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}; it is in Debian's rabbitmq-server"))
}

/// Ports that are free now: all are open at once, so that they differ.
fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port"));
    listeners.map(|listener| listener.local_addr().expect("an address").port())
}
