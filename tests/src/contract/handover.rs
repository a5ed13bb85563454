//! One after the other, in the order they came.

use super::{Arbiter, Overlap, Transport};
use arbiterq_client::Ticket;
use std::sync::{Arc, Mutex};

/// Asks on a client of its own, and returns when the arbiter has queued it.
async fn queued(arbiter: &Arbiter, resource: &str, priority: u8) -> Ticket {
    let client = arbiter.client().await;
    let mut ticket = client.acquire(resource).priority(priority).enqueue().await.expect("asked");
    ticket.next_position().await.expect("it waits");
    ticket
}

/// Takes each ticket's grant in a task of its own; the order in which they were granted.
async fn order_of(tickets: Vec<Ticket>) -> Vec<usize> {
    let (granted, overlap) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Overlap::new(1)));
    let tasks: Vec<_> = (0..)
        .zip(tickets)
        .map(|(i, ticket)| {
            let (granted, overlap) = (granted.clone(), overlap.clone());
            tokio::spawn(async move {
                let grant = ticket.granted().await.expect("granted");
                let inside = overlap.enter(1);
                granted.lock().expect("no panic").push((i, grant.token()));
                tokio::task::yield_now().await;
                drop(inside);
                grant.release().await.expect("given back");
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    let granted = granted.lock().expect("no panic").clone();
    assert!(granted.is_sorted_by_key(|(_, token)| *token), "tokens rise: {granted:?}");
    granted.into_iter().map(|(i, _)| i).collect()
}

/// Many waiters, each on a session of its own, are granted in the order in which they were queued.
pub async fn waiters_go_in_the_order_they_came(transport: Transport) {
    let arbiter = Arbiter::start(transport).await;
    let first = arbiter.client().await.acquire("db/migrate").await.expect("free");
    let mut tickets = Vec::new();
    for _ in 0..30 {
        tickets.push(queued(&arbiter, "db/migrate", 0).await);
    }
    let order = tokio::spawn(order_of(tickets));
    first.release().await.expect("given back");
    assert_eq!(order.await.expect("no panic"), (0..30).collect::<Vec<_>>());
    arbiter.verified().await;
}

/// A waiter hears its place and who holds, and hears again when somebody before it has left.
pub async fn places_are_told_and_move_up(transport: Transport) {
    let arbiter = Arbiter::start(transport).await;
    let holder = arbiter.client_named("the holder").await;
    let held = holder.acquire("r").await.expect("free");
    let mut tickets = Vec::new();
    for place in 1..=3 {
        // Places travel with keep-alives, which go out at a quarter of the lease.
        let client = arbiter.client_with_lease(2000).await;
        let mut ticket = client.acquire("r").enqueue().await.expect("asked");
        let position = ticket.next_position().await.expect("it waits");
        assert_eq!((position.position, position.waiting), (place, place));
        let held_by = position.held_by.expect("somebody holds");
        assert_eq!((held_by.label.as_str(), held_by.token), ("the holder", held.token()));
        tickets.push(ticket);
    }
    let mut last = tickets.pop().expect("three");
    tickets.remove(0).cancel().await.expect("withdrawn");
    while last.next_position().await.expect("it still waits").position != 2 {}
    held.release().await.expect("given back");
    let second = tickets.remove(0).granted().await.expect("granted");
    assert!(second.token() > held.token());
    while last.next_position().await.expect("it still waits").position != 1 {}
    drop(second);
    while last.next_position().await.is_some() {}
    last.granted().await.expect("granted").release().await.expect("given back");
    arbiter.verified().await;
}

/// A request of a higher priority goes before earlier ones of a lower; within one, the order stays.
pub async fn a_higher_priority_goes_first(transport: Transport) {
    let arbiter = Arbiter::start(transport).await;
    let first = arbiter.client().await.acquire("r").await.expect("free");
    let mut tickets = Vec::new();
    for priority in [0, 5, 9, 5, 0, 9] {
        tickets.push(queued(&arbiter, "r", priority).await);
    }
    let order = tokio::spawn(order_of(tickets));
    first.release().await.expect("given back");
    assert_eq!(order.await.expect("no panic"), [2, 5, 1, 3, 0, 4]);
    arbiter.verified().await;
}

/// Requests that have no resource in common do not wait for each other.
pub async fn a_waiter_of_another_resource_is_not_held_up(transport: Transport) {
    let arbiter = Arbiter::start(transport).await;
    let client = arbiter.client().await;
    let held = client.acquire("a").await.expect("free");
    let waiting = queued(&arbiter, "a", 9).await;
    let other = client.acquire("b").try_now().await.expect("nobody has b");
    drop((held, other));
    waiting.granted().await.expect("granted").release().await.expect("given back");
    arbiter.verified().await;
}
