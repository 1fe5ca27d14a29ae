//! The shell around `core::SizeCap`: asks the metadata group for the cap of a file, gives it up when somebody else wants
//! it, and asks the holder elsewhere for the size.
//!
//! Guarantees: requests for a file's cap and its giving up are made one at a time, so their answers come in the order in
//! which the metadata group decided; a cap that is being given up is used no more, however long that takes.

use crate::client::{Inner, unexpected};
use crate::core::retry::pause;
use crate::core::{Admission, GivingUp, SessionState};
use crate::open_inode::OpenInode;
use crate::shell::boot_time;
use std::rc::Rc;
use std::time::Duration;
use weft_proto::control::{ControlReply, ControlRequest, ToldSize};
use weft_proto::namespace::{FileRecord, Mutation, NamespaceReply, Query, SizeKnowledge, TimeChange};
use weft_types::{BootTime, ErrorKind, InodeNumber};

/// From here on a wait for the size cap is worth a line in the log.
const CAP_WARNING: Duration = Duration::from_secs(5);
/// Whoever waits for the cap asks again after this, should a notice have been lost.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Permission to write past the end of a file. While it lives the size cap is not given up.
pub(crate) struct Extending(Rc<OpenInode>);

impl Drop for Extending {
    fn drop(&mut self) {
        self.0.cap.borrow_mut().done();
        self.0.cap_changed.notify_waiters();
    }
}

/// Somebody who waits for the cap.
struct Waiter<'f>(&'f OpenInode);

impl<'f> Waiter<'f> {
    fn new(file: &'f OpenInode) -> Self {
        file.cap.borrow_mut().waits();
        Self(file)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.cap.borrow_mut().waits_no_more();
        self.0.cap_changed.notify_waiters();
    }
}

impl OpenInode {
    /// Returns when bytes up to `end()` may be written. It is looked at again whenever the cap has moved: an append ends
    /// where the file then ends.
    ///
    /// # Errors
    /// `TimedOut`, `Fenced`, `Stale` when the file was closed, and what the metadata group refuses.
    pub(crate) async fn begin_extending(
        self: &Rc<Self>,
        client: &Inner,
        end: impl Fn() -> u64,
    ) -> Result<Extending, ErrorKind> {
        let (began, mut warned) = (boot_time(), false);
        let mut waiter = None;
        loop {
            let changed = self.cap_changed.notified();
            tokio::pin!(changed);
            // Before looking: what changes in between wakes us.
            changed.as_mut().enable();
            let admission = self.cap.borrow_mut().admit(boot_time(), end());
            match admission {
                Admission::Go => return Ok(Extending(Rc::clone(self))),
                Admission::Ask => {
                    waiter.get_or_insert_with(|| Waiter::new(self));
                    if self.ask_for_cap(client, end()).await? {
                        continue;
                    }
                }
                Admission::Wait => {}
            }
            self.check_patience(client, began, &mut warned)?;
            let _ = tokio::time::timeout(ASK_AGAIN, changed).await;
        }
    }

    fn check_patience(&self, client: &Inner, began: BootTime, warned: &mut bool) -> Result<(), ErrorKind> {
        client.check_fence()?;
        let waited = boot_time().since(began);
        if client.fail_after.is_some_and(|limit| waited >= limit) {
            return Err(ErrorKind::TimedOut {
                waited_ms: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
                why: "another host makes this file longer and does not let go".into(),
            });
        }
        if waited > CAP_WARNING && !std::mem::replace(warned, true) {
            tracing::warn!(inode = %self.inode, "waiting to make a file longer: another host has its size");
        }
        Ok(())
    }

    /// Whether the cap is held now, with room up to `end_bytes`.
    async fn ask_for_cap(&self, client: &Inner, end_bytes: u64) -> Result<bool, ErrorKind> {
        let _one = self.asking.lock().await;
        {
            let cap = self.cap.borrow();
            if cap.is_held() && cap.room_bytes() >= end_bytes {
                return Ok(true);
            }
        }
        let reply = client.mutate(Mutation::AcquireSizeCap { inode: self.inode, end_bytes }).await?;
        let NamespaceReply::Opened { record, size_cap, .. } = reply else { return Err(unexpected(&reply)) };
        self.learned(client, &record);
        if size_cap {
            self.cap_granted(client, &record);
        }
        Ok(size_cap)
    }

    /// A reply says that this session holds the cap. Called with `asking` held.
    pub(crate) fn cap_granted(&self, client: &Inner, record: &FileRecord) {
        let room = match record.knowledge {
            SizeKnowledge::Holder { session, max_size_bytes } if session == client.session => max_size_bytes,
            _ => record.attributes.size_bytes,
        };
        self.cap.borrow_mut().granted(boot_time(), room);
        self.cap_changed.notify_waiters();
    }

    /// The size is known here and nowhere better: the cap is held and the session lives.
    pub(crate) fn knows_size(&self, client: &Inner) -> bool {
        self.cap.borrow().is_held() && client.session_state() == SessionState::Live
    }

    /// Another session wants the cap: it goes when what is under way is done.
    pub(crate) async fn give_up_cap(self: &Rc<Self>, client: &Inner) {
        self.cap.borrow_mut().recall();
        loop {
            let changed = self.cap_changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let decision = self.cap.borrow_mut().giving_up(boot_time());
            match decision {
                GivingUp::NotAsked => return,
                GivingUp::Now => break,
                GivingUp::At(time) => tokio::time::sleep(time.since(boot_time())).await,
                GivingUp::WhenDone => drop(tokio::time::timeout(ASK_AGAIN, changed).await),
            }
        }
        let _one = self.asking.lock().await;
        let mut tries = 0u32;
        while let Err(error) = self.release_cap(client).await {
            if client.check_fence().is_err() {
                return;
            }
            // Until the metadata group has taken it back nobody knows who holds it: it is not used meanwhile.
            tracing::warn!(inode = %self.inode, %error, "the size cap could not be given up; trying again");
            tries = tries.saturating_add(1);
            tokio::time::sleep(pause(tries)).await;
        }
        self.cap.borrow_mut().given_up();
        self.cap_changed.notify_waiters();
    }

    async fn release_cap(&self, client: &Inner) -> Result<(), ErrorKind> {
        let _one = self.commits.lock().await;
        let known = self.size.borrow().as_ref().map(|size| (size.life(), size.live()));
        let written_at = self.written_at.get();
        let Some((life, live)) = known else { return release_unknown(client, self.inode).await };
        let mutation = Mutation::ReleaseSizeCap {
            inode: self.inode,
            generation: life.generation,
            size_bytes: live,
            modified: written_at.map(TimeChange::To),
        };
        match client.mutate_to_the_end(mutation).await {
            Ok(_) => {
                if let Some(size) = self.size.borrow_mut().as_mut() {
                    size.committed(life.generation, live);
                }
                self.time_is_known(written_at);
                Ok(())
            }
            // It was closed or deleted meanwhile: there is nothing to give up.
            Err(ErrorKind::NotFound | ErrorKind::Stale) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Somebody asks how long the file is.
    pub(crate) fn told_size(&self) -> Option<ToldSize> {
        let size = self.size.borrow();
        let size = size.as_ref()?;
        let (life, written) = (size.life(), self.written_at.get());
        Some(ToldSize { object: life.object, generation: life.generation, size_bytes: size.live(), written })
    }

    /// The file was truncated elsewhere. From here on this session works under the new generation; when nothing of the
    /// one before is under way any more, it says so.
    pub(crate) async fn learn_truncation(
        self: &Rc<Self>,
        client: &Inner,
        generation: weft_types::TruncateGeneration,
    ) -> Result<(), ErrorKind> {
        let mut tries = 0u32;
        let life = loop {
            let record = client.record_of(Query::Attributes { inode: self.inode }).await?;
            self.learned(client, &record);
            let life = self.life()?;
            if life.generation >= generation {
                break life;
            }
            tries = tries.saturating_add(1);
            tokio::time::sleep(pause(tries)).await;
        };
        client.settle_older(self.inode, life).await?;
        client.invalidate(self.inode);
        client.acknowledge_truncation(self.inode, life.generation).await
    }
}

/// Gives up a cap of a file that is not open here (any more).
pub(crate) async fn release_unknown(client: &Inner, inode: InodeNumber) -> Result<(), ErrorKind> {
    let generation = weft_types::TruncateGeneration(0);
    let mutation = Mutation::ReleaseSizeCap { inode, generation, size_bytes: 0, modified: None };
    match client.mutate_to_the_end(mutation).await {
        Ok(_) | Err(ErrorKind::NotFound | ErrorKind::Stale) => Ok(()),
        Err(error) => Err(error),
    }
}

impl Inner {
    /// The record with the size as it is now, wherever that is known. Answered within the fence time even if the only one
    /// who knows it is dead: then the placement groups are asked (attack stat-dead-holder).
    pub(crate) async fn exact_record(&self, inode: InodeNumber) -> Result<FileRecord, ErrorKind> {
        let began = boot_time();
        let mut tries = 0u32;
        loop {
            let mut record = self.record_of(Query::Attributes { inode }).await?;
            match record.knowledge {
                SizeKnowledge::Exact => return Ok(record),
                SizeKnowledge::Holder { session, .. } if session == self.session => return Ok(record),
                SizeKnowledge::Holder { session: holder, .. } => {
                    let (session, volume) = (self.session, self.volume);
                    let request = ControlRequest::AskSize { session, volume, inode, holder };
                    if let ControlReply::SizeTold(told) = self.control.ask(request).await?
                        && take_word(&mut record, &told)
                    {
                        return Ok(record);
                    }
                }
                SizeKnowledge::Collecting => {}
            }
            let waited = boot_time().since(began);
            if self.fail_after.is_some_and(|limit| waited >= limit) {
                return Err(ErrorKind::TimedOut {
                    waited_ms: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
                    why: "the host that knows the size of the file does not answer".into(),
                });
            }
            tries = tries.saturating_add(1);
            tokio::time::sleep(pause(tries)).await;
        }
    }

    /// Waits until every other session that has the file open works under its newest truncate generation, or is fenced.
    pub(crate) async fn until_truncation_is_known(&self, inode: InodeNumber) -> Result<(), ErrorKind> {
        let mut wait = Duration::from_millis(2);
        loop {
            match self.query(Query::TruncationUnknownTo { inode }).await {
                Ok(NamespaceReply::Sessions(unknown)) => {
                    if unknown.iter().all(|session| *session == self.session) {
                        return Ok(());
                    }
                }
                Ok(other) => return Err(unexpected(&other)),
                Err(error) => return Err(error),
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_millis(50));
        }
    }

    /// Answers who asked for a size that this session knows.
    pub(crate) async fn tell_size(&self, inode: InodeNumber, question: u64) {
        let Some(told) = self.open_inode(inode).and_then(|file| file.told_size()) else { return };
        let (session, volume) = (self.session, self.volume);
        let request = ControlRequest::TellSize { session, volume, inode, question, told };
        // Should it be lost, whoever asked asks again.
        let _ = self.control.try_once(request, ASK_AGAIN).await;
    }
}

/// Adds the holder's word to the record; false when the record is older than the word.
fn take_word(record: &mut FileRecord, told: &ToldSize) -> bool {
    let (of, known) = ((told.object, told.generation), (record.object, record.generation));
    if of > known {
        return false;
    }
    if of == known {
        record.attributes.size_bytes = record.attributes.size_bytes.max(told.size_bytes);
        if let Some(written) = told.written {
            record.attributes.modified = record.attributes.modified.max(written);
            record.attributes.changed = record.attributes.changed.max(written);
        }
    }
    // A holder that has not heard of the truncation yet has made nothing longer since.
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_types::{Attributes, FileKind, ObjectId, Timestamp, TruncateGeneration};

    fn record(generation: u64, size_bytes: u64) -> FileRecord {
        let time = Timestamp::default();
        FileRecord {
            attributes: Attributes {
                inode: InodeNumber(5),
                kind: FileKind::Regular,
                size_bytes,
                allocated_bytes: 0,
                mode: 0o644,
                links: 1,
                uid: 0,
                gid: 0,
                device: 0,
                accessed: time,
                modified: time,
                changed: time,
                created: time,
            },
            object: ObjectId(1),
            generation: TruncateGeneration(generation),
            knowledge: SizeKnowledge::Exact,
        }
    }

    fn told(generation: u64, size_bytes: u64) -> ToldSize {
        ToldSize { object: ObjectId(1), generation: TruncateGeneration(generation), size_bytes, written: None }
    }

    #[test]
    fn the_holders_word_counts_for_the_life_it_is_of() {
        let mut of_now = record(1, 100);
        assert!(take_word(&mut of_now, &told(1, 500)) && of_now.attributes.size_bytes == 500);
        let mut after_a_cut = record(2, 100);
        assert!(take_word(&mut after_a_cut, &told(1, 500)) && after_a_cut.attributes.size_bytes == 100);
        assert!(!take_word(&mut record(1, 100), &told(2, 50)), "the record is of an earlier life");
    }
}
