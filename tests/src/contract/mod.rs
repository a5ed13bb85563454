//! The contract: what every transport has to keep, said with the client library alone.
//!
//! Each theme is a file of tests. A test takes a [`Transport`], starts an [`Arbiter`] on it, and ends with
//! [`Arbiter::verified`]: both verifiers read the log that it left. Nothing in a theme knows which transport it
//! runs on; `contract_suite!` lists the tests once, for all of them.

pub mod contention;
pub mod dropping;
pub mod fencing;
mod fixture;
pub mod handover;
pub mod limits;
pub mod modes;
pub mod operator;
pub mod owners;
pub mod partitions;
pub mod reconnect;

pub use fixture::{Arbiter, Options, Transport};

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// A test that takes longer than this has failed.
pub const TEST_MAX: Duration = Duration::from_secs(60);

/// Every test of the contract, for one transport, in a module of its own.
#[macro_export]
macro_rules! contract_suite {
    ($name:ident, $transport:ident) => {
        $crate::contract_suite! { @list $name, $transport;
            handover {
                waiters_go_in_the_order_they_came,
                places_are_told_and_move_up,
                a_higher_priority_goes_first,
                a_waiter_of_another_resource_is_not_held_up,
            }
            modes {
                shared_holders_hold_together_and_exclusive_ones_alone,
                a_waiting_exclusive_one_is_not_starved_by_shared_ones,
                permits_are_taken_up_to_the_capacity,
                many_permits_are_not_starved_by_few,
                more_permits_than_there_are_are_refused,
                several_claims_are_granted_all_or_nothing,
            }
            limits {
                a_wait_limit_ends_the_wait_and_withdraws_the_request,
                try_now_does_not_wait,
                a_hold_limit_is_lost_and_passes_on_with_the_release,
                a_hold_limit_that_is_ignored_passes_on_after_a_lease,
            }
            dropping {
                releasing_twice_is_harmless,
                a_dropped_grant_is_given_back,
                a_dropped_ticket_is_withdrawn,
                a_cancelled_ticket_is_withdrawn,
                a_grant_that_nobody_took_is_given_back,
                acquiring_may_be_dropped_at_every_await,
                waiting_may_be_dropped_at_every_await,
                releasing_may_be_dropped_at_every_await,
                a_closed_client_gives_everything_back,
                the_last_clone_closes_the_session,
            }
            owners {
                the_same_owner_is_refused_not_left_waiting,
                tasks_of_one_program_are_different_owners,
                work_ends_with_the_grant,
            }
            operator {
                force_lets_the_holder_stop_first,
                force_now_passes_on_at_once,
                force_names_the_grant_that_it_means,
                paused_requests_queue_and_go_on_with_resume,
            }
            reconnect {
                a_cut_connection_costs_neither_grant_nor_place,
                work_goes_on_across_cuts,
                a_lapsed_lease_loses_what_was_held_and_the_client_recovers,
                a_waiter_survives_an_outage_of_several_leases,
                an_idle_session_lapses_and_another_is_opened,
            }
            partitions {
                each_resource_has_one_partition,
                a_tag_keeps_resources_together,
                claims_across_partitions_are_refused_with_the_remedy,
            }
            fencing {
                tokens_rise_with_every_grant,
                a_stale_holder_is_fenced_off,
                shared_holders_have_the_lowest_token_as_floor,
                a_receipt_names_its_record,
            }
            contention {
                two_hundred_tasks_of_one_client,
                two_hundred_tasks_of_many_clients,
                mixed_modes_never_overlap,
            }
        }
    };
    (@list $name:ident, $transport:ident; $($theme:ident { $($test:ident,)* })*) => {
        mod $name {
            $(mod $theme {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let test = Box::pin($crate::contract::$theme::$test($crate::contract::Transport::$transport));
                    let ended = tokio::time::timeout($crate::contract::TEST_MAX, test).await;
                    ended.expect("a test ends in time");
                })*
            })*
        }
    };
}

/// Counts who is inside, and remembers whether there were ever more than may be.
#[derive(Debug)]
pub struct Overlap {
    room: i64,
    inside: AtomicI64,
    entered: AtomicI64,
}

impl Overlap {
    /// So many may be inside at once.
    pub fn new(room: i64) -> Self {
        Self { room, inside: AtomicI64::new(0), entered: AtomicI64::new(0) }
    }

    /// Inside until the answer is dropped.
    ///
    /// # Panics
    /// If it is too many.
    pub fn enter(&self, weight: i64) -> Inside<'_> {
        let inside = self.inside.fetch_add(weight, Ordering::SeqCst) + weight;
        self.entered.fetch_add(1, Ordering::SeqCst);
        assert!(inside <= self.room, "{inside} inside, and there is room for {}", self.room);
        Inside { overlap: self, weight }
    }

    /// How often somebody entered.
    pub fn entered(&self) -> i64 {
        self.entered.load(Ordering::SeqCst)
    }
}

/// Somebody is inside.
#[derive(Debug)]
pub struct Inside<'a> {
    overlap: &'a Overlap,
    weight: i64,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.overlap.inside.fetch_sub(self.weight, Ordering::SeqCst);
    }
}
