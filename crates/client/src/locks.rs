//! Byte-range locks of an open file (decision 0009, SEMANTICS S4).
//!
//! Responsible for: asking, waiting, giving up, freeing.
//! Guarantees: whatever gives a right away (unlock, a weaker kind, close) waits until the file's earlier operations are
//! answered and their size is known to everybody (design 4.5); a wait that was given up holds nothing; nothing is asked
//! for in a loop while nothing happens. Must not know: where a lock stands, or who else waits.

use crate::client::{Inner, unexpected};
use crate::core::retry::pause;
use crate::core::{Before, Operation};
use crate::file::OpenFile;
use crate::mutants::{Mutant, planted};
use crate::open_inode::OpenInode;
use crate::shell::boot_time;
use crate::shell::engine::received;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;
use weft_proto::control::{ControlReply, ControlRequest};
use weft_proto::namespace::{LockChange, LockHolder, LockWait, Mutation, NamespaceReply, Query};
use weft_types::limits::LOCK_POLL_WAIT;
use weft_types::{ErrorKind, LockKind, LockOwner, LockRange, RequestNumber};

/// An answer may be this much later than the leader was asked to give it.
const POLL_GRACE: Duration = Duration::from_secs(2);

/// A lock as a process asks for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockRequest {
    pub owner: LockOwner,
    pub range: LockRange,
    pub kind: LockKind,
    /// For `weft lock list` and F_GETLK.
    pub process_id: u32,
    pub wait: LockWait,
}

/// How asking for a lock ended, when nothing failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockOutcome {
    Locked,
    /// Another owner is in the way, and the request does not wait.
    Conflict,
    /// The wait was given up; nothing was locked.
    Interrupted,
}

impl OpenFile {
    /// Locks a range, or changes the kind of a lock. A request that waits gives up when `interrupted` ends.
    ///
    /// # Errors
    /// `Deadlock` when the owner would wait for itself; `NoLocks`; `TimedOut`, `Fenced`.
    pub async fn lock(
        &self,
        request: LockRequest,
        interrupted: impl Future<Output = ()>,
    ) -> Result<LockOutcome, ErrorKind> {
        self.client.check_fence()?;
        let LockRequest { owner, range, kind, process_id, wait } = request;
        let change = LockChange::Set { owner, range, kind, process_id, wait };
        self.file.settle_before(&self.client, &change).await?;
        self.file.locks.borrow_mut().locking(owner, self.description);
        let outcome = match self.file.change_lock(&self.client, change).await? {
            NamespaceReply::Locked => LockOutcome::Locked,
            NamespaceReply::LockConflict(_) => LockOutcome::Conflict,
            NamespaceReply::LockWaits { request } => self.wait_for_lock(request, interrupted).await?,
            other => return Err(unexpected(&other)),
        };
        if outcome == LockOutcome::Locked
            && let Err(error) = self.file.refresh(&self.client).await
        {
            // Reads near the end ask again.
            tracing::debug!(inode = %self.file.inode, %error, "the size was not asked for after locking");
        }
        Ok(outcome)
    }

    async fn wait_for_lock(
        &self,
        request: RequestNumber,
        interrupted: impl Future<Output = ()>,
    ) -> Result<LockOutcome, ErrorKind> {
        let mut interrupted = pin!(interrupted);
        let client = &self.client;
        let (mut failures, mut heard) = (0u32, boot_time());
        loop {
            let wait_ms = u32::try_from(LOCK_POLL_WAIT.as_millis()).unwrap_or(u32::MAX);
            let (session, inode) = (client.session, self.file.inode);
            let poll = ControlRequest::AwaitLock { session, inode, request, wait_ms };
            let answer = tokio::select! {
                answer = client.control.try_once(poll, LOCK_POLL_WAIT + POLL_GRACE) => answer,
                // A leader that vanished leaves the poll hanging.
                () = client.control.leader_moved() => Err("the leader moved".to_owned()),
                () = client.engine.until_fenced() => return Err(ErrorKind::Fenced),
                () = &mut interrupted => return self.give_up(request).await,
            };
            match answer {
                Ok(ControlReply::LockGranted) => return Ok(LockOutcome::Locked),
                Ok(ControlReply::LockWaits) => (failures, heard) = (0, boot_time()),
                Ok(ControlReply::Refused(ErrorKind::Fenced)) => {
                    client.struck();
                    return Err(ErrorKind::Fenced);
                }
                Ok(_) | Err(_) => failures = failures.saturating_add(1),
            }
            let waited = boot_time().since(heard);
            if client.fail_after.is_some_and(|limit| waited >= limit) {
                self.give_up_later(request);
                return Err(ErrorKind::TimedOut {
                    waited_ms: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
                    why: "no metadata leader answered while a lock was waited for".into(),
                });
            }
            // Also after an answer that came early: a leader that says "wait" at once must not be asked without pause.
            tokio::select! {
                () = tokio::time::sleep(pause(failures.max(1))) => {}
                () = &mut interrupted => return self.give_up(request).await,
            }
        }
    }

    async fn give_up(&self, request: RequestNumber) -> Result<LockOutcome, ErrorKind> {
        if planted(Mutant::ForgetToCancel) {
            return Ok(LockOutcome::Interrupted);
        }
        match self.file.change_lock(&self.client, LockChange::Cancel { request }).await? {
            NamespaceReply::Done => Ok(LockOutcome::Interrupted),
            // It was granted before it could be given up.
            NamespaceReply::Locked => Ok(LockOutcome::Locked),
            other => Err(unexpected(&other)),
        }
    }

    /// Nobody waits for the answer. A lock that was granted before stays until its owner closes the file.
    fn give_up_later(&self, request: RequestNumber) {
        let (client, inode) = (std::rc::Rc::clone(&self.client), self.file.inode);
        tokio::task::spawn_local(async move {
            let change = LockChange::Cancel { request };
            if let Err(error) = client.mutate(Mutation::Lock { inode, change }).await {
                tracing::debug!(%inode, %error, "a wait for a lock was not cancelled");
            }
        });
    }

    /// Frees a range.
    ///
    /// # Errors
    /// When earlier operations of the file or the metadata group are not answered in time; the lock is then kept.
    pub async fn unlock(&self, owner: LockOwner, range: LockRange) -> Result<(), ErrorKind> {
        self.client.check_fence()?;
        if !self.file.locks.borrow().may_hold(owner) {
            return Ok(());
        }
        let change = LockChange::Unlock { owner, range };
        self.file.settle_before(&self.client, &change).await?;
        self.file.change_lock(&self.client, change).await.map(drop)
    }

    /// F_GETLK: what would be in the way.
    ///
    /// # Errors
    /// As every metadata request.
    pub async fn lock_conflict(
        &self,
        owner: LockOwner,
        range: LockRange,
        kind: LockKind,
    ) -> Result<Option<LockHolder>, ErrorKind> {
        let (inode, session) = (self.file.inode, self.client.session);
        match self.client.query(Query::LockConflict { inode, session, owner, range, kind }).await? {
            NamespaceReply::LockConflict(holder) => Ok(holder),
            other => Err(unexpected(&other)),
        }
    }

    /// Whether the lock belongs to a process of this host.
    #[must_use]
    pub fn is_of_this_host(&self, holder: &LockHolder) -> bool {
        holder.session == self.client.session
    }

    /// A process closes a descriptor: its locks in the file go, as POSIX has it.
    ///
    /// # Errors
    /// As `unlock`.
    pub async fn descriptor_closed(&self, owner: LockOwner) -> Result<(), ErrorKind> {
        let holds = self.file.locks.borrow_mut().descriptor_closed(owner);
        if holds { self.file.release_owner(&self.client, owner).await } else { Ok(()) }
    }
}

impl OpenInode {
    /// Before a right is given away: whatever was done under it has happened, and everybody can see it.
    async fn settle_before(&self, client: &Inner, change: &LockChange) -> Result<(), ErrorKind> {
        let before = self.locks.borrow().before(change);
        match before {
            Before::Nothing => Ok(()),
            Before::Settle => {
                received(client.engine.submit(Some(self.inode), Operation::Settle).await)?;
                self.commit_if_grown(client).await
            }
        }
    }

    async fn change_lock(&self, client: &Inner, change: LockChange) -> Result<NamespaceReply, ErrorKind> {
        client.mutate(Mutation::Lock { inode: self.inode, change }).await
    }

    /// Locks and waits of an owner that is gone.
    pub(crate) async fn release_owner(&self, client: &Inner, owner: LockOwner) -> Result<(), ErrorKind> {
        client.check_fence()?;
        let change = LockChange::Release { owner };
        self.settle_before(client, &change).await?;
        self.change_lock(client, change).await.map(drop)
    }
}
