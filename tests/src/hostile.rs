//! What hostile clients say, and how much memory it may cost.

use crate::resident_bytes;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// The service may have so much memory under any load of these tests: each connection's outbox and inbox are bounded.
pub const MEMORY_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// Lines that nobody who behaves says.
///
/// # Panics
/// If the golden messages are not there.
pub fn hostile_lines() -> Vec<Vec<u8>> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../client/protocol/golden");
    let files = |folder: &str| {
        let entries = std::fs::read_dir(golden.join(folder)).expect("a folder");
        entries
            .map(|entry| std::fs::read(entry.expect("an entry").path()).expect("a file"))
            .collect::<Vec<_>>()
    };
    // What is refused whoever says it; and what was good once, of a session that is not the sender's. Who may open
    // sessions and pause is for another test to say.
    let mut lines = files("refused");
    lines.extend(files("messages/requests"));
    let allowed = ["\"open\"", "\"pause\"", "\"resume\"", "\"force_release\""];
    lines.retain(|line| !allowed.iter().any(|kind| String::from_utf8_lossy(line).contains(kind)));
    lines.push(vec![b'x'; 70_000]);
    lines.push((0..=255).filter(|byte| *byte != b'\n').collect());
    for line in &mut lines {
        line.retain(|byte| *byte != b'\n');
        line.push(b'\n');
    }
    lines.retain(|line| line.len() > 1);
    lines
}

/// The service's memory, now and then.
pub fn memory(pid: u32, stop: &Arc<AtomicBool>) -> JoinHandle<Vec<u64>> {
    let stop = stop.clone();
    tokio::spawn(async move {
        let mut bytes = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            bytes.push(resident_bytes(pid));
            sleep(Duration::from_millis(50)).await;
        }
        bytes
    })
}
