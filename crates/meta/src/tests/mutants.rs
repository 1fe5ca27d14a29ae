//! Each planted bug is noticed by a scenario that passes without it.

use super::{Outcome, attacks, caps, files, locks};
use crate::mutants::{Mutant, plant};

fn scenario(mutant: Mutant) -> fn() -> Outcome {
    match mutant {
        Mutant::SkipCompareAndSet => attacks::stale_set_request,
        Mutant::RemoveLastLevel => attacks::last_lossless,
        Mutant::CountLossyTowardsMinimum => attacks::lossy_members_do_not_count,
        Mutant::TrustRestart => attacks::amnesia,
        Mutant::KeepEpochOnRestart => attacks::epoch_reuse,
        Mutant::ForgetBehind => attacks::returning_behind,
        Mutant::MoveAtOnce => attacks::early_serve,
        Mutant::FenceWithoutAcknowledgement | Mutant::SizeLostOnFence => attacks::size_before_fence,
        Mutant::AnswerWithoutRound => attacks::heartbeat_before_round,
        Mutant::HastyLeader => attacks::new_leader_haste,
        Mutant::AnswerLaggard => attacks::live_not_applying,
        Mutant::StrikeLapsed => attacks::lapsed_not_struck,
        Mutant::NoDedupe => attacks::retry_after_leader_change,
        Mutant::SizeOfOldGeneration => attacks::size_of_old_generation,
        Mutant::GrantHeldCap | Mutant::ReleaseForgetsSize => caps::one_holder_at_a_time,
        Mutant::ServeLastInLine => caps::first_come_first_served,
        Mutant::NoRecallDeadline => caps::a_holder_that_keeps_its_cap_is_struck,
        Mutant::BlameWhoIsHeldUp => caps::who_is_held_up_is_not_blamed,
        Mutant::SwapDuringCut => files::nothing_takes_the_place_of_a_cut,
        Mutant::TruncateUnacknowledged | Mutant::CutBeforeAcknowledged => {
            caps::truncation_is_heard_of_before_it_is_carried_out
        }
        Mutant::CollectPastRoom => caps::no_size_past_the_room,
        Mutant::DropOpenFile => files::unlinked_while_open,
        Mutant::AllowCycles => files::no_directory_below_itself,
        Mutant::ReuseCookies => files::cookies_are_never_reused,
        Mutant::AcceptEmptyStore => attacks::empty_raft_store,
        Mutant::ReadmitFailedDisk => attacks::fsync_then_fine,
        Mutant::IgnoreOverlap => locks::exclusion,
        Mutant::OwnerWithoutSession => locks::owners_of_two_sessions,
        Mutant::TestOnlyOwnLocks => locks::test_sees_other_hosts,
        Mutant::ForgetWaiters => locks::waiter_gets_what_is_freed,
        Mutant::OvertakeWaiters => locks::first_come_first_served,
        Mutant::NoDeadlockSearch => locks::deadlock,
        Mutant::CloseKeepsLocks => locks::close_frees,
        Mutant::AnyOwner => attacks::a_session_of_somebody_else,
        Mutant::RegisterTwice => attacks::a_registration_asked_again,
        Mutant::PromoteBesideDead => attacks::min_dead_end,
        Mutant::BelieveAccuser => attacks::accuser_isolated,
        Mutant::TrustAnyMark => attacks::false_clean_stop,
        Mutant::ElectSyncing => attacks::syncing_wins,
        Mutant::AnyIncarnationDies => attacks::a_late_word_of_an_earlier_incarnation,
        Mutant::ForceIncomplete => attacks::a_copy_that_broke_off_is_not_forced,
        Mutant::RemoveOnlyCopy | Mutant::ForceWithoutLoss | Mutant::ForceOverLive => attacks::the_last_copy,
        Mutant::AcceptLossAtOnce => attacks::the_wait_for_the_lossless,
        Mutant::LevelNeverYields | Mutant::YieldToAnybody => attacks::who_may_be_handed_the_lead,
        Mutant::YieldAtOnce => attacks::who_serves_gives_way_when_it_knows,
    }
}

#[test]
fn the_lease_simulation_notices_each_planted_bug_of_time() {
    for mutant in [Mutant::AnswerWithoutRound, Mutant::HastyLeader] {
        plant(Some(mutant));
        let outcome = (0..20).try_for_each(super::leases::run);
        plant(None);
        assert!(outcome.is_err(), "{mutant:?} goes unnoticed");
    }
}

#[test]
fn every_planted_bug_is_noticed() {
    for mutant in Mutant::ALL {
        plant(None);
        assert_eq!(scenario(mutant)(), Ok(()), "{mutant:?}: the scenario fails without it");
        plant(Some(mutant));
        let outcome = scenario(mutant)();
        plant(None);
        assert!(outcome.is_err(), "{mutant:?} goes unnoticed");
    }
}
