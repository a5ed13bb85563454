//! Exclusive access to anything, decided by the queue you already run: the client of Arbiter.
//!
//! A program asks for a resource, waits in line, and is given a [`Grant`] with a fencing token that only rises.
//!
//! ```text
//! Client ── Acquire ── Ticket ── Grant        what a program holds in its hand; dropping gives back
//!    │
//!  driver        one task a client: owns the state, the connection and the timers
//!    │
//!  core          the rules of a session, pure: inputs and the time in, messages and events out
//!    │
//!  transport     lines of JSON over TCP, a Unix socket, or channels in process
//! ```
//!
//! - [`Client`] and what it gives out are the API for programs.
//! - [`fence`] is the other half, for the resource.
//! - [`core`] holds every rule about believing, and the simulator drives that same code.
//! - [`wire`] is the published protocol.

#[cfg(feature = "rabbitmq")]
#[doc(hidden)]
pub mod broker;
pub mod clock;
pub mod core;
pub mod fence;
pub mod transport;
pub mod wire;

mod access;
mod acquire;
mod client;
mod driver;
mod error;
mod grant;
mod ticket;
mod url;

#[doc(hidden)]
pub use access::Access;
pub use access::Tls;
pub use acquire::{Acquire, Want};
pub use client::{Builder, Client, LEASE_DEFAULT};
pub use clock::Clock;
pub use error::{Error, ErrorKind};
pub use grant::{Belief, Grant, Lost, Outcome, Receipt};
pub use ticket::{Position, Ticket};
pub use url::{URL_DEFAULT, Url};
