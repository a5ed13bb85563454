//! The request queue of a broker: at least once, in its order, to one consumer at a time.
//!
//! A queue with acknowledgements gives what its consumer had and did not finish to the next one, first. A queue with
//! positions keeps everything and is read from wherever a consumer says. Sockets lose what they hold with their
//! arbiter.

use super::mix::Store;
use arbiterq::partition::Address;
use arbiterq_client::wire::Request;
use std::collections::VecDeque;
use std::rc::Rc;

/// One message, as it lies in the queue.
#[derive(Debug)]
pub(super) struct Message {
    /// Its position.
    pub(super) id: u64,
    /// The address that its answer goes to; none for letters.
    pub(super) from: Option<Address>,
    /// The end of its connection is its sender's end.
    pub(super) present: bool,
    /// What it says.
    pub(super) request: Request,
}

/// Who is given the messages: an arbiter, by the channel that it opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Consumer {
    /// Which arbiter.
    pub(super) arbiter: usize,
    /// Which of all channels ever opened.
    pub(super) channel: u64,
}

/// The queue.
#[derive(Debug)]
pub(super) struct Queue {
    store: Store,
    ready: VecDeque<Rc<Message>>,
    taken: VecDeque<Rc<Message>>,
    /// Everything ever enqueued, where positions count.
    kept: Vec<Rc<Message>>,
    position: u64,
    next_id: u64,
    /// Open channels, in the order of their opening; the first is the consumer.
    channels: VecDeque<Consumer>,
    channels_made: u64,
}

impl Queue {
    /// An empty queue that nobody consumes.
    pub(super) fn new(store: Store) -> Self {
        Self {
            store,
            ready: VecDeque::new(),
            taken: VecDeque::new(),
            kept: Vec::new(),
            position: 0,
            next_id: 0,
            channels: VecDeque::new(),
            channels_made: 0,
        }
    }

    /// Takes a message.
    pub(super) fn enqueue(&mut self, from: Option<Address>, present: bool, request: Request) {
        let message = Rc::new(Message { id: self.next_id, from, present, request });
        self.next_id += 1;
        match self.store {
            Store::Topic => self.kept.push(message),
            Store::Stream | Store::File => self.ready.push_back(message),
        }
    }

    /// Takes a letter of the arbiter to itself; by a wrong rule, before everything else.
    pub(super) fn enqueue_letter(&mut self, request: Request, first: bool) {
        let message = Rc::new(Message { id: self.next_id, from: None, present: false, request });
        self.next_id += 1;
        match first {
            true => self.ready.push_front(message),
            false => self.ready.push_back(message),
        }
    }

    /// A wrong rule: the consumer is cancelled and keeps what it has.
    pub(super) fn cancel(&mut self, channel: u64) {
        self.channels.retain(|other| other.channel != channel);
    }

    /// Opens a channel; its arbiter is the consumer when all channels before it are closed.
    pub(super) fn open(&mut self, arbiter: usize) -> u64 {
        self.channels_made += 1;
        self.channels.push_back(Consumer { arbiter, channel: self.channels_made });
        self.channels_made
    }

    /// Closes a channel. What its consumer had is given to the next one, first and in its order.
    pub(super) fn close(&mut self, channel: u64) {
        let was_consumer = self.consumer().is_some_and(|consumer| consumer.channel == channel);
        self.channels.retain(|other| other.channel != channel);
        if was_consumer {
            while let Some(message) = self.taken.pop_back() {
                self.ready.push_front(message);
            }
        }
    }

    /// Forgets everything that was not finished: sockets end with their arbiter.
    pub(super) fn forget(&mut self) {
        self.ready.clear();
        self.taken.clear();
    }

    /// Who is given the messages.
    pub(super) fn consumer(&self) -> Option<Consumer> {
        self.channels.front().copied()
    }

    /// Whether there is something to give.
    pub(super) fn has_ready(&self) -> bool {
        match self.store {
            Store::Topic => self.position < self.next_id,
            Store::Stream | Store::File => !self.ready.is_empty(),
        }
    }

    /// Gives the next message.
    pub(super) fn take(&mut self) -> Option<Rc<Message>> {
        if self.store == Store::Topic {
            let message = self.kept.get(usize::try_from(self.position).ok()?)?.clone();
            self.position += 1;
            return Some(message);
        }
        let message = self.ready.pop_front()?;
        self.taken.push_back(message.clone());
        Some(message)
    }

    /// Goes on from a position.
    pub(super) fn seek(&mut self, position: u64) {
        self.position = position;
    }

    /// A message is done with. Returns it, if the channel may say so.
    pub(super) fn acknowledge(&mut self, channel: u64, id: u64) -> Option<Rc<Message>> {
        if self.consumer().is_none_or(|consumer| consumer.channel != channel) {
            return None;
        }
        let at = self.taken.iter().position(|message| message.id == id)?;
        self.taken.remove(at)
    }

    /// Messages that are not done with.
    pub(super) fn len(&self) -> usize {
        match self.store {
            Store::Topic => usize::try_from(self.next_id - self.position).unwrap_or(0),
            Store::Stream | Store::File => self.ready.len() + self.taken.len(),
        }
    }
}
