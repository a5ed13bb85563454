//! Wrong rules that were tempting. Each can be planted in a partition, so that tests show that they would notice.
//!
//! Outside tests and the feature `planted` none can be, and what asks for them compiles to nothing.

/// A wrong rule, with its number in the list of counterexamples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Planted {
    /// 6: any foreign record while activating means stepping down.
    ForeignEndsActivation,
    /// 8: a repeat is answered from speculative state.
    RepeatFromSpeculation,
    /// 13: a session that is over is known by what its client says, and lives again.
    DeadRaised,
    /// 14: a tick is judged by the clock at its processing.
    TickAtProcessing,
    /// 15: a deadline is acted on without the queue.
    DeadlineWithoutQueue,
    /// 16: another activation's tick is acted on.
    AnyTick,
    /// 18: a hold limit or an operator passes the resource on at once.
    RevokedAtOnce,
    /// 20: a returned grant ends the waiter.
    ReturnEnds,
    /// 21: a returned grant is undone though other copies were sent.
    ReturnUndoesAnything,
    /// 22: another activation's `gone` is acted on.
    AnyGone,
    /// 23: an old `attach` counts after a newer one.
    OldAttach,
    /// 25: keep-alives leave no trace in the log.
    RenewalsUnlogged,
    /// 26: one record grants several requests.
    AdvanceGrantsAll,
    /// 27: that a number was seen is remembered, and not how it ended.
    OutcomesForgotten,
    /// 29: the one tick that was sent is waited for.
    TickOnce,
    /// 31: `gone` looks at the name of the queue, and only `granted` names a grant.
    GoneByName,
    /// 32: the client knows which partition a resource is in.
    AnyPartition,
    /// 33: any tick or `gone` in the queue is acted on.
    AnyLetter,
    /// 35: only the record that freed something is followed by an advance.
    AdvanceOnlyAfter,
    /// 42: a tick ends whatever is due, in one record.
    TickUnbounded,
    /// 43: what is not above the highest number seen is a repeat.
    HighestSeen,
    /// 46: a repeated keep-alive renews.
    AnyRenewal,
    /// 48: every session fails fast.
    EverybodyFailsFast,
    /// 49: an outcome is forgotten as soon as it is told.
    OutcomesDropped,
    /// 52: a release grants the next waiter itself.
    ReleaseGrants,
    /// 53: renewals are taken from the log without their numbers.
    RenewalsUnnumbered,
    /// 54: a grant is undone unless something that names it was published before its return.
    NamedBefore,
    /// 55: a reply's address is looked up at its sending, and `gone` carries the newest number.
    AddressAtSending,
    /// 56: renewals are judged by the last number of this activation only.
    RenewalsOfActivation,
    /// 57: an activation goes on past another's epoch.
    ActivatesOnRival,
    /// 58: `alive` is released at once.
    AliveAtOnce,
}

/// The wrong rule that is planted; none as a rule. Nothing at all in a build without them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Plants {
    #[cfg(any(test, feature = "planted"))]
    planted: Option<Planted>,
}

impl Plants {
    #[cfg(any(test, feature = "planted"))]
    pub(crate) fn of(planted: Option<Planted>) -> Self {
        Self { planted }
    }

    #[cfg(any(test, feature = "planted"))]
    pub(crate) fn has(self, planted: Planted) -> bool {
        self.planted == Some(planted)
    }

    #[cfg(not(any(test, feature = "planted")))]
    #[expect(clippy::unused_self, reason = "the same shape as with plants")]
    pub(crate) fn has(self, _: Planted) -> bool {
        false
    }
}
