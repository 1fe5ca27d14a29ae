//! Bugs planted on purpose, in the crates that run here: which there are, and which this simulator has to notice.
//!
//! Responsible for: one table of every planted bug with what is expected of it, planting one for a run, and hunting for the
//! first seed that notices it. Guarantees: a new bug does not compile until the table says whether it is caught here; one
//! that is not names why, and the test that catches it. Not here: the client's bugs, which lie in its shell.

use crate::{Failure, Options, run};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use weft_meta::mutants::Mutant as Meta;
use weft_replication::Mutant as Replication;
use weft_store::Mutant as Store;

/// A planted bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    Meta(Meta),
    Replication(Replication),
    Store(Store),
}

/// What is expected of a bug here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    /// A seed notices it: this one was the first when this was written down.
    Caught { within: u64 },
    /// It can happen here, and no seed has noticed it among so many. What does is a test elsewhere.
    NotSeen { tried: u64, test: &'static str },
    /// It cannot happen here.
    Elsewhere { why: &'static str, test: &'static str },
}

const fn caught(within: u64) -> Expected {
    Expected::Caught { within }
}

const fn not_seen(tried: u64, test: &'static str) -> Expected {
    Expected::NotSeen { tried, test }
}

const fn elsewhere(why: &'static str, test: &'static str) -> Expected {
    Expected::Elsewhere { why, test }
}

impl Bug {
    /// Each of them once.
    pub fn all() -> impl Iterator<Item = Self> {
        let meta = Meta::ALL.into_iter().map(Self::Meta);
        let replication = Replication::ALL.into_iter().map(Self::Replication);
        meta.chain(replication).chain(Store::ALL.into_iter().map(Self::Store))
    }

    /// Crate and name, as on the command line.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Meta(mutant) => format!("meta::{mutant:?}"),
            Self::Replication(mutant) => format!("replication::{mutant:?}"),
            Self::Store(mutant) => format!("store::{mutant:?}"),
        }
    }

    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::all().find(|bug| bug.name() == name)
    }

    #[must_use]
    pub fn expected(self) -> Expected {
        match self {
            Self::Meta(mutant) => of_meta(mutant),
            Self::Replication(mutant) => of_replication(mutant),
            Self::Store(mutant) => of_store(mutant),
        }
    }
}

const NO_NAMES: &str = "clients use no names here";
const NO_LOCKS: &str = "clients take no locks here";
const NO_SIZES: &str = "clients hold no size caps here";
const ALL_META: &str = "meta every_planted_bug_is_noticed";
const NO_RAFT_LOG: &str = "Raft is a model here, without a log on a disk";

fn of_meta(mutant: Meta) -> Expected {
    match mutant {
        Meta::RemoveLastLevel | Meta::StrikeLapsed | Meta::CountLossyTowardsMinimum => caught(2),
        Meta::TrustRestart => caught(5),
        Meta::KeepEpochOnRestart => caught(12),
        Meta::MoveAtOnce => caught(6),
        Meta::FenceWithoutAcknowledgement => caught(4),
        Meta::HastyLeader => caught(1),
        Meta::SkipCompareAndSet => caught(20),
        Meta::ForgetBehind => caught(9),
        Meta::AnswerLaggard => caught(41),
        Meta::AnswerWithoutRound => not_seen(200, "meta the_lease_simulation_notices_each_planted_bug_of_time"),
        Meta::ReadmitFailedDisk => elsewhere("a failed disk never comes back here", "meta attack_fsync_then_fine"),
        Meta::AcceptEmptyStore => elsewhere("no node loses its Raft store here", "meta attack_empty_raft_store"),
        Meta::NoDedupe | Meta::DropOpenFile | Meta::AllowCycles | Meta::ReuseCookies => elsewhere(NO_NAMES, ALL_META),
        Meta::SizeLostOnFence
        | Meta::SizeOfOldGeneration
        | Meta::GrantHeldCap
        | Meta::ReleaseForgetsSize
        | Meta::ServeLastInLine
        | Meta::NoRecallDeadline
        | Meta::TruncateUnacknowledged
        | Meta::CutBeforeAcknowledged
        | Meta::CollectPastRoom => elsewhere(NO_SIZES, ALL_META),
        Meta::IgnoreOverlap
        | Meta::OwnerWithoutSession
        | Meta::TestOnlyOwnLocks
        | Meta::ForgetWaiters
        | Meta::OvertakeWaiters
        | Meta::NoDeadlockSearch
        | Meta::CloseKeepsLocks => elsewhere(NO_LOCKS, ALL_META),
        Meta::AnyOwner => elsewhere("the simulated control side checks no certificates", ALL_META),
        // Safe and wrong: replicas count as lossy that are not.
        Meta::RegisterTwice => elsewhere("no oracle asks whether a loss had to be", ALL_META),
    }
}

fn of_replication(mutant: Replication) -> Expected {
    match mutant {
        Replication::AcknowledgeEarly | Replication::NoDedupe | Replication::FlushPrimaryOnly => caught(1),
        Replication::LossyAsSource => caught(2),
        Replication::SkipPeering => caught(3),
        Replication::MergeWithoutLock | Replication::NoDedupeCopy => caught(5),
        Replication::ReadUncommitted => caught(9),
        Replication::OneSidedDelta | Replication::BehindAsLevel => caught(38),
        Replication::CopyWithoutLock => caught(56),
        Replication::CandidateNotCounted => caught(169),
        Replication::SkipEpochCheck => caught(242),
        Replication::CutInMemory => caught(1),
        Replication::FenceOnlyAtArrival => caught(15),
        Replication::ForgetCompleteTo => not_seen(400, "replication interrupted_resync"),
        Replication::ServeWithoutLease => not_seen(150, "replication lease_at_old_map"),
        Replication::CopyFromJournal => {
            not_seen(80, "replication a_copy_that_its_target_has_no_room_for_is_made_again")
        }
        Replication::FlushOfThisEpoch => not_seen(80, "replication a_flush_covers_what_earlier_epochs_acknowledged"),
        Replication::ReadAnyGeneration => elsewhere(
            "registers are never truncated here",
            "replication a_read_waits_for_the_cut_that_its_reader_knows_of",
        ),
        Replication::EndOfOldGeneration => elsewhere(NO_SIZES, "replication attack_size_of_old_generation"),
    }
}

fn of_store(mutant: Store) -> Expected {
    match mutant {
        Store::SkipFsync | Store::TrimBeforeTrailerSync => caught(2),
        Store::TrustData => caught(3),
        Store::RenameBeforeSync => caught(4),
        Store::SequenceAlone => caught(9),
        Store::RetryFsync => caught(74),
        Store::MarkBeforeFsync => not_seen(200, "store a_mark_is_written_only_after_its_sync"),
        Store::IgnoreLap => not_seen(200, "store records_of_a_recycled_segment_are_not_replayed"),
        Store::ApplyUncommitted | Store::ForgetCut => not_seen(200, "store tests::crash"),
        Store::IgnoreLife => {
            not_seen(200, "store a_bad_record_after_the_last_mark_ends_the_log_and_good_ones_behind_it_never_come_back")
        }
        Store::SkipNameSync => not_seen(60, "store tests::real_crash"),
        Store::ForgetBallast => not_seen(60, "store tests::space_and_reads"),
        Store::RemoveBeforeSync | Store::RemoveInAnyOrder | Store::TrustNames | Store::KeepTail => {
            elsewhere(NO_RAFT_LOG, "store tests::raw_log_crash")
        }
    }
}

/// Keeps a bug of the metadata planted on this thread; the other crates take theirs as a setting.
pub(crate) struct Planted;

impl Planted {
    pub fn new(bug: Option<Bug>) -> Self {
        let meta = match bug {
            Some(Bug::Meta(mutant)) => Some(mutant),
            _ => None,
        };
        weft_meta::mutants::plant(meta);
        Self
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        weft_meta::mutants::plant(None);
    }
}

/// The first seed that notices a bug.
#[derive(Clone, Debug)]
pub struct Caught {
    pub seed: u64,
    /// Without its story.
    pub plain: bool,
    pub failure: Failure,
}

/// Runs seeds `1..=budget` with the bug planted, each with its story and without, until one fails that passes without the
/// bug, `jobs` at a time.
#[must_use]
pub fn hunt(bug: Bug, budget: u64, jobs: usize) -> Option<Caught> {
    let (next, stop, first) = (AtomicU64::new(1), AtomicBool::new(false), Mutex::new(None::<Caught>));
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > budget || stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let Some((plain, failure)) = [false, true].into_iter().find_map(|plain| noticed(bug, seed, plain))
                    else {
                        continue;
                    };
                    stop.store(true, Ordering::Relaxed);
                    let mut first = first.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    if first.as_ref().is_none_or(|earlier| seed < earlier.seed) {
                        *first = Some(Caught { seed, plain, failure });
                    }
                }
            });
        }
    });
    first.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// What fails with the bug and passes without it.
fn noticed(bug: Bug, seed: u64, plain: bool) -> Option<(bool, Failure)> {
    let failure = run(seed, &Options { bug: Some(bug), plain, ..Options::default() }).failure?;
    // One that fails anyway is not this bug's doing.
    run(seed, &Options { plain, ..Options::default() }).failure.is_none().then_some((plain, failure))
}
