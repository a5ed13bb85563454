//! The resource's half of fencing: what makes a late, paused or cut-off holder harmless.
//!
//! No lock service can stop a holder that sleeps between looking at its clock and acting. The resource can: it
//! keeps the highest *floor* that it has seen and refuses fencing tokens below it. Holders pass both with every
//! access ([`Grant::token`](crate::Grant::token), [`Grant::floor`](crate::Grant::floor)). The floor, not the
//! token: of two shared holders, 10 and 11, both may write.

use crate::wire::Token;
use std::sync::atomic::{AtomicU64, Ordering};

/// The same check for a row of an SQL table that has a column `fence`, 0 in a new row.
///
/// `$1` is the row, `$2` the grant's fencing token, `$3` its floor. No row updated means fenced off: do not go on.
pub const SQL: &str = "UPDATE resource SET fence = GREATEST(fence, $3) WHERE id = $1 AND fence <= $2";

/// The highest floor that one resource has seen.
///
/// # Examples
/// ```
/// use arbiterq_client::fence::Fence;
///
/// let fence = Fence::new(0);
/// fence.check(10, 10)?;                       // the holder with token 10
/// fence.check(11, 10)?;                       // a second shared holder: both may go on
/// fence.check(10, 10)?;
/// fence.check(12, 12)?;                       // a later, exclusive one
/// assert!(fence.check(11, 10).is_err());      // the first two woke up too late
/// # Ok::<(), arbiterq_client::fence::Fenced>(())
/// ```
#[derive(Debug, Default)]
pub struct Fence(AtomicU64);

/// The token is below the floor: its holder has been succeeded, and must not act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("fencing token {token} is below {floor}: it has been succeeded")]
pub struct Fenced {
    /// What was presented.
    pub token: Token,
    /// The highest floor seen.
    pub floor: Token,
}

impl Fence {
    /// A fence that has seen `floor`; 0 for a resource that nobody has used yet.
    pub fn new(floor: Token) -> Self {
        Self(AtomicU64::new(floor))
    }

    /// The highest floor seen.
    pub fn floor(&self) -> Token {
        self.0.load(Ordering::SeqCst)
    }

    /// Lets the holder of `token` act, and remembers its `floor`.
    ///
    /// A floor above its own token is nonsense and counts as the token.
    ///
    /// # Errors
    /// The token is below the highest floor seen; nothing is remembered then.
    pub fn check(&self, token: Token, floor: Token) -> Result<(), Fenced> {
        let raise = |seen: Token| (token >= seen).then(|| seen.max(floor.min(token)));
        match self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, raise) {
            Ok(_) => Ok(()),
            Err(seen) => Err(Fenced { token, floor: seen }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_is_not_remembered() {
        let fence = Fence::new(5);
        assert_eq!(fence.check(4, 4), Err(Fenced { token: 4, floor: 5 }));
        assert_eq!(fence.floor(), 5);
    }

    #[test]
    fn a_floor_above_its_token_locks_nobody_out() {
        let fence = Fence::new(0);
        fence.check(7, u64::MAX).unwrap();
        assert_eq!(fence.floor(), 7);
    }
}
