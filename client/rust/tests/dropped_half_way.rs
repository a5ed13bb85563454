//! Every public future, dropped half-way: nothing stays held, asked or running.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod fake;

use arbiterq_client::wire::{Reason, Released, ReplyBody, RequestBody, ResourceName, StatusWhat};
use arbiterq_client::{Client, Grant, Outcome};
use fake::{Fake, Peer, SESSION, poll_and_drop, settle};
use std::future::pending;

async fn held(client: &Client, peer: &mut Peer, token: u64) -> Grant {
    let acquiring = tokio::spawn(client.acquire("r").into_future());
    let seq = peer.acquire().await;
    peer.grant(seq, token).await;
    acquiring.await.unwrap().unwrap()
}

#[tokio::test(start_paused = true)]
async fn connect_before_anything_is_sent() {
    let mut fake = Fake::new();
    assert!(poll_and_drop(fake.builder().connect(), 0).await);
    assert!(poll_and_drop(fake.builder().connect(), 1).await);
    // What had begun is not answered: the connection ends all the same.
    let mut peer = fake.accept().await;
    let sent = peer.rest().await;
    assert!(sent.iter().all(|body| matches!(body, RequestBody::Open(_))), "{sent:?}");
}

#[tokio::test(start_paused = true)]
async fn connect_while_the_session_is_being_opened() {
    let mut fake = Fake::new();
    let connecting = tokio::spawn(fake.builder().connect());
    let mut peer = fake.accept().await;
    settle().await;
    connecting.abort();
    assert!(connecting.await.unwrap_err().is_cancelled());
    peer.open().await;
    assert!(matches!(peer.hear().await, RequestBody::Close(_)), "a session that nobody has is closed");
    peer.session_ended().await;
    assert_eq!(peer.rest().await, []);
}

#[tokio::test(start_paused = true)]
async fn acquire_at_every_await() {
    let mut fake = Fake::new();
    let (client, mut peer) = fake.client().await;
    assert!(poll_and_drop(client.acquire("never").into_future(), 0).await);
    for seq in 1..=3 {
        let polls = usize::try_from(seq).unwrap();
        assert!(poll_and_drop(client.acquire("r").into_future(), polls).await);
        assert_eq!(peer.acquire().await, seq);
        let RequestBody::Cancel(cancel) = peer.hear().await else { panic!("not withdrawn") };
        assert_eq!(cancel.seq, seq);
        // The grant had been made: it is given back.
        peer.grant(seq, 110 + seq).await;
        let RequestBody::Release(release) = peer.hear().await else { panic!("not given back") };
        assert_eq!(release.token, 110 + seq);
    }
}

#[tokio::test(start_paused = true)]
async fn acquire_with_the_grant_on_the_way_to_its_user() {
    let mut fake = Fake::new();
    let (client, mut peer) = fake.client().await;
    let mut acquiring = Box::pin(client.acquire("r").into_future());
    assert!(poll_and_drop(&mut acquiring, 1).await);
    let seq = peer.acquire().await;
    peer.grant(seq, 110).await;
    settle().await;
    // The driver has handed it over, and nobody has taken it.
    drop(acquiring);
    let RequestBody::Release(release) = peer.hear().await else { panic!("not given back") };
    assert_eq!(release.token, 110);
}

#[tokio::test(start_paused = true)]
async fn enqueue_before_the_partitions_are_known() {
    let mut fake = Fake::new();
    let (client, mut peer) = fake.looker().await;
    assert!(poll_and_drop(client.acquire("r").enqueue(), 2).await);
    assert!(matches!(peer.hear().await, RequestBody::Status(_)));
    drop(client);
    assert_eq!(peer.rest().await, [], "nothing was asked for");
}

#[tokio::test(start_paused = true)]
async fn the_futures_of_a_ticket() {
    let mut fake = Fake::new();
    let (client, mut peer) = fake.client().await;
    let mut ticket = client.acquire("r").enqueue().await.unwrap();
    let seq = peer.acquire().await;
    assert!(poll_and_drop(ticket.next_position(), 2).await);
    let queued = arbiterq_client::wire::Queued { seq, position: 3, waiting: 5, held_by: None };
    peer.say(112, Some(SESSION), ReplyBody::Queued(queued)).await;
    settle().await;
    assert_eq!(ticket.next_position().await.unwrap().position, 3, "no place is lost by it");
    assert!(poll_and_drop(ticket.granted(), 1).await);
    assert!(matches!(peer.hear().await, RequestBody::Cancel(cancel) if cancel.seq == seq));

    let ticket = client.acquire("r").enqueue().await.unwrap();
    let seq = peer.acquire().await;
    assert!(poll_and_drop(ticket.cancel(), 1).await);
    assert!(matches!(peer.hear().await, RequestBody::Cancel(cancel) if cancel.seq == seq));
    drop(client);
    assert!(matches!(peer.hear().await, RequestBody::Close(_)), "and nothing was withdrawn twice");
}

#[tokio::test(start_paused = true)]
async fn release_by_its_first_poll() {
    let mut fake = Fake::new();
    let (client, mut peer) = fake.client().await;
    let grant = held(&client, &mut peer, 110).await;
    assert!(poll_and_drop(grant.release(), 0).await);
    grant.check().expect("not polled, nothing is done");
    assert!(poll_and_drop(grant.release(), 1).await);
    assert!(grant.is_lost(), "given back by our own word");
    assert!(matches!(peer.hear().await, RequestBody::Release(release) if release.token == 110));
    let again = tokio::spawn(async move { grant.release().await });
    settle().await;
    let released = Released { token: 110, reason: Reason::Released };
    peer.say(111, Some(SESSION), ReplyBody::Released(released)).await;
    assert_eq!(again.await.unwrap().unwrap(), Outcome::Released);
    drop(client);
    assert!(matches!(peer.hear().await, RequestBody::Close(_)), "and it was said once");
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_loss_and_work_under_a_grant() {
    let mut fake = Fake::new();
    let (client, mut peer) = fake.client().await;
    let grant = held(&client, &mut peer, 110).await;
    assert!(poll_and_drop(grant.lost(), 2).await);
    let (alive, dropped) = tokio::sync::oneshot::channel::<()>();
    let work = async move {
        let _alive = alive;
        pending::<()>().await;
    };
    assert!(poll_and_drop(grant.run(work), 2).await);
    assert!(dropped.await.is_err(), "the work is dropped with it");
    grant.check().expect("and the grant is held as before");
    drop(grant);
    assert!(matches!(peer.hear().await, RequestBody::Release(release) if release.token == 110));
}

#[tokio::test(start_paused = true)]
async fn close_by_its_first_poll() {
    let mut fake = Fake::new();
    let (client, mut peer) = fake.client().await;
    let grant = held(&client, &mut peer, 110).await;
    assert!(poll_and_drop(client.close(), 1).await);
    assert!(grant.is_lost());
    assert!(matches!(peer.hear().await, RequestBody::Close(_)));
    peer.session_ended().await;
    // The handles are still there, and hold nothing up.
    assert_eq!(peer.rest().await, []);
    assert_eq!(grant.release().await.unwrap(), Outcome::AlreadyLost(Reason::Closed));
}

#[tokio::test(start_paused = true)]
async fn questions_are_not_asked_again() {
    let mut fake = Fake::new();
    let (client, mut peer) = fake.looker().await;
    assert!(poll_and_drop(client.partitions(), 1).await);
    assert!(poll_and_drop(client.status(0, StatusWhat::Summary), 1).await);
    assert!(poll_and_drop(client.pause(0, "x"), 1).await);
    assert!(poll_and_drop(client.resume(0, "x"), 1).await);
    for _ in 0..4 {
        peer.hear().await;
    }
    assert!(poll_and_drop(client.session(0), 1).await);
    // Its name first needs the count of partitions.
    let name = ResourceName::new("r").unwrap();
    assert!(poll_and_drop(client.force_release(name, 7, "x", false), 1).await);
    assert!(matches!(peer.hear().await, RequestBody::Open(_)));
    assert!(matches!(peer.hear().await, RequestBody::Status(_)));
    drop(peer);
    let mut peer = fake.accept().await;
    peer.open().await;
    drop(client);
    let sent = peer.rest().await;
    let ours = |body: &RequestBody| {
        matches!(body, RequestBody::Attach(_) | RequestBody::KeepAlive(_) | RequestBody::Close(_))
    };
    assert!(!sent.is_empty() && sent.iter().all(ours), "{sent:?}");
}
