//! Whom a request is made for.

use super::{Arbiter, Transport};
use arbiterq_client::ErrorKind;
use arbiterq_client::wire::Reason;

/// Who asks for what it holds already is refused, instead of waiting for itself.
pub async fn the_same_owner_is_refused_not_left_waiting(transport: Transport) {
    let arbiter = Arbiter::start(transport).await;
    let (one, two) = (arbiter.client().await, arbiter.client().await);
    let held = one.acquire("r").await.expect("free");
    let error = one.acquire("r").while_holding(&held).await.expect_err("it would wait for itself");
    assert_eq!(error.kind(), ErrorKind::Refused(Reason::Held), "{error}");
    // Also through another one that it holds, and in another program.
    let nested = one.acquire("s").while_holding(&held).await.expect("free");
    for resource in ["r", "s"] {
        let error = two.acquire(resource).owner(nested.owner()).await.expect_err("the same owner");
        assert_eq!(error.kind(), ErrorKind::Refused(Reason::Held), "{error}");
    }
    drop(nested);
    held.release().await.expect("given back");
    arbiter.verified().await;
}

/// Two tasks that share a client wait for each other as two programs do.
pub async fn tasks_of_one_program_are_different_owners(transport: Transport) {
    let arbiter = Arbiter::start(transport).await;
    let client = arbiter.client().await;
    let held = client.acquire("r").await.expect("free");
    let mut other = client.acquire("r").enqueue().await.expect("asked");
    assert_eq!(other.next_position().await.map(|place| place.position), Some(1));
    drop(held);
    other.granted().await.expect("granted");
    arbiter.verified().await;
}

/// `run` ends with its work, or with the grant.
pub async fn work_ends_with_the_grant(transport: Transport) {
    let arbiter = Arbiter::start(transport).await;
    let client = arbiter.client().await;
    let grant = client.acquire("r").await.expect("free");
    assert_eq!(grant.run(async { 7 }).await, Ok(7));
    let operator = arbiter.operator().await;
    let resource = super::fixture::resource("r");
    let force = operator.force_release(resource, grant.token(), "maintenance", false);
    let (ended, forced) = tokio::join!(grant.run(std::future::pending::<()>()), force);
    forced.expect("done");
    assert_eq!(ended.expect_err("stopped").reason, Reason::Forced);
    drop(grant);
    arbiter.until_free().await;
    arbiter.verified().await;
}
