//! Limits of waiting and of holding.

use super::{Arbiter, Transport};
use arbiterq_client::wire::Reason;
use arbiterq_client::{Clock, ErrorKind, Outcome};
use std::time::Duration;

/// Past its wait limit a request is over, and nothing of it waits any more.
pub async fn a_wait_limit_ends_the_wait_and_withdraws_the_request(transport: Transport) {
    let arbiter = Arbiter::start(transport).await;
    let (one, two) = (arbiter.client().await, arbiter.client().await);
    let held = one.acquire("r").await.expect("free");
    let began = Clock::Boot.now();
    let error = two.acquire("r").wait(Duration::from_millis(200)).await.expect_err("it is held");
    assert_eq!(error.kind(), ErrorKind::NotGranted, "{error}");
    assert!(Clock::Boot.now() - began >= 200_000, "not before its limit");
    assert_eq!(error.position().map(|place| (place.position, place.waiting)), Some((1, 1)));
    arbiter.until(|status| status.waiting == 0).await;
    held.release().await.expect("given back");
    two.acquire("r").wait(Duration::from_secs(30)).await.expect("free again");
    arbiter.verified().await;
}

/// A request that does not want to wait is granted at once or refused.
pub async fn try_now_does_not_wait(transport: Transport) {
    let arbiter = Arbiter::start(transport).await;
    let (one, two) = (arbiter.client().await, arbiter.client().await);
    let held = one.acquire("r").try_now().await.expect("free");
    let error = two.acquire("r").try_now().await.expect_err("it is held");
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert_eq!(arbiter.summary().await.waiting, 0);
    held.release().await.expect("given back");
    two.acquire("r").try_now().await.expect("free again");
    arbiter.verified().await;
}

/// At its hold limit a grant is lost; the next one has it when the holder has let go.
pub async fn a_hold_limit_is_lost_and_passes_on_with_the_release(transport: Transport) {
    let arbiter = Arbiter::start(transport).await;
    let (one, two) = (arbiter.client().await, arbiter.client().await);
    let held = one.acquire("r").hold_max(Duration::from_millis(150)).await.expect("free");
    held.check().expect("not yet");
    let mut next = two.acquire("r").enqueue().await.expect("asked");
    next.next_position().await.expect("it waits");
    let lost = held.lost().await;
    assert_eq!((lost.token, lost.reason), (held.token(), Reason::HoldLimit));
    assert_eq!(held.check(), Err(lost));
    // The lease is a minute: until it lets go, it is still its own.
    arbiter.until_holders(|status| status.holders.iter().all(|holder| holder.revoking)).await;
    assert_eq!(arbiter.summary().await.waiting, 1);
    assert_eq!(held.release().await.expect("told"), Outcome::AlreadyLost(Reason::HoldLimit));
    assert!(next.granted().await.expect("granted").token() > held.token());
    arbiter.verified().await;
}

/// A holder that does not let go is succeeded one lease later.
pub async fn a_hold_limit_that_is_ignored_passes_on_after_a_lease(transport: Transport) {
    let arbiter = Arbiter::start(transport).await;
    let one = arbiter.client_with_lease(600).await;
    let held = one.acquire("r").hold_max(Duration::from_millis(100)).await.expect("free");
    let next = arbiter.client().await.acquire("r").await.expect("granted");
    assert!(held.is_lost(), "it was told before");
    assert!(next.token() > held.token());
    assert_eq!(held.release().await.expect("told"), Outcome::AlreadyLost(Reason::HoldLimit));
    next.check().expect("the late release concerns only its own grant");
    arbiter.verified().await;
}
