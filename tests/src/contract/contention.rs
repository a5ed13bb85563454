//! Many at once on one resource.

use super::{Arbiter, Options, Overlap, Transport};
use arbiterq::log::record::Rule;
use arbiterq_client::{Client, Outcome};
use std::sync::Arc;

const TASKS: usize = 200;
const ROUNDS: usize = 3;

async fn contend(clients: Vec<Client>) {
    let overlap = Arc::new(Overlap::new(1));
    let tasks: Vec<_> = (0..TASKS)
        .map(|i| {
            let (client, overlap) = (clients[i % clients.len()].clone(), overlap.clone());
            tokio::spawn(async move {
                let mut last = 0;
                for _ in 0..ROUNDS {
                    let grant = client.acquire("hot").await.expect("granted");
                    let inside = overlap.enter(1);
                    assert!(grant.token() > last, "tokens rise");
                    last = grant.token();
                    tokio::task::yield_now().await;
                    drop(inside);
                    assert_eq!(grant.release().await.expect("given back"), Outcome::Released);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    assert_eq!(overlap.entered(), (TASKS * ROUNDS) as i64);
}

/// More tasks than a session may have requests under way.
pub async fn two_hundred_tasks_of_one_client(transport: Transport) {
    let arbiter = Arbiter::start(transport).await;
    contend(vec![arbiter.client().await]).await;
    arbiter.until_free().await;
    arbiter.verified().await;
}

/// Many sessions at once.
pub async fn two_hundred_tasks_of_many_clients(transport: Transport) {
    let arbiter = Arbiter::start(transport).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(arbiter.client().await);
    }
    contend(clients).await;
    arbiter.until_free().await;
    arbiter.verified().await;
}

/// Shared, permits and exclusive on the same resource, with drops in between.
pub async fn mixed_modes_never_overlap(transport: Transport) {
    const CAPACITY: u32 = 4;
    let rule = Rule { pattern: "*".into(), capacity: Some(CAPACITY), ..Rule::default() };
    let arbiter = Arbiter::start_with(transport, Options { rules: vec![rule], ..Options::default() }).await;
    // Who shares weighs little, who is alone fills all the room, permits fill it together.
    const ROOM: i64 = 1000;
    let overlap = Arc::new(Overlap::new(ROOM));
    let mut tasks = Vec::new();
    for i in 0..40_u32 {
        let (client, overlap) = (arbiter.client().await, overlap.clone());
        tasks.push(tokio::spawn(async move {
            for round in 0..6 {
                let acquire = client.acquire("hot");
                let (acquire, weight) = match (i + round) % 4 {
                    0 => (acquire, ROOM),
                    1 => (acquire.shared(), 1),
                    2 => (acquire.permits(1), ROOM / i64::from(CAPACITY)),
                    _ => (acquire.permits(3), 3 * ROOM / i64::from(CAPACITY)),
                };
                if (i + round) % 7 == 0 {
                    drop(acquire.clone().enqueue().await.expect("asked"));
                }
                let grant = acquire.await.expect("granted");
                let inside = overlap.enter(weight);
                tokio::task::yield_now().await;
                drop(inside);
                if round % 2 == 0 {
                    drop(grant);
                } else {
                    grant.release().await.expect("given back");
                }
            }
        }));
    }
    for task in tasks {
        task.await.expect("no panic");
    }
    assert_eq!(overlap.entered(), 240);
    arbiter.until_free().await;
    arbiter.verified().await;
}
