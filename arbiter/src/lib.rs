//! Arbiter: exclusive access to anything, decided by the queue you already run, every decision on the record.
//!
//! ```text
//!  client                       broker                        arbiter (active)
//! ┌─────────┐  request   ┌───────────────────┐  delivery  ┌───────────────────────────────┐
//! │ driver  │──────────► │ request queue  p  │──────────► │ decode    bytes -> Command    │
//! │         │            │ (one consumer)    │            │ decide    Command -> events   │
//! │         │            ├───────────────────┤   append   │ seal      events -> Record    │
//! │         │            │ grant log      p  │◄────────── │                               │
//! │         │            │                   │──────────► │ proven?   record is on chain  │
//! │         │   reply    ├───────────────────┤   reply    │ release   replies, then ack   │
//! │ Grant ◄─│◄────────── │ reply queue       │◄────────── │                               │
//! └─────────┘            └───────────────────┘            └───────────────────────────────┘
//! ```
//!
//! # What is promised
//!
//! Whatever crashes, pauses, is cut off, duplicated or delayed, with any number of processes that believe they are
//! the active arbiter:
//!
//! 1. **Exclusion.** In the grant log no two grants in force conflict on a resource.
//! 2. **Fencing.** Fencing tokens of a partition strictly rise, for ever; no two grants share one.
//! 3. **On the record first.** Nothing is told to a client before the record that justifies it is durable and known
//!    to extend the chain.
//! 4. **Once.** A request delivered any number of times has one effect and one answer.
//! 5. **Order.** A waiter is never passed by a later one of its own priority whose claims would not fit beside its
//!    own, unless it is suspended.
//! 6. **No early expiry.** A session does not expire while a keep-alive of it, enqueued before the deciding tick, is
//!    younger than its lease.
//! 7. **No loss.** An admitted request is answered, cancelled by its client, suspended while its reply queue is
//!    gone, or ended by its session's end.
//! 8. **Evidence.** A changed, dropped, inserted or reordered record is detected.
//!
//! # Where things are
//!
//! [`state`] decides; [`log`] keeps records; [`partition`] is the middle that holds replies back until their record
//! is proven; [`transport`] is the way in and out; [`serve`] is the loop around them; [`audit`] verifies a log and
//! shares nothing with `state`; [`testing`] runs an arbiter within a program.

pub mod audit;
mod checkpointer;
pub mod clock;
pub mod log;
pub mod partition;
pub mod planted;
pub mod serve;
pub mod settings;
pub mod state;
pub mod testing;
pub mod transport;
