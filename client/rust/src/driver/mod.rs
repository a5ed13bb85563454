//! One task a client.

mod handle;

pub(crate) use handle::{Command, Handle};

use crate::client::{Config, Place};
use crate::error::Error;

/// Connects and starts the task.
pub(crate) async fn start(place: Place, config: Config) -> Result<Handle, Error> {
    let _ = (place, config);
    Err(Error::closed())
}
