//! Fencing tokens, floors and receipts.

use super::fixture::resource;
use super::{Arbiter, Transport};
use arbiterq_client::fence::Fence;
use serde_json::Value;

/// Whoever is granted, and whatever: the token is above all before it.
pub async fn tokens_rise_with_every_grant(transport: Transport) {
    let mut arbiter = Arbiter::start(transport).await;
    let clients = [arbiter.client().await, arbiter.client().await, arbiter.client().await];
    let mut last = 0;
    for round in 0..30 {
        let client = &clients[round % clients.len()];
        let grant = client.acquire(format!("r{}", round % 2)).await.expect("free");
        assert!(grant.token() > last, "{} after {last}", grant.token());
        last = grant.token();
        grant.release().await.expect("given back");
        if round == 15 {
            arbiter.cut().await;
        }
    }
    arbiter.verified().await;
}

/// A resource that keeps the highest floor refuses whoever was succeeded.
pub async fn a_stale_holder_is_fenced_off(transport: Transport) {
    let arbiter = Arbiter::start(transport).await;
    let (one, two, operator) = (arbiter.client().await, arbiter.client().await, arbiter.operator().await);
    let fence = Fence::new(0);
    let stale = one.acquire("r").await.expect("free");
    fence.check(stale.token(), stale.floor()).expect("the holder");
    operator.force_release(resource("r"), stale.token(), "paused", true).await.expect("done");
    let fresh = two.acquire("r").await.expect("free");
    fence.check(stale.token(), stale.floor()).expect("nobody newer has been seen yet");
    fence.check(fresh.token(), fresh.floor()).expect("the holder");
    let fenced = fence.check(stale.token(), stale.floor()).expect_err("succeeded");
    assert_eq!((fenced.token, fenced.floor), (stale.token(), fresh.token()));
    fence.check(fresh.token(), fresh.floor()).expect("still the holder");
    drop((stale, fresh));
    arbiter.verified().await;
}

/// Shared holders do not fence each other off, and all of them are fenced off by the next exclusive one.
pub async fn shared_holders_have_the_lowest_token_as_floor(transport: Transport) {
    let arbiter = Arbiter::start(transport).await;
    let client = arbiter.client().await;
    let first = client.acquire("r").shared().await.expect("free");
    let second = client.acquire("r").shared().await.expect("beside it");
    assert_eq!((first.floor(), second.floor()), (first.token(), first.token()));
    let fence = Fence::new(0);
    for grant in [&second, &first, &second] {
        fence.check(grant.token(), grant.floor()).expect("both may");
    }
    first.release().await.expect("given back");
    let third = client.acquire("r").shared().await.expect("beside it");
    assert_eq!(third.floor(), second.token());
    drop((second, third));
    let exclusive = client.acquire("r").await.expect("free");
    assert_eq!(exclusive.floor(), exclusive.token());
    fence.check(exclusive.token(), exclusive.floor()).expect("the holder");
    fence.check(first.token(), first.floor()).expect_err("succeeded");
    drop(exclusive);
    arbiter.verified().await;
}

/// A receipt names the record that granted and its hash.
pub async fn a_receipt_names_its_record(transport: Transport) {
    let arbiter = Arbiter::start(transport).await;
    let client = arbiter.client().await;
    let grant = client.acquire("r").reason("for the auditor").await.expect("free");
    let receipt = grant.receipt().clone();
    assert_eq!(receipt.index, grant.token());
    grant.release().await.expect("given back");
    let logs = arbiter.verified().await;
    let record = |index: u64| -> Value {
        let at = usize::try_from(index).expect("a short log");
        serde_json::from_slice(&logs[0][at]).expect("a record")
    };
    let granted = record(receipt.index);
    assert_eq!(granted["index"], receipt.index);
    assert_eq!(granted["events"][0]["granted"]["reason"], "for the auditor");
    assert_eq!(record(receipt.index + 1)["prev"], receipt.hash.to_string());
    assert_eq!(record(0)["events"][0]["genesis"]["log_id"], receipt.log_id.to_string());
}
