//! Which parts of a file hold data: SEEK_HOLE, SEEK_DATA, and export that keeps holes.

use crate::client::Inner;
use crate::core::{Operation, Outcome};
use crate::file::{OpenFile, PARTS_AT_A_TIME};
use crate::shell::engine::received;
use std::collections::BTreeMap;
use std::ops::Range;
use weft_types::{BLOCK_SIZE, ErrorKind, ObjectId, PgId};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seek {
    Data,
    Hole,
}

/// From this many chunks on it pays to ask each placement group first whether it holds anything of the object.
const ASK_GROUPS_FROM_CHUNKS: u64 = 32;

impl OpenFile {
    /// Runs of a range that hold data, in order, in whole blocks, cut to the range.
    ///
    /// # Errors
    /// As `read`.
    pub async fn presence(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, ErrorKind> {
        self.client.check_fence()?;
        let end = range.end.min(self.file.size_bytes());
        let mut runs = Vec::new();
        self.for_each_run(range.start.min(end)..end, |run| {
            push_run(&mut runs, run);
            Scan::Continue
        })
        .await?;
        Ok(runs)
    }

    /// lseek(2) with SEEK_DATA or SEEK_HOLE; the end of the file is a hole.
    ///
    /// # Errors
    /// As `read`. `None` is no error: there is no such place (ENXIO).
    pub async fn seek(&self, offset: u64, seek: Seek) -> Result<Option<u64>, ErrorKind> {
        self.file.refresh(&self.client).await?;
        let size = self.file.size_bytes();
        if offset >= size {
            return Ok(None);
        }
        let mut found = None;
        let mut reached = offset;
        self.for_each_run(offset..size, |run| match seek {
            Seek::Data => {
                found = Some(run.start);
                Scan::Stop
            }
            Seek::Hole if run.start > reached => Scan::Stop,
            Seek::Hole => {
                reached = run.end;
                Scan::Continue
            }
        })
        .await?;
        Ok(match seek {
            Seek::Data => found,
            Seek::Hole => Some(reached.min(size)),
        })
    }

    async fn for_each_run(
        &self,
        range: Range<u64>,
        mut visit: impl FnMut(Range<u64>) -> Scan,
    ) -> Result<(), ErrorKind> {
        let chunk_bytes = u64::from(self.client.record.chunk_size.bytes());
        let object = self.file.life()?.object;
        let chunks = (range.end - range.start).div_ceil(chunk_bytes);
        let extents = if chunks >= ASK_GROUPS_FROM_CHUNKS {
            Some(self.client.group_extents(object, self.client.all_groups()).await?)
        } else {
            None
        };
        let mut at = range.start;
        // A window of parts at a time: a terabyte is not listed at once.
        while at < range.end {
            let window_end = (at / chunk_bytes * chunk_bytes + chunk_bytes * PARTS_AT_A_TIME as u64).min(range.end);
            let mut asked = Vec::new();
            for part in self.parts(at..window_end)? {
                let pg = self.client.engine.with_routes(|routes| routes.pg_of(part.chunk));
                let start = part.file_offset - u64::from(part.bytes.start);
                let empty = extents
                    .as_ref()
                    .and_then(|extents| extents.get(&pg))
                    .is_some_and(|extent| extent.allocated_bytes == 0 || extent.end_bytes <= start);
                if !empty {
                    let operation = Operation::Presence { chunk: part.chunk };
                    asked.push((start, self.client.engine.submit(None, operation)));
                }
            }
            for (start, answer) in asked {
                let Outcome::Presence(runs) = received(answer.await)? else {
                    return Err(ErrorKind::Io("presence was answered with something else".into()));
                };
                for (first, count) in runs {
                    let from = start + u64::from(first.0) * BLOCK_SIZE as u64;
                    let run = from.max(range.start)..(from + u64::from(count) * BLOCK_SIZE as u64).min(range.end);
                    if run.start < run.end && visit(run) == Scan::Stop {
                        return Ok(());
                    }
                }
            }
            at = window_end;
        }
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scan {
    Continue,
    Stop,
}

fn push_run(runs: &mut Vec<Range<u64>>, run: Range<u64>) {
    match runs.last_mut() {
        Some(last) if last.end == run.start => last.end = run.end,
        _ => runs.push(run),
    }
}

/// What one placement group holds of an object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupExtent {
    pub end_bytes: u64,
    pub allocated_bytes: u64,
}

impl Inner {
    pub(crate) fn all_groups(&self) -> Vec<PgId> {
        self.engine.with_routes(|routes| routes.pgs().collect())
    }

    pub(crate) async fn group_extents(
        &self,
        object: ObjectId,
        pgs: Vec<PgId>,
    ) -> Result<BTreeMap<PgId, GroupExtent>, ErrorKind> {
        let asked: Vec<_> =
            pgs.into_iter().map(|pg| (pg, self.engine.submit(None, Operation::ObjectExtent { pg, object }))).collect();
        let mut extents = BTreeMap::new();
        for (pg, answer) in asked {
            let Outcome::Extent { end_bytes, allocated_bytes } = received(answer.await)? else {
                return Err(ErrorKind::Io("an extent was answered with something else".into()));
            };
            extents.insert(pg, GroupExtent { end_bytes, allocated_bytes });
        }
        Ok(extents)
    }
}
