//! Giving back, and dropping at any moment: nothing stays held by nobody.

use super::{Arbiter, Transport};
use arbiterq_client::wire::Reason;
use arbiterq_client::{Client, ErrorKind, Grant, Outcome};
use std::future::{Future, IntoFuture, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

/// More polls than any of these futures needs.
const POLLS_MAX: usize = 100;
/// A resource that somebody lost would not be free in this time: the lease is a minute.
const FREE_WITHIN: Duration = Duration::from_secs(20);

/// Polls at most so many times, then drops.
async fn polled<F: Future>(future: F, polls: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

async fn takes_it(client: &Client, resource: &str) -> Grant {
    client.acquire(resource).wait(FREE_WITHIN).await.expect("nobody holds it any more")
}

/// A second release says the same as the first and does nothing.
pub async fn releasing_twice_is_harmless(transport: Transport) {
    let arbiter = Arbiter::start(transport).await;
    let (one, two) = (arbiter.client().await, arbiter.client().await);
    let grant = one.acquire("r").await.expect("free");
    assert_eq!(grant.release().await.expect("given back"), Outcome::Released);
    assert_eq!(grant.check().expect_err("let go").reason, Reason::Released);
    let next = two.acquire("r").await.expect("free");
    assert_eq!(grant.release().await.expect("again"), Outcome::Released);
    drop(grant);
    one.acquire("other").await.expect("the client goes on");
    next.check().expect("still held");
    assert_eq!(next.release().await.expect("given back"), Outcome::Released);
    arbiter.verified().await;
}

/// Dropping a grant gives it back, without blocking.
pub async fn a_dropped_grant_is_given_back(transport: Transport) {
    let arbiter = Arbiter::start(transport).await;
    let (one, two) = (arbiter.client().await, arbiter.client().await);
    let grant = one.acquire("r").await.expect("free");
    let waiting = two.acquire("r").enqueue().await.expect("asked");
    drop(grant);
    waiting.granted().await.expect("granted").release().await.expect("given back");
    arbiter.until_free().await;
    arbiter.verified().await;
}

/// Dropping a ticket withdraws the request; who waits behind it moves up.
pub async fn a_dropped_ticket_is_withdrawn(transport: Transport) {
    let arbiter = Arbiter::start(transport).await;
    let (one, two) = (arbiter.client().await, arbiter.client().await);
    let held = one.acquire("r").await.expect("free");
    let mut first = two.acquire("r").enqueue().await.expect("asked");
    first.next_position().await.expect("it waits");
    let mut second = one.acquire("r").enqueue().await.expect("asked");
    second.next_position().await.expect("it waits");
    drop(first);
    arbiter.until(|status| status.waiting == 1).await;
    held.release().await.expect("given back");
    second.granted().await.expect("granted");
    arbiter.until_free().await;
    arbiter.verified().await;
}

/// Cancelling returns when the arbiter has heard it.
pub async fn a_cancelled_ticket_is_withdrawn(transport: Transport) {
    let arbiter = Arbiter::start(transport).await;
    let (one, two) = (arbiter.client().await, arbiter.client().await);
    let held = one.acquire("r").await.expect("free");
    let mut ticket = two.acquire("r").enqueue().await.expect("asked");
    ticket.next_position().await.expect("it waits");
    ticket.cancel().await.expect("withdrawn");
    assert_eq!(arbiter.summary().await.waiting, 0);
    held.release().await.expect("given back");
    // One that had been granted already is given back.
    let ticket = two.acquire("r").enqueue().await.expect("asked");
    arbiter.until(|status| status.held == 1).await;
    ticket.cancel().await.expect("withdrawn");
    arbiter.until_free().await;
    arbiter.verified().await;
}

/// A grant that has arrived at the client, and whose ticket is dropped before anybody looked, is given back.
pub async fn a_grant_that_nobody_took_is_given_back(transport: Transport) {
    let arbiter = Arbiter::start(transport).await;
    let (one, two) = (arbiter.client().await, arbiter.client().await);
    for _ in 0..20 {
        let held = one.acquire("r").await.expect("free");
        let mut ticket = two.acquire("r").enqueue().await.expect("asked");
        ticket.next_position().await.expect("it waits");
        let token = held.token();
        drop(held);
        arbiter.until_holders(|status| status.holders.iter().any(|holder| holder.token > token)).await;
        drop(ticket);
        drop(takes_it(&one, "r").await);
    }
    arbiter.until_free().await;
    arbiter.verified().await;
}

/// However far an acquire has come when it is dropped, nothing of it stays.
pub async fn acquiring_may_be_dropped_at_every_await(transport: Transport) {
    let arbiter = Arbiter::start(transport).await;
    let other = arbiter.client().await;
    let mut ends = 0;
    for polls in 0..POLLS_MAX {
        // Of a new client, whose first request finds less known, and of one that has asked before.
        let client = arbiter.builder().session(polls % 2 == 0).connect().await.expect("it connects");
        for _ in 0..2 {
            let granted = polled(client.acquire("r").into_future(), polls).await;
            ends += usize::from(granted.is_some());
            drop(granted.transpose().expect("free"));
            drop(takes_it(&other, "r").await);
        }
        if ends > 8 {
            break;
        }
    }
    assert!(ends > 8, "with enough polls it is granted");
    arbiter.until_free().await;
    arbiter.verified().await;
}

/// However far a wait has come when it is dropped, the request is withdrawn or its grant given back.
pub async fn waiting_may_be_dropped_at_every_await(transport: Transport) {
    let arbiter = Arbiter::start(transport).await;
    let (other, client) = (arbiter.client().await, arbiter.client().await);
    let mut ends = 0;
    for polls in 1..POLLS_MAX {
        let held = other.acquire("r").await.expect("free");
        let waits = async {
            let mut ticket = client.acquire("r").enqueue().await?;
            let place = ticket.next_position().await;
            assert!(place.is_some(), "it waits");
            drop(held);
            ticket.granted().await
        };
        let granted = polled(waits, polls).await;
        ends += usize::from(granted.is_some());
        drop(granted.transpose().expect("granted"));
        drop(takes_it(&other, "r").await);
        if ends > 4 {
            break;
        }
    }
    assert!(ends > 4, "with enough polls it is granted");
    arbiter.until_free().await;
    arbiter.verified().await;
}

/// Releasing gives back with its first poll, however soon it is dropped; not polled, the grant's end does.
pub async fn releasing_may_be_dropped_at_every_await(transport: Transport) {
    let arbiter = Arbiter::start(transport).await;
    let (one, two) = (arbiter.client().await, arbiter.client().await);
    for polls in 0..6 {
        let grant = one.acquire("r").await.expect("free");
        polled(grant.release(), polls).await.transpose().expect("given back");
        if polls == 0 {
            grant.check().expect("nothing was done");
            drop(grant);
            drop(takes_it(&two, "r").await);
        } else {
            drop(takes_it(&two, "r").await);
            assert_eq!(grant.release().await.expect("again"), Outcome::Released);
        }
    }
    arbiter.until_free().await;
    arbiter.verified().await;
}

/// Closing gives back what is held and withdraws what waits; what comes later is told so.
pub async fn a_closed_client_gives_everything_back(transport: Transport) {
    let arbiter = Arbiter::start(transport).await;
    let (one, two) = (arbiter.client().await, arbiter.client().await);
    let held = one.acquire("r").await.expect("free");
    let other = two.acquire("s").await.expect("free");
    let mut waiting = one.acquire("s").enqueue().await.expect("asked");
    waiting.next_position().await.expect("it waits");
    one.close().await;
    assert!(held.is_lost());
    assert_eq!(waiting.granted().await.expect_err("withdrawn").kind(), ErrorKind::Closed);
    assert_eq!(one.acquire("r").await.expect_err("closed").kind(), ErrorKind::Closed);
    drop(takes_it(&two, "r").await);
    drop(other);
    arbiter.until_free().await;
    arbiter.verified().await;
}

/// When client, tickets and grants are gone, so is the session.
pub async fn the_last_clone_closes_the_session(transport: Transport) {
    let arbiter = Arbiter::start(transport).await;
    let client = arbiter.client().await;
    let clone = client.clone();
    let grant = client.acquire("r").await.expect("free");
    drop((client, clone));
    assert_eq!(arbiter.summary().await.sessions, 1);
    grant.check().expect("a grant keeps its session");
    drop(grant);
    arbiter.until(|status| status.sessions == 0).await;
    arbiter.verified().await;
}
