//! Two arbiters on one log: what the partition does about rivals, void entries, redeliveries, forged letters and
//! replies that come back. Each test is named after what must hold; numbers are rows of the counterexamples.

use arbiterq::log::chain::{ChainTip, Sealed};
use arbiterq::log::memory::MemoryLog;
use arbiterq::log::record::{Command, Event};
use arbiterq::partition::{Activation, Delivery, Outgoing, Partition, PartitionConfig, Role, StepDown};
use arbiterq::state::State;
use arbiterq_client::wire::{
    Acquire, Attach, Claim, KeepAlive, LogId, Nonce, Open, Principal, Reason, Release, ReplyBody, Request,
    RequestBody, ResourceName, SessionId, SessionKey, Tick, Timestamp,
};
use std::time::Duration;

const LEASE_MS: u64 = 10_000;

/// An arbiter that reads a shared log back, as the stores of brokers do.
struct Arbiter {
    partition: Partition,
    log: MemoryLog,
    read: usize,
    now: Duration,
    letters: Vec<Request>,
    acks: Vec<u64>,
    step_down: Option<StepDown>,
}

fn new_log() -> MemoryLog {
    let log = MemoryLog::default();
    log.append(&[arbiterq::serve::genesis(LogId([1; 16]), 0, 1, Timestamp::from_micros(1_000_000))]);
    log
}

impl Arbiter {
    fn standby(log: &MemoryLog) -> Self {
        let config = PartitionConfig {
            returns: true,
            overdue: Some(Duration::from_secs(10)),
            ..PartitionConfig::default()
        };
        let mut arbiter = Self {
            partition: Partition::standby(config, State::new(ChainTip::before(0))),
            log: log.clone(),
            read: 0,
            now: Duration::ZERO,
            letters: Vec::new(),
            acks: Vec::new(),
            step_down: None,
        };
        arbiter.read_log();
        arbiter
    }

    fn active(log: &MemoryLog, incarnation: u8) -> Self {
        let mut arbiter = Self::standby(log);
        arbiter.activate(incarnation);
        arbiter.settle();
        assert_eq!(arbiter.partition.role(), Role::Active);
        arbiter
    }

    fn activate(&mut self, incarnation: u8) {
        let activation = Activation {
            incarnation: Nonce([incarnation; 16]),
            secret: [incarnation; 32],
            wall: Timestamp::from_micros(2_000_000),
        };
        self.partition.activate(activation, self.now).unwrap();
    }

    /// Puts what it wants appended at the end of the log, without reading it back.
    fn append(&mut self) -> Vec<Outgoing> {
        let outputs = self.partition.outputs(self.now);
        outputs.appends.iter().for_each(|entry| self.log.append(&entry.records));
        self.letters.extend(outputs.letters);
        self.acks.extend(outputs.acks);
        self.step_down = self.step_down.or(outputs.step_down);
        outputs.sends
    }

    fn read_log(&mut self) {
        for entry in self.log.read(self.read) {
            self.read += 1;
            self.partition.observe(&entry, self.now);
        }
    }

    /// Appends and reads back until nothing moves; what it tells meanwhile.
    fn settle(&mut self) -> Vec<Outgoing> {
        let mut told = self.append();
        while self.log.read(self.read).len() + usize::from(!told.is_empty()) > 0 {
            let before = (self.read, told.len());
            self.read_log();
            told.extend(self.append());
            if before == (self.read, told.len()) {
                break;
            }
        }
        told
    }

    fn deliver(&mut self, request: &Request, from: &str) {
        let delivery = Delivery {
            id: 7,
            from: Some(from.into()),
            principal: Principal::anonymous(),
            present: false,
            position: None,
            request: request.clone(),
        };
        self.partition.deliver(delivery, self.now);
    }

    fn say(&mut self, request: &Request, from: &str) -> Vec<Outgoing> {
        self.deliver(request, from);
        self.settle()
    }

    fn wait(&mut self, time: Duration) -> Vec<Outgoing> {
        self.now += time;
        self.partition.time(self.now);
        self.settle()
    }

    /// Gives its letters back to it, as its queue would.
    fn letters_arrive(&mut self) -> Vec<Outgoing> {
        let mut told = Vec::new();
        for letter in std::mem::take(&mut self.letters) {
            let delivery = Delivery {
                id: 8,
                from: None,
                principal: Principal::anonymous(),
                present: false,
                position: None,
                request: letter,
            };
            self.partition.deliver(delivery, self.now);
            told.extend(self.settle());
        }
        told
    }
}

/// A client, as far as these tests need one.
struct Client {
    session: SessionId,
    key: SessionKey,
    address: &'static str,
}

/// A message as a queue delivers it that knows positions.
fn at(position: u64, request: Request, from: &str) -> Delivery {
    let (from, principal) = (Some(from.into()), Principal::anonymous());
    Delivery { id: position, from, principal, present: false, position: Some(position), request }
}

fn open_request(key: u8) -> Request {
    let open = Open {
        id: format!("open-{key}"),
        key: SessionKey::random([key; 16]),
        lease_ms: LEASE_MS,
        fail_fast_ms: None,
        label: format!("client-{key}"),
        reply_to: None,
        peer: None,
    };
    Request { partition: 0, auth: None, body: RequestBody::Open(open) }
}

impl Client {
    fn open(arbiter: &mut Arbiter, key: u8, address: &'static str) -> Self {
        let told = arbiter.say(&open_request(key), address);
        let session = told.iter().find_map(|outgoing| match &outgoing.reply.body {
            ReplyBody::Opened(opened) => Some(opened.session),
            _ => None,
        });
        Self { session: session.expect("opened"), key: SessionKey::random([key; 16]), address }
    }

    fn of(&self, body: RequestBody) -> Request {
        Request::of(0, self.session, self.key.clone(), body)
    }

    fn acquire(&self, seq: u64) -> Request {
        let claims = vec![Claim::exclusive(ResourceName::new("r").unwrap())];
        self.of(RequestBody::Acquire(Acquire {
            seq,
            claims,
            owner: None,
            wait_ms: None,
            hold_max_ms: None,
            priority: None,
            reason: None,
            value: None,
        }))
    }

    fn release(&self, token: u64) -> Request {
        self.of(RequestBody::Release(Release { token }))
    }

    fn keep_alive(&self, n: u64) -> Request {
        self.of(RequestBody::KeepAlive(KeepAlive { n }))
    }

    fn attach(&self, n: u64) -> Request {
        self.of(RequestBody::Attach(Attach { n, reply_to: None, peer: None }))
    }
}

fn granted(told: &[Outgoing]) -> Vec<(SessionId, u64)> {
    let tokens = told.iter().filter_map(|outgoing| match &outgoing.reply.body {
        ReplyBody::Granted(granted) => Some((outgoing.reply.session?, granted.token)),
        _ => None,
    });
    tokens.collect()
}

fn records(log: &MemoryLog) -> Vec<Sealed> {
    log.lines().iter().map(|line| Sealed::read(line).unwrap()).collect()
}

fn events(log: &MemoryLog) -> Vec<Event> {
    records(log).into_iter().flat_map(|sealed| sealed.record.events).collect()
}

/// Whoever takes over goes on behind `upto`: what is not answered by then never is.
#[test]
fn no_record_counts_a_message_as_decided_that_a_later_one_answers() {
    let log = new_log();
    let mut a = Arbiter::active(&log, 1);
    let c = Client::open(&mut a, 1, "c");
    // A renewal waits for a record, and the release of what is not held makes none.
    a.partition.deliver(at(1, c.keep_alive(1), c.address), a.now);
    a.partition.deliver(at(2, c.release(999), c.address), a.now);
    a.settle();
    let told = a.wait(Duration::from_secs(1));
    let refused = told.iter().find(|outgoing| matches!(outgoing.reply.body, ReplyBody::Refused(_)));
    let answered = refused.expect("it is answered").reply.index;
    let decided = records(&log).into_iter().find(|sealed| sealed.record.upto >= Some(2));
    assert_eq!(decided.expect("it is decided").record.index, answered);
}

#[test]
fn row_1_and_3_nothing_is_told_or_acknowledged_before_the_record_is_proven() {
    let log = new_log();
    let mut a = Arbiter::active(&log, 1);
    let c = Client::open(&mut a, 1, "c");
    a.acks.clear();
    a.deliver(&c.acquire(1), c.address);
    assert!(a.append().is_empty(), "appended, not proven: nobody hears");
    assert!(a.acks.is_empty(), "and the request stays on the queue");
    a.read_log();
    assert_eq!(granted(&a.append()).len(), 1);
    assert_eq!(a.acks, [7]);
}

#[test]
fn row_2_a_zombies_records_are_void_and_it_steps_down() {
    let log = new_log();
    let mut a = Arbiter::active(&log, 1);
    let c = Client::open(&mut a, 1, "c");
    let d = Client::open(&mut a, 2, "d");
    // B takes over while A is stopped; then A wakes and grants from what it remembers.
    let mut b = Arbiter::active(&log, 2);
    let told_by_b = b.say(&d.acquire(1), d.address);
    assert_eq!(granted(&told_by_b).len(), 1);
    a.deliver(&c.acquire(1), c.address);
    assert!(granted(&a.settle()).is_empty(), "what is void is told to nobody");
    assert_eq!(a.step_down, Some(StepDown::Superseded));
    let grants = events(&log).into_iter().filter(|event| matches!(event, Event::Granted { .. })).count();
    assert_eq!(grants, 1);
    // B reads A's void entry and goes on.
    b.settle();
    assert_eq!(b.partition.role(), Role::Active);
}

#[test]
fn row_6_a_dead_predecessors_entries_are_folded_while_activating() {
    let log = new_log();
    let mut a = Arbiter::active(&log, 1);
    let c = Client::open(&mut a, 1, "c");
    let mut b = Arbiter::standby(&log);
    b.activate(2);
    // A's last entry lands before B's epoch.
    a.deliver(&c.acquire(1), c.address);
    a.append();
    b.settle();
    assert_eq!(b.partition.role(), Role::Active);
    assert_eq!(b.partition.state().epoch(), 2);
    assert_eq!(b.partition.state().grants_in_force().count(), 1, "A's grant is in B's state");
}

#[test]
fn row_57_another_epoch_that_counts_ends_an_activation() {
    let log = new_log();
    let mut a = Arbiter::standby(&log);
    let mut b = Arbiter::standby(&log);
    a.activate(1);
    b.activate(2);
    b.settle();
    assert_eq!(b.partition.role(), Role::Active);
    a.settle();
    assert_eq!(a.step_down, Some(StepDown::Superseded));
    b.settle();
    assert_eq!(b.partition.role(), Role::Active);
}

#[test]
fn row_7_two_activations_never_seal_equal_bytes() {
    let log = new_log();
    let (mut a, mut b) = (Arbiter::standby(&log), Arbiter::standby(&log));
    a.activate(1);
    b.activate(2);
    a.append();
    b.append();
    a.read_log();
    b.read_log();
    assert_eq!(a.partition.role(), Role::Active);
    assert_eq!(b.partition.role(), Role::SteppedDown);
}

#[test]
fn row_8_a_repeat_is_not_answered_from_speculation() {
    let log = new_log();
    let mut a = Arbiter::active(&log, 1);
    let c = Client::open(&mut a, 1, "c");
    a.deliver(&c.acquire(1), c.address);
    a.deliver(&c.acquire(1), c.address);
    assert!(a.append().is_empty());
    let mut b = Arbiter::active(&log, 2);
    b.settle();
    // The entry counted before B's epoch, so A's own answer stands; the repeat waits for a record after it.
    a.read_log();
    let told = a.append();
    assert!(told.is_empty(), "superseded: even proven answers are B's to give now");
    assert_eq!(granted(&b.say(&c.acquire(1), c.address)), [], "a repeat waits for the next record");
    assert_eq!(granted(&b.wait(Duration::from_millis(60))).len(), 1);
}

#[test]
fn row_35_a_release_redelivered_after_its_record_counted_moves_the_line() {
    let log = new_log();
    let mut a = Arbiter::active(&log, 1);
    let c = Client::open(&mut a, 1, "c");
    let d = Client::open(&mut a, 2, "d");
    let token = granted(&a.say(&c.acquire(1), c.address))[0].1;
    a.say(&d.acquire(1), d.address);
    a.deliver(&c.release(token), c.address);
    a.append();
    // A is gone; its entry had the release and, in the same entry, the advance.
    let mut b = Arbiter::active(&log, 2);
    assert_eq!(b.partition.state().grants_in_force().next().unwrap().session(), d.session);
    let last_of_a = records(&log).iter().rev().find(|sealed| sealed.record.epoch == 1).unwrap().clone();
    assert_eq!(last_of_a.record.command, Command::Advance);
    b.say(&c.release(token), c.address);
    let told = b.wait(Duration::from_millis(60));
    let released = told.iter().any(|outgoing| matches!(&outgoing.reply.body, ReplyBody::Released(_)));
    assert!(released, "the repeat is answered with the outcome");
}

#[test]
fn a_split_release_is_completed_by_the_next_arbiter_before_anything_else() {
    let log = new_log();
    let mut a = Arbiter::active(&log, 1);
    let c = Client::open(&mut a, 1, "c");
    let d = Client::open(&mut a, 2, "d");
    let token = granted(&a.say(&c.acquire(1), c.address))[0].1;
    a.say(&d.acquire(1), d.address);
    a.deliver(&c.release(token), c.address);
    // Only the first record of A's entry reaches the log, as an entry of its own.
    let outputs = a.partition.outputs(a.now);
    log.append(&outputs.appends[0].records[..1]);
    let mut b = Arbiter::standby(&log);
    b.activate(2);
    b.deliver(&c.acquire(2), c.address);
    b.settle();
    let of_b: Vec<_> = records(&log).into_iter().filter(|sealed| sealed.record.epoch == 2).collect();
    assert_eq!(of_b[0].record.command, Command::Activate);
    assert_eq!(of_b[1].record.command, Command::Advance, "before any other input");
}

#[test]
fn rows_16_and_33_a_tick_counts_only_with_a_nonce_of_this_activation() {
    let log = new_log();
    let mut a = Arbiter::active(&log, 1);
    let c = Client::open(&mut a, 1, "c");
    a.say(&c.acquire(1), c.address);
    let far = Timestamp::from_micros(4_000_000_000_000_000);
    let forged = Tick { nonce: Nonce([9; 16]), at: far };
    a.say(&Request { partition: 0, auth: None, body: RequestBody::Tick(forged) }, "x");
    assert!(a.partition.state().session(c.session).is_some());
    // A's own tick, delivered to B, is nobody's.
    a.wait(Duration::from_millis(LEASE_MS + 1));
    let letter = a.letters.pop().expect("a tick is due");
    let mut b = Arbiter::active(&log, 2);
    b.say(&letter, "x");
    assert!(b.partition.state().session(c.session).is_some());
    // To A itself it counts, once, and only as it was sent.
    let RequestBody::Tick(tick) = &letter.body else { panic!("a tick") };
    let later = Tick { at: far, ..tick.clone() };
    let mut a2 = Arbiter::active(&log, 3);
    a2.wait(Duration::from_millis(LEASE_MS + 1));
    a2.letters_arrive();
    assert!(a2.partition.state().session(c.session).is_none());
    assert_ne!(&later, tick);
}

#[test]
fn row_14_a_keep_alive_in_line_before_the_tick_saves_its_session() {
    let log = new_log();
    let mut a = Arbiter::active(&log, 1);
    let c = Client::open(&mut a, 1, "c");
    a.say(&c.acquire(1), c.address);
    // The arbiter was stopped for three leases; the keep-alive was in line before the tick.
    a.now += Duration::from_millis(3 * LEASE_MS);
    a.partition.time(a.now);
    a.append();
    a.say(&c.keep_alive(1), c.address);
    a.letters_arrive();
    assert!(a.partition.state().session(c.session).is_some());
    let renewed = records(&log).iter().any(|sealed| sealed.record.renewed == [(c.session, 1)]);
    assert!(renewed, "row 25: the log says why");
}

#[test]
fn row_46_a_keep_alive_that_was_counted_renews_nothing() {
    let log = new_log();
    let mut a = Arbiter::active(&log, 1);
    let c = Client::open(&mut a, 1, "c");
    a.say(&c.keep_alive(1), c.address);
    a.wait(Duration::from_millis(60));
    a.wait(Duration::from_millis(LEASE_MS));
    a.letters_arrive();
    a.say(&c.keep_alive(1), c.address);
    a.wait(Duration::from_millis(100));
    a.letters_arrive();
    assert!(a.partition.state().session(c.session).is_none());
}

#[test]
fn row_29_a_tick_that_does_not_come_back_is_sent_again_and_an_overdue_one_ends_activity() {
    let log = new_log();
    let mut a = Arbiter::active(&log, 1);
    let c = Client::open(&mut a, 1, "c");
    a.say(&c.acquire(1), c.address);
    a.wait(Duration::from_millis(LEASE_MS));
    a.wait(Duration::from_millis(1100));
    assert_eq!(a.letters.len(), 2);
    a.wait(Duration::from_secs(10));
    assert_eq!(a.step_down, Some(StepDown::TickOverdue), "row 59");
}

#[test]
fn row_20_a_first_grant_that_came_back_suspends_and_the_next_is_granted() {
    let log = new_log();
    let mut a = Arbiter::active(&log, 1);
    let c = Client::open(&mut a, 1, "c");
    let d = Client::open(&mut a, 2, "d");
    let e = Client::open(&mut a, 3, "e");
    let token = granted(&a.say(&c.acquire(1), c.address))[0].1;
    a.say(&d.acquire(1), d.address);
    a.say(&e.acquire(1), e.address);
    let told = a.say(&c.release(token), c.address);
    let to_d = told.iter().find(|outgoing| granted(std::slice::from_ref(outgoing)).len() == 1).unwrap();
    a.partition.returned(to_d.mark.unwrap());
    a.settle();
    let told = a.letters_arrive();
    let now_held = granted(&told);
    assert_eq!(now_held[0].0, e.session, "d is passed over");
    // d was alive after all: it attaches and has its old place.
    let told = a.say(&d.attach(1), "d2");
    assert!(told.iter().all(|outgoing| &*outgoing.to == "d2"));
    let told = a.say(&e.release(now_held[0].1), e.address);
    assert_eq!(granted(&told)[0].0, d.session);
}

#[test]
fn rows_21_and_54_a_grant_that_anything_else_names_is_not_undone() {
    let log = new_log();
    let mut a = Arbiter::active(&log, 1);
    let c = Client::open(&mut a, 1, "c");
    let told = a.say(&c.acquire(1), c.address);
    let mark = told.iter().find_map(|outgoing| outgoing.mark).unwrap();
    a.partition.returned(mark);
    a.settle();
    // An `alive` that names the grant is held back when the letter comes back.
    a.deliver(&c.keep_alive(1), c.address);
    a.wait(Duration::from_millis(60));
    a.letters_arrive();
    assert_eq!(a.partition.state().grants_in_force().count(), 1);
    assert!(!events(&log).iter().any(|event| matches!(event, Event::Suspended { .. })));
}

#[test]
fn row_31_a_return_from_an_older_address_tells_nothing() {
    let log = new_log();
    let mut a = Arbiter::active(&log, 1);
    let c = Client::open(&mut a, 1, "c");
    let told = a.say(&c.acquire(1), c.address);
    let mark = told.iter().find_map(|outgoing| outgoing.mark).unwrap();
    a.partition.returned(mark);
    a.settle();
    a.say(&c.attach(1), "c2");
    a.letters_arrive();
    assert_eq!(a.partition.state().grants_in_force().count(), 1);
    assert!(!a.partition.state().session(c.session).unwrap().unreachable());
}

#[test]
fn a_connection_that_ends_with_its_process_ends_its_sessions() {
    let log = new_log();
    let mut a = Arbiter::active(&log, 1);
    let delivery = Delivery {
        id: 1,
        from: Some("c".into()),
        principal: Principal::anonymous(),
        present: true,
        position: None,
        request: open_request(1),
    };
    a.partition.deliver(delivery, a.now);
    a.settle();
    let d = Client::open(&mut a, 2, "d");
    assert_eq!(a.partition.state().sessions().count(), 2);
    a.partition.closed(&"c".into(), a.now);
    a.partition.closed(&"d".into(), a.now);
    a.settle();
    let left: Vec<_> = a.partition.state().sessions().map(|(session, _)| session).collect();
    assert_eq!(left, [d.session], "row 38: only where the end shows the process's end");
    let ended = events(&log)
        .iter()
        .any(|event| matches!(event, Event::SessionEnded { reason: Reason::ConnectionClosed, .. }));
    assert!(ended);
}
