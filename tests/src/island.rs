//! A network namespace with one way to this machine's own, which can be cut in either direction: packets are lost then,
//! and nobody is told.
//!
//! A direction is cut by a wrong hardware address for the other end, so that what is sent is nobody's there. That needs
//! `ip` of Debian's iproute2, and root; no module of the kernel, and no program that filters.

use crate::at_end::AtEnd;
use crate::binary::command_by;
use std::net::Ipv4Addr;
use std::process::{Command, id};
use std::sync::atomic::{AtomicU32, Ordering};

/// Such a namespace. It ends with the value.
pub struct Island {
    name: String,
    /// This machine's end of the way.
    pub mainland: Ipv4Addr,
    address: Ipv4Addr,
    _at_end: AtEnd,
}

/// What is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// What the island says.
    Out,
    /// What is said to it.
    In,
    /// Both.
    Both,
}

const OF_MAINLAND: &str = "02:00:00:00:00:01";
const OF_ISLAND: &str = "02:00:00:00:00:02";
const OF_NOBODY: &str = "02:00:00:00:00:03";

impl Island {
    /// Makes one.
    ///
    /// # Panics
    /// If it cannot.
    #[expect(clippy::new_without_default, reason = "there is no usual one")]
    pub fn new() -> Self {
        // Private addresses, four for each island, others for each process.
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        assert!(number < 64, "more islands than addresses");
        let first = u32::from(Ipv4Addr::new(10, 192, 0, 0)) + (id() % (1 << 14)) * 256 + number * 4;
        let (mainland, address) = (Ipv4Addr::from(first + 1), Ipv4Addr::from(first + 2));
        let name = format!("arb{}-{number}", id());
        let at_end = AtEnd::run(&format!("exec 2>&-; ip link del {name}; ip netns del {name}"));
        ip(&format!("netns add {name}"));
        ip(&format!(
            "link add {name} address {OF_MAINLAND} type veth peer name sea address {OF_ISLAND} netns {name}"
        ));
        for (end, name_of_end, own) in [("", name.as_str(), mainland), (name.as_str(), "sea", address)] {
            in_namespace(end, &format!("addr add {own}/30 dev {name_of_end}"));
            in_namespace(end, &format!("link set {name_of_end} up"));
        }
        in_namespace(&name, "link set lo up");
        in_namespace(&name, &format!("route add default via {mainland}"));
        let island = Self { name, mainland, address, _at_end: at_end };
        island.heal();
        island
    }

    /// Cuts the way.
    pub fn cut(&self, what: Cut) {
        let lost = |which| if [which, Cut::Both].contains(&what) { Some(OF_NOBODY) } else { None };
        self.sends_to(lost(Cut::Out).unwrap_or(OF_MAINLAND), lost(Cut::In).unwrap_or(OF_ISLAND));
    }

    /// The way is whole again.
    pub fn heal(&self) {
        self.sends_to(OF_MAINLAND, OF_ISLAND);
    }

    fn sends_to(&self, out: &str, back: &str) {
        let Self { name, mainland, address, .. } = self;
        in_namespace(name, &format!("neigh replace {mainland} lladdr {out} dev sea nud permanent"));
        ip(&format!("neigh replace {address} lladdr {back} dev {name} nud permanent"));
    }

    /// The binary, there.
    pub fn command(&self) -> tokio::process::Command {
        command_by(&["ip", "netns", "exec", &self.name])
    }
}

fn in_namespace(name: &str, what: &str) {
    if name.is_empty() { ip(what) } else { ip(&format!("-n {name} {what}")) }
}

fn ip(what: &str) {
    let ended = Command::new("ip").args(what.split(' ')).output();
    let ended = ended.unwrap_or_else(|error| panic!("ip: {error}; it is in Debian's iproute2"));
    assert!(ended.status.success(), "ip {what}, as root: {}", String::from_utf8_lossy(&ended.stderr));
}
