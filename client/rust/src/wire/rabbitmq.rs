//! The names that the arbiter and its clients share at a RabbitMQ broker.

/// The direct exchange that requests are published to; the routing key is the partition's number.
pub const REQUESTS_EXCHANGE: &str = "arbiter.requests";
/// The fanout exchange, and the queue behind it, where messages go that nobody can read.
pub const DEAD_LETTERS: &str = "arbiter.dead";

/// The queue of a partition's requests.
pub fn requests_queue(partition: u32) -> String {
    format!("arbiter.requests.{partition}")
}

/// The stream that is a partition's grant log.
pub fn grants_stream(partition: u32) -> String {
    format!("arbiter.grants.{partition}")
}

/// The stream that a partition's checkpoints are written to.
pub fn checkpoints_stream(partition: u32) -> String {
    format!("arbiter.checkpoints.{partition}")
}

/// The queue that a user's client waits on for replies; `unique` is another for each.
pub fn reply_queue(user: &str, unique: &str) -> String {
    format!("client.{user}.{unique}")
}

/// Whether a queue is for replies to this user: by its name, which the broker lets nobody else declare.
pub fn is_reply_queue_of(user: &str, queue: &str) -> bool {
    let unique = queue.strip_prefix("client.").and_then(|rest| rest.strip_prefix(user)?.strip_prefix('.'));
    unique.is_some_and(|unique| !unique.is_empty() && !unique.contains('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_queue_is_one_users_own() {
        assert!(is_reply_queue_of("alice", &reply_queue("alice", "17")));
        // A user may be named with a point, and is not taken for another.
        assert!(is_reply_queue_of("a.b", &reply_queue("a.b", "17")));
        for queue in
            ["client.bob.17", "client.alice.", "client.alice", "client.alice.b.17", "arbiter.requests.0", ""]
        {
            assert!(!is_reply_queue_of("alice", queue), "{queue}");
        }
    }
}
