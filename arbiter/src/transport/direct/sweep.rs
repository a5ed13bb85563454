//! Letters to oneself through a queue that is made of sockets.
//!
//! Before a letter is delivered, connections that wait to be accepted are accepted, and every reader hands on what
//! has arrived at its socket: so a keep-alive that a client sent before the letter was written is decided before
//! it, however long the arbiter itself was stopped. The readiness that the runtime remembers is not asked; the
//! sockets are.

use super::{Hub, Inbound};
use crate::partition::Delivery;
use arbiterq_client::wire::{Principal, Request};
use std::sync::Weak;
use tokio::sync::{mpsc, oneshot};

/// A letter and the partition that wrote it.
pub(super) struct Letter {
    pub(super) partition: u32,
    pub(super) request: Request,
}

/// Delivers letters one after the other, for as long as the hub lives.
pub(super) async fn deliver_letters(hub: Weak<Hub>, mut letters: mpsc::Receiver<Letter>) {
    while let Some(Letter { partition, request }) = letters.recv().await {
        let Some(hub) = hub.upgrade() else { return };
        let listeners = hub.listeners();
        for listener in listeners {
            if !has_accepted(&listener).await {
                // The arbiter stops. Whoever waits there is not heard any more, and is not to be judged by that.
                return;
            }
        }
        let readers: Vec<_> = hub.lock().open.values().map(|connection| connection.sweeps.clone()).collect();
        let passed: Vec<_> = readers.iter().filter_map(ask).collect();
        for reader in passed {
            // A reader that ended has handed on everything it had.
            let _ = reader.await;
        }
        let delivery = Delivery {
            id: 0,
            from: None,
            principal: Principal::anonymous(),
            present: false,
            position: None,
            request,
        };
        if let Some(inbox) = hub.inboxes.get(partition as usize) {
            let _ = inbox.send(Inbound::Delivery(delivery)).await;
        }
    }
}

fn ask(to: &mpsc::UnboundedSender<oneshot::Sender<()>>) -> Option<oneshot::Receiver<()>> {
    let (passed, wait) = oneshot::channel();
    to.send(passed).ok().map(|()| wait)
}

/// Whether all who wait to be accepted are; not if the listener has ended.
async fn has_accepted(listener: &mpsc::UnboundedSender<oneshot::Sender<()>>) -> bool {
    match ask(listener) {
        Some(wait) => wait.await.is_ok(),
        None => false,
    }
}
