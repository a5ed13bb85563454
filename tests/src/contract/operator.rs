//! What an operator can do.

use super::fixture::resource;
use super::{Arbiter, Transport};
use arbiterq_client::fence::Fence;
use arbiterq_client::wire::Reason;
use arbiterq_client::{ErrorKind, Outcome};

/// The holder hears first; the resource passes on when it has let go.
pub async fn force_lets_the_holder_stop_first(transport: Transport) {
    let arbiter = Arbiter::start(transport).await;
    let (one, two, operator) = (arbiter.client().await, arbiter.client().await, arbiter.operator().await);
    let held = one.acquire("r").await.expect("free");
    let mut next = two.acquire("r").enqueue().await.expect("asked");
    next.next_position().await.expect("it waits");
    operator.force_release(resource("r"), held.token(), "stuck", false).await.expect("done");
    assert_eq!(held.lost().await.reason, Reason::Forced);
    let revoking = arbiter.until_holders(|status| status.holders.iter().all(|holder| holder.revoking)).await;
    assert_eq!((revoking.held, revoking.waiting), (1, 1));
    // Asked twice it is the same.
    operator.force_release(resource("r"), held.token(), "stuck", false).await.expect("it is under way");
    assert_eq!(held.release().await.expect("told"), Outcome::AlreadyLost(Reason::Forced));
    assert!(next.granted().await.expect("granted").token() > held.token());
    arbiter.verified().await;
}

/// With `now` nobody is waited for: only the fence protects.
pub async fn force_now_passes_on_at_once(transport: Transport) {
    let arbiter = Arbiter::start(transport).await;
    let (one, two, operator) = (arbiter.client().await, arbiter.client().await, arbiter.operator().await);
    let held = one.acquire("r").await.expect("free");
    let next = two.acquire("r").enqueue().await.expect("asked");
    operator.force_release(resource("r"), held.token(), "the machine burns", true).await.expect("done");
    let next = next.granted().await.expect("granted, though nobody let go");
    let fence = Fence::new(0);
    fence.check(next.token(), next.floor()).expect("the newer one");
    fence.check(held.token(), held.floor()).expect_err("it was succeeded");
    assert_eq!(held.lost().await.reason, Reason::Forced);
    assert_eq!(held.release().await.expect("told"), Outcome::AlreadyLost(Reason::Forced));
    next.check().expect("still held");
    arbiter.verified().await;
}

/// A force that names a grant that is over, or not on that resource, changes nothing.
pub async fn force_names_the_grant_that_it_means(transport: Transport) {
    let arbiter = Arbiter::start(transport).await;
    let (one, operator) = (arbiter.client().await, arbiter.operator().await);
    let before = one.acquire("r").await.expect("free");
    let token = before.token();
    before.release().await.expect("given back");
    let held = one.acquire("r").await.expect("free");
    for (name, token) in [("r", token), ("s", held.token()), ("r", 1_000_000)] {
        let error = operator.force_release(resource(name), token, "stuck", true).await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Refused(Reason::HolderChanged), "{error}");
    }
    assert_eq!(held.release().await.expect("given back"), Outcome::Released);
    arbiter.verified().await;
}

/// While paused, requests queue in order; what is held stays held and can be given back.
pub async fn paused_requests_queue_and_go_on_with_resume(transport: Transport) {
    let arbiter = Arbiter::start(transport).await;
    let (one, two, operator) = (arbiter.client().await, arbiter.client().await, arbiter.operator().await);
    let held = one.acquire("held").await.expect("free");
    operator.pause(0, "upgrade").await.expect("done");
    assert_eq!(arbiter.summary().await.paused.as_deref(), Some("upgrade"));
    let mut waiting = two.acquire("free").enqueue().await.expect("asked");
    assert_eq!(waiting.next_position().await.map(|place| place.position), Some(1));
    held.check().expect("nothing is taken away");
    assert_eq!(held.release().await.expect("given back"), Outcome::Released);
    assert_eq!(arbiter.summary().await.waiting, 1);
    operator.resume(0, "upgraded").await.expect("done");
    waiting.granted().await.expect("granted");
    assert_eq!(arbiter.summary().await.paused, None);
    arbiter.verified().await;
}
