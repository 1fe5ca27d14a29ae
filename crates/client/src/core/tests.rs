//! Scripted executions of the data core: what it sends, under which numbers, and when it answers.

use super::*;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use weft_proto::data::{DataReply, DataRequest};
use weft_types::error::NotServing;
use weft_types::limits::{MAX_CLIENT_OPERATIONS_IN_FLIGHT, MAX_DEDUPE_PER_SESSION};
use weft_types::map::{ClusterMap, LiveSession, MemberState, NodeRecord, NodeState, VolumeRecord, VolumeState};
use weft_types::{
    AckMode, BootTime, ChunkId, ChunkIndex, ChunkSize, ClusterId, DataError, DiskId, Epoch, ErrorKind, Incarnation,
    InodeNumber, LossGeneration, MapVersion, Member, NodeId, ObjectId, OperationId, Origin, PgId, PgRecord, SessionId,
    SessionOwner, SetVersion, TruncateGeneration, VolumeId,
};

const VOLUME: VolumeId = VolumeId(1);
const SESSION: SessionId = SessionId(9);
const BYTES_IN_FLIGHT: usize = 1 << 20;
const FILE: FileKey = Some(InodeNumber(5));

fn pg(index: u16) -> PgId {
    PgId { volume: VOLUME, index }
}

/// Two groups; `primaries` names the node that leads each.
fn routes(version: u64, primaries: [u64; 2], sessions: &[SessionId]) -> RouteTable {
    let node = |n: u64| NodeRecord {
        id: NodeId(n),
        name: format!("n{n}"),
        incarnation: Incarnation(1),
        state: NodeState::Live,
        control_address: ([10, 0, 0, n as u8], 1).into(),
        data_address: ([10, 0, 0, n as u8], 2).into(),
        failure_domain: vec![],
        voter: true,
    };
    let level = MemberState::InSync { lossy: false, behind: false };
    let group = |index: u16, primary: u64| PgRecord {
        pg: pg(index),
        epoch: Epoch(version),
        epoch_since: MapVersion(version),
        primary: (primary > 0).then_some(DiskId(u128::from(primary))),
        levelled_epoch: Epoch(version),
        set_version: SetVersion(1),
        members: (1..=3)
            .map(|n| Member { disk: DiskId(n), node: NodeId(n as u64), incarnation: Incarnation(1), state: level })
            .collect(),
        loss_generation: LossGeneration(0),
        min_in_sync: 2,
        replicas: 3,
        pending_move: None,
    };
    let map = ClusterMap {
        cluster: ClusterId(1),
        version: MapVersion(version),
        nodes: (1..=3).map(node).collect(),
        disks: vec![],
        volumes: vec![VolumeRecord {
            id: VOLUME,
            name: "v".into(),
            replicas: 3,
            min_in_sync: 2,
            chunk_size: ChunkSize::DEFAULT,
            ack: AckMode::Memory,
            pg_count: 2,
            state: VolumeState::Active,
        }],
        pgs: vec![group(0, primaries[0]), group(1, primaries[1])],
        live_sessions: sessions.iter().map(|id| LiveSession { id: *id, owner: SessionOwner(1) }).collect(),
    };
    RouteTable::new(VOLUME, Arc::new(map)).unwrap()
}

struct Bench {
    core: DataCore,
    now: BootTime,
    next: u64,
}

#[derive(Clone, Debug)]
struct Sent {
    attempt: AttemptId,
    node: NodeId,
    request: DataRequest,
}

impl Bench {
    fn new(fail_after: Option<Duration>) -> Self {
        let config = DataCoreConfig { session: SESSION, fail_after, bytes_in_flight: BYTES_IN_FLIGHT };
        Self { core: DataCore::new(config, routes(1, [1, 2], &[SESSION])), now: BootTime::from_millis(1_000), next: 1 }
    }

    fn step(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.core.step(self.now, event, &mut actions);
        actions
    }

    fn submit(&mut self, operation: Operation) -> (Ticket, Vec<Action>) {
        let ticket = Ticket(self.next);
        self.next += 1;
        let actions = self.step(Event::Submit { ticket, file: FILE, operation });
        (ticket, actions)
    }

    fn answer(&mut self, attempt: AttemptId, result: Result<DataReply, DataError>) -> Vec<Action> {
        self.step(Event::Answer { attempt, result, payload: Bytes::new() })
    }

    fn wake_after(&mut self, milliseconds: u64) -> Vec<Action> {
        self.now = self.now + Duration::from_millis(milliseconds);
        self.step(Event::Wake)
    }
}

fn chunk_in(group: u16) -> ChunkId {
    let table = routes(1, [1, 2], &[SESSION]);
    (0..)
        .map(|n| ChunkId { object: ObjectId(1), index: ChunkIndex(n) })
        .find(|chunk| table.pg_of(*chunk).index == group)
        .unwrap()
}

fn write(group: u16) -> Operation {
    Operation::Write {
        chunk: chunk_in(group),
        offset_bytes: 0,
        generation: TruncateGeneration(0),
        ack: AckMode::Memory,
        hashes: vec![],
        data: Bytes::from_static(b"data"),
    }
}

fn sent(actions: &[Action]) -> Vec<Sent> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Send { attempt, node, request, .. } => {
                Some(Sent { attempt: *attempt, node: *node, request: request.clone() })
            }
            _ => None,
        })
        .collect()
}

fn one(actions: &[Action]) -> Sent {
    let all = sent(actions);
    assert_eq!(all.len(), 1, "{actions:?}");
    all[0].clone()
}

fn origin(sent: &Sent) -> Origin {
    match &sent.request {
        DataRequest::Write(write) => write.origin,
        other => panic!("{other:?}"),
    }
}

fn done(actions: &[Action]) -> Vec<(Ticket, Result<Outcome, ErrorKind>)> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Done { ticket, result } => Some((*ticket, result.clone())),
            _ => None,
        })
        .collect()
}

#[test]
fn an_operation_goes_to_the_primary_of_its_group() {
    let mut bench = Bench::new(None);
    assert_eq!(one(&bench.submit(write(0)).1).node, NodeId(1));
    assert_eq!(one(&bench.submit(write(1)).1).node, NodeId(2));
}

#[test]
fn a_retry_keeps_its_operation_number_across_a_failover() {
    let mut bench = Bench::new(None);
    let (ticket, actions) = bench.submit(write(0));
    let first = one(&actions);
    assert!(sent(&bench.step(Event::Unreachable { attempt: first.attempt })).is_empty());
    let second = one(&bench.step(Event::Map(routes(2, [3, 2], &[SESSION]))));
    assert_eq!(second.node, NodeId(3));
    assert_eq!(origin(&second).operation, origin(&first).operation);
    assert_ne!(second.attempt, first.attempt);
    let answered = done(&bench.answer(second.attempt, Ok(DataReply::Written)));
    assert_eq!(answered, [(ticket, Ok(Outcome::Done))]);
}

#[test]
fn a_map_change_sends_what_is_under_way_to_a_deposed_primary_again_at_once() {
    let mut bench = Bench::new(None);
    let first = one(&bench.submit(write(0)).1);
    let second = one(&bench.step(Event::Map(routes(2, [3, 2], &[SESSION]))));
    assert_eq!(origin(&second).operation, origin(&first).operation);
    // The error of the attempt that was given up does not touch the one under way.
    let late = Err(DataError::NotServing { reason: NotServing::Stopping });
    assert!(sent(&bench.answer(first.attempt, late)).is_empty());
    assert_eq!(done(&bench.answer(second.attempt, Ok(DataReply::Written))).len(), 1);
}

#[test]
fn the_answer_to_an_attempt_that_was_given_up_still_counts_and_only_once() {
    let mut bench = Bench::new(None);
    let first = one(&bench.submit(write(0)).1);
    let second = one(&bench.step(Event::Map(routes(2, [3, 2], &[SESSION]))));
    assert_eq!(done(&bench.answer(first.attempt, Ok(DataReply::Written))).len(), 1);
    assert!(done(&bench.answer(second.attempt, Ok(DataReply::Written))).is_empty());
}

#[test]
fn an_old_map_is_ignored() {
    let mut bench = Bench::new(None);
    bench.step(Event::Map(routes(5, [3, 3], &[SESSION])));
    bench.step(Event::Map(routes(4, [1, 1], &[SESSION])));
    assert_eq!(one(&bench.submit(write(0)).1).node, NodeId(3));
}

#[test]
fn without_a_map_change_pauses_grow_from_20_to_200_milliseconds() {
    let mut bench = Bench::new(None);
    let mut attempt = one(&bench.submit(write(0)).1).attempt;
    for pause in [20, 40, 80, 160, 200, 200] {
        bench.answer(attempt, Err(DataError::NotServing { reason: NotServing::NoLease }));
        assert!(sent(&bench.wake_after(pause - 1)).is_empty());
        attempt = one(&bench.wake_after(1)).attempt;
    }
}

#[test]
fn an_operation_of_a_group_without_primary_goes_out_when_it_has_one() {
    let mut bench = Bench::new(None);
    bench.step(Event::Map(routes(2, [0, 2], &[SESSION])));
    let (_, actions) = bench.submit(write(0));
    assert!(sent(&actions).is_empty());
    assert!(actions.iter().any(|action| matches!(action, Action::FetchMap { .. })));
    assert_eq!(one(&bench.step(Event::Map(routes(3, [2, 2], &[SESSION])))).node, NodeId(2));
}

#[test]
fn the_low_water_mark_of_a_group_waits_for_its_oldest_unanswered_operation_only() {
    let mut bench = Bench::new(None);
    let stuck = one(&bench.submit(write(0)).1);
    let other = one(&bench.submit(write(1)).1);
    bench.answer(other.attempt, Ok(DataReply::Written));
    let later = one(&bench.submit(write(0)).1);
    assert_eq!(origin(&later).low_water, origin(&stuck).operation);
    // The other group has nothing unanswered: its mark is at the new operation itself.
    let free = one(&bench.submit(write(1)).1);
    assert_eq!(origin(&free).low_water, origin(&free).operation);
    bench.answer(later.attempt, Ok(DataReply::Written));
    bench.answer(stuck.attempt, Ok(DataReply::Written));
    let last = one(&bench.submit(write(0)).1);
    assert_eq!(origin(&last).low_water, origin(&last).operation);
}

#[test]
fn a_retry_never_names_a_mark_above_its_own_number() {
    let mut bench = Bench::new(None);
    let first = one(&bench.submit(write(0)).1);
    for _ in 0..10 {
        let other = one(&bench.submit(write(0)).1);
        bench.answer(other.attempt, Ok(DataReply::Written));
    }
    bench.step(Event::Unreachable { attempt: first.attempt });
    let again = one(&bench.wake_after(20));
    assert_eq!(origin(&again).operation, origin(&first).operation);
    assert!(origin(&again).low_water <= origin(&again).operation);
}

#[test]
fn a_full_window_holds_back_its_group_and_no_other() {
    let mut bench = Bench::new(None);
    let stuck = one(&bench.submit(write(0)).1);
    for _ in 1..MAX_DEDUPE_PER_SESSION {
        let next = one(&bench.submit(write(0)).1);
        bench.answer(next.attempt, Ok(DataReply::Written));
    }
    let (held, actions) = bench.submit(write(0));
    assert!(sent(&actions).is_empty());
    assert_eq!(sent(&bench.submit(write(1)).1).len(), 1);
    let released = bench.answer(stuck.attempt, Ok(DataReply::Written));
    assert_eq!(one(&released).attempt.ticket, held);
}

#[test]
fn operations_over_the_limit_wait_in_order() {
    let mut bench = Bench::new(None);
    let mut first = None;
    for _ in 0..MAX_CLIENT_OPERATIONS_IN_FLIGHT {
        let attempt = one(&bench.submit(write(0)).1).attempt;
        first = first.or(Some(attempt));
    }
    let (second, actions) = bench.submit(write(0));
    assert!(sent(&actions).is_empty());
    assert!(sent(&bench.submit(write(0)).1).is_empty());
    assert_eq!(one(&bench.answer(first.unwrap(), Ok(DataReply::Written))).attempt.ticket, second);
}

#[test]
fn data_over_the_limit_wait_and_one_operation_always_goes() {
    let mut bench = Bench::new(None);
    let large = |bytes| {
        let mut operation = write(0);
        if let Operation::Write { data, .. } = &mut operation {
            *data = Bytes::from(vec![1; bytes]);
        }
        operation
    };
    let first = one(&bench.submit(large(BYTES_IN_FLIGHT / 2 + 1)).1).attempt;
    let (second, actions) = bench.submit(large(BYTES_IN_FLIGHT / 2));
    assert!(sent(&actions).is_empty(), "more than the limit together");
    let released = one(&bench.answer(first, Ok(DataReply::Written))).attempt;
    assert_eq!(released.ticket, second);
    bench.answer(released, Ok(DataReply::Written));
    assert_eq!(sent(&bench.submit(large(2 * BYTES_IN_FLIGHT)).1).len(), 1, "larger than the limit and alone");
}

#[test]
fn no_space_is_answered_at_once_and_is_not_retried() {
    let mut bench = Bench::new(None);
    let (ticket, actions) = bench.submit(write(0));
    let actions = bench.answer(one(&actions).attempt, Err(DataError::NoSpace));
    assert_eq!(done(&actions), [(ticket, Err(ErrorKind::NoSpace))]);
    assert_eq!(bench.core.unanswered(), 0);
}

#[test]
fn a_session_that_the_map_does_not_list_is_fenced_for_good() {
    let mut bench = Bench::new(None);
    let (ticket, _) = bench.submit(write(0));
    let actions = bench.step(Event::Map(routes(2, [1, 2], &[])));
    assert_eq!(done(&actions), [(ticket, Err(ErrorKind::Fenced))]);
    assert!(actions.iter().any(|action| matches!(action, Action::SessionFenced)));
    bench.step(Event::Map(routes(3, [1, 2], &[SESSION])));
    let (later, actions) = bench.submit(write(0));
    assert_eq!(done(&actions), [(later, Err(ErrorKind::Fenced))]);
}

#[test]
fn a_flush_sends_one_request_a_node_and_moves_with_the_primary() {
    let mut bench = Bench::new(None);
    let (ticket, actions) = bench.submit(Operation::Flush { pgs: vec![pg(0), pg(1)] });
    let requests = sent(&actions);
    assert_eq!(requests.iter().map(|s| s.node).collect::<Vec<_>>(), [NodeId(1), NodeId(2)]);
    let ok = vec![(pg(1), Ok(LossGeneration(4)))];
    assert!(done(&bench.answer(requests[1].attempt, Ok(DataReply::Flushed(ok)))).is_empty());
    bench.step(Event::Unreachable { attempt: requests[0].attempt });
    let moved = one(&bench.step(Event::Map(routes(2, [3, 2], &[SESSION]))));
    assert_eq!(moved.node, NodeId(3));
    let DataRequest::Flush(flush) = &moved.request else { panic!() };
    assert_eq!(flush.pgs, [pg(0)]);
    let ok = vec![(pg(0), Ok(LossGeneration(0)))];
    let answered = done(&bench.answer(moved.attempt, Ok(DataReply::Flushed(ok))));
    let both = vec![(pg(0), LossGeneration(0)), (pg(1), LossGeneration(4))];
    assert_eq!(answered, [(ticket, Ok(Outcome::Flushed(both)))]);
}

#[test]
fn a_group_that_a_flush_answer_leaves_out_or_refuses_is_asked_again() {
    let mut bench = Bench::new(None);
    bench.step(Event::Map(routes(2, [1, 1], &[SESSION])));
    let (_, actions) = bench.submit(Operation::Flush { pgs: vec![pg(0), pg(1)] });
    let refused = Err(DataError::NotServing { reason: NotServing::Peering(Epoch(2)) });
    let answer = DataReply::Flushed(vec![(pg(0), refused)]);
    assert!(done(&bench.answer(one(&actions).attempt, Ok(answer))).is_empty());
    let again = one(&bench.wake_after(20));
    let DataRequest::Flush(flush) = &again.request else { panic!() };
    assert_eq!(flush.pgs, [pg(0), pg(1)]);
}

#[test]
fn a_timed_out_write_goes_on_and_settling_waits_for_it() {
    let mut bench = Bench::new(Some(Duration::from_secs(1)));
    let (ticket, actions) = bench.submit(write(0));
    let attempt = one(&actions).attempt;
    let told = done(&bench.wake_after(1_000));
    assert!(matches!(told[..], [(t, Err(ErrorKind::TimedOut { .. }))] if t == ticket), "{told:?}");
    let (settle, actions) = bench.submit(Operation::Settle);
    assert!(done(&actions).is_empty());
    // The caller was told once; now only whoever settles hears.
    let answered = done(&bench.answer(attempt, Ok(DataReply::Written)));
    assert_eq!(answered, [(settle, Ok(Outcome::Done))]);
}

#[test]
fn a_timed_out_write_that_was_never_sent_is_dropped() {
    let mut bench = Bench::new(Some(Duration::from_secs(1)));
    bench.step(Event::Map(routes(2, [0, 2], &[SESSION])));
    bench.submit(write(0));
    assert_eq!(done(&bench.wake_after(1_000)).len(), 1);
    assert_eq!(bench.core.unanswered(), 0);
    assert!(sent(&bench.step(Event::Map(routes(3, [1, 2], &[SESSION])))).is_empty());
}

#[test]
fn a_timeout_is_told_even_while_attempts_come_and_go() {
    let mut bench = Bench::new(Some(Duration::from_millis(100)));
    let (_, actions) = bench.submit(write(0));
    let mut attempt = one(&actions).attempt;
    let mut told = 0;
    for _ in 0..40 {
        let refused = bench.answer(attempt, Err(DataError::NotServing { reason: NotServing::NoLease }));
        told += done(&refused).len();
        let actions = bench.wake_after(10);
        told += done(&actions).len();
        if let Some(next) = sent(&actions).first() {
            attempt = next.attempt;
        }
    }
    assert_eq!(told, 1);
}

#[test]
fn settling_waits_for_earlier_changes_of_its_file_only() {
    let mut bench = Bench::new(None);
    let earlier = one(&bench.submit(write(0)).1);
    let other_file = Event::Submit { ticket: Ticket(1_000), file: Some(InodeNumber(6)), operation: write(0) };
    bench.step(other_file);
    bench.next = 1_001;
    let (settle, _) = bench.submit(Operation::Settle);
    let later = one(&bench.submit(write(1)).1);
    bench.answer(later.attempt, Ok(DataReply::Written));
    let answered = done(&bench.answer(earlier.attempt, Ok(DataReply::Written)));
    assert_eq!(answered.last(), Some(&(settle, Ok(Outcome::Done))));
}

/// What a session waits for before it acknowledges a truncation.
pub(super) fn older_generations_are_settled() -> Result<(), String> {
    let mut bench = Bench::new(None);
    let under = |generation| {
        let mut write = write(0);
        if let Operation::Write { generation: of, .. } = &mut write {
            *of = TruncateGeneration(generation);
        }
        write
    };
    let object = under(0).changes().map(|(object, _)| object).unwrap_or_default();
    let old = one(&bench.submit(under(0)).1);
    // This one waits in its group for the cut, which waits for the acknowledgement.
    bench.submit(under(1));
    let (settle, actions) = bench.submit(Operation::SettleOlder { object, generation: TruncateGeneration(1) });
    if !done(&actions).is_empty() {
        return Err("acknowledged while a write of the generation before is under way".into());
    }
    let answered = done(&bench.answer(old.attempt, Ok(DataReply::Written)));
    match answered.last() {
        Some((ticket, Ok(Outcome::Done))) if *ticket == settle => Ok(()),
        other => Err(format!("the acknowledgement waits for what waits for it: {other:?}")),
    }
}

#[test]
fn a_truncation_is_acknowledged_when_older_operations_are_answered() {
    older_generations_are_settled().unwrap();
}

#[test]
fn numbers_are_never_used_twice() {
    let mut bench = Bench::new(None);
    let mut seen = std::collections::BTreeSet::new();
    for n in 0..50u16 {
        let request = one(&bench.submit(write(n % 2)).1);
        assert!(seen.insert(origin(&request).operation));
        if n % 3 == 0 {
            bench.answer(request.attempt, Ok(DataReply::Written));
        }
    }
    assert!(!seen.contains(&OperationId(0)));
}

#[test]
fn a_reply_of_another_kind_or_length_is_an_error() {
    let mut bench = Bench::new(None);
    let read =
        Operation::Read { chunk: chunk_in(0), offset_bytes: 0, length_bytes: 10, generation: TruncateGeneration(0) };
    let (ticket, actions) = bench.submit(read);
    let short = Event::Answer {
        attempt: one(&actions).attempt,
        result: Ok(DataReply::Read),
        payload: Bytes::from_static(b"short"),
    };
    let answered = done(&bench.step(short));
    assert!(matches!(answered[..], [(t, Err(ErrorKind::Io(_)))] if t == ticket));
}
