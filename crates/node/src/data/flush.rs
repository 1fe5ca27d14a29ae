//! One flush of many groups: fan out to the machines, gather, answer once.
//!
//! Guarantees: the answer names every group in the order asked, each with its own result; nothing is called flushed that
//! its machine did not call so. Must not know: what makes a flush durable.

use super::host::{Host, Replier};
use super::node::DataNode;
use super::server::{Answer, Kind, Pending};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;
use weft_proto::data::{DataReply, FlushRequest};
use weft_replication::ClientRequest;
use weft_transport::Payload;
use weft_types::limits::MAX_PGS_PER_VOLUME;
use weft_types::{DataError, LossGeneration, PgId};

pub(super) struct Flushes<R> {
    gathers: HashMap<u64, Gather<R>>,
    next: u64,
}

struct Gather<R> {
    answer: R,
    received: Instant,
    asked: Vec<PgId>,
    missing: usize,
    results: BTreeMap<PgId, Result<LossGeneration, DataError>>,
}

impl<R> Default for Flushes<R> {
    fn default() -> Self {
        Self { gathers: HashMap::new(), next: 0 }
    }
}

/// Which flush a group's answer belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FlushPart {
    gather: u64,
    pg: PgId,
}

impl<H: Host> DataNode<H> {
    pub(super) fn start_flush(&mut self, flush: FlushRequest, answer: H::Replier, received: Instant) {
        let groups: BTreeSet<PgId> = flush.pgs.iter().copied().collect();
        if flush.pgs.len() > usize::from(MAX_PGS_PER_VOLUME) {
            return answer.reply(&Err(DataError::Malformed), Payload::None);
        }
        if groups.is_empty() {
            return answer.reply(&Ok(DataReply::Flushed(Vec::new())), Payload::None);
        }
        self.flushes.next += 1;
        let gather = self.flushes.next;
        let missing = groups.len();
        let results = BTreeMap::new();
        self.flushes.gathers.insert(gather, Gather { answer, received, asked: flush.pgs, missing, results });
        for pg in groups {
            let token = self.next_token();
            let part = Answer::FlushPart(FlushPart { gather, pg });
            self.requests.insert(token, Pending::new(part, Kind::Flush, received));
            let request = ClientRequest::Flush { map_version: flush.map_version, session: flush.session };
            self.request_group(pg, token, request);
        }
    }

    pub(super) fn flush_part(&mut self, part: FlushPart, result: Result<LossGeneration, DataError>) {
        let Some(gather) = self.flushes.gathers.get_mut(&part.gather) else { return };
        if gather.results.insert(part.pg, result).is_none() {
            gather.missing -= 1;
        }
        if gather.missing > 0 {
            return;
        }
        let Some(gather) = self.flushes.gathers.remove(&part.gather) else { return };
        self.counters.flush_total.took(gather.received.elapsed());
        // Every group has answered, so the lookup finds one; a hole would have to be a refusal, never a success.
        let result = |pg: &PgId| (*pg, gather.results.get(pg).cloned().unwrap_or(Err(DataError::Malformed)));
        let all = gather.asked.iter().map(result).collect();
        gather.answer.reply(&Ok(DataReply::Flushed(all)), Payload::None);
    }
}
