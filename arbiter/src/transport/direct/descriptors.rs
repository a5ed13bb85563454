//! How many connections there are file descriptors for.
//!
//! Where they run out, a log's next segment cannot be made, which ends the service; and nobody can be accepted, so
//! that nobody may be judged by silence. So connections are refused before that.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Asks for as many descriptors as the system allows, keeps `kept` of them for other things, and says how many
/// connections may be open: not more than `wanted`, and one at least.
pub fn connections_within_limit(wanted: usize, kept: u64) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    let within = within(wanted, current, kept);
    if within < wanted {
        tracing::warn!(wanted, within, "fewer connections may be open: the limit of file descriptors is low");
    }
    within
}

fn within(wanted: usize, limit: Option<u64>, kept: u64) -> usize {
    let left = limit.map_or(u64::MAX, |limit| limit.saturating_sub(kept));
    wanted.min(usize::try_from(left).unwrap_or(usize::MAX)).max(1)
}

#[cfg(test)]
mod tests {
    use super::within;

    #[test]
    fn what_is_kept_is_not_for_connections() {
        assert_eq!(within(1000, None, 80), 1000);
        assert_eq!(within(1000, Some(1_048_576), 80), 1000);
        assert_eq!(within(1000, Some(256), 80), 176);
        assert_eq!(within(1000, Some(60), 80), 1);
    }
}
