//! Several partitions: each a queue, a log and an order of its own.

use super::fixture::resource;
use super::{Arbiter, Options, Transport};
use arbiterq_client::ErrorKind;
use arbiterq_client::wire::{Reason, StatusWhat, partition_of};

const PARTITIONS: u32 = 4;

async fn start(transport: Transport) -> Arbiter {
    Arbiter::start_with(transport, Options { partitions: PARTITIONS, ..Options::default() }).await
}

/// A resource is granted in the partition that its name says, and in no other.
pub async fn each_resource_has_one_partition(transport: Transport) {
    let arbiter = start(transport).await;
    let client = arbiter.client().await;
    assert_eq!(client.partitions().await.expect("told"), PARTITIONS);
    let mut grants = Vec::new();
    let mut held = [0; PARTITIONS as usize];
    for i in 0..20 {
        let name = format!("resource-{i}");
        let grant = client.acquire(&name).await.expect("free");
        let partition = partition_of(&resource(&name), PARTITIONS);
        assert_eq!(grant.receipt().partition, partition);
        held[partition as usize] += 1;
        grants.push(grant);
    }
    assert!(held.iter().all(|held| *held > 0), "the names reach every partition: {held:?}");
    for (partition, held) in (0..).zip(held) {
        let status = client.status(partition, StatusWhat::Summary).await.expect("it answers");
        assert_eq!((status.held, status.partitions), (held, PARTITIONS));
    }
    for grant in grants {
        grant.release().await.expect("given back");
    }
    arbiter.verified().await;
}

/// Names with the same `{tag}` can be claimed together.
pub async fn a_tag_keeps_resources_together(transport: Transport) {
    let arbiter = start(transport).await;
    let (one, two) = (arbiter.client().await, arbiter.client().await);
    for order in 0..8 {
        let name = |part: &str| format!("{{order-{order}}}/{part}");
        let both = one.acquire(name("stock")).all_of([name("invoice")]).await.expect("free");
        let error = two.acquire(name("invoice")).try_now().await.expect_err("held");
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert_eq!(both.receipt().partition, partition_of(&resource(&name("x")), PARTITIONS));
        both.release().await.expect("given back");
        two.acquire(name("invoice")).try_now().await.expect("free again");
    }
    arbiter.verified().await;
}

/// Claims that lie in several partitions are refused, and the error says what to do.
pub async fn claims_across_partitions_are_refused_with_the_remedy(transport: Transport) {
    let arbiter = start(transport).await;
    let client = arbiter.client().await;
    let apart = (0..).map(|i| format!("n{i}")).find(|name| {
        partition_of(&resource(name), PARTITIONS) != partition_of(&resource("first"), PARTITIONS)
    });
    let error = client.acquire("first").all_of(apart).await.expect_err("apart");
    assert_eq!(error.kind(), ErrorKind::Refused(Reason::WrongPartition), "{error}");
    assert!(error.to_string().contains("{tag}"), "{error}");
    client.acquire("first").try_now().await.expect("no part of it was taken");
    arbiter.verified().await;
}
