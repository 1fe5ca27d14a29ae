//! Owners of byte-range locks: they lock, wait, give up, work under their locks and free them.
//!
//! Each byte of the file stands for a block somewhere that is written and read under its lock only. The requests are those
//! of `weft_client::locks`, in its order, with its production lock book; modelled here is the shell around it: when the
//! file is opened and closed for the metadata group, and the loop around `AwaitLock`. Guarantees: a belief in a lock ends
//! before it is given away. Must not know: who else locks.

use super::desk::Desk;
use super::{Op, chunk_id, workload};
use crate::failure::Oracle;
use crate::world::Place;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Mutex;
use weft_client::core::retry::pause;
use weft_client::core::{Before, DescriptionId, FileKey, LockBook, Operation, Outcome, SessionState};
use weft_proto::control::{ControlReply, ControlRequest};
use weft_proto::namespace::{Credentials, LockChange, LockWait, Mutation, NamespaceReply, NewInode, Query};
use weft_types::limits::LOCK_POLL_WAIT;
use weft_types::{ErrorKind, InodeNumber, LockKind, LockOwner, LockRange, RequestNumber};

/// Bytes that are locked, and blocks that are written under their locks.
pub const CELLS: u64 = 3;
pub const FIRST_CELL: u64 = 200;
const NAME: &[u8] = b"locked";
const THINK_MS: u64 = 60;
/// As in the shell.
const POLL_GRACE: Duration = Duration::from_secs(2);

type Done = Result<(), ErrorKind>;

/// The locked file as one client has it open.
pub struct LockedFile {
    desk: Desk,
    inode: InodeNumber,
    /// Open handles; the metadata group knows of the first and the last.
    handles: Mutex<usize>,
    book: RefCell<LockBook>,
    descriptions: Cell<u64>,
}

struct Wish {
    range: LockRange,
    kind: LockKind,
    wait: LockWait,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    Done,
    LeftUnderWay,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Got {
    Lock,
    Nothing,
}

/// Starts the owners of a client.
pub fn start(desk: &Desk, owners: usize) {
    let starting = desk.clone();
    desk.spawn(async move {
        let Ok(inode) = find(&starting, NAME).await else { return };
        let file = LockedFile {
            desk: starting.clone(),
            inode,
            handles: Mutex::new(0),
            book: RefCell::default(),
            descriptions: Cell::new(0),
        };
        let file = Rc::new(file);
        for owner in 1..=owners as u64 {
            let (file, desk) = (Rc::clone(&file), starting.clone());
            starting.spawn(async move {
                loop {
                    desk.think(THINK_MS).await;
                    if !desk.goes_on() {
                        return;
                    }
                    let _busy = desk.begins();
                    match file.round(LockOwner(owner)).await {
                        Ok(()) => {}
                        Err(ErrorKind::Fenced) => return,
                        Err(error) => {
                            let what = format!("owner {owner} of session {} is told: {error}", desk.who.id);
                            return desk.ledger.fail(Oracle::Locks, what);
                        }
                    }
                }
            });
        }
    });
}

/// A regular file of this name in the root, which somebody may have made.
pub async fn find(desk: &Desk, name: &[u8]) -> Result<InodeNumber, ErrorKind> {
    let (parent, name) = (InodeNumber::ROOT, name.to_vec());
    let query = Query::Lookup { parent, name: name.clone() };
    if let Ok(NamespaceReply::Record(record)) = desk.query(query.clone()).await {
        return Ok(record.attributes.inode);
    }
    let (new, credentials) = (NewInode::Regular, Credentials::default());
    let made = desk.mutate(Mutation::Create { parent, name, new, mode: 0o644, credentials, open: false }).await;
    match made {
        Ok(NamespaceReply::Record(record)) => Ok(record.attributes.inode),
        Ok(other) => Err(unexpected(&other)),
        Err(ErrorKind::Exists) => match desk.query(query).await? {
            NamespaceReply::Record(record) => Ok(record.attributes.inode),
            other => Err(unexpected(&other)),
        },
        Err(error) => Err(error),
    }
}

pub fn unexpected(reply: &NamespaceReply) -> ErrorKind {
    ErrorKind::Io(format!("answered with {reply:?}, which was not asked for"))
}

impl LockedFile {
    const fn file(&self) -> FileKey {
        Some(self.inode)
    }

    /// One time through: open, lock once or twice, work, free, close.
    async fn round(&self, owner: LockOwner) -> Done {
        let description = self.open().await?;
        if self.desk.ledger.chance(20) {
            self.test(owner).await?;
        }
        // A second lock while the first is held: owners may come to wait for each other.
        let locks = if self.desk.ledger.chance(35) { 2 } else { 1 };
        for _ in 0..locks {
            let wish = self.choose();
            match self.lock(owner, description, &wish).await {
                Ok(Got::Lock) => {
                    if self.work(owner, wish.range).await? == Work::LeftUnderWay {
                        break;
                    }
                }
                Ok(Got::Nothing) => {}
                Err(ErrorKind::Deadlock) => {
                    self.desk.ledger.count("locks refused because of a deadlock");
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        self.free(owner).await?;
        self.close(description).await
    }

    fn choose(&self) -> Wish {
        let ledger = &self.desk.ledger;
        let (one, other) = (ledger.below(CELLS), ledger.below(CELLS));
        let last = if ledger.chance(50) { one } else { one.max(other) };
        Wish {
            range: LockRange { first: one.min(last), last },
            kind: if ledger.chance(70) { LockKind::Exclusive } else { LockKind::Shared },
            wait: if ledger.chance(75) { LockWait::Yes } else { LockWait::No },
        }
    }

    async fn open(&self) -> Result<DescriptionId, ErrorKind> {
        let mut handles = self.handles.lock().await;
        if *handles == 0 {
            let open = Mutation::Open { inode: self.inode, write: false, truncate: false };
            self.desk.mutate(open).await?;
        }
        *handles += 1;
        self.descriptions.set(self.descriptions.get() + 1);
        Ok(DescriptionId(self.descriptions.get()))
    }

    /// The last one waits until everything of the file is answered, and closes, which frees every lock.
    async fn close(&self, description: DescriptionId) -> Done {
        let owners = self.book.borrow_mut().description_closed(description);
        for owner in &owners {
            self.believes_no_more(*owner);
        }
        let mut handles = self.handles.lock().await;
        *handles = handles.saturating_sub(1);
        if *handles > 0 {
            for owner in owners {
                self.change(LockChange::Release { owner }).await?;
            }
            return Ok(());
        }
        self.settle().await?;
        self.desk.ledger.count("closes of a locked file");
        self.desk.mutate(Mutation::Close { inode: self.inode }).await.map(drop)
    }

    async fn settle(&self) -> Done {
        self.desk.submit(Op::Other("settle"), self.file(), Operation::Settle).await.map(drop)
    }

    /// Sends a change when what has to come before it is done.
    async fn change(&self, change: LockChange) -> Result<NamespaceReply, ErrorKind> {
        let before = self.book.borrow().before(&change);
        if before == Before::Settle {
            self.settle().await?;
        }
        self.desk.mutate(Mutation::Lock { inode: self.inode, change }).await
    }

    fn who(&self, owner: LockOwner) -> (weft_types::SessionId, LockOwner) {
        (self.desk.who.id, owner)
    }

    fn believes_no_more(&self, owner: LockOwner) {
        self.desk.ledger.open().held.weakens(self.who(owner), LockRange::WHOLE_FILE, None);
    }

    async fn lock(&self, owner: LockOwner, through: DescriptionId, wish: &Wish) -> Result<Got, ErrorKind> {
        let Wish { range, kind, wait } = *wish;
        // The owner tells a process from another, so that the lists of the cluster do.
        let process_id = u32::try_from(owner.0).unwrap_or(0);
        let change = LockChange::Set { owner, range, kind, process_id, wait };
        if kind == LockKind::Shared {
            self.desk.ledger.open().held.weakens(self.who(owner), range, Some(kind));
        }
        let asked = self.desk.ledger.open().held.mark();
        let before = self.book.borrow().before(&change);
        if before == Before::Settle {
            self.settle().await?;
        }
        self.book.borrow_mut().locking(owner, through);
        self.desk.ledger.count("locks asked for");
        match self.desk.mutate(Mutation::Lock { inode: self.inode, change }).await? {
            NamespaceReply::Locked => self.granted(owner, wish),
            NamespaceReply::LockConflict(Some(_)) => Ok(Got::Nothing),
            NamespaceReply::LockWaits { request } => {
                self.desk.ledger.count("locks waited for");
                self.desk.ledger.open().held.waits(&self.desk, owner, range, kind, asked);
                self.wait(owner, wish, request).await
            }
            other => Err(unexpected(&other)),
        }
    }

    fn granted(&self, owner: LockOwner, wish: &Wish) -> Result<Got, ErrorKind> {
        self.desk.say(|| format!("{:?} has {:?} {:?}", self.who(owner), wish.range, wish.kind));
        self.desk.ledger.count("locks granted");
        let mut pages = self.desk.ledger.open();
        let pages = &mut *pages;
        let granted = pages.held.granted(&self.desk, owner, wish.range, wish.kind, &pages.evicted);
        if let Err(what) = granted {
            pages.fail(Oracle::Locks, what);
        }
        Ok(Got::Lock)
    }

    async fn wait(&self, owner: LockOwner, wish: &Wish, request: RequestNumber) -> Result<Got, ErrorKind> {
        let desk = &self.desk;
        // Some are interrupted; not those that end a run, which must come to an end by themselves.
        let patience = if desk.ledger.chance(25) { Some(desk.ledger.below(3_000)) } else { None };
        let interrupted = async {
            match patience {
                Some(ms) => desk.sleep(Duration::from_millis(ms)).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(interrupted);
        let wait_ms = u32::try_from(LOCK_POLL_WAIT.as_millis()).unwrap_or(u32::MAX);
        let deadline = u64::try_from((LOCK_POLL_WAIT + POLL_GRACE).as_nanos()).unwrap_or(u64::MAX);
        let mut failures = 0u32;
        loop {
            let poll = ControlRequest::AwaitLock { session: desk.who.id, inode: self.inode, request, wait_ms };
            let answer = tokio::select! {
                biased;
                answer = desk.try_once(poll, deadline) => answer,
                // A leader that vanished leaves the poll hanging.
                () = desk.leader_moved() => None,
                () = &mut interrupted => return self.give_up(owner, wish, request).await,
            };
            match answer {
                Some(ControlReply::LockGranted) => return self.granted(owner, wish),
                Some(ControlReply::LockWaits) => failures = 0,
                Some(ControlReply::Refused(ErrorKind::Fenced)) => {
                    desk.struck();
                    return Err(ErrorKind::Fenced);
                }
                _ => failures = failures.saturating_add(1),
            }
            tokio::select! {
                biased;
                () = desk.sleep(pause(failures.max(1))) => {}
                () = &mut interrupted => return self.give_up(owner, wish, request).await,
            }
        }
    }

    async fn give_up(&self, owner: LockOwner, wish: &Wish, request: RequestNumber) -> Result<Got, ErrorKind> {
        self.desk.ledger.count("waits for locks given up");
        self.desk.ledger.open().held.waits_no_more(self.who(owner));
        match self.change(LockChange::Cancel { request }).await? {
            NamespaceReply::Done => Ok(Got::Nothing),
            // It was granted before it could be given up.
            NamespaceReply::Locked => self.granted(owner, wish),
            other => Err(unexpected(&other)),
        }
    }

    /// In one of the ways in which a lock ends, or not at all: then the close does it.
    async fn free(&self, owner: LockOwner) -> Done {
        match self.desk.ledger.below(10) {
            0..5 => {
                for byte in 0..CELLS {
                    let range = LockRange { first: byte, last: byte };
                    if self.book.borrow().may_hold(owner) {
                        self.desk.ledger.open().held.weakens(self.who(owner), range, None);
                        self.change(LockChange::Unlock { owner, range }).await?;
                    }
                }
            }
            5..8 => {
                // A process closes a descriptor.
                self.believes_no_more(owner);
                let holds = self.book.borrow_mut().descriptor_closed(owner);
                if holds {
                    self.change(LockChange::Release { owner }).await?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// F_GETLK.
    async fn test(&self, owner: LockOwner) -> Done {
        let byte = self.desk.ledger.below(CELLS);
        let (range, kind) = (LockRange { first: byte, last: byte }, LockKind::Exclusive);
        let there = self.desk.ledger.open().held.in_the_way(self.who(owner), range, kind);
        let query = Query::LockConflict { inode: self.inode, session: self.desk.who.id, owner, range, kind };
        let NamespaceReply::LockConflict(found) = self.desk.query(query).await? else { return Ok(()) };
        self.desk.ledger.count("tests for locks");
        let mut pages = self.desk.ledger.open();
        if found.is_none() && pages.held.still_there(&there, &pages.evicted) {
            let who = self.who(owner);
            let what = format!("{who:?} is told that nothing locks byte {byte}, and {there:?} did all the time");
            pages.fail(Oracle::Locks, what);
        }
        Ok(())
    }

    /// Reads and writes the block of a byte that is locked.
    async fn work(&self, owner: LockOwner, range: LockRange) -> Result<Work, ErrorKind> {
        let ledger = &self.desk.ledger;
        let byte = range.first + ledger.below(range.last - range.first + 1);
        let had = ledger.open().held.has(self.who(owner), byte);
        let Some((kind, tenure)) = had else { return Ok(Work::Done) };
        for _ in 0..1 + ledger.below(3) {
            if self.desk.state() != SessionState::Live {
                break;
            }
            let began = self.desk.now();
            if let Some(seen) = self.read(byte).await? {
                self.saw(owner, byte, tenure, began, seen);
            }
            if ledger.chance(30) {
                self.desk.think(100).await;
            }
            if kind == LockKind::Exclusive && ledger.chance(60) {
                let write = self.write(byte);
                if ledger.chance(25) {
                    // The process dies: its write is under way, and what it locked is freed.
                    self.desk.spawn(async move { drop(write.await) });
                    ledger.count("writes left under way under a lock");
                    return Ok(Work::LeftUnderWay);
                }
                write.await?;
            }
        }
        Ok(Work::Done)
    }

    /// What is read under a lock counts when the lock was held all the time.
    fn saw(&self, owner: LockOwner, byte: u64, tenure: u64, began: u64, seen: u64) {
        let mut pages = self.desk.ledger.open();
        let who = self.who(owner);
        let acts = self.desk.state() == SessionState::Live && !pages.evicted.contains(&who.0);
        let lost = pages.last_loss.is_some_and(|at| at >= began);
        if acts
            && !lost
            && pages.held.has(who, byte).is_some_and(|(_, now)| now == tenure)
            && let Err(what) = pages.held.sees(byte, seen)
        {
            pages.fail(Oracle::Locks, format!("{who:?} finds a write that came too late: the block {what}"));
        }
    }

    async fn read(&self, byte: u64) -> Result<Option<u64>, ErrorKind> {
        let object = FIRST_CELL + byte;
        let op = Op::Read { object, chunk: 0, block: 0 };
        match self.desk.submit(op, None, workload::read(object, 0, 0)).await {
            Ok(Outcome::Read(bytes)) => Ok(super::value_of(&bytes).ok()),
            Ok(_) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write(&self, byte: u64) -> impl Future<Output = Done> + use<> {
        let (object, value) = (FIRST_CELL + byte, self.desk.ledger.new_value());
        self.desk.ledger.open().held.writes(byte, value);
        let places: Vec<Place> = (0..2).map(|half| (object, 0, 0, half)).collect();
        let operation = workload::write_of(self.desk.volume, chunk_id(object, 0), value);
        let answer = self.desk.submit(Op::Write { value, places }, self.file(), operation);
        async move {
            match answer.await {
                Err(ErrorKind::Fenced) => Err(ErrorKind::Fenced),
                // Not done: there is no space, say.
                Ok(_) | Err(_) => Ok(()),
            }
        }
    }
}
