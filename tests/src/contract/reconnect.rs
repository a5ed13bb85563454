//! Broken connections, outages, and what a client has afterwards.

use super::{Arbiter, Overlap, Transport};
use arbiterq_client::wire::Reason;
use arbiterq_client::{Outcome, Ticket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

async fn queued(mut ticket: Ticket) -> Ticket {
    ticket.next_position().await.expect("it waits");
    ticket
}

/// After a broken connection, also after a restart of the arbiter, everything is as before.
pub async fn a_cut_connection_costs_neither_grant_nor_place(transport: Transport) {
    let mut arbiter = Arbiter::start(transport).await;
    let clients = [arbiter.client().await, arbiter.client().await, arbiter.client().await];
    let held = clients[0].acquire("r").await.expect("free");
    let first = queued(clients[1].acquire("r").enqueue().await.expect("asked")).await;
    let second = queued(clients[2].acquire("r").enqueue().await.expect("asked")).await;
    for _ in 0..3 {
        arbiter.cut().await;
        held.check().expect("still held");
        let status = arbiter.until(|status| status.sessions == 3).await;
        assert_eq!((status.held, status.waiting), (1, 2));
    }
    assert_eq!(held.release().await.expect("given back"), Outcome::Released);
    let first = first.granted().await.expect("it was first");
    assert!(first.token() > held.token());
    arbiter.cut().await;
    assert_eq!(first.release().await.expect("given back"), Outcome::Released);
    let second = second.granted().await.expect("it was second");
    assert!(second.token() > first.token());
    drop(second);
    arbiter.until_free().await;
    arbiter.verified().await;
}

/// Clients that are at work when connections break go on by themselves, and never overlap.
pub async fn work_goes_on_across_cuts(transport: Transport) {
    let mut arbiter = Arbiter::start(transport).await;
    let (overlap, stop) = (Arc::new(Overlap::new(1)), Arc::new(AtomicBool::new(false)));
    let mut tasks = Vec::new();
    for _ in 0..6 {
        let client = arbiter.client().await;
        let (overlap, stop) = (overlap.clone(), stop.clone());
        tasks.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let grant = client.acquire("hot").await.expect("granted");
                let inside = overlap.enter(1);
                tokio::task::yield_now().await;
                drop(inside);
                assert_eq!(grant.release().await.expect("given back"), Outcome::Released);
            }
        }));
    }
    for _ in 0..5 {
        let before = overlap.entered();
        while overlap.entered() < before + 30 {
            tokio::task::yield_now().await;
        }
        arbiter.cut().await;
    }
    let before = overlap.entered();
    while overlap.entered() < before + 30 {
        tokio::task::yield_now().await;
    }
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.expect("no panic");
    }
    arbiter.until_free().await;
    arbiter.verified().await;
}

/// Without the arbiter for a lease, a holder knows by its own clock that it lost; later the client goes on.
pub async fn a_lapsed_lease_loses_what_was_held_and_the_client_recovers(transport: Transport) {
    let mut arbiter = Arbiter::start(transport).await;
    let client = arbiter.client_with_lease(500).await;
    let held = client.acquire("r").await.expect("free");
    arbiter.down().await;
    let lost = held.lost().await;
    assert_eq!(lost.reason, Reason::LeaseExpired);
    arbiter.up().await;
    assert_eq!(held.check(), Err(lost), "what was lost stays lost");
    assert_eq!(held.release().await.expect("told"), Outcome::AlreadyLost(Reason::LeaseExpired));
    let again = client.acquire("r").await.expect("granted");
    assert!(again.token() > held.token());
    again.check().expect("held");
    assert_eq!(again.release().await.expect("given back"), Outcome::Released);
    arbiter.verified().await;
}

/// A waiter is granted after an outage, however long it was.
pub async fn a_waiter_survives_an_outage_of_several_leases(transport: Transport) {
    let mut arbiter = Arbiter::start(transport).await;
    let (one, two) = (arbiter.client_with_lease(400).await, arbiter.client_with_lease(400).await);
    let held = one.acquire("r").await.expect("free");
    let waiting = queued(two.acquire("r").enqueue().await.expect("asked")).await;
    let probe = two.acquire("probe").await.expect("free");
    arbiter.down().await;
    held.lost().await;
    probe.lost().await;
    // So that the arbiter, where it goes on, has ended both sessions.
    tokio::time::sleep(std::time::Duration::from_millis(800)).await;
    arbiter.up().await;
    drop(held);
    let granted = waiting.granted().await.expect("granted");
    granted.check().expect("held");
    granted.release().await.expect("given back");
    arbiter.verified().await;
}

/// A session with nothing asked or held is not kept alive; the next request has another.
pub async fn an_idle_session_lapses_and_another_is_opened(transport: Transport) {
    let arbiter = Arbiter::start(transport).await;
    let client = arbiter.client_with_lease(300).await;
    let first = client.acquire("r").await.expect("free");
    let session = first.session();
    first.release().await.expect("given back");
    arbiter.until(|status| status.sessions == 0).await;
    let second = client.acquire("r").await.expect("free");
    assert!(second.session() > session);
    second.check().expect("held");
    second.release().await.expect("given back");
    arbiter.verified().await;
}
