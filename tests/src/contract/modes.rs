//! Who may hold beside whom.

use super::fixture::resource;
use super::{Arbiter, Options, Transport};
use arbiterq::log::record::Rule;
use arbiterq_client::wire::{Claim, Reason, StatusWhat};
use arbiterq_client::{Client, ErrorKind, Ticket};

async fn pool(transport: Transport, capacity: u32) -> Arbiter {
    let rule = Rule { pattern: "pool/*".into(), capacity: Some(capacity), ..Rule::default() };
    Arbiter::start_with(transport, Options { rules: vec![rule], ..Options::default() }).await
}

/// Returns when the arbiter has queued it.
async fn queued(mut ticket: Ticket) -> Ticket {
    ticket.next_position().await.expect("it waits");
    ticket
}

fn is_busy<T: std::fmt::Debug>(asked: Result<T, arbiterq_client::Error>) -> bool {
    asked.expect_err("not granted").kind() == ErrorKind::Busy
}

/// Any number of shared holders, or one exclusive one.
pub async fn shared_holders_hold_together_and_exclusive_ones_alone(transport: Transport) {
    let arbiter = Arbiter::start(transport).await;
    let (one, two) = (arbiter.client().await, arbiter.client().await);
    let a = one.acquire("r").shared().await.expect("free");
    let b = two.acquire("r").shared().try_now().await.expect("beside the other");
    assert!(a.token() < b.token() && a.check().is_ok());
    assert!(is_busy(two.acquire("r").try_now().await));
    let exclusive = queued(two.acquire("r").enqueue().await.expect("asked")).await;
    a.release().await.expect("given back");
    b.release().await.expect("given back");
    let exclusive = exclusive.granted().await.expect("granted");
    assert!(is_busy(one.acquire("r").shared().try_now().await));
    assert!(is_busy(one.acquire("r").try_now().await));
    drop(exclusive);
    arbiter.verified().await;
}

/// A shared request that comes behind a waiting exclusive one waits behind it.
pub async fn a_waiting_exclusive_one_is_not_starved_by_shared_ones(transport: Transport) {
    let arbiter = Arbiter::start(transport).await;
    let client = arbiter.client().await;
    let shared = client.acquire("r").shared().await.expect("free");
    let exclusive = queued(client.acquire("r").enqueue().await.expect("asked")).await;
    assert!(is_busy(client.acquire("r").shared().try_now().await));
    let later = queued(client.acquire("r").shared().enqueue().await.expect("asked")).await;
    drop(shared);
    let exclusive = exclusive.granted().await.expect("it was first");
    let token = exclusive.token();
    drop(exclusive);
    assert!(later.granted().await.expect("granted").token() > token);
    arbiter.verified().await;
}

/// Permits are taken up to the capacity that the policy says.
pub async fn permits_are_taken_up_to_the_capacity(transport: Transport) {
    let arbiter = pool(transport, 3).await;
    let client = arbiter.client().await;
    let two = client.acquire("pool/gpu").permits(2).await.expect("free");
    let one = client.acquire("pool/gpu").permits(1).try_now().await.expect("one is left");
    assert!(is_busy(client.acquire("pool/gpu").permits(1).try_now().await));
    let next = queued(client.acquire("pool/gpu").permits(2).enqueue().await.expect("asked")).await;
    one.release().await.expect("given back");
    assert!(is_busy(client.acquire("pool/gpu").permits(1).try_now().await), "the waiter is first");
    two.release().await.expect("given back");
    next.granted().await.expect("granted").release().await.expect("given back");
    arbiter.verified().await;
}

/// Who wants many permits keeps its place before those who want few.
pub async fn many_permits_are_not_starved_by_few(transport: Transport) {
    let arbiter = pool(transport, 5).await;
    let client = arbiter.client().await;
    let held = client.acquire("pool/x").permits(1).await.expect("free");
    let five = queued(client.acquire("pool/x").permits(5).enqueue().await.expect("asked")).await;
    let one = queued(client.acquire("pool/x").permits(1).enqueue().await.expect("asked")).await;
    drop(held);
    let five = five.granted().await.expect("first");
    let token = five.token();
    drop(five);
    assert!(one.granted().await.expect("granted").token() > token);
    arbiter.verified().await;
}

/// What can never be granted is refused, not left waiting.
pub async fn more_permits_than_there_are_are_refused(transport: Transport) {
    let arbiter = pool(transport, 3).await;
    let client = arbiter.client().await;
    for (name, permits) in [("pool/x", 4), ("elsewhere", 2)] {
        let error = client.acquire(name).permits(permits).await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Refused(Reason::OverCapacity), "{error}");
    }
    arbiter.verified().await;
}

async fn is_free(client: &Client, name: &str) -> bool {
    let free = client.acquire(name).try_now().await;
    match free {
        Ok(grant) => grant.release().await.is_ok(),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
            false
        }
    }
}

/// Of several claims none is held before all can be, each in its own mode.
pub async fn several_claims_are_granted_all_or_nothing(transport: Transport) {
    let arbiter = Arbiter::start(transport).await;
    let (one, two) = (arbiter.client().await, arbiter.client().await);
    let b = one.acquire("b").await.expect("free");
    assert!(is_busy(two.acquire("a").all_of(["b", "c"]).try_now().await));
    assert!(is_free(&one, "a").await && is_free(&one, "c").await, "it holds no part");
    let all = queued(two.acquire("a").all_of(["b", "c"]).enqueue().await.expect("asked")).await;
    b.release().await.expect("given back");
    let all = all.granted().await.expect("granted");
    assert_eq!((all.claims().len(), all.floors()), (3, [all.token(); 3].as_slice()));
    for name in ["a", "b", "c"] {
        assert!(!is_free(&one, name).await, "{name}");
    }
    all.release().await.expect("given back");
    let claims = [Claim::shared(resource("b")), Claim::exclusive(resource("c"))];
    let mixed = two.acquire(Claim::shared(resource("a"))).all_of(claims).await.expect("free");
    let shared = one.acquire("a").shared().all_of(["b"]).try_now().await.expect("beside the shared ones");
    assert_eq!(shared.floors(), [mixed.token(); 2]);
    assert!(!is_free(&one, "c").await);
    let holders = arbiter.operator().await.status(0, StatusWhat::Holders).await.expect("it answers").holders;
    assert_eq!(holders.len(), 5);
    let twice = one.acquire("x").all_of(["x"]).await.expect_err("refused");
    assert_eq!(twice.kind(), ErrorKind::Refused(Reason::DuplicateResource));
    drop((mixed, shared));
    arbiter.verified().await;
}
