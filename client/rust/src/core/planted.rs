//! Wrong rules that were tempting. Each can be planted, so that tests show that they would notice.
//!
//! Outside tests and the feature `planted` none can be, and what asks for them compiles to nothing.

/// A wrong rule, with its number in the list of counterexamples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Planted {
    /// 9: the lease is counted from the arrival of what confirms it.
    LeaseFromArrival,
    /// 10: an `alive` confirms the latest keep-alive, whichever it answers.
    AliveConfirmsTheLatest,
    /// 11: any `granted` is believed.
    AnyGrantedBelieved,
    /// 12: a lapsed lease is revived by any `alive`, and what was held is held again.
    AnyAliveRevives,
    /// 19: a revocation of what has not been seen granted is ignored.
    UnseenRevocationIgnored,
    /// 28: `held` in `alive` tells nothing about what waits.
    HeldTellsNothing,
    /// 36: the lease is counted from the latest sending of `open`.
    LatestOpenCounts,
    /// 45: what is missing from `held` is lost, however old the `alive` is.
    AliveJudgesBeyondItsIndex,
    /// 24: fail fast is not counted by the client.
    FailFastNotCounted,
    /// 49: numbers may run ahead of an unanswered one without limit.
    WindowIgnored,
    /// 50: a waiter's absence from `alive` says nothing.
    AbsenceTellsNothing,
}

/// The wrong rules that are planted; none as a rule.
#[derive(Clone, Copy, Debug, Default, Hash)]
pub(super) struct Plants {
    #[cfg(any(test, feature = "planted"))]
    planted: Option<Planted>,
}

impl Plants {
    #[cfg(any(test, feature = "planted"))]
    pub(super) fn plant(&mut self, planted: Planted) {
        self.planted = Some(planted);
    }

    #[cfg(any(test, feature = "planted"))]
    pub(super) fn has(self, planted: Planted) -> bool {
        self.planted == Some(planted)
    }

    #[cfg(not(any(test, feature = "planted")))]
    #[expect(clippy::unused_self, reason = "the same shape as with plants")]
    pub(super) fn has(self, _: Planted) -> bool {
        false
    }
}
