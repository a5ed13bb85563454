//! The driver against an arbiter that says what the test has it say: answers, reconnects, the end.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod fake;

use arbiterq_client::wire::{
    Done, Reason, Refused, ReplyBody, RequestBody, ResourceName, Status, StatusWhat,
};
use arbiterq_client::{Client, ErrorKind};
use fake::{Fake, Peer, SESSION, kind, settle};
use std::time::Duration;

fn status(id: String) -> ReplyBody {
    ReplyBody::Status(Box::new(Status { id, partitions: 1, ..Status::default() }))
}

fn refused(id: String, reason: Reason) -> ReplyBody {
    ReplyBody::Refused(Refused { id: Some(id), seq: None, token: None, reason, detail: String::new() })
}

async fn question(peer: &mut Peer) -> String {
    match peer.hear().await {
        RequestBody::Status(ask) => ask.id,
        RequestBody::ForceRelease(force) => force.id,
        RequestBody::Pause(pause) => pause.id,
        other => panic!("not a question: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn each_question_for_the_partitions_has_its_own_id() {
    let mut fake = Fake::new();
    let (client, mut peer) = fake.looker().await;
    let ask = |client: &Client| {
        let client = client.clone();
        tokio::spawn(async move { client.partitions().await })
    };
    let (first, second) = (ask(&client), ask(&client));
    let mut ids = vec![question(&mut peer).await, question(&mut peer).await];
    // The first is given up, and the driver has reason to look.
    first.abort();
    peer.say(4, None, status("nobody's".into())).await;
    settle().await;
    let third = ask(&client);
    ids.push(question(&mut peer).await);
    for id in ids {
        peer.say(5, None, status(id)).await;
    }
    assert_eq!((second.await.unwrap().unwrap(), third.await.unwrap().unwrap()), (1, 1));
}

async fn force(client: &Client) -> Result<(), arbiterq_client::Error> {
    client.force_release(ResourceName::new("r").unwrap(), 110, "stuck", true).await
}

#[tokio::test(start_paused = true)]
async fn a_force_release_that_was_sent_twice_may_be_what_ended_the_grant() {
    let mut fake = Fake::new();
    let (client, mut peer) = fake.client().await;
    let forcing = tokio::spawn({
        let client = client.clone();
        async move { force(&client).await }
    });
    let id = question(&mut peer).await;
    // It is carried out, and the answer is lost with the connection.
    drop(peer);
    let mut peer = fake.accept().await;
    assert!(matches!(peer.hear().await, RequestBody::Attach(_)));
    assert_eq!(question(&mut peer).await, id);
    peer.say(120, None, refused(id, Reason::HolderChanged)).await;
    let error = forcing.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unknown, "{error}");
    assert!(error.remedy().unwrap().contains("arbiter holders"));
}

#[tokio::test(start_paused = true)]
async fn a_force_release_that_was_sent_once_is_refused_as_the_arbiter_says() {
    let mut fake = Fake::new();
    let (client, peer) = fake.client().await;
    // Asked while there is no connection: what is sent on the next one is its first sending.
    drop(peer);
    settle().await;
    let forcing = tokio::spawn({
        let client = client.clone();
        async move { force(&client).await }
    });
    let mut peer = fake.accept().await;
    assert!(matches!(peer.hear().await, RequestBody::Attach(_)));
    let id = question(&mut peer).await;
    peer.say(120, None, refused(id, Reason::HolderChanged)).await;
    assert_eq!(kind(forcing.await.unwrap()), ErrorKind::Refused(Reason::HolderChanged));
    // Twice sent, and the second answer is a plain yes.
    let forcing = tokio::spawn(async move { force(&client).await });
    question(&mut peer).await;
    drop(peer);
    let mut peer = fake.accept().await;
    peer.hear().await;
    let id = question(&mut peer).await;
    peer.say(121, None, ReplyBody::Done(Done { id })).await;
    forcing.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_an_arbiter_nothing_is_said_to_be_not_free() {
    let mut fake = Fake::new();
    let (client, mut peer) = fake.client().await;
    // With a connection on which nobody answers.
    let tried = tokio::spawn(client.acquire("r").try_now().into_future());
    peer.acquire().await;
    let error = tried.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoArbiter, "{error}");
    // Without one.
    fake.set_reachable(false);
    drop(peer);
    settle().await;
    let waited = client.acquire("r").wait(Duration::from_secs(2)).await;
    let error = waited.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoArbiter, "{error}");
    assert!(error.met_state().unwrap().contains("no connection"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn the_arbiters_word_that_the_limit_is_over_is_not_granted() {
    let mut fake = Fake::new();
    let (client, mut peer) = fake.client().await;
    let waited = tokio::spawn(client.acquire("r").wait(Duration::from_secs(2)).into_future());
    let seq = peer.acquire().await;
    let ended = arbiterq_client::wire::Ended { seq, reason: Reason::WaitLimit };
    peer.say(110, Some(SESSION), ReplyBody::Ended(ended)).await;
    assert_eq!(kind(waited.await.unwrap()), ErrorKind::NotGranted);
}

#[tokio::test(start_paused = true)]
async fn after_close_everything_is_closed_and_nothing_is_opened() {
    let mut fake = Fake::new();
    let (client, mut peer) = fake.client().await;
    let closing = tokio::spawn({
        let client = client.clone();
        async move { client.close().await }
    });
    assert!(matches!(peer.hear().await, RequestBody::Close(_)));
    // Asked after closing has begun, and before it is over.
    let between = client.session(1).await;
    assert_eq!(kind(between), ErrorKind::Closed);
    peer.session_ended().await;
    assert!(closing.await.unwrap(), "it was heard");
    for partition in [0, 1] {
        assert_eq!(kind(client.session(partition).await), ErrorKind::Closed);
        assert_eq!(kind(client.status(partition, StatusWhat::Summary).await), ErrorKind::Closed);
        assert_eq!(kind(client.pause(partition, "x").await), ErrorKind::Closed);
        assert_eq!(kind(client.resume(partition, "x").await), ErrorKind::Closed);
    }
    assert_eq!(kind(force(&client).await), ErrorKind::Closed);
    assert_eq!(kind(client.acquire("r").await), ErrorKind::Closed);
    assert_eq!(peer.rest().await.len(), 0, "and nothing more was sent");
}

#[tokio::test(start_paused = true)]
async fn closing_ends_what_waits_for_an_answer() {
    let mut fake = Fake::new();
    let (client, mut peer) = fake.client().await;
    let acquiring = tokio::spawn(client.acquire("r").into_future());
    let seq = peer.acquire().await;
    peer.grant(seq, 110).await;
    let grant = acquiring.await.unwrap().unwrap();
    let releasing = tokio::spawn(async move { grant.release().await });
    assert!(matches!(peer.hear().await, RequestBody::Release(_)));
    let asking = tokio::spawn({
        let client = client.clone();
        async move { client.status(0, StatusWhat::Summary).await }
    });
    question(&mut peer).await;
    // The arbiter never says anything again.
    assert!(!client.close().await, "it was not heard");
    assert!(!client.close().await, "nor was it the second time");
    assert_eq!(kind(asking.await.unwrap()), ErrorKind::Closed);
    assert_eq!(kind(releasing.await.unwrap()), ErrorKind::Closed);
}

#[tokio::test(start_paused = true)]
async fn after_a_cut_the_session_is_attached_and_what_is_unanswered_is_asked_again_in_its_order() {
    let mut fake = Fake::new();
    reconnect(fake.client().await, &mut fake).await;
}

#[tokio::test]
async fn the_same_over_tcp() {
    let (mut fake, url) = Fake::tcp().await;
    let connecting = tokio::spawn(async move { Client::connect(&url).await });
    let mut peer = fake.accept().await;
    peer.open().await;
    reconnect((connecting.await.unwrap().unwrap(), peer), &mut fake).await;
}

async fn reconnect((client, mut peer): (Client, Peer), fake: &mut Fake) {
    let mut tickets = Vec::new();
    for _ in 0..4 {
        tickets.push(client.acquire("r").enqueue().await.unwrap());
    }
    for seq in 1..=4 {
        assert_eq!(peer.acquire().await, seq);
    }
    let queued = arbiterq_client::wire::Queued { seq: 2, position: 2, waiting: 4, held_by: None };
    peer.say(112, Some(SESSION), ReplyBody::Queued(queued)).await;
    assert_eq!(tickets[1].next_position().await.unwrap().position, 2);
    for n in 1..=3 {
        drop(peer);
        peer = fake.accept().await;
        let RequestBody::Attach(attach) = peer.hear().await else { panic!("not an attach") };
        assert_eq!(attach.n, n);
        let repeated = [peer.acquire().await, peer.acquire().await, peer.acquire().await];
        assert_eq!(repeated, [1, 3, 4], "what is queued keeps its place without being asked again");
        assert!(matches!(peer.next().await, Some(RequestBody::KeepAlive(_))), "and then: what have I?");
    }
    peer.grant(1, 115).await;
    assert_eq!(tickets.remove(0).granted().await.unwrap().token(), 115);
}

/// A line of more than 64 KiB is refused without a number, for nobody has read it: its request would be repeated for
/// ever.
#[tokio::test(start_paused = true)]
async fn what_no_arbiter_would_take_is_not_sent() {
    let mut fake = Fake::new();
    let (client, mut peer) = fake.client().await;
    let long = "x".repeat(70_000);
    let refused = ErrorKind::Refused(Reason::InvalidText);
    assert_eq!(kind(client.acquire("r").reason(&long).enqueue().await), refused);
    assert_eq!(kind(client.acquire("r").value(&long).await), refused);
    assert_eq!(kind(client.pause(0, &long).await), refused);
    assert_eq!(kind(fake.builder().label(&long).connect().await), refused);
    drop(client);
    assert!(matches!(peer.hear().await, RequestBody::Close(_)), "nothing else was sent");
}

/// The work is not to go on where its task runs before the driver's, as after a suspension of the machine.
#[tokio::test(start_paused = true)]
async fn work_is_not_polled_once_the_lease_is_over() {
    let mut fake = Fake::new();
    let (client, mut peer) = fake.client().await;
    let acquiring = tokio::spawn(client.acquire("r").into_future());
    let seq = peer.acquire().await;
    peer.grant(seq, 110).await;
    let grant = acquiring.await.unwrap().unwrap();
    let mut acted_in_vain = false;
    let mut work = Box::pin(grant.run(std::future::poll_fn(|_| {
        acted_in_vain |= grant.is_lost();
        std::task::Poll::<()>::Pending
    })));
    let mut poll = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(work.as_mut().poll(&mut poll).is_pending());
    // Time goes on, and nobody else has run yet.
    let mut advance = Box::pin(tokio::time::advance(Duration::from_secs(61)));
    assert!(advance.as_mut().poll(&mut poll).is_pending());
    assert!(matches!(work.as_mut().poll(&mut poll), std::task::Poll::Ready(Err(_))));
    drop(work);
    assert!(!acted_in_vain, "it acted after the lease's end");
}

#[test]
fn a_ticket_whose_driver_has_ended_with_its_runtime_has_no_next_position() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (first, second) = (runtime(), runtime());
    let mut ticket = first.block_on(async {
        let mut fake = Fake::new();
        let (client, mut peer) = fake.client().await;
        let mut ticket = client.acquire("r").enqueue().await.unwrap();
        let seq = peer.acquire().await;
        let queued = arbiterq_client::wire::Queued { seq, position: 1, waiting: 1, held_by: None };
        peer.say(112, Some(SESSION), ReplyBody::Queued(queued)).await;
        assert!(ticket.next_position().await.is_some());
        ticket
    });
    drop(first);
    assert_eq!(second.block_on(ticket.next_position()), None);
    assert_eq!(kind(second.block_on(ticket.granted())), ErrorKind::Closed);
}
