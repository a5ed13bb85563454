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
