//! Bugs planted on purpose, in the crates that run here: which there are, and which this simulator has to notice.
//!
//! Responsible for: one table of every planted bug with what is expected of it, planting one for a run, and hunting for the
//! first seed that notices it. Guarantees: a new bug does not compile until the table says whether it is caught here; one
//! that is not names why, and the test that catches it.

use crate::{Failure, Options, run};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use weft_client::core::mutants::Mutant as Core;
use weft_client::mutants::Mutant as Client;
use weft_meta::mutants::Mutant as Meta;
use weft_node::mutants::Mutant as Node;
use weft_replication::Mutant as Replication;
use weft_store::Mutant as Store;

/// A planted bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    Meta(Meta),
    Replication(Replication),
    Store(Store),
    Node(Node),
    Client(Client),
    Core(Core),
}

/// What is expected of a bug here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    /// A seed notices it: this one did when this was written down, as the first of all, or of those whose story or files are
    /// meant for it.
    Caught { seed: u64 },
    /// It cannot happen here.
    Elsewhere { why: &'static str, test: &'static str },
}

const fn caught(seed: u64) -> Expected {
    Expected::Caught { seed }
}

const fn elsewhere(why: &'static str, test: &'static str) -> Expected {
    Expected::Elsewhere { why, test }
}

impl Bug {
    /// Each of them once.
    pub fn all() -> impl Iterator<Item = Self> {
        let meta = Meta::ALL.into_iter().map(Self::Meta);
        let replication = Replication::ALL.into_iter().map(Self::Replication);
        let store = Store::ALL.into_iter().map(Self::Store);
        meta.chain(replication)
            .chain(store)
            .chain(Node::ALL.into_iter().map(Self::Node))
            .chain(Client::ALL.into_iter().map(Self::Client))
            .chain(Core::ALL.into_iter().map(Self::Core))
    }

    /// Crate and name, as on the command line.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Meta(mutant) => format!("meta::{mutant:?}"),
            Self::Replication(mutant) => format!("replication::{mutant:?}"),
            Self::Store(mutant) => format!("store::{mutant:?}"),
            Self::Node(mutant) => format!("node::{mutant:?}"),
            Self::Client(mutant) => format!("client::{mutant:?}"),
            Self::Core(mutant) => format!("core::{mutant:?}"),
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
            Self::Node(mutant) => of_node(mutant),
            Self::Client(mutant) => of_client(mutant),
            Self::Core(mutant) => of_core(mutant),
        }
    }
}

const ALL_META: &str = "meta every_planted_bug_is_noticed";
const NO_RAFT_LOG: &str = "Raft is a model here, without a log on a disk";

fn of_meta(mutant: Meta) -> Expected {
    match mutant {
        Meta::RemoveLastLevel | Meta::StrikeLapsed => caught(2),
        Meta::CountLossyTowardsMinimum => caught(71),
        Meta::TrustRestart => caught(5),
        Meta::KeepEpochOnRestart => caught(3),
        Meta::MoveAtOnce => caught(6),
        Meta::FenceWithoutAcknowledgement => caught(4),
        Meta::HastyLeader => caught(1),
        Meta::SkipCompareAndSet => caught(20),
        Meta::ForgetBehind => caught(9),
        Meta::AnswerLaggard => caught(41),
        Meta::AnswerWithoutRound => caught(461),
        Meta::ReadmitFailedDisk => caught(382),
        Meta::AcceptEmptyStore => caught(19),
        Meta::DropOpenFile => caught(12),
        Meta::AllowCycles => caught(7),
        Meta::ReuseCookies => caught(8),
        Meta::GrantHeldCap | Meta::ReleaseForgetsSize => caught(17),
        Meta::TruncateUnacknowledged => caught(14),
        Meta::NoDedupe => caught(7),
        Meta::SizeLostOnFence => caught(17),
        Meta::SizeOfOldGeneration => caught(196),
        Meta::CutBeforeAcknowledged => caught(34),
        Meta::SwapDuringCut => caught(85),
        Meta::ServeLastInLine => caught(17),
        Meta::NoRecallDeadline => caught(31),
        Meta::BlameWhoIsHeldUp => caught(68),
        Meta::CollectPastRoom => elsewhere("files stay shorter than the least room of a cap", ALL_META),
        Meta::IgnoreOverlap
        | Meta::OwnerWithoutSession
        | Meta::TestOnlyOwnLocks
        | Meta::ForgetWaiters
        | Meta::OvertakeWaiters
        | Meta::NoDeadlockSearch
        | Meta::CloseKeepsLocks => caught(1),
        Meta::AnyOwner => caught(18),
        Meta::RegisterTwice => caught(66),
        Meta::PromoteBesideDead => caught(37),
        Meta::ElectSyncing => caught(11),
        Meta::AcceptLossAtOnce => caught(2),
        Meta::LevelNeverYields => caught(208),
        Meta::YieldAtOnce => caught(592),
        // Its map names no level member that lives, and a registration that brings one back raises the set version.
        Meta::YieldToAnybody => {
            elsewhere("a primary yields to a lossy member only while no level one lives, as of the same set", ALL_META)
        }
        Meta::BelieveAccuser => caught(125),
        Meta::TrustAnyMark => caught(87),
        Meta::AnyIncarnationDies => caught(26),
        Meta::RemoveOnlyCopy => caught(379),
        Meta::ForceOverLive => caught(348),
        Meta::ForceWithoutLoss => caught(176),
        Meta::ForceIncomplete => caught(7),
    }
}

fn of_replication(mutant: Replication) -> Expected {
    match mutant {
        Replication::AcknowledgeEarly | Replication::NoDedupe | Replication::FlushPrimaryOnly => caught(1),
        Replication::LossyAsSource => caught(2),
        Replication::SkipPeering => caught(3),
        Replication::MergeWithoutLock => caught(11),
        Replication::NoDedupeCopy => caught(5),
        Replication::ReadUncommitted => caught(66),
        Replication::OneSidedDelta => caught(36),
        Replication::BehindAsLevel => caught(104),
        Replication::CopyWithoutLock => caught(56),
        Replication::CandidateNotCounted => caught(149),
        Replication::SkipEpochCheck => caught(104),
        Replication::CutInMemory => caught(1),
        Replication::FenceOnlyAtArrival => caught(15),
        Replication::ForgetCompleteTo => caught(635),
        Replication::ServeWithoutLease => caught(10),
        Replication::CopyFromJournal => caught(434),
        Replication::CountLateReads => caught(1059),
        Replication::ForgetRefusals => caught(657),
        // In one of ten tellings.
        Replication::TakeFromEarlierEpoch => caught(1787),
        Replication::FlushOfThisEpoch => caught(163),
        Replication::ReadAnyGeneration => caught(34),
        Replication::EndOfOldGeneration | Replication::EndBesideLaterCut => caught(260),
        Replication::SyncedIsEnough => caught(3),
        Replication::FlushOldGeneration => caught(186),
        Replication::SyncingAsSource => caught(194),
        Replication::MoveAwaitsWrites => caught(797),
        Replication::AnswerWhileMoved => caught(797),
        Replication::RepairFromAnybody => caught(457),
        Replication::RepairUnchecked => elsewhere(
            "no disk here loses a write together with what its trailer says of it",
            "replication a_block_is_repaired_with_nothing_but_what_its_own_trailer_names",
        ),
        Replication::DamagedStays => caught(462),
        Replication::CorruptBeforeYield => caught(592),
        Replication::WithdrawSilently => elsewhere(
            "a silent member is removed too, if late, wherever somebody writes, and that is nearly always",
            "replication who_withdraws_says_so",
        ),
        Replication::WithdrawAlways => elsewhere(
            "a disk is damaged only while every other member is whole and there",
            "replication a_member_that_has_lost_its_trailers_stays_while_it_is_needed",
        ),
        Replication::RepairAsSeen => caught(1018),
        Replication::AdmitWithoutCredits => caught(239),
        Replication::FillOnOwnCredits => caught(239),
        Replication::ReservedNeedsRoom => caught(309),
        Replication::PresenceBeforeBatch => caught(477),
        Replication::FillSentBlindly => caught(160),
        Replication::ZeroIsNothing => caught(309),
        Replication::CopyAwaitsWrites => caught(172),
        Replication::CopyBlocksReads => caught(172),
        Replication::ToldForEver => caught(276),
        Replication::GoneDiskLives => caught(414),
        Replication::IgnoreStall => caught(407),
        Replication::PromiseInMemory => caught(195),
        Replication::AcceptGap => caught(849),
        Replication::UnverifiedAppend => caught(204),
        Replication::LeaseCheckedOnce => caught(320),
        Replication::NoMinimum => caught(360),
        Replication::ServeStruck => caught(6),
        Replication::IgnoreMapVersion => elsewhere(
            "the node holds such a request back until its map is there, and every machine has that map by then",
            "replication a_request_that_names_a_newer_map_waits_for_it",
        ),
        Replication::PromoteBeforeBarrier => caught(12),
        Replication::StartAtTheirEnd => caught(506),
        Replication::KeepAbsent => caught(36),
        Replication::DiskAckInMemory => caught(1),
        Replication::WriteAnyGeneration => caught(65),
        Replication::CutKeepsEdge => caught(237),
        Replication::CopiesAwaitCommitment => caught(172),
        // Slow, not wrong.
        Replication::WriteIntoFullJournals => elsewhere(
            "an append to a full journal waits for a checkpoint, which takes no time here",
            "replication a_member_short_of_journal_holds_up_writers_and_stays",
        ),
        Replication::TakeIntoFullJournal => caught(202),
    }
}

fn of_store(mutant: Store) -> Expected {
    match mutant {
        Store::SkipFsync | Store::TrimBeforeTrailerSync => caught(2),
        Store::TrustData => caught(2),
        Store::RenameBeforeSync => caught(4),
        Store::SequenceAlone => caught(156),
        Store::RetryFsync => caught(74),
        Store::MarkBeforeFsync => caught(224),
        Store::IgnoreLap => caught(1),
        Store::ApplyUncommitted => caught(131),
        Store::ForgetCut => caught(84),
        Store::IgnoreLife => caught(245),
        Store::SkipNameSync => caught(76),
        Store::ForgetBallast => caught(495),
        Store::BeginWithoutBallast => caught(1332),
        Store::KeepCutRecords => caught(139),
        Store::UnverifiedRead => caught(219),
        Store::DamagedIsAbsent => caught(592),
        Store::IgnoreOverlay => caught(1),
        Store::ApplyBeforeSync => caught(35),
        Store::ForgetFailure => caught(488),
        Store::ForgetEnds => caught(123),
        Store::AnyDisk => caught(215),
        Store::FillOwesNothing => caught(239),
        Store::FillTakesNoRoom => caught(1884),
        Store::FillIsNoChange => caught(327),
        Store::KeepRemovedChunk => caught(1115),
        Store::CopyKnowsAll => caught(208),
        Store::IgnoreInventory => caught(1326),
        Store::TrustReopened => caught(1326),
        Store::InventoryBeforeSync => caught(73),
        Store::IgnoreBirth => elsewhere(
            "a power cut has to fall between two syncs of a checkpoint that made a chunk anew",
            "store tests::inventory",
        ),
        Store::RemoveBeforeSync | Store::RemoveInAnyOrder | Store::TrustNames | Store::KeepTail => {
            elsewhere(NO_RAFT_LOG, "store tests::raw_log_crash")
        }
    }
}

fn of_node(mutant: Node) -> Expected {
    match mutant {
        Node::ClockStopsInSleep => caught(4),
        Node::LeaseAtOldMap => caught(31),
        Node::NoJournalBound => caught(1371),
        Node::SilentOverflow => caught(197),
        Node::AnyOwner => {
            elsewhere("every client is of one member here", "node nobody_speaks_for_the_session_of_another_client")
        }
        Node::WantNothing => elsewhere(
            "no question for a size is asked of the leader as the node asks it",
            "node a_size_that_only_a_dead_session_knows_is_asked_for_in_vain_no_longer_than_a_fence_takes",
        ),
        Node::CopyInAnyEpoch => caught(33),
        Node::CopyTwiceAtOnce => caught(33),
    }
}

fn of_client(mutant: Client) -> Expected {
    match mutant {
        Client::CloseKeepsLocks => caught(5),
        Client::UnlockOvertakesWrites => caught(314),
        Client::CloseOvertakesWrites => elsewhere("closing is modelled here", "client attack_unlock_overtake"),
        Client::ClockStopsInSleep => {
            elsewhere("it lies in the shell's clock, and the simulator has its own", "client shell::tests")
        }
        Client::ForgetToCancel => {
            elsewhere("it lies in the shell around the loop that waits", "client an_interrupted_wait_holds_nothing")
        }
    }
}

const CAP: &str = "client every_planted_bug_of_the_cap_is_noticed";

fn of_core(mutant: Core) -> Expected {
    match mutant {
        Core::ExtendPastRoom => elsewhere("files stay shorter than the least room of a cap", CAP),
        Core::GiveUpWhileExtending => caught(17),
        Core::SettleEveryGeneration => caught(36),
        Core::SettleNothing => caught(506),
        Core::ExtendWhileGivingUp => caught(1066),
        Core::GrantServesNobody => elsewhere(
            "it is slow, not wrong: a cap that goes before it served is granted again, as one is whose holder is slow",
            CAP,
        ),
        Core::IgnoreRise => caught(186),
    }
}

/// Keeps a bug of the metadata, the node or the client planted on this thread; the other crates take theirs as a setting.
pub(crate) struct Planted;

impl Planted {
    pub fn new(bug: Option<Bug>) -> Self {
        let meta = match bug {
            Some(Bug::Meta(mutant)) => Some(mutant),
            _ => None,
        };
        weft_meta::mutants::plant(meta);
        let node = match bug {
            Some(Bug::Node(mutant)) => Some(mutant),
            _ => None,
        };
        weft_node::mutants::plant(node);
        let client = match bug {
            Some(Bug::Client(mutant)) => Some(mutant),
            _ => None,
        };
        weft_client::mutants::plant(client);
        let core = match bug {
            Some(Bug::Core(mutant)) => Some(mutant),
            _ => None,
        };
        weft_client::core::mutants::plant(core);
        Self
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        weft_meta::mutants::plant(None);
        weft_node::mutants::plant(None);
        weft_client::mutants::plant(None);
        weft_client::core::mutants::plant(None);
    }
}

/// How a seed is run in a hunt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ways {
    Whole,
    WithoutFiles,
    WithoutAimed,
    Plain,
}

const WAYS: [Ways; 4] = [Ways::Whole, Ways::WithoutFiles, Ways::WithoutAimed, Ways::Plain];

impl Ways {
    fn options(self, bug: Option<Bug>) -> Options {
        let (without_files, without_aimed) = (self == Self::WithoutFiles, self == Self::WithoutAimed);
        Options { bug, without_files, without_aimed, plain: self == Self::Plain, ..Options::default() }
    }

    /// The arguments that run a seed like this.
    #[must_use]
    pub const fn arguments(self) -> &'static str {
        match self {
            Self::Whole => "",
            Self::WithoutFiles => "  --without-files",
            Self::WithoutAimed => "  --without-aimed",
            Self::Plain => "  --plain",
        }
    }
}

/// The first seed that notices a bug.
#[derive(Clone, Debug)]
pub struct Caught {
    pub seed: u64,
    /// What was left out of it.
    pub ways: Ways,
    pub failure: Failure,
}

/// Whether the seed that noticed a bug when the table was written still does.
fn replay(bug: Bug) -> Option<Caught> {
    let Expected::Caught { seed } = bug.expected() else { return None };
    let (ways, failure) = WAYS.into_iter().find_map(|ways| noticed(bug, seed, ways))?;
    Some(Caught { seed, ways, failure })
}

/// [`replay`] of each, `jobs` at a time.
#[must_use]
pub fn replay_all(bugs: &[Bug], jobs: usize) -> Vec<Option<Caught>> {
    let (next, found) = (AtomicUsize::new(0), Mutex::new(vec![None; bugs.len()]));
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(bug) = bugs.get(at) else { return };
                    let caught = replay(*bug);
                    found.lock().unwrap_or_else(std::sync::PoisonError::into_inner)[at] = caught;
                }
            });
        }
    });
    found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Runs seeds `1..=budget` with the bug planted, each with its story and files, without files, without a story
/// that is aimed at one rule, and with neither story nor files, until
/// one fails that passes without the bug, `jobs` at a time.
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
                    let Some((ways, failure)) = WAYS.into_iter().find_map(|ways| noticed(bug, seed, ways)) else {
                        continue;
                    };
                    stop.store(true, Ordering::Relaxed);
                    let mut first = first.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    if first.as_ref().is_none_or(|earlier| seed < earlier.seed) {
                        *first = Some(Caught { seed, ways, failure });
                    }
                }
            });
        }
    });
    first.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// What fails with the bug and passes without it.
fn noticed(bug: Bug, seed: u64, ways: Ways) -> Option<(Ways, Failure)> {
    // The same as whole.
    let same = match ways {
        Ways::WithoutFiles => crate::subjects::subject(seed).is_none(),
        Ways::WithoutAimed => crate::aimed::name_of(seed).is_none(),
        Ways::Whole | Ways::Plain => false,
    };
    if same {
        return None;
    }
    let failure = run(seed, &ways.options(Some(bug))).failure?;
    // One that fails anyway is not this bug's doing.
    run(seed, &ways.options(None)).failure.is_none().then_some((ways, failure))
}
